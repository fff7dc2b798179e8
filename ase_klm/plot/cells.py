"""Wigner-Seitz cells of the magnetic sites of a layer, as polygons."""

import numpy as np
from scipy.spatial import Voronoi, cKDTree

from ase_klm.analysis.planes import MagneticPlane
from ase_klm.validate import Array


def wigner_seitz_cells(plane: MagneticPlane) -> list[Array]:
    """Polygon around each site of the plane, corners in Å, counter-clockwise, shape (n_corners, 2) each."""
    wrapped, site, cells = plane.with_images(3.5 * plane.spacing)
    if len(plane.periods) < 2:
        wrapped = np.concatenate([wrapped, _continuation(wrapped, plane.spacing)])
    far = 20 * np.ptp(wrapped, axis=0).max() + 1
    centre = wrapped.mean(axis=0)
    box = centre + far * np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])
    diagram = Voronoi(np.concatenate([wrapped, box]))
    polygons: list[Array] = [np.zeros((0, 2))] * len(plane.points)
    for image in np.flatnonzero((cells == 0).all(axis=1)):
        corners = diagram.vertices[diagram.regions[diagram.point_region[image]]] - wrapped[image]
        length = np.linalg.norm(corners, axis=1, keepdims=True)
        corners = corners * np.minimum(1, 1.3 * plane.spacing / np.maximum(length, 1e-12))
        order = np.argsort(np.arctan2(corners[:, 1], corners[:, 0]))
        polygons[site[image]] = corners[order] + plane.points[site[image]]
    return polygons


def _continuation(points: Array, spacing: float) -> Array:
    """Points across the open border: reflections of neighbours about each other, which continue a lattice."""
    tree = cKDTree(points)
    pairs = tree.query_pairs(1.6 * spacing, output_type="ndarray")
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    ghosts = 2 * points[pairs[:, 0]] - points[pairs[:, 1]]
    ghosts = ghosts[tree.query(ghosts)[0] > 0.6 * spacing]
    return np.unique(ghosts.round(6), axis=0)
