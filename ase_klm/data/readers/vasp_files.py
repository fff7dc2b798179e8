"""Pieces of VASP's OUTCAR: species, and cell, positions, forces and energy of an ionic step."""

import re
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_klm.data.readers import blocks, tables
from ase_klm.errors import KLMError
from ase_klm.validate import Array

_FREE_ENERGY = re.compile(r"free  energy   TOTEN\s*=\s*(\S+)\s")
_PRECISE = re.compile(r"high precision TOTEN\s*=\s*(\S+)\s")
_CELL_DECIMALS = 9
_ROUNDING = 1e-4  # of lattice vectors times reciprocal ones, each with nine decimals
_FORCE_DECIMALS = 6  # positions have five, but room for seven digits before the point


def species(text: str, path: Path) -> NDArray[np.int64]:
    """Atomic numbers, shape (N,).

    Raises
    ------
    KLMError
        When the head of the file does not say them.
    """
    counts = re.search(r"ions per type =\s*([\d ]+)", text)
    names = re.findall(r"VRHFIN =\s*([A-Za-z]+)", text) or re.findall(r"^ POTCAR:\s+\S+\s+(\S+)", text, re.MULTILINE)
    sizes = [int(word[:9]) for word in counts.group(1).split()] if counts else []
    if not sizes or len(names) < len(sizes) or sum(sizes) > len(text):  # an atom takes more than one letter
        raise KLMError(
            f"{path} does not say which atoms there are",
            "the lines 'POTCAR:' or 'VRHFIN' and 'ions per type' of an OUTCAR are not there",
            "give the complete OUTCAR",
        )
    return np.repeat([blocks.element(name) for name in names[: len(sizes)]], sizes)


def ionic_steps(text: str) -> list[tuple[int, str]]:
    """Number and text of each ionic step."""
    rule = r"-+ Ionic step +(\d+) +-+" if "- Ionic step " in text else r"-+ Iteration +(\d+)\( *1\) +-+"
    pieces = re.split(rule, text)[1:]
    return [(int(number[:9]), part) for number, part in zip(pieces[::2], pieces[1::2], strict=True)]


def ionic_step(part: str, numbers: NDArray[np.int64]) -> tuple[Atoms, float, Array]:
    """Structure, free energy and forces of the one ionic step in a piece of text.

    With a correction for van der Waals forces VASP prints nine columns: positions, forces, forces without it.

    Raises
    ------
    Incomplete
        When a table is cut short, or there are two of a kind.
    """
    forces = tables.after(part, r"TOTAL-FORCE \(eV/Angst\).*\n\s*-+\s*\n")
    _, found = tables.rows(forces, len(numbers), slice(6), (6, 9), decimals=_FORCE_DECIMALS)
    before = part[: len(part) - len(forces)]
    cells = re.split(r"direct lattice vectors.*\n", before)
    if len(cells) < 2:
        raise blocks.Incomplete(blocks.CUT_SHORT)
    _, lattices = tables.rows(cells[-1], 3, slice(6), (6,), decimals=_CELL_DECIMALS)
    cell, reciprocal = lattices[:, :3], lattices[:, 3:]
    if np.abs(cell @ reciprocal.T - np.eye(3)).max() > _ROUNDING or len(np.unique(found[:, :3], axis=0)) < len(found):
        raise blocks.Incomplete(blocks.UNREADABLE)  # a row is there twice, another one not at all
    energies = _PRECISE.findall(part) or _FREE_ENERGY.findall(part)
    if len(energies) != 1:
        raise blocks.Incomplete(blocks.CUT_SHORT)
    atoms = Atoms(numbers, positions=found[:, :3], cell=cell, pbc=True)
    return atoms, tables.number(energies[0]), found[:, 3:]
