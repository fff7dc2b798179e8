"""What readers of output files share: frames with labels, those left out, files that lie beside.

A frame is complete, or it is left out and counted: `Harvest` keeps both. Tables of text are read by `tables`.
"""

import lzma
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers
from ase.io.formats import open_with_compression
from numpy.typing import ArrayLike

from ase_klm.data.about import TRANSVERSE
from ase_klm.errors import KLMError
from ase_klm.moments import set_moments
from ase_klm.validate import Array, checked_array, checked_atoms

NON_MAGNETIC = 0.1
"""μB: an unconstrained atom with a smaller moment is taken as non-magnetic."""

COMPRESSED = (".gz", ".bz2", ".xz")
CUT_SHORT = "cut short or without a table"
UNREADABLE = "with numbers that cannot be read (***, NaN, or digits that touch)"
NO_CONSTRAINT = "with a moment constraint that was not reached"
NO_SCF = "with electrons that did not converge"


class Incomplete(Exception):  # noqa: N818, an ordinary event: the frame is left out
    """Something of a frame is not there, or not whole; the text is one of the reasons above."""


@dataclass
class Harvest:
    """Frames read so far, how many were left out for which reason, and what else to say.

    Attributes
    ----------
    frames : list of Atoms
        Complete ones.
    dropped : Counter
        Reason → number of frames.
    notes : set of str
        For `About`.
    """

    frames: list[Atoms] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: set[str] = field(default_factory=set)

    @contextmanager
    def frame(self) -> Iterator[None]:
        """Read one frame; where that raises `Incomplete`, it is left out and counted."""
        try:
            yield
        except Incomplete as reason:
            self.dropped[str(reason)] += 1

    def keep(self, atoms: Atoms) -> None:
        """A complete frame."""
        self.frames.append(atoms)

    def checked(self, path: Path, form: str) -> list[Atoms]:
        """The frames.

        Raises
        ------
        KLMError
            When there is none.
        """
        if not self.frames:
            raise none_left(path, form, self.dropped)
        return self.frames


def labelled(
    structure: Atoms,
    moments: ArrayLike,
    energy: float | None = None,
    forces: ArrayLike | None = None,
    magnetic_forces: ArrayLike | None = None,
    transverse_only: bool = False,
) -> Atoms:
    """A copy of the structure with moments and labels, checked.

    Raises
    ------
    KLMError
        When a label is not finite or has another shape.
    """
    atoms = Atoms(structure.numbers, positions=structure.positions, cell=structure.cell, pbc=structure.pbc)
    set_moments(atoms, moments)
    if magnetic_forces is not None:
        atoms.set_array("magnetic_forces", checked_array(magnetic_forces, (len(atoms), 3), "magnetic forces"))
        if transverse_only:
            atoms.info["mag_forces_part"] = TRANSVERSE
    known: dict[str, Any] = {}
    if energy is not None:
        known["energy"] = known["free_energy"] = float(checked_array(energy, (), "energy", "eV"))
    if forces is not None:
        known["forces"] = checked_array(forces, (len(atoms), 3), "forces", "eV/Å")
    if known:
        atoms.calc = SinglePointCalculator(atoms, **known)
    return atoms


def without_induced(moments: Array, magnetic_forces: Array) -> tuple[Array, str]:
    """Moments with unconstrained small ones set to zero, and what to say about it.

    An atom whose magnetic force is exactly zero was not constrained; a small moment on it is induced by the others.
    """
    length = np.linalg.norm(moments, axis=1)
    free = ~magnetic_forces.any(axis=1) & (length < NON_MAGNETIC)
    moments = np.where(free[:, None], 0.0, moments)
    if not free.any():
        return moments, ""
    return moments, (
        f"unconstrained atoms with moments below {NON_MAGNETIC} μB are taken as non-magnetic: {free.sum()} a frame"
    )


def read_text(path: Path) -> str:
    """The text of a file, which may be compressed (``.gz``, ``.bz2``, ``.xz``), with the line ends of Unix.

    Raises
    ------
    KLMError
        When it cannot be read.
    """
    try:
        if path.suffix in COMPRESSED:
            with open_with_compression(str(path), "rb") as file:
                text = file.read().decode(errors="replace")
            return text.replace("\r\n", "\n").replace("\r", "\n")
        return path.read_text(errors="replace")
    except (OSError, EOFError, zlib.error, lzma.LZMAError, MemoryError) as error:
        raise KLMError(f"{path} cannot be read", str(error), "check the name and the folder") from None


def element(label: str) -> int:
    """Atomic number of a label such as Fe, Fe1 or Fe_pv.

    Raises
    ------
    KLMError
        When it is no element.
    """
    found = re.match(r"[A-Z][a-z]?", label)
    if found is None or found.group() not in atomic_numbers:
        raise KLMError(f"{label!r} is no element", "labels begin with a chemical symbol", "check the file")
    return int(atomic_numbers[found.group()])


def companion(path: Path, own: str, *names: str) -> Path | None:
    """A file beside this one: of a standard name, or of the same name with `own` replaced by it."""
    whole = path.name.removesuffix(path.suffix) if path.suffix in COMPRESSED else path.name
    for name in names:
        for candidate in (whole.replace(own, name), name):
            for ending in ("", *COMPRESSED):
                beside = path.with_name(candidate + ending)
                if beside != path and candidate != whole and beside.is_file():
                    return beside
    return None


def structure_of(structure: Any, path: Path, own: str, what: str) -> Atoms:
    """The structure that a user gave, or the POSCAR or CONTCAR beside a file.

    Raises
    ------
    KLMError
        When there is none, or it cannot be read.
    """
    if structure is None:
        structure = companion(path, own, "POSCAR", "CONTCAR")
        if structure is None:
            raise KLMError(
                f"{path} does not say {what}",
                "this format has no structure in it, and there is no POSCAR beside it",
                "give it: data.read(path, structure='POSCAR'), or --structure POSCAR",
            )
    if not isinstance(structure, str | Path):
        return checked_atoms(structure)
    name = Path(structure).name.upper()
    try:
        found = ase.io.read(structure, format="vasp" if "POSCAR" in name or "CONTCAR" in name else None)
    except Exception as error:  # noqa: BLE001, ASE's readers raise whatever comes up
        raise KLMError(
            f"the structure {structure} cannot be read",
            f"{type(error).__name__}: {error}",
            "give a POSCAR or any file that ASE reads",
        ) from None
    return checked_atoms(found)


def check_count(structure: Atoms, n_atoms: int | None, path: Path) -> None:
    """Raise a `KLMError` when the structure does not belong to the file; None where the file does not say."""
    if n_atoms is not None and len(structure) != n_atoms:
        raise KLMError(
            f"the structure has {len(structure)} atoms, {path} has {n_atoms}",
            "they do not belong together",
            "give the structure of this calculation, with the atoms in its order",
        )


def none_left(path: Path, form: str, dropped: Mapping[str, int]) -> KLMError:
    """The error for a file without a usable frame."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
    return KLMError(
        f"{path} has no usable frame",
        f"read as {form}: {reasons or 'the tables of moments and magnetic forces are not there'}",
        "check that the calculation came to its end, and that the structure is its own; a copy may have been cut short",
    )
