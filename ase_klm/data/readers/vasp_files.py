"""Pieces of VASP's OUTCAR: species, and cell, positions, forces and energy of an ionic step."""

import re
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_klm.data.readers import blocks
from ase_klm.errors import KLMError
from ase_klm.validate import Array

_FREE_ENERGY = re.compile(r"free  energy   TOTEN\s*=\s*([-+.\dEe]+)")
_PRECISE = re.compile(r"high precision TOTEN\s*=\s*([-+.\dEe]+)")


def species(text: str, path: Path) -> NDArray[np.int64]:
    """Atomic numbers, shape (N,).

    Raises
    ------
    KLMError
        When the head of the file does not say them.
    """
    counts = re.search(r"ions per type =\s*([\d ]+)", text)
    names = re.findall(r"VRHFIN =\s*([A-Za-z]+)", text) or re.findall(r"^ POTCAR:\s+\S+\s+(\S+)", text, re.MULTILINE)
    sizes = [int(word) for word in counts.group(1).split()] if counts else []
    if not sizes or len(names) < len(sizes):
        raise KLMError(
            f"{path} does not say which atoms there are",
            "the lines 'POTCAR:' or 'VRHFIN' and 'ions per type' of an OUTCAR are not there",
            "give the complete OUTCAR",
        )
    return np.repeat([blocks.element(name) for name in names[: len(sizes)]], sizes)


def ionic_step(part: str, numbers: NDArray[np.int64]) -> tuple[Atoms, float | None, Array] | None:
    """Structure, free energy and forces of the first ionic step in a piece of text; None where it is cut short."""
    cell = _after(part, r"direct lattice vectors.*\n", 3)
    rows = _after(part, r"TOTAL-FORCE \(eV/Angst\).*\n\s*-+\s*\n", len(numbers))
    if cell is None or rows is None or cell.shape[1] < 3 or rows.shape[1] != 6:
        return None
    energy = _PRECISE.search(part) or _FREE_ENERGY.search(part)
    atoms = Atoms(numbers, positions=rows[:, :3], cell=cell[:, :3], pbc=True)
    return atoms, float(energy.group(1)) if energy else None, rows[:, 3:]


def _after(part: str, header: str, count: int) -> Array | None:
    """A table of numbers under a header; columns that touch, as in 1.000-2.000, are told apart."""
    start = re.search(header, part)
    if start is None:
        return None
    lines = part[start.end() :].splitlines(keepends=True)[:count]
    rows = [blocks.numbers_of(re.sub(r"(?<=\d)-", " -", line)) for line in lines if line.endswith("\n")]
    found = [row for row in rows if row is not None and len(row)]
    if len(found) != count or len({len(row) for row in found}) > 1:
        return None
    return np.array(found)
