"""The plane that magnetic atoms lie in, and their coordinates there."""

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.geometry import complete_cell
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ase_klm.analysis.magnetisation import no_moments
from ase_klm.errors import KLMError
from ase_klm.graphs import with_complete_cell
from ase_klm.images import plane_axes, reduced, steps
from ase_klm.moments import is_magnetic
from ase_klm.validate import Array

FLATNESS = 0.5
"""Largest thickness of a layer in units of the spacing (area per site)^1/2 of its sites."""


@dataclass(frozen=True)
class MagneticPlane:
    """Magnetic atoms in the coordinates of their plane.

    Attributes
    ----------
    sites : ndarray
        Indices of the magnetic atoms, shape (n,).
    axes : ndarray
        Orthonormal u, v (in the plane) and `normal` u × v as rows, shape (3, 3); x, y, z for a layer in the xy plane.
    points : ndarray
        Coordinates along u and v, Å, shape (n, 2).
    periods : ndarray
        Shortest periods of the structure in the plane, Å, shape (0 to 2, 2).
    """

    sites: NDArray[np.int64]
    axes: Array
    points: Array
    periods: Array

    @property
    def normal(self) -> Array:
        """The side from which the plane is seen, of positive z, else y, else x component, shape (3,)."""
        return np.asarray(self.axes[2])

    @property
    def spacing(self) -> float:
        """(area per site)^1/2, Å; in open directions from the extent of the structure.

        Where the sites fill a part of their cell only, it is bounded by the distance of neighbours.
        """
        spread = float(np.sqrt(_area(self.points, self.periods) / len(self.points)))
        if len(self.points) < 3:
            return spread
        nearest = cKDTree(self.points).query(self.points, k=2)[0][:, 1]
        return min(spread, 1.5 * max(float(np.median(nearest)), 1e-3 * spread))

    def with_images(self, margin: float) -> tuple[Array, NDArray[np.int64], NDArray[np.int64]]:
        """The points, wrapped into the cell, and their periodic images not farther than `margin` (Å) outside it.

        Returns
        -------
        points, site, cells : ndarray
            Coordinates, shape (m, 2); number of the point that it is an image of, shape (m,); its cell, shape (m, 2).
        """
        basis = _completed(self.periods)
        periodic = np.arange(2) < len(self.periods)
        fractions = np.linalg.solve(basis.T, self.points.T).T
        fractions[:, periodic] %= 1.0
        reach = margin * np.linalg.norm(np.linalg.inv(basis), axis=0)  # margin over the height of the cell
        layers = np.where(periodic, np.ceil(reach), 0).astype(np.int64)
        found = []
        for first in range(-layers[0], layers[0] + 1):
            for second in range(-layers[1], layers[1] + 1):
                shifted = fractions + np.array((first, second))
                near = (((shifted >= -reach) & (shifted <= 1 + reach)) | ~periodic).all(axis=1)
                site = np.flatnonzero(near)
                found.append((shifted[near] @ basis, site, np.tile((first, second), (len(site), 1))))
        points, sites, cells = (np.concatenate(part) for part in zip(*found, strict=True))
        return points, sites, cells


