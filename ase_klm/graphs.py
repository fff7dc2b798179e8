"""Bonds of periodic structures: neighbour shells on a reference structure, and neighbour lists within a cutoff.

A bond (i, j, R) joins atom i in the home cell to atom j in the cell R = (n1, n2, n3); every bond is listed once, so
(j, i, -R) is not listed beside it. Neighbours are found by matscipy (linear in the number of atoms).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from ase import Atoms
from ase.geometry import complete_cell
from matscipy.neighbours import neighbour_list
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from ase_klm import images
from ase_klm.errors import KLMError, warn
from ase_klm.memory import require_memory
from ase_klm.validate import checked_array, checked_number

SHELL_TOLERANCE = 0.01
"""Distances closer than this fraction of the shortest one belong to the same shell."""

BYTES_A_BOND = 160
"""While bonds are found: both directions from matscipy, then one, sorted."""

SMALLEST_VOLUME = 1e-11
"""Of a cell, Å³; matscipy takes smaller ones for none."""


@dataclass(frozen=True)
class Bonds:
    """Bonds, each once.

    Attributes
    ----------
    i, j : ndarray
        Atoms joined, shape (n_bonds,).
    cells : ndarray
        Cell R of atom j, shape (n_bonds, 3), integers.
    vectors : ndarray
        r_j + R·cell - r_i on the reference structure, Å, shape (n_bonds, 3).
    shells : ndarray
        Number of the neighbour shell, counted from 1, shape (n_bonds,); zero where no shell was asked for.
    """

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    cells: NDArray[np.int64]
    vectors: NDArray[np.float64]
    shells: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.i)

    def __getitem__(self, selection: NDArray[np.bool_]) -> "Bonds":
        return Bonds(
            self.i[selection], self.j[selection], self.cells[selection], self.vectors[selection], self.shells[selection]
        )

    @property
    def distances(self) -> NDArray[np.float64]:
        """Lengths on the reference structure, Å, shape (n_bonds,)."""
        return np.linalg.norm(self.vectors, axis=1)


def with_complete_cell(atoms: Atoms) -> Atoms:
    """Copy with three cell vectors: missing ones become normal vectors longer than the structure is wide."""
    _check_geometry(atoms)
    if atoms.cell.rank == 3:
        return atoms
    if np.any(atoms.pbc & ~atoms.cell.any(1)):
        raise KLMError(
            "the cell has a zero vector along a periodic direction",
            f"pbc = {atoms.pbc.tolist()} while cell = {atoms.cell.array.tolist()}",
            "give that direction a cell vector, or switch its periodicity off",
        )
    completed = atoms.copy()
    missing = ~atoms.cell.any(1)
    cell = complete_cell(atoms.cell)
    extent = (np.ptp(atoms.positions, axis=0).max() if len(atoms) else 0.0) + 1.0
    cell[missing] *= extent / np.linalg.norm(cell[missing], axis=1, keepdims=True)
    completed.cell[:] = cell
    return completed


def _check_geometry(atoms: Atoms) -> None:
    """Positions and cell are finite, and the periodic vectors span what they should."""
    checked_array(atoms.positions, (None, 3), "atoms.positions", "Å")
    cell = checked_array(atoms.cell.array, (3, 3), "atoms.cell", "Å")
    vectors = cell[cell.any(axis=1)]
    if len(vectors) and np.linalg.matrix_rank(vectors, tol=1e-9 * np.abs(vectors).max()) < len(vectors):
        raise KLMError(
            "the cell vectors are not independent",
            f"cell = {cell.tolist()} has no volume",
            "give vectors that point in different directions",
        )


def bonds_within(atoms: Atoms, cutoff: float) -> Bonds:
    """All bonds not longer than `cutoff` (Å), each once, sorted by (i, j, R)."""
    checked_number(cutoff, "cutoff", "Å", above=0)
    _check_geometry(atoms)
    if len(atoms) == 0:
        raise KLMError("the structure is empty", "there are no atoms to join", "build the lattice first")
    completed = with_complete_cell(atoms)
    if completed.cell.volume < SMALLEST_VOLUME:
        raise KLMError(
            f"the cell has a volume of {completed.cell.volume:.3g} Å³",
            "atoms are some Å apart",
            "if positions and cell are in metres, multiply them by 1e10",
        )
    expected = expected_bonds(completed, cutoff)
    require_memory(
        BYTES_A_BOND * expected,
        f"the list of some {expected:.2g} bonds up to {cutoff:.4g} Å between {len(atoms)} atoms",
        lambda share: (
            f"a cutoff (Å) shorter by a factor of {share ** (-1 / 3):.2g}, or a smaller structure, fits; "
            f"a bond takes {BYTES_A_BOND} bytes"
        ),
    )
    i, j, vectors, cells = neighbour_list("ijDS", completed, float(cutoff))
    # (i, j, R) and (j, i, -R) are the same bond: keep i < j, and for i = j the R whose first non-zero entry is positive
    leading = np.where(cells[:, 0] != 0, cells[:, 0], np.where(cells[:, 1] != 0, cells[:, 1], cells[:, 2]))
    once = (i < j) | ((i == j) & (leading > 0))
    i, j, vectors, cells = i[once], j[once], vectors[once], cells[once]
    order = np.lexsort((*cells.T[::-1], j, i))
    return Bonds(
        i[order].astype(np.int64),
        j[order].astype(np.int64),
        cells[order].astype(np.int64),
        vectors[order],
        np.zeros(len(order), dtype=np.int64),
    )


def expected_bonds(atoms: Atoms, cutoff: float) -> float:
    """About how many bonds there are up to `cutoff` (Å), each once, by the density of atoms.

    A sphere of the cutoff has the volume of a ball in those dimensions in which the structure is longer than it: the
    periodic ones, and others where that gives fewer neighbours (of a layer, a disc).
    """
    periodic = atoms.cell.array[atoms.pbc]
    basis = np.linalg.svd(periodic)[2] if len(periodic) else np.eye(3)
    across = (atoms.positions - atoms.positions.mean(0)) @ basis[len(periodic) :].T
    density = len(atoms) / np.sqrt(np.linalg.det(periodic @ periodic.T)) if len(periodic) else float(len(atoms))
    neighbours = density * _ball(len(periodic), cutoff)
    if across.shape[1]:
        turned = across @ np.linalg.eigh(across.T @ across)[1]  # along its principal axes
        boxes = [np.ptp(across, axis=0), np.ptp(turned, axis=0)]  # the smaller box is the truer one
        neighbours = max(_neighbours_in_a_box(density, extents, len(periodic), cutoff) for extents in boxes)
    return float(len(atoms) * neighbours / 2)


def _neighbours_in_a_box(density: float, extents: NDArray[np.float64], periodic: int, cutoff: float) -> float:
    long = [extent for extent in extents.tolist() if extent > 0]
    parts = [part for number in range(len(long) + 1) for part in combinations(long, number)]
    return min(density * _ball(periodic + len(part), cutoff) / float(np.prod(part)) for part in parts)


def _ball(dimensions: int, radius: float) -> float:
    return (1.0, 2 * radius, np.pi * radius**2, 4 / 3 * np.pi * radius**3)[dimensions]


def neighbour_shells(
    atoms: Atoms, shells: Iterable[int], among: NDArray[np.bool_] | None = None, *, doubtful: bool = True
) -> Bonds:
    """Bonds of the numbered neighbour shells: shell 1 has the shortest distance of the structure, and so on.

    In a cell so small that a shell wraps onto the atom itself, the bonds (i, i, R) are listed like all others, so
    that whatever they carry adds up.

    Parameters
    ----------
    shells : iterable of int
        Shell numbers, counted from 1.
    among : ndarray of bool, optional
        Atoms to join, shape (N,); the others are skipped and do not define shells. Default: all.
    doubtful : bool
        Whether the structure may be one with displaced atoms, which has no shells that can be counted.

    Raises
    ------
    KLMError
        When a number is not a positive integer, the structure has no such shell, or displacements make it ambiguous.
    """
    wanted = checked_shells(shells)
    if among is not None and not among.all():
        chosen = np.flatnonzero(among)
        bonds = neighbour_shells(atoms[chosen], wanted, doubtful=doubtful)
        return Bonds(chosen[bonds.i], chosen[bonds.j], bonds.cells, bonds.vectors, bonds.shells)
    highest = wanted[-1] if wanted else 0
    cutoff = _first_cutoff(atoms)
    while True:
        bonds = bonds_within(atoms, cutoff)
        numbers, lengths = _number_shells(bonds.distances)
        # a shell is complete when its longest possible member is inside the cutoff
        complete = int(np.sum(lengths * (1 + 2 * SHELL_TOLERANCE) < cutoff))
        if complete >= highest:
            if doubtful:
                _check_shells(atoms, bonds.distances, numbers, highest)
            kept = np.isin(numbers, wanted)
            return Bonds(bonds.i[kept], bonds.j[kept], bonds.cells[kept], bonds.vectors[kept], numbers[kept])
        if not atoms.pbc.any() and cutoff > 2 * np.linalg.norm(np.ptp(atoms.positions, axis=0)) + 1:
            raise KLMError(
                f"shell {highest} does not exist",
                f"this non-periodic structure of {len(atoms)} atoms has only {complete} neighbour shells",
                "ask for a lower shell, or check pbc",
            )
        cutoff *= 1.5


def checked_shells(shells: Iterable[int]) -> list[int]:
    """The numbers of neighbour shells, ascending.

    Raises
    ------
    KLMError
        When one is not a positive integer.
    """
    try:
        wanted = set(shells)
    except TypeError:
        raise KLMError(
            f"shells = {shells!r} are not shell numbers", "integers counted from 1 are needed", "for instance [1, 3]"
        ) from None
    for shell in wanted:
        if isinstance(shell, bool) or not isinstance(shell, int | np.integer) or shell < 1:
            raise KLMError(
                f"{shell!r} is not a shell number",
                "shells are counted 1, 2, 3... by increasing distance",
                "use integers from 1, e.g. {1: 1.0, 3: -0.85}",
            )
    return sorted(wanted)


def _first_cutoff(atoms: Atoms) -> float:
    """A length somewhat above the distance between neighbours; far below it, the search grid would be huge."""
    if len(atoms) == 0:
        raise KLMError("the structure is empty", "there are no atoms to join", "build the lattice first")
    completed = with_complete_cell(atoms).copy()
    cell = images.upright_cell(completed.cell, atoms.pbc)
    cell[atoms.pbc], _ = images.reduced(cell[atoms.pbc])
    completed.set_cell(cell)
    completed.wrap()
    lengths = [float(np.linalg.norm(vector)) for vector in cell[atoms.pbc]]
    if len(atoms) > 1:
        nearest, _ = cKDTree(completed.positions).query(completed.positions, k=2)
        lengths.append(float(np.median(nearest[:, 1])))
    return 1.5 * max(min(lengths, default=1.0), 0.1)


def _check_shells(atoms: Atoms, distances: NDArray[np.float64], numbers: NDArray[np.int64], highest: int) -> None:
    """Shells of a lattice lie apart; those of displaced atoms do not.

    It is an error where counting is unstable, up to the highest shell and the gap beyond it: where a shell is wide,
    or wider than the gap beside it; or where one holds few bonds of a periodic structure that repeats nothing, and
    shells lie close or most hold as few. Other close shells may be those of a crystal; they get a warning.
    """
    last = min(int(numbers.max(initial=0)), highest + 5)
    if highest == 0 or last == 0:
        return
    shortest, longest = np.full(last, np.inf), np.zeros(last)
    inside = numbers <= last
    np.minimum.at(shortest, numbers[inside] - 1, distances[inside])
    np.maximum.at(longest, numbers[inside] - 1, distances[inside])
    widths, gaps = longest - shortest, shortest[1:] - longest[:-1]
    near = 3 * SHELL_TOLERANCE * shortest[0]
    wide = np.flatnonzero(widths[:highest] > near)
    if len(wide):
        raise _ambiguous(f"distances from {shortest[wide[0]]:.4f} to {longest[wide[0]]:.4f} Å follow without a gap")
    close = np.flatnonzero(np.diff(shortest) < near)
    for n in close[close < highest]:
        if gaps[n] < widths[n : n + 2].max():
            raise _ambiguous(f"shells {n + 1} and {n + 2} lie at {shortest[n]:.4f} and {shortest[n + 1]:.4f} Å")
    counts = np.bincount(numbers)[1:]
    fewest = int(counts[:highest].argmin())
    few = counts[:last] < len(atoms) / 4
    if few[:highest].any() and (len(close) or few.mean() > 0.5) and _repeats_nothing(atoms):
        lengths = ", ".join(f"{length:.4f}" for length in shortest[: highest + 5])
        raise _ambiguous(
            f"shell {fewest + 1} holds {counts[fewest]} bonds of {len(atoms)} atoms, and shells lie at {lengths} Å"
        )
    if len(close):
        warn(
            f"neighbour shells {close[0] + 1} and {close[0] + 2} lie at {shortest[close[0]]:.4f} and"
            f" {shortest[close[0] + 1]:.4f} Å",
            "so close together they look like one shell of a lattice whose atoms are displaced",
            "say on which lattice shells are counted: lattice=undistorted_atoms, or lattice=atoms if this is the one",
        )


def _repeats_nothing(atoms: Atoms) -> bool:
    """Whether no translation but those of its cell maps a periodic structure onto itself."""
    if not atoms.pbc.any():
        return False
    cell = with_complete_cell(atoms).cell.array
    return bool(abs(np.linalg.det(primitive_cell(atoms))) > 0.75 * abs(np.linalg.det(cell)))


def _ambiguous(what: str) -> KLMError:
    return KLMError(
        "the neighbour shells of this structure are ambiguous",
        f"{what}, as those of a lattice whose atoms are displaced",
        "say on which lattice they are counted: lattice=undistorted_atoms in the calculator, or lattice=atoms if this "
        "structure is the one; functions of distance with a cutoff need no shells",
    )


def _number_shells(distances: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Shell number of each distance, and the length of each shell."""
    if len(distances) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0)
    order = np.argsort(distances, kind="stable")
    ascending = distances[order]
    steps = np.diff(ascending) > SHELL_TOLERANCE * ascending[0]
    numbers = np.empty(len(distances), dtype=np.int64)
    numbers[order] = np.concatenate(([1], 1 + np.cumsum(steps)))
    return numbers, ascending[np.concatenate(([True], steps))]


