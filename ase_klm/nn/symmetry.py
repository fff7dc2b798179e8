"""Symmetries of a lattice as permutations of its sites, without spin-orbit coupling: the spins stay as they are."""

from itertools import product

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ase_klm.errors import KLMError
from ase_klm.graphs import neighbour_shells, with_complete_cell
from ase_klm.images import nearest_image, reduced, upright_cell
from ase_klm.nn.lattice import TOLERANCE, LatticeStars
from ase_klm.validate import checked_atoms

MOST_SHELLS = 12
"""Neighbours up to this shell are looked at until they span the lattice."""


def site_permutations(atoms: Atoms) -> NDArray[np.int64]:
    """Rotations and mirrors that map a structure onto itself, one for every operation of its point group.

    Translations are left out, as networks on lattices know them. If an operation moves site i onto p[i], then every
    energy of the structure and its spins alone is E(m[p]) = E(m), with magnetic forces F(m[p]) = F(m)[p].

    Parameters
    ----------
    atoms : Atoms
        Cell and periodic directions count: a 6 × 4 square lattice has fewer operations than a 4 × 4 one.

    Returns
    -------
    ndarray
        Shape (operations, N), integers; the identity comes first.
    """
    if len(checked_atoms(atoms)) == 1:
        return np.zeros((1, 1), dtype=np.int64)
    stars, unit = _spanning_stars(atoms)
    sites = stars.place(atoms)
    torus = _Torus(atoms, TOLERANCE * unit)
    homes = [int(members[0]) for members in sites.members]
    found: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []
    for sublattice, home in enumerate(homes):
        if stars.stars[sublattice].species != stars.stars[0].species:
            continue
        for matrix in isometries(_displacements(stars, 0), _displacements(stars, sublattice))[0]:
            if any(np.abs(matrix - known).max() < TOLERANCE for known, _ in found):
                continue
            permutation = torus.permutation(matrix, homes[0], home)
            if permutation is not None:
                found.append((matrix, permutation))
    found.sort(key=lambda operation: float(np.abs(operation[0] - np.eye(3)).max() > TOLERANCE))
    return np.array([permutation for _, permutation in found])


class _Torus:
    """A structure with a search tree of its sites under periodic boundaries."""

    def __init__(self, atoms: Atoms, tolerance: float) -> None:
        whole = with_complete_cell(atoms)
        self.numbers, self.positions, self.tolerance = atoms.numbers, whole.positions, tolerance
        self.cell, self.periodic = upright_cell(whole.cell, atoms.pbc), atoms.pbc
        self.cell[atoms.pbc], _ = reduced(self.cell[atoms.pbc])
        self.inverse = np.linalg.inv(self.cell)
        self.tree = cKDTree(self._folded(self.positions), boxsize=self.periodic.astype(float))

    def _folded(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fractional positions, in [0, 1) along periodic directions."""
        fractions = positions @ self.inverse
        folded = np.where(self.periodic, fractions - np.floor(fractions), fractions)
        return np.where(self.periodic & (folded >= 1), 0.0, folded)  # -1e-17 folds to 1

    def permutation(self, matrix: NDArray[np.float64], start: int, end: int) -> NDArray[np.int64] | None:
        """Sites onto which r → matrix (r - r_start) + r_end moves the sites, or None if it is no symmetry."""
        vectors = self.cell[self.periodic]
        if np.abs(nearest_image(vectors @ matrix.T, vectors)).max(initial=0.0) > self.tolerance:
            return None
        images = (self.positions - self.positions[start]) @ matrix.T + self.positions[end]
        sites = self.tree.query(self._folded(images))[1]
        mapped = np.abs(nearest_image(images - self.positions[sites], vectors)).max() <= self.tolerance
        once = len(np.unique(sites)) == len(sites)
        return sites if mapped and once and np.array_equal(self.numbers[sites], self.numbers) else None


def _spanning_stars(atoms: Atoms) -> tuple[LatticeStars, float]:
    """Stars that span the dimensions of the lattice, and the shortest bond in Å."""
    extent = np.concatenate([atoms.cell.array[atoms.pbc], atoms.positions - atoms.positions[0]])
    rank = np.linalg.matrix_rank(extent, tol=1e-6 * np.abs(extent).max())
    for most in range(1, MOST_SHELLS + 1):
        stars = LatticeStars.of(atoms, range(1, most + 1))
        if np.linalg.matrix_rank(_displacements(stars, 0), tol=TOLERANCE) == rank:
            return stars, float(neighbour_shells(atoms, (1,)).distances.min())
    raise KLMError(
        "the neighbours of a site do not span the lattice",
        f"up to shell {MOST_SHELLS} they span fewer than its {rank} dimensions",
        "check the positions, or train without lattice symmetries",
    )


def _displacements(stars: LatticeStars, sublattice: int) -> NDArray[np.float64]:
    return np.array(stars.stars[sublattice].displacements).reshape(-1, 3)


def isometries(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rotations and reflections about the origin that carry sites a into sites b.

    Parameters
    ----------
    a, b : ndarray
        In units of the shortest bond, shape (M, 3). There are none between different numbers of sites.

    Returns
    -------
    tuple of ndarray
        Orthogonal matrices R with r → R r, the identity across the span of a, shape (isometries, 3, 3); and the number
        in b of the image of each site of a, shape (isometries, M).
    """
    basis: list[int] = []
    for site in range(len(a)):
        if np.linalg.matrix_rank(a[[*basis, site]], tol=TOLERANCE) > len(basis):
            basis.append(site)
    inverse = np.linalg.pinv(a[basis])
    across = np.eye(3) - inverse @ a[basis]
    gram = a[basis] @ a[basis].T
    lengths = (b**2).sum(1)
    candidates = [np.flatnonzero(np.abs(lengths - length) <= 2 * TOLERANCE) for length in np.diag(gram)]
    matrices, numbers = [], []
    for images in map(list, product(*candidates)) if len(a) == len(b) else ():
        if np.abs(b[images] @ b[images].T - gram).max() > 2 * TOLERANCE:
            continue
        matrix = (inverse @ b[images]).T + across
        distances = np.linalg.norm((a @ matrix.T)[:, None] - b, axis=-1)
        if distances.min(axis=1).max() < 2 * TOLERANCE:
            matrices.append(matrix)
            numbers.append(distances.argmin(axis=1))
    return np.array(matrices).reshape(-1, 3, 3), np.array(numbers, dtype=np.int64).reshape(-1, len(a))
