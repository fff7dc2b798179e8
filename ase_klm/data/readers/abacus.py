"""ABACUS with DeltaSpin: running_scf.log, with the STRU beside it or a folder above.

``Magnetic force (eV/uB)`` is -λ, which there is -∂E/∂m; with nspin 2 it has one column, along z.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr

from ase_klm.data.about import About
from ase_klm.data.readers import blocks, tables
from ase_klm.errors import KLMError
from ase_klm.validate import Array

NAME = "abacus-deltaspin"
FILES = "running_scf.log of ABACUS with DeltaSpin"
_UNCONVERGED = re.compile(r"convergence has not been achieved|SCF IS NOT CONVERGED", re.IGNORECASE)
_CONVERGED = re.compile(r"charge density convergence is achieved|#SCF IS CONVERGED#", re.IGNORECASE)
_ENERGIES = (re.compile(r"!FINAL_ETOT_IS\s+(\S+)\s+eV"), re.compile(r"final etot is\s+(\S+)\s+eV"))  # best first
_MOMENTS, _FIELDS, _FORCES = "Total Magnetism (uB)", "Magnetic force (eV/uB)", "TOTAL-FORCE (eV/Angstrom)"
_RULE = re.compile(r"-{5,}")
_ROW = re.compile(r"\s*[A-Z]\S*\s+[-+.\d*]")
_DECIMALS = 10
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
    if text.count("!FINAL_ETOT_IS") > 1:
        raise KLMError(
            f"{path} is of a relaxation or dynamics",
            "its ionic steps have other positions than the STRU",
            "run the frames one by one with calculation scf",
        )
    harvest = blocks.Harvest()
    with harvest.frame():
        if _UNCONVERGED.search(text):
            raise blocks.Incomplete(blocks.NO_SCF)
        energy = next((found for line in _ENERGIES if (found := line.search(text))), None)
        if energy is None or not _CONVERGED.search(text):
            raise blocks.Incomplete(blocks.CUT_SHORT)
        labels, moments = _table(text, _MOMENTS)
        names, fields = _table(text, _FIELDS, len(labels))
        places, forces = _table(text, _FORCES, len(labels)) if _FORCES in text else (labels, None)
        if len({moments.shape, fields.shape}) > 1 or (forces is not None and forces.shape[1] != 3):
            raise blocks.Incomplete(blocks.CUT_SHORT)
        atoms = _structure(structure, path)
        blocks.check_count(atoms, len(labels), path)
        for several in (labels, names, places):
            if [blocks.element(label) for label in several] != atoms.numbers.tolist():
                raise KLMError(
                    f"the atoms of {path} are not those of the structure",
                    "their elements differ, or their order",
                    "give the STRU of this calculation with structure= or --structure",
                )
        m, note = blocks.without_induced(_vectors(moments), _vectors(fields))
        harvest.notes |= {note} if note else set()
        if moments.shape[1] == 1:
            harvest.notes.add("nspin 2: moments and magnetic forces along z")
        value = tables.number(energy.group(1))
        harvest.keep(blocks.labelled(atoms, m, value, forces, _vectors(fields)))
    return harvest.checked(path, FILES), About(
        NAME,
        str(path),
        "Total Magnetism, the moment of the atomic projection that is constrained, μB",
        "Magnetic force = -λ = -∂E/∂m, eV/μB; zero where unconstrained",
        "final etot (Kohn-Sham, -TS included), eV",
        {},
        tuple(sorted(harvest.notes)),
    )


def _vectors(values: Array) -> Array:
    return values if values.shape[1] == 3 else np.outer(values[:, 0], (0.0, 0.0, 1.0))


def _table(text: str, title: str, count: int | None = None) -> tuple[list[str], Array]:
    """Labels and numbers of the last table of that title, between lines of dashes.

    Raises
    ------
    Incomplete
        When it is not there or not whole.
    """
    place = text.rfind(title)
    if place < 0:
        raise blocks.Incomplete(blocks.CUT_SHORT)
    lines = text[place:].splitlines(keepends=True)[1:]
    first = next((i for i, line in enumerate(lines) if _ROW.match(line)), 0)
    if not any(_RULE.fullmatch(line.strip()) for line in lines[:first]):
        raise blocks.Incomplete(blocks.CUT_SHORT)
    labels, numbers = tables.rows("".join(lines[first:]), count, slice(3), (1, 3), labels=1, decimals=_DECIMALS)
    if not any(_RULE.fullmatch(line.strip()) for line in lines[first + len(labels) :][:1]):
        raise blocks.Incomplete(blocks.CUT_SHORT)
    return [label for (label,) in labels], numbers


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