class SkinBonds:
    """Bonds within a cutoff of moving atoms, found again only when something has moved by more than the skin allows.

    Parameters
    ----------
    atoms : Atoms
        Gives the number of atoms and the periodicity.
    cutoff, skin : float
        Å. The list holds all bonds up to cutoff + skin.
    """

    def __init__(self, atoms: Atoms, cutoff: float, skin: float = 0.5) -> None:
        self._atoms, self._cutoff, self._skin = atoms.copy(), cutoff, skin
        self._positions: Tensor | None = None
        self._cell: Tensor | None = None
        self.bonds: tuple[NDArray[np.int64], ...] = ()

    def update(self, positions: Tensor, cell: Tensor) -> bool:
        """Make `bonds` = (i, j, R) valid for positions (..., N, 3) and cells (..., 3, 3); whether they changed."""
        if self._positions is not None and self._cell is not None and self._positions.shape == positions.shape:
            # a pair beyond cutoff + skin comes nearer by strain and by what the atoms do besides following it
            deformation = torch.linalg.solve(self._cell, cell)
            strain = torch.linalg.matrix_norm(deformation - torch.eye(3).to(cell), ord=2).max()
            moved = (positions - self._positions @ deformation).norm(dim=-1).max()
            if 2 * moved + strain * (self._cutoff + self._skin) < self._skin:
                return False
        self._positions, self._cell = positions.detach().clone(), cell.detach().clone()
        found = []
        replicas = positions.detach().reshape(-1, len(self._atoms), 3).cpu().numpy()
        cells = cell.detach().expand(*positions.shape[:-2], 3, 3).reshape(-1, 3, 3).cpu().numpy()
        for x, h in zip(replicas, cells, strict=True):
            self._atoms.set_cell(h)
            self._atoms.positions[:] = x
            bonds = bonds_within(self._atoms, self._cutoff + self._skin)
            found.append(np.column_stack([bonds.i, bonds.j, bonds.cells]))
        rows = found[0] if len(found) == 1 else np.unique(np.concatenate(found), axis=0)
        self.bonds = rows[:, 0], rows[:, 1], rows[:, 2:]
        return True


