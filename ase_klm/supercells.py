"""Structures that repeat a lattice, with atoms in the order of `Atoms.repeat`: cell after cell, the last index first.

Displaced atoms and a strained cell are still a repetition, as long as it is clear which atom is which: none moved by
half the distance of neighbours against the others, and strains are below a fifth. Atoms may be wrapped, and all shifted
together.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_klm.errors import KLMError
from ase_klm.graphs import Bonds, neighbour_shells, with_complete_cell
from ase_klm.images import nearest_image, nearest_numbers, reduced
from ase_klm.validate import Array, checked_atoms

Repetitions = tuple[int, int, int]

LARGEST_STRAIN = 0.2
"""Strain of a cell from which on its bonds are no longer those of the unstrained one."""


@dataclass(frozen=True, eq=False)
class Undistorted:
    """The lattice of a structure, on which shells are counted.

    Attributes
    ----------
    atoms : Atoms
        The lattice, repeated to the size of the structure; the structure itself where no lattice was given.
    images : ndarray or None
        Cells n with r_i + n_i·cell beside the site of atom i, shape (N, 3), where a lattice was given.
    """

    atoms: Atoms
    images: NDArray[np.int64] | None = None

    def shells(self, numbers: Iterable[int], among: NDArray[np.bool_] | None = None) -> Bonds:
        """Bonds of these neighbour shells, with their cells on the lattice; a lattice that was given is not doubted."""
        return neighbour_shells(self.atoms, numbers, among, doubtful=self.images is None)

    @property
    def followed(self) -> Atoms:
        """The lattice with each atom in the image in which it stands in the structure."""
        if self.images is None:
            return self.atoms
        moved: Atoms = self.atoms.copy()
        moved.positions -= self.images @ with_complete_cell(moved).cell.array
        return moved

    def present(self, i: NDArray[np.int64], j: NDArray[np.int64], cells: NDArray[np.int64]) -> NDArray[np.int64]:
        """Cells of the bonds (i, j, R) in the structure, whose atoms may stand in other images than on the lattice."""
        return cells if self.images is None else cells + self.images[j] - self.images[i]


def undistorted(structures: Atoms | Sequence[Atoms], lattice: Atoms | None) -> Undistorted:
    """The lattice of a structure, or of replicas.

    Raises
    ------
    KLMError
        When the structure does not repeat the lattice, or none is given and the replicas differ in their positions.
    """
    first, *others = [structures] if isinstance(structures, Atoms) else structures
    if lattice is None:
        for other in others:
            if not (np.array_equal(first.positions, other.positions) and np.array_equal(first.cell, other.cell)):
                raise KLMError(
                    "these replicas have other positions than the first",
                    "shells are counted on a structure, so that each replica would have bonds of its own",
                    "say on which lattice they are counted: lattice=atoms, with atoms the undistorted structure",
                )
        return Undistorted(first)
    repetitions, images = placed_on(lattice, first)
    for other in others:
        if not np.array_equal(placed_on(lattice, other)[1], images):
            raise KLMError(
                "these replicas stand in other periodic images",
                "bonds would lead to other cells in each of them",
                "wrap none or all of them in the same way",
            )
    return Undistorted(lattice.repeat(repetitions), images)


def checked_lattice(lattice: Any) -> Atoms:
    """A copy of the lattice on which shells are counted: species, positions, cell and periodicity alone."""
    given: Atoms = checked_atoms(lattice)
    return Atoms(given.numbers, positions=given.positions, cell=given.cell, pbc=given.pbc)


def placed_on(lattice: Atoms, atoms: Atoms) -> tuple[Repetitions, NDArray[np.int64]]:
    """How often a structure repeats a lattice, and in which images its atoms stand, see `Undistorted`.

    Raises
    ------
    KLMError
        When the structure is no repetition of it.
    """
    sizes = repetitions_of(lattice, atoms)
    images = None if sizes is None else images_on(lattice.repeat(sizes), atoms)
    if sizes is None or images is None:
        raise KLMError(
            f"this structure, {atoms.get_chemical_formula()}, does not repeat the lattice of the bonds, "
            f"{lattice.get_chemical_formula()}",
            "shells are counted on that lattice, and indices are those of its atoms; atoms must come in the order of "
            "lattice.repeat(...), with the same periodic directions, displaced by less than half a bond",
            "build the structure by lattice.repeat(...), or give the lattice of this one: lattice=",
        )
    return sizes, images


def images_on(lattice: Atoms, atoms: Atoms) -> NDArray[np.int64] | None:
    """Cells n with r_i + n_i·cell beside the site i of a lattice of the same size, (N, 3); None on another lattice."""
    if (
        len(lattice) != len(atoms)
        or not np.array_equal(lattice.numbers, atoms.numbers)
        or not np.array_equal(lattice.pbc, atoms.pbc)
    ):
        return None
    found = np.zeros((len(atoms), 3), dtype=np.int64)
    if np.array_equal(lattice.positions, atoms.positions) and np.array_equal(lattice.cell.array, atoms.cell.array):
        return found
    if lattice.cell.rank < 3 or atoms.cell.rank < 3:
        strained = not np.allclose(lattice.cell.array, atoms.cell.array)
        moved = atoms.positions - lattice.positions
    else:
        deformation = np.linalg.solve(lattice.cell.array, atoms.cell.array)
        strained = bool(np.abs(deformation - np.eye(3)).max() >= LARGEST_STRAIN)
        moved = atoms.positions - lattice.positions @ deformation
    if strained:
        return None
    moved = moved - moved[0]
    periods = with_complete_cell(atoms).cell.array[atoms.pbc]
    found[:, atoms.pbc] = nearest_numbers(moved, periods)
    moved += found[:, atoms.pbc] @ periods
    distance = np.linalg.norm(moved - moved.mean(0), axis=1)
    return found if distance.max() < 0.5 * np.linalg.norm(_nearest_vector(lattice)) else None


def beside(lattice: Atoms, atoms: Atoms) -> Atoms:
    """A copy of the atoms in the images beside the sites of a lattice; as they are where it is another lattice."""
    found, images = atoms.copy(), images_on(lattice, atoms)
    if images is not None:
        found.positions += images @ with_complete_cell(atoms).cell.array
    return found


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
        return (1, 1, 1) if images_on(cell, atoms) is not None else None
    strains = {sizes: _strain(cell, sizes, atoms) for sizes in _factors(count)}
    found = sorted((sizes for sizes in strains if strains[sizes] < LARGEST_STRAIN), key=strains.__getitem__)
    return next((sizes for sizes in found if images_on(cell.repeat(sizes), atoms) is not None), None)


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
