"""ABACUS with DeltaSpin: running_scf.log, with the STRU beside it or a folder above.

``Magnetic force (eV/uB)`` is -λ, which there is -∂E/∂m; with nspin 2 it has one column, along z.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr

from ase_klm.data.about import About
from ase_klm.data.readers import blocks
from ase_klm.errors import KLMError
from ase_klm.validate import Array

NAME = "abacus-deltaspin"
FILES = "running_scf.log of ABACUS with DeltaSpin"
_UNCONVERGED = re.compile(r"convergence has not been achieved|SCF IS NOT CONVERGED", re.IGNORECASE)
_CONVERGED = re.compile(r"charge density convergence is achieved|#SCF IS CONVERGED#", re.IGNORECASE)
_SECTIONS = (
    "ATOMIC_SPECIES", "NUMERICAL_ORBITAL", "NUMERICAL_DESCRIPTOR", "ABFS_ORBITAL", "LATTICE_CONSTANT",
    "LATTICE_VECTORS", "LATTICE_PARAMETERS", "ATOMIC_POSITIONS",
)  # fmt: skip


def recognises(text: str) -> bool:
    """Whether it is the text of such a file."""
    return "ABACUS" in text[:4000] and "READING GENERAL INFORMATION" in text


def read(path: Path, structure: Any = None) -> tuple[list[Atoms], About]:
    """The frame of a self-consistent calculation.

    Raises
    ------
    KLMError
        When it did not converge, has no table of moments or magnetic forces, or its STRU is missing.
    """
    text = blocks.read_text(path)
    dropped: Counter[str] = Counter()
    energy = re.search(r"!FINAL_ETOT_IS\s+(\S+)\s+eV", text) or re.search(r"final etot is\s+(\S+)\s+eV", text)
    moments = _table(text, "Total Magnetism (uB)")
    fields = _table(text, "Magnetic force (eV/uB)")
    if _UNCONVERGED.search(text):
        dropped[blocks.NO_SCF] = 1
    elif energy is None or not _CONVERGED.search(text) or moments is None or fields is None:
        dropped[blocks.CUT_SHORT] = 1
    if dropped or moments is None or fields is None or energy is None:
        raise blocks.none_left(path, FILES, dropped)
    if text.count("!FINAL_ETOT_IS") > 1:
        raise KLMError(
            f"{path} is of a relaxation or dynamics",
            "its ionic steps have other positions than the STRU",
            "run the frames one by one with calculation scf",
        )
    atoms = _structure(structure, path)
    blocks.check_count(atoms, len(moments[1]), path)
    if [blocks.element(label) for label in moments[0]] != atoms.numbers.tolist():
        raise KLMError(
            f"the atoms of {path} are not those of the structure",
            "their elements differ, or their order",
            "give the STRU of this calculation with structure= or --structure",
        )
    forces = _table(text, "TOTAL-FORCE (eV/Angstrom)")
    m, note = blocks.without_induced(_vectors(moments[1]), _vectors(fields[1]))
    f = None if forces is None or forces[1].shape != m.shape else forces[1]
    collinear = moments[1].shape[1] == 1
    frame = blocks.labelled(atoms, m, float(energy.group(1)), f, _vectors(fields[1]))
    notes = ("nspin 2: moments and magnetic forces along z",) if collinear else ()
    return [frame], About(
        NAME,
        str(path),
        "Total Magnetism, the moment of the atomic projection that is constrained, μB",
        "Magnetic force = -λ = -∂E/∂m, eV/μB; zero where unconstrained",
        "final etot (Kohn-Sham, -TS included), eV",
        {},
        (*notes, note) if note else notes,
    )


def _vectors(values: Array) -> Array:
    return values if values.shape[1] == 3 else np.outer(values[:, 0], (0.0, 0.0, 1.0))


def _table(text: str, title: str) -> tuple[list[str], Array] | None:
    """Labels and numbers of the last table of that title, between lines of dashes."""
    place = text.rfind(title)
    if place < 0:
        return None
    labels: list[str] = []
    rows: list[Array] = []
    rules = 0
    for line in text[place:].splitlines()[1:]:
        words = line.split()
        if re.fullmatch(r"\s*-{5,}\s*", line):
            rules += 1
            if rules == 2 or (rows and rules):
                break
        elif words and (values := blocks.numbers_of(" ".join(words[1:]))) is not None and len(values) in (1, 3):
            labels.append(words[0])
            rows.append(values)
    if not rows or rules == 0 or len({len(row) for row in rows}) > 1:
        return None
    return labels, np.array(rows)


def _structure(structure: Any, path: Path) -> Atoms:
    if structure is None:
        beside = blocks.companion(path, "running_scf.log", "STRU")
        above = path.absolute().parent.parent / "STRU"
        structure = beside or (above if above.is_file() else None)
        if structure is None:
            raise KLMError(
                f"{path} has no STRU beside it nor a folder above",
                "the log has the structure with six digits only",
                "give it: data.read(path, structure='STRU'), or --structure STRU",
            )
    if isinstance(structure, str | Path) and "STRU" in Path(structure).name:
        return read_stru(Path(structure))
    return blocks.structure_of(structure, path, "running_scf.log", "which atoms there are")


def read_stru(path: Path) -> Atoms:
    """The structure of a STRU file.

    Raises
    ------
    KLMError
        When it is damaged, or gives the lattice in another way than by vectors.
    """
    lines = [re.split(r"#|//", line)[0].strip() for line in blocks.read_text(path).splitlines()]
    sections: dict[str, list[str]] = {}
    section: list[str] = []
    for line in filter(None, lines):
        if line.split()[0] in _SECTIONS:
            section = sections.setdefault(line.split()[0], [])
        else:
            section.append(line)
    try:
        unit = float(sections["LATTICE_CONSTANT"][0].split()[0]) * Bohr
        cell = unit * np.array([[float(word) for word in line.split()[:3]] for line in sections["LATTICE_VECTORS"][:3]])
        kind, *rest = sections["ATOMIC_POSITIONS"]
        numbers, positions = _species(rest)
    except (KeyError, ValueError, IndexError) as error:
        raise KLMError(
            f"{path} cannot be read as a STRU",
            f"{type(error).__name__}: {error}",
            "LATTICE_CONSTANT, LATTICE_VECTORS and ATOMIC_POSITIONS must be there; latname is not understood",
        ) from None
    units = {"cartesian": unit, "cartesian_angstrom": 1.0, "cartesian_au": Bohr}
    axes = {"direct": cell} | {name: length * np.eye(3) for name, length in units.items()}
    if kind.lower() not in axes or cell.shape != (3, 3):
        raise KLMError(
            f"positions of {path} are given as {kind}",
            "known are Direct, Cartesian, Cartesian_angstrom and Cartesian_au",
            "write the structure in one of these",
        )
    return Atoms(numbers, positions=positions @ axes[kind.lower()], cell=cell, pbc=True)


def _species(lines: list[str]) -> tuple[list[int], Array]:
    """Blocks of label, magnetism, number of atoms, and one line an atom."""
    numbers: list[int] = []
    positions: list[list[float]] = []
    while lines:
        label, _, count, *lines = lines
        number = int(count.split()[0])
        if len(lines) < number:
            raise ValueError(f"{number} atoms of {label} are announced, {len(lines)} lines follow")
        positions += [[float(word) for word in line.split()[:3]] for line in lines[:number]]
        numbers += [blocks.element(label)] * number
        lines = lines[number:]
    return numbers, np.array(positions).reshape(-1, 3)
