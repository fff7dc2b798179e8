"""VASP 5 with DeltaSpin (Cai et al.): the log, with the POSCAR beside it.

One line of 3N numbers under each of ``Cartesian Coordinates:``, ``Magnetization:``, ``Atomic Force:`` and
``Magnetic Force:``. The last is -λ, which there is -∂E/∂m.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_klm.data.about import About
from ase_klm.data.readers import blocks
from ase_klm.errors import KLMError
from ase_klm.images import nearest_image
from ase_klm.validate import Array

NAME = "vasp5-deltaspin"
FILES = "log of VASP 5 with DeltaSpin"
_END = re.compile(r"^ *Magnetic Force: *\n(.*)\n", re.MULTILINE)
_FAR = 1.0  # Å from the POSCAR: another structure, or another order of atoms


def recognises(text: str) -> bool:
    """Whether it is the text of such a file."""
    return "Magnetization Difference from Target:" in text or "Inner optimization for lambda ends" in text


def read(path: Path, structure: Any = None) -> tuple[list[Atoms], About]:
    """Frames whose last search for λ met its criterion.

    Raises
    ------
    KLMError
        When there is none, or the structure is missing or of another calculation.
    """
    text = blocks.read_text(path)
    frames: list[Atoms] = []
    dropped: Counter[str] = Counter()
    notes: set[str] = set()
    place, reference = 0, None
    for found in _END.finditer(text):
        part, place = text[place : found.end()], found.end()
        positions, moments = (_vectors(part, name) for name in ("Cartesian Coordinates", "Magnetization"))
        forces, magnetic_forces = (_vectors(part, name) for name in ("Atomic Force", "Magnetic Force"))
        energy = _line(part, "Energy")
        if (
            positions is None
            or moments is None
            or magnetic_forces is None
            or energy is None
            or len(energy) != 1
            or not len(positions) == len(moments) == len(magnetic_forces)
        ):
            dropped[blocks.CUT_SHORT] += 1
        elif (met := _met(part)) is False:
            dropped[blocks.NO_CONSTRAINT] += 1
        else:
            if met is None:
                notes.add("the log does not say whether the search for λ met its criterion")
            if reference is None:
                reference = blocks.structure_of(structure, path, "log", "which atoms and which cell there are")
            here = _placed(reference, positions, path)
            moments, note = blocks.without_induced(moments, magnetic_forces)
            notes |= {note} if note else set()
            f = forces if forces is not None and len(forces) == len(positions) else None
            frames.append(blocks.labelled(here, moments, float(energy[0]), f, magnetic_forces))
    if "Magnetization Difference from Target:" in text[place:]:
        dropped[blocks.CUT_SHORT] += 1
    if not frames:
        raise blocks.none_left(path, FILES, dropped)
    return frames, About(
        NAME,
        str(path),
        "the log's Magnetization, the constrained moment conjugate to λ, μB",
        "the log's Magnetic Force = -λ = -∂E/∂m, eV/μB; zero where unconstrained",
        "the log's Energy, eV",
        dict(dropped),
        (*sorted(notes), "cell and species are those of the POSCAR, also where a run changes the cell"),
    )


def _line(part: str, name: str) -> Array | None:
    """The numbers under the last heading of that name."""
    found = re.findall(rf"^ *{name}: *\n(.*)$", part, re.MULTILINE)
    return blocks.numbers_of(found[-1]) if found else None


def _vectors(part: str, name: str) -> Array | None:
    """The same as vectors, shape (N, 3)."""
    found = _line(part, name)
    return None if found is None or not len(found) or len(found) % 3 else found.reshape(-1, 3)


def _met(part: str) -> bool | None:
    """Whether the last search for λ before the labels met its criterion; None where the log does not say."""
    ends = part.rfind("Inner optimization for lambda ends")
    last_step = part.rfind("Step (Outer -- Inner)")
    if ends < 0 and last_step < 0:
        return None
    return part.find("Meet convergence criterion", max(last_step, 0)) >= 0


def _placed(reference: Atoms, positions: Array, path: Path) -> Atoms:
    blocks.check_count(reference, len(positions), path)
    moved = np.linalg.norm(
        nearest_image(positions - reference.positions, reference.cell.array[reference.pbc]), axis=1
    ).max()
    if moved > _FAR:
        raise KLMError(
            f"atoms of {path} are up to {moved:.2f} Å from those of the structure",
            "it is of another calculation, or its atoms are in another order",
            "give the POSCAR of this calculation with structure= or --structure",
        )
    atoms = reference.copy()
    atoms.positions = positions
    return atoms
