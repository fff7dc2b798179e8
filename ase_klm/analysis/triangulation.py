"""Delaunay triangulation of a magnetic layer, periodic or open."""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial import Delaunay, QhullError

from ase_klm.analysis.planes import MagneticPlane, magnetic_plane
from ase_klm.errors import KLMError
from ase_klm.validate import Array

# Corners of squares and hexagons lie on one circle, which leaves their diagonals open. A tiny strain, the same
# everywhere and along no symmetry axis, decides every one of them in the same way.
STRAIN = 1e-5
_ANGLE = 0.3
_STRETCH = np.eye(2) + STRAIN * np.array(
    [[np.cos(2 * _ANGLE), np.sin(2 * _ANGLE)], [np.sin(2 * _ANGLE), -np.cos(2 * _ANGLE)]]
)


def triangulate(atoms: Atoms) -> NDArray[np.int64]:
    """Triangles between neighbouring magnetic atoms of a planar structure, each once a cell.

    It depends on positions and on which atoms are magnetic only, so the frames of a trajectory can share it.
    A lattice that is periodic in two directions has exactly two triangles a site, which cover the torus. At open
    borders, triangles of a circumradius above twice the median are left out: they bridge gaps of the border.

    Returns
    -------
    ndarray
        Indices of atoms, counter-clockwise as seen from the tip of the layer's normal (+z), shape (n_triangles, 3).

    Raises
    ------
    KLMError
        When there are no moments, or the magnetic atoms do not lie in one plane or lie on a line.
    """
    plane = magnetic_plane(atoms)
    margin = 2.5 * plane.spacing
    while True:
        triangles, radii = _triangles(plane, margin)
        closed = len(plane.periods) == 2
        # the empty circle of each triangle must lie where all points are known
        if len(plane.periods) == 0 or (2 * radii.max(initial=0.0) < margin and len(triangles)):
            break
        margin *= 2
    if closed and len(triangles) != 2 * len(plane.sites):
        raise KLMError(
            f"the triangulation of {len(plane.sites)} sites has {len(triangles)} triangles instead of twice as many",
            "sites are too close to each other",
            "look for doubled atoms",
        )
    return plane.sites[triangles]


def _triangles(plane: MagneticPlane, margin: float) -> tuple[NDArray[np.int64], Array]:
    """Triangles, one representative of each, and their circumradii (Å)."""
    points, site, cells = plane.with_images(margin)
    points = (points - points.mean(axis=0)) @ _STRETCH
    try:
        delaunay = Delaunay(points)
    except (QhullError, ValueError) as error:
        raise KLMError(
            "the magnetic sites cannot be triangulated",
            str(error).strip().splitlines()[0],
            "a plane needs at least three sites that are not on one line",
        ) from None
    if len(delaunay.coplanar):
        raise KLMError(
            "the magnetic sites cannot be triangulated",
            "two of them lie upon each other, or nearly",
            "look for doubled atoms in the structure",
        )
    corners = delaunay.simplices.astype(np.int64)
    # of the copies of a triangle, keep the one whose first corner, by site and cell, is in the home cell
    base = 2 * int(np.abs(cells).max()) + 1
    order = (site * base + cells[:, 0]) * base + cells[:, 1]
    first = np.take_along_axis(corners, order[corners].argmin(axis=1)[:, None], axis=1)[:, 0]
    corners = corners[(cells[first] == 0).all(axis=1)]
    sides = points[corners] - points[np.roll(corners, 1, axis=1)]  # (triangle, side, xy)
    doubled = sides[:, 1, 0] * sides[:, 2, 1] - sides[:, 1, 1] * sides[:, 2, 0]  # twice the signed area
    corners[doubled < 0] = corners[doubled < 0][:, ::-1]
    with np.errstate(divide="ignore"):
        radii = np.linalg.norm(sides, axis=2).prod(axis=1) / (2 * np.abs(doubled))
    if len(plane.periods) < 2:
        kept = radii < 2 * np.median(radii)
        corners, radii = corners[kept], radii[kept]
    return site[corners], radii
