"""Structures that repeat a cell, with atoms in the order of `Atoms.repeat`: cell after cell, the last index first.

Displaced atoms and a strained cell are still a repetition, as long as it is clear which atom is which: none moved by
half the distance of neighbours, and strains are below a fifth.
"""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_klm.graphs import with_complete_cell
from ase_klm.images import nearest_image, reduced
from ase_klm.validate import Array

Repetitions = tuple[int, int, int]

LARGEST_STRAIN = 0.2
"""Strain of a cell from which on its bonds are no longer those of the unstrained one."""


def same_lattice(bonded: Atoms, atoms: Atoms) -> bool:
    """Whether the bonds found on one structure still belong to the other."""
    return crossings(bonded, atoms) is not None


def followed(bonded: Atoms, atoms: Atoms) -> Atoms | None:
    """The structure on which bonds were found, its atoms in those periodic images in which they now stand.

    The cell R of a bond counts from where its atoms stand, so that it changes when an atom is wrapped. Returns
    `bonded` itself where none was, and None where its bonds do not belong to these atoms.
    """
    crossed = crossings(bonded, atoms)
    if crossed is None or not crossed.any():
        return None if crossed is None else bonded
    moved: Atoms = bonded.copy()
    moved.positions += crossed @ with_complete_cell(bonded).cell.array
    return moved


def crossings(bonded: Atoms, atoms: Atoms) -> NDArray[np.int64] | None:
    """By how many cells each atom stands further than on the bonded structure, shape (N, 3).

    Where the crystal has moved as a whole, it counts from there. None where the bonds do not belong to these atoms:
    one has left its place by half a bond, or the cell is strained by a fifth.
    """
    if (
        len(bonded) != len(atoms)
        or not np.array_equal(bonded.numbers, atoms.numbers)
        or not np.array_equal(bonded.pbc, atoms.pbc)
    ):
        return None
    cells = np.zeros((len(atoms), 3), dtype=np.int64)
    if np.array_equal(bonded.positions, atoms.positions) and np.array_equal(bonded.cell.array, atoms.cell.array):
        return cells
    if bonded.cell.rank < 3 or atoms.cell.rank < 3:
        strained = not np.allclose(bonded.cell.array, atoms.cell.array)
        moved = atoms.positions - bonded.positions
    else:
        deformation = np.linalg.solve(bonded.cell.array, atoms.cell.array)
        strained = bool(np.abs(deformation - np.eye(3)).max() >= LARGEST_STRAIN)
        moved = atoms.positions - bonded.positions @ deformation
    if strained:
        return None
    periods = with_complete_cell(atoms).cell.array[atoms.pbc]
    largest = 0.5 * np.linalg.norm(_nearest_vector(bonded))
    for drift in (np.zeros(3), _drift(moved, periods)):
        away = nearest_image(moved - drift, periods)
        if np.linalg.norm(away, axis=1).max() < largest:
            if len(periods):
                cells[:, atoms.pbc] = ((moved - drift - away) @ np.linalg.pinv(periods)).round()
            return cells
    return None


def _drift(moved: Array, periods: Array) -> Array:
    """The part that all displacements (N, 3) have in common, whatever the images of the atoms are, Å."""
    return np.asarray(moved[0] + nearest_image(moved - moved[0], periods).mean(axis=0))


def _nearest_vector(atoms: Atoms) -> Array:
    """Vector from atom 0 to the atom, or the image of itself, closest to it."""
    periods = with_complete_cell(atoms).cell.array[atoms.pbc]
    others = nearest_image(atoms.positions[1:] - atoms.positions[0], periods)
    vectors = np.concatenate([others, reduced(periods)[0]])
    return vectors[np.argmin(np.linalg.norm(vectors, axis=1))] if len(vectors) else np.full(3, np.inf)


def repetitions_of(cell: Atoms, atoms: Atoms) -> Repetitions | None:
    """How often the structure repeats the cell along its three vectors; None where it does not."""
    count, rest = divmod(len(atoms), len(cell))
    if rest or not count or not np.array_equal(atoms.pbc, cell.pbc):
        return None
    if not np.array_equal(atoms.numbers, np.tile(cell.numbers, count)):
        return None
    if len(cell) == len(atoms):
        return (1, 1, 1) if same_lattice(cell, atoms) else None
    strains = {sizes: _strain(cell, sizes, atoms) for sizes in _factors(count)}
    found = sorted((sizes for sizes in strains if strains[sizes] < LARGEST_STRAIN), key=strains.__getitem__)
    return next((sizes for sizes in found if same_lattice(cell.repeat(sizes), atoms)), None)


def _strain(cell: Atoms, sizes: Repetitions, atoms: Atoms) -> float:
    """Largest component of the strain from the repeated cell to that of the structure."""
    repeated, present = cell.cell.array * np.array(sizes)[:, None], atoms.cell.array
    if cell.cell.rank < 3 or atoms.cell.rank < 3:
        return 0.0 if np.allclose(repeated, present) else np.inf
    return float(np.abs(np.linalg.solve(repeated, present) - np.eye(3)).max())


def _factors(count: int) -> list[Repetitions]:
    """All (n1, n2, n3) with this product."""
    divisors = [n for n in range(1, count + 1) if count % n == 0]
    return [(a, b, count // a // b) for a in divisors for b in divisors if (count // a) % b == 0]


def cell_of_sites(atoms: Atoms, n_named: int) -> Atoms | None:
    """The smallest cell of at least `n_named` atoms that a structure repeats in the order of its atoms, if it does."""
    for n in range(n_named, len(atoms) // 2 + 1):
        if len(atoms) % n:
            continue
        step = atoms.positions[n] - atoms.positions[0]
        for sizes in _factors(len(atoms) // n):
            vectors = atoms.cell.array / np.array(sizes)[:, None]
            if not np.allclose(step, vectors[max(axis for axis in range(3) if sizes[axis] > 1)]):
                continue  # the atom that would be the first of the second cell is elsewhere
            cell = atoms[:n]
            cell.set_cell(vectors)
            whole = cell.repeat(sizes)
            if np.array_equal(whole.numbers, atoms.numbers) and np.allclose(whole.positions, atoms.positions):
                return cell
    return None


def tiled(values: Array, axis: int, repetitions: Repetitions) -> Array:
    """Values of the sites of a cell along an axis, for all sites of the structure that repeats it."""
    return np.concatenate([values] * int(np.prod(repetitions)), axis=axis)


def repeated_bonds(
    i: NDArray[np.int64], j: NDArray[np.int64], cells: NDArray[np.int64], n_sites: int, repetitions: Repetitions
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The bonds (i, j, R) of a cell with `n_sites` atoms in all cells of the structure that repeats it.

    Returns
    -------
    i, j : ndarray
        Atoms of the structure, shape (number of cells * n_bonds,), cell after cell.
    cells : ndarray
        Cells R of the structure, shape (..., 3).
    """
    home = np.array(list(np.ndindex(*repetitions)))  # (cell, 3)
    outside, inside = np.divmod(home[:, None] + cells, repetitions)  # (cell, bond, 3)
    number = np.ravel_multi_index(tuple(np.moveaxis(inside, -1, 0)), repetitions)
    start = n_sites * np.arange(len(home))[:, None] + i
    return start.ravel(), (n_sites * number + j).ravel(), outside.reshape(-1, 3)