def primitive_cell(atoms: Atoms) -> NDArray[np.float64]:
    """Primitive lattice vectors of the structure without its moments, Å, shape (3, 3).

    Along each periodic direction of the cell stands a primitive vector, along the others the completed cell's vector,
    without its part along the periodic ones.
    """
    cell = images.upright_cell(with_complete_cell(atoms).cell, atoms.pbc)
    cell[atoms.pbc] = primitive_vectors(atoms)
    return cell


def primitive_vectors(atoms: Atoms) -> NDArray[np.float64]:
    """Primitive lattice translations of the structure without its moments, Å, shape (n_periodic, 3).

    Where they span it, these are fractions of the cell vectors, so that a 12 × 12 supercell gives back the vectors that
    it was built from. Otherwise they are the shortest ones, chosen as by ``images.reduced``.
    """
    periodic = np.flatnonzero(atoms.pbc)
    if len(periodic) == 0:
        return np.zeros((0, 3))
    if len(atoms) == 0:
        raise KLMError("the structure is empty", "it has no translations", "build the lattice first")
    completed = with_complete_cell(atoms)
    cell = images.upright_cell(completed.cell, atoms.pbc)
    cell[periodic], _ = images.reduced(cell[periodic])
    scaled = np.linalg.solve(cell.T, completed.positions.T).T
    species, counts = np.unique(atoms.numbers, return_counts=True)
    alike = np.flatnonzero(atoms.numbers == species[np.argmin(counts)])
    is_translation = _TranslationTest(scaled, atoms.numbers)
    classes = scaled[alike] - scaled[alike[0]]  # translations modulo the supercell
    classes[:, periodic] -= classes[:, periodic].round()
    classes = classes[np.abs(classes[:, ~atoms.pbc]).max(axis=1, initial=0.0) < 1e-5]
    classes = is_translation.sieve(classes)
    along = _fractions_of_the_cell(completed.cell.array[periodic], len(classes), cell, is_translation)
    if along is not None:
        return along
    # in a reduced cell, the shortest vector of a class is one cell away at most
    shifts = np.zeros((3 ** len(periodic), 3))
    shifts[:, periodic] = images.steps(len(periodic))
    candidates = (classes[:, None, :] + shifts).reshape(-1, 3)
    return images.shortest_independent(candidates @ cell, len(periodic), lambda n: is_translation(candidates[n]))


