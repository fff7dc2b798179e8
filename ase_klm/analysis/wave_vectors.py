"""Wave vectors of a supercell: those with a whole number of waves along each of its periodic vectors.

Only these have a meaning on a torus: at any other q a sum over its sites shows the border.
"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from ase.cell import Cell
from ase.dft.kpoints import parse_path_string
from numpy.typing import ArrayLike, NDArray

from ase_klm import graphs, images
from ase_klm.errors import KLMError
from ase_klm.validate import Array, checked_array, checked_atoms, checked_number

TOLERANCE = 0.01
"""How far a wave vector may be from one of the supercell, in units of the latter's steps (0.3333 stands for 1/3)."""


@dataclass(frozen=True)
class SupercellWaves:
    """Wave vectors of a supercell, fractional in the reciprocal vectors of its primitive cell.

    Attributes
    ----------
    primitive : ndarray
        Primitive lattice vectors, Å, shape (3, 3).
    multiple : ndarray
        Whole numbers M, periodic part of supercell = M primitive, shape (n_periodic, n_periodic).
    periodic : ndarray
        Numbers of the periodic directions, shape (n_periodic,).
    """

    primitive: Array
    multiple: Array
    periodic: NDArray[np.int64]

    @property
    def steps(self) -> Array:
        """Smallest wave vectors, shape (n_periodic, 3)."""
        steps = np.zeros((len(self.periodic), 3))
        steps[:, self.periodic] = np.linalg.inv(self.multiple).T
        return steps

    def counts(self, q: Array) -> Array:
        """Waves along each periodic vector of the supercell, in units of `steps`, shape (n_q, n_periodic)."""
        return q[:, self.periodic] @ self.multiple.T

    def first_zone(self) -> Array:
        """Wave vectors each once modulo reciprocal vectors, by the copy closest to Γ, shape (n_q, 3).

        Of copies on the border of the zone, that furthest along x, then y, then z stands for all.
        """
        cells = round(abs(np.linalg.det(self.multiple)))
        # entries of M⁻¹ are integers over det M, so that q det M counts modulo det M
        rows = (np.linalg.inv(self.multiple).T * cells).round().astype(np.int64)
        orders = [cells // int(np.gcd.reduce(np.append(row, cells))) for row in rows]
        counts = np.indices(orders).reshape(len(rows), -1).T
        distinct = np.unique(counts @ rows % cells, axis=0) / cells
        folded = np.zeros((len(distinct), 3))
        folded[:, self.periodic] = distinct
        reciprocal = np.linalg.inv(self.primitive).T
        closest = images.furthest_image(folded @ reciprocal, reciprocal[self.periodic]) @ self.primitive.T
        q = np.zeros_like(folded)
        q[:, self.periodic] = self.counts(closest).round() @ self.steps[:, self.periodic]
        return q

    def within(self, q_max: float) -> Array:
        """Wave vectors not longer than `q_max` (rad/Å), shape (n_q, 3)."""
        checked_number(q_max, "q_max", "rad/Å", above=0)
        reciprocal = 2 * np.pi * np.linalg.inv(self.primitive).T
        vectors, operation = images.reduced(self.steps @ reciprocal)
        reach = np.floor(q_max * np.linalg.norm(np.linalg.pinv(vectors), axis=0) + 1e-9).astype(np.int64)
        q = np.array(list(product(*(range(-n, n + 1) for n in reach)))) @ operation @ self.steps
        return np.asarray(q[np.linalg.norm(q @ reciprocal, axis=1) <= q_max * (1 + 1e-9)])

    def checked(self, q: ArrayLike) -> Array:
        """The wave vectors, exact to rounding, if they belong to the supercell; free along open directions.

        Raises
        ------
        KLMError
            When one does not; it names the nearest that does.
        """
        given = checked_array(q, (None, 3), "q")
        counts = self.counts(given)
        exact = given.copy()
        exact[:, self.periodic] = counts.round() @ self.steps[:, self.periodic]
        wrong = np.flatnonzero((np.abs(counts - counts.round()) > TOLERANCE).any(axis=1))
        if len(wrong):
            first = wrong[0]
            raise KLMError(
                f"q = {given[first].tolist()} is no wave vector of the supercell",
                f"{counts[first].round(4).tolist()} waves fit along its periodic vectors, which is no whole number",
                f"take the nearest one, {(exact[first].round(6) + 0.0).tolist()}, or a larger supercell",
            )
        return exact


def supercell_waves(atoms: Atoms, cell: ArrayLike | None = None) -> SupercellWaves:
    """Wave vectors of the supercell that `atoms` is.

    Parameters
    ----------
    atoms : Atoms
        Periodic where it is; moments do not count.
    cell : array_like, optional
        Primitive lattice vectors, Å, shape (3, 3). Default: ``graphs.primitive_cell``.

    Raises
    ------
    KLMError
        When the supercell does not consist of whole cells.
    """
    complete = graphs.with_complete_cell(atoms)
    periodic = np.flatnonzero(atoms.pbc)
    primitive = graphs.primitive_cell(atoms) if cell is None else checked_array(cell, (3, 3), "cell", "Å")
    if abs(np.linalg.det(primitive)) <= 1e-9 * np.linalg.norm(primitive, axis=1).prod():
        raise KLMError(
            "cell does not span space",
            f"its vectors {primitive.tolist()} lie in one plane",
            "give three independent lattice vectors; along open directions any vector across the others",
        )
    primitive = images.upright_cell(primitive, atoms.pbc)
    multiple = (complete.cell.array @ np.linalg.inv(primitive))[np.ix_(periodic, periodic)]  # supercell = M primitive
    if np.abs(multiple - multiple.round()).max(initial=0.0) > 1e-3:
        raise KLMError(
            "the supercell does not consist of whole primitive cells",
            f"in units of these the periodic cell vectors are {multiple.round(4).tolist()}",
            "give the lattice vectors of one cell, in the order of the cell of the structure",
        )
    return SupercellWaves(primitive, multiple.round(), periodic)


@dataclass(frozen=True)
class WaveVectorPath:
    """Wave vectors along a path of straight lines.

    Attributes
    ----------
    q : ndarray
        In units of the reciprocal vectors of the primitive cell, shape (n_q, 3).
    along : ndarray
        Distance from the start of the path, rad/Å, shape (n_q,); jumps have no length.
    labels : list of tuple
        Place on the path (rad/Å) and name of each corner; two at a jump.
    """

    q: Array
    along: Array
    labels: list[tuple[float, str]]


def wave_vector_path(atoms: Atoms, path: Any, cell: ArrayLike | None = None) -> WaveVectorPath:
    """All wave vectors of a supercell on the straight lines from corner to corner.

    Parameters
    ----------
    atoms : Atoms
        The supercell.
    path : str or array_like
        Names of special points as in ASE, such as ``"GXMG"`` (a comma is a jump), or corners in units of the reciprocal
        vectors of the primitive cell, shape (n_corners, 3). Corners that do not belong to the supercell are left out.
    cell : array_like, optional
        Primitive lattice vectors, Å, shape (3, 3); default ``graphs.primitive_cell(atoms)``. Give them when atoms are
        displaced.

    Raises
    ------
    KLMError
        When a name is not known for this lattice, or no wave vector of the supercell lies on the path.
    """
    waves = supercell_waves(checked_atoms(atoms), cell)
    reciprocal = 2 * np.pi * np.linalg.inv(waves.primitive).T
    q: list[Array] = []
    along: list[float] = []
    labels: list[tuple[float, str]] = []
    start = 0.0
    for names, corners in _pieces(path, waves):
        labels.append((start, names[0]))
        joined = False
        for name, first, last in zip(names[1:], corners, corners[1:], strict=False):
            length = float(np.linalg.norm((last - first) @ reciprocal))
            for t in _crossings(waves, first, last):
                if not (joined and t < 1e-9):  # a corner between two lines counts once
                    q.append(first + t * (last - first))
                    along.append(start + t * length)
            start += length
            joined = bool(along) and abs(along[-1] - start) < 1e-9
            labels.append((start, name))
    if not q:
        raise KLMError(
            "no wave vector of the supercell lies on the path",
            f"its steps are {waves.steps.round(6).tolist()} in units of the reciprocal vectors of the primitive cell",
            "take a path through Γ, or a larger supercell",
        )
    return WaveVectorPath(waves.checked(q), np.array(along), labels)


def _pieces(path: Any, waves: SupercellWaves) -> list[tuple[list[str], Array]]:
    """Names and corners of each connected piece of a path."""
    if not isinstance(path, str):
        corners = checked_array(path, (None, 3), "path")
        if len(corners) < 2:
            raise KLMError("the path has no two corners", "it goes from corner to corner", 'e.g. path="GXMG"')
        return [([" ".join(f"{x:.3g}" for x in corner) for corner in corners], corners)]
    pbc = np.isin(np.arange(3), waves.periodic).tolist()
    try:
        points = Cell(waves.primitive).bandpath(npoints=0, pbc=pbc).special_points
    except Exception as error:  # noqa: BLE001, ASE raises many kinds where it cannot name a lattice
        raise KLMError(
            "the special points of this lattice have no names", f"ASE says: {error}", "give corners (n_corners, 3)"
        ) from None
    pieces = [names for names in parse_path_string(path) if names]
    unknown = [name for names in pieces for name in names if name not in points]
    if unknown or not pieces or min(map(len, pieces)) < 2:
        raise KLMError(
            f"path = {path!r} cannot be followed",
            f"{', '.join(unknown)} is not known" if unknown else "each piece needs two corners",
            f"this lattice has {', '.join(points)}; or give corners (n_corners, 3)",
        )
    return [(names, np.array([points[name] for name in names])) for names in pieces]


def _crossings(waves: SupercellWaves, first: Array, last: Array) -> Array:
    """Where on the line, from 0 to 1, it meets wave vectors of the supercell."""
    start, end = waves.counts(np.array([first, last]))
    change = end - start
    axis = int(np.abs(change).argmax()) if len(change) else 0
    if not len(change) or abs(change[axis]) < 1e-9:
        raise KLMError(
            "two corners of the path in a row are the same",
            f"{first.tolist()} and {last.tolist()} differ along no periodic direction",
            "leave one out",
        )
    low, high = sorted((start[axis], end[axis]))
    whole = np.arange(np.ceil(low - TOLERANCE), np.floor(high + TOLERANCE) + 1)
    t = np.sort((whole - start[axis]) / change[axis]).clip(0, 1)
    counts = start + t[:, None] * change
    return np.asarray(t[(np.abs(counts - counts.round()) < TOLERANCE).all(axis=1)])