def magnetic_plane(atoms: Atoms) -> MagneticPlane:
    """Find the plane of the magnetic atoms.

    The plane contains two of the cell vectors, or of the shortest periods of a crystal, or lies anyhow where fewer than
    two directions are periodic; of planes that fit alike the most densely filled one is taken, then that most across z.
    Its normal points to +z (to +y, then +x, for upright planes). A layer may be buckled by less than half its spacing.

    Raises
    ------
    KLMError
        When there are no moments, or the magnetic atoms do not lie in one plane, or all lie on a line.
    """
    sites = np.flatnonzero(is_magnetic(atoms))
    with_complete_cell(atoms)  # complains of positions and cells that span nothing
    if len(sites) == 0:
        raise no_moments()
    positions = atoms.positions[sites]
    found = []
    for penalty, normal, vectors, height in _candidates(atoms, positions):
        axes = plane_axes(normal)
        plane = MagneticPlane(sites, axes, positions @ axes[:2].T, reduced(vectors)[0] @ axes[:2].T)
        thickness = _thickness(positions @ axes[2], height)
        area = np.linalg.norm(np.cross(*vectors)) if len(vectors) == 2 else 0.0
        flat = thickness <= FLATNESS * plane.spacing
        # both periods of a layer lie in it, even if its few sites also fit a plane across it
        unlike = penalty if flat and atoms.pbc.sum() == 2 else 0
        across_z = -np.abs(axes[2, ::-1]).round(6)
        found.append(((not flat, unlike, round(thickness, 5), penalty, round(area, 5), *across_z), thickness, plane))
    _, thickness, plane = min(found, key=lambda candidate: candidate[0])
    spread = np.concatenate([plane.points - plane.points[0], plane.periods])
    widths = np.linalg.svd(spread, compute_uv=False)
    if len(widths) < 2 or widths[1] < 1e-6 * widths[0]:
        raise KLMError(
            "the magnetic atoms lie on a line",
            "a plane is needed, with sites in two directions",
            "use a planar lattice, or switch periodicity on in a second direction",
        )
    if thickness > FLATNESS * plane.spacing:
        raise KLMError(
            "the magnetic atoms do not lie in one plane",
            f"the flattest layer through them is {thickness:.3g} Å thick, more than half the spacing of its sites",
            "pick one layer, e.g. atoms[abs(atoms.positions[:, 2] - z) < 0.1]",
        )
    return plane


def _candidates(atoms: Atoms, positions: Array) -> list[tuple[int, Array, Array, float | None]]:
    """Penalty, normal, periodic vectors in the plane, and period along the normal, of the planes to try."""
    cell, pbc = atoms.cell.array, atoms.pbc
    found: list[tuple[int, Array, Array, float | None]] = []
    for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        normal = np.cross(cell[a], cell[b])
        if (area := np.linalg.norm(normal)) > 1e-9:
            height = abs(cell[c] @ normal) / area if pbc[c] else None
            vectors = cell[[axis for axis in (a, b) if pbc[axis]]]
            found.append((int(pbc[c]) - len(vectors), normal / area, vectors.reshape(-1, 3), height or None))
    if pbc.all():
        found += _planes_of_a_crystal(cell)
    if pbc.sum() < 2:
        vectors = cell[pbc].reshape(-1, 3)
        spread = np.concatenate([positions - positions.mean(axis=0), vectors, np.zeros((3, 3))])
        found.append((1, np.linalg.svd(spread)[2][2], vectors, None))
    return found


def _planes_of_a_crystal(cell: Array) -> list[tuple[int, Array, Array, float | None]]:
    """The same of the planes between the shortest lattice vectors and their sums, whichever vectors the cell has."""
    short, _ = reduced(cell)
    numbers = steps(3)[1:]
    found = {}
    for one, first in enumerate(numbers):
        for second in numbers[one + 1 :]:
            plane = np.cross(first, second)
            if np.gcd.reduce(plane) != 1 or tuple(-plane) in found:  # else the two do not span all of the plane
                continue
            vectors = np.array([first, second]) @ short
            normal = np.cross(*vectors)
            area = float(np.linalg.norm(normal))
            found[tuple(plane)] = (-1, normal / area, vectors, abs(float(np.linalg.det(short))) / area)
    return list(found.values())


def _thickness(heights: Array, period: float | None) -> float:
    """Extent of the heights; with a period, that of the shortest arc that holds them."""
    if period is None or len(heights) == 1:
        return float(np.ptp(heights))
    ascending = np.sort(heights % period)
    gaps = np.diff(ascending, append=ascending[0] + period)
    return float(period - gaps.max())


def _completed(periods: Array) -> Array:
    """Two independent vectors in the plane, the periodic ones first, shape (2, 2)."""
    if len(periods) == 2:
        return periods
    vectors = np.zeros((3, 3))
    vectors[: len(periods), :2] = periods
    vectors[2, 2] = 1.0
    return np.asarray(complete_cell(vectors))[:2, :2] if len(periods) else np.eye(2)


def _area(points: Array, periods: Array) -> float:
    basis = _completed(periods)
    fractions = np.linalg.solve(basis.T, points.T).T
    extent = np.ptp(fractions, axis=0)
    extent = extent + extent / max(np.sqrt(len(points)) - 1, 1)  # the border sites own an area outside, too
    extent[: len(periods)] = 1.0
    return float(abs(np.linalg.det(basis)) * extent.prod())
