"""Structures whose sites form a regular grid, where convolutions need no tables of neighbours."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.graphs import primitive_cell, with_complete_cell
from ase_klm.images import upright_cell


@dataclass(frozen=True)
class Grid:
    """Cells of a periodic lattice, each with one site of every sublattice.

    Attributes
    ----------
    shape : tuple of int
        Number of cells along each direction in which there are several.
    offsets : tuple
        Of each sublattice and displacement of its star, the cells between the two sites, along these directions.
    ends : tuple
        Of each sublattice and displacement, the sublattice of the neighbour.
    """

    shape: tuple[int, ...]
    offsets: tuple[tuple[tuple[int, ...], ...], ...]
    ends: tuple[tuple[int, ...], ...]

    @cached_property
    def reach(self) -> tuple[int, ...]:
        """Largest offset along each direction."""
        return tuple(np.abs(np.concatenate([np.array(o) for o in self.offsets])).max(0).tolist())

    @cached_property
    def places(self) -> tuple[Tensor, ...]:
        """Kernels of each sublattice as boxes: the number of the displacement that a neighbour stands at.

        Shape (sublattices, *box); 0 is the site itself, and D + 1 stands where no neighbour is.
        """
        found = []
        for a, (offsets, ends) in enumerate(zip(self.offsets, self.ends, strict=True)):
            box = torch.full((len(self.ends), *(2 * width + 1 for width in self.reach)), len(ends) + 1)
            box[(a, *self.reach)] = 0
            for d, (offset, end) in enumerate(zip(offsets, ends, strict=True), start=1):
                box[(end, *(x + width for x, width in zip(offset, self.reach, strict=True)))] = d
            found.append(box)
        return tuple(found)


def cells_in_order(atoms: Atoms) -> tuple[tuple[int, ...], np.ndarray] | None:
    """Number of primitive cells along each cell vector, and the cell of each site in lexicographic count, (N,).

    None where the structure is no such grid.
    """
    if not atoms.pbc.any():
        return None
    try:
        primitive = primitive_cell(atoms)
    except (KLMError, np.linalg.LinAlgError):
        return None
    completed = with_complete_cell(atoms)
    ratio = upright_cell(completed.cell, atoms.pbc) @ np.linalg.inv(primitive)
    counts = np.diag(ratio).round().astype(int)
    if np.abs(ratio - np.diag(counts)).max() > 1e-4 or counts.min() < 1:
        return None
    scaled = (completed.positions - completed.positions[0]) @ np.linalg.inv(primitive)
    cells = np.floor(scaled + 1e-4).astype(int) % counts
    return tuple(counts.tolist()), np.ravel_multi_index(tuple(cells.T), tuple(counts))


def grid_offsets(
    shape: Sequence[int], tables: Sequence[np.ndarray], places: np.ndarray, ends: Sequence[tuple[int, ...]]
) -> Grid | None:
    """The grid on which tables of neighbours (D, n) of all sublattices are shifts, or None.

    Parameters
    ----------
    places : ndarray
        Cell of each site, in lexicographic count.
    """
    used = [axis for axis, n in enumerate(shape) if n > 1]
    lengths = tuple(shape[axis] for axis in used)
    if not used or any(table.shape[1] != np.prod(lengths) for table in tables):
        return None
    cells = np.arange(int(np.prod(lengths))).reshape(lengths)
    offsets = []
    for table in tables:
        shifts = []
        for neighbours in table:
            target = np.array(np.unravel_index(places[neighbours[0]], lengths))
            shift = (target + np.array(lengths) // 2) % lengths - np.array(lengths) // 2
            expected = np.roll(cells, tuple(-shift), tuple(range(len(lengths)))).ravel()
            if not np.array_equal(places[neighbours], expected):
                return None
            shifts.append(tuple(int(x) for x in shift))
        offsets.append(tuple(shifts))
    grid = Grid(lengths, tuple(offsets), tuple(ends))
    wide = any(2 * reach >= n for reach, n in zip(grid.reach, lengths, strict=True))
    return None if wide or len(lengths) > 3 else grid


def wrapped(values: Tensor, widths: Sequence[int], trailing: int = 0) -> Tensor:
    """Values on a grid with so many periodic images on both sides of each of its axes.

    Parameters
    ----------
    values : Tensor
        Shape (..., *grid) followed by `trailing` further axes.
    """
    first = values.dim() - len(widths) - trailing
    margins = [0, 0] * trailing + [width for width in reversed(widths) for _ in range(2)]
    found = torch.ops.aten._pad_circular(values.reshape(1, -1, *values.shape[first:]), margins)
    return found.reshape(*values.shape[:first], *found.shape[2:])