def _fractions_of_the_cell(
    vectors: NDArray[np.float64], n_cells: int, cell: NDArray[np.float64], is_translation: "_TranslationTest"
) -> NDArray[np.float64] | None:
    """Each cell vector over the largest integer that leaves a translation, if together these span the cell."""
    divisors = [n for n in range(n_cells, 0, -1) if n_cells % n == 0]
    scaled = np.linalg.solve(cell.T, vectors.T).T
    parts = [next(n for n in divisors if is_translation(vector / n)) for vector in scaled]
    # n_cells bounds the number of primitive cells from above until every translation has been tested
    found = vectors / np.array(parts)[:, None]
    remaining = n_cells // int(np.prod(parts))
    return found if remaining <= 1 else None


class _TranslationTest:
    """Tells whether a shift (in cell coordinates) maps the structure onto itself."""

    def __init__(self, scaled: NDArray[np.float64], numbers: NDArray[np.int64]) -> None:
        self.scaled, self.numbers = scaled, numbers
        self.tolerance = min(1e-5, 1e-2 / len(scaled))  # well below the distance of neighbours in a large cell
        self.tree = cKDTree(scaled % 1.0 % 1.0, boxsize=1.0)

    def __call__(self, shift: NDArray[np.float64]) -> bool:
        return len(self.sieve(shift[None])) == 1 and bool(self._hits(self.scaled + shift, self.numbers).all())

    def sieve(self, shifts: NDArray[np.float64]) -> NDArray[np.float64]:
        """The shifts that bring a few atoms onto others; in a disordered structure hardly any is left."""
        for probe in np.linspace(0, len(self.scaled) - 1, min(len(self.scaled), 8)).astype(int):
            shifts = shifts[self._hits(self.scaled[probe] + shifts, self.numbers[probe])]
        return shifts

    def _hits(self, places: NDArray[np.float64], numbers: NDArray[np.int64] | np.int64) -> NDArray[np.bool_]:
        distance, image = self.tree.query(places % 1.0 % 1.0)
        return np.asarray((distance < self.tolerance) & (self.numbers[image] == numbers))
