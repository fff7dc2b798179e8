"""Structure factor in the plane of wave vectors, with the Brillouin zone."""

from typing import Any

import numpy as np
from scipy.spatial import Voronoi

from ase_klm import analysis
from ase_klm.errors import KLMError
from ase_klm.images import plane_axes, reduced
from ase_klm.plot.axes import axes
from ase_klm.validate import Array

DECADES = 5
"""Range of the logarithmic colour scale below the strongest intensity."""
MOST_SPOTS = 120
"""Peaks of a large supercell, whose tiles are tiny, are drawn as spots unless there are more than this."""


def structure_factor(source: Any, ax: Any = None, log: bool = True) -> Any:
    """S(q) of a lattice that is periodic in two directions.

    Parameters
    ----------
    source : StructureFactor, Atoms or sequence of frames
        The result of ``analysis.structure_factor``, drawn as it is; or what it takes, drawn somewhat beyond the first
        Brillouin zone.
    ax : matplotlib.axes.Axes, optional
        Default: a new figure.
    log : bool
        Logarithmic colours over five decades, or linear ones from zero.

    Returns
    -------
    matplotlib.axes.Axes
        Its first collection holds one tile a wave vector, with S(q) as its array.

    Raises
    ------
    KLMError
        As ``analysis.structure_factor``, and when not exactly two directions are periodic.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patheffects import withStroke

    factor = source if isinstance(source, analysis.StructureFactor) else analysis.structure_factor(source)
    if len(factor.steps) != 2:
        raise KLMError(
            f"S(q) is known along {len(factor.steps)} directions of its own grid",
            "the picture shows a plane of wave vectors of a supercell that is periodic in two directions",
            "for other lattices plot result.q_cartesian and result.intensity yourself",
        )
    project = _frame(factor)
    zone = _cell((factor.reciprocal @ project)[factor.steps.any(axis=0)])
    radius = np.linalg.norm(zone, axis=1).max()
    if factor is not source:
        factor = analysis.structure_factor(source, cell=factor.cell, q_max=1.75 * radius)
    ax = axes(ax)
    intensity = factor.intensity
    top = intensity.max()
    bottom = min(max(top * 10.0**-DECADES, intensity.min()), top / 10) if log else 0.0
    norm = LogNorm(bottom, top) if log else Normalize(bottom, top)
    tile = _cell(factor.steps @ factor.reciprocal @ project)
    tiles = PolyCollection(
        list((factor.q_cartesian @ project)[:, None, :] + tile),
        array=intensity,
        norm=norm,
        cmap="magma",
        linewidths=0.3,
    )
    tiles.set_edgecolor("face")
    tiles.set_cmap(tiles.cmap.with_extremes(bad="black", under="black"))  # exact zeros have no logarithm
    ax.add_collection(tiles)
    bright = intensity > 0.02 * top
    if np.ptp(tile, axis=0).max() < 0.04 * radius and bright.sum() <= MOST_SPOTS:
        spots = factor.q_cartesian[bright] @ project
        ax.scatter(*spots.T, c=intensity[bright], s=11, norm=norm, cmap="magma", linewidths=0)
    halo = [withStroke(linewidth=2.2, foreground="0.15")]
    ax.plot(*np.concatenate([zone, zone[:1]]).T, color="white", lw=1.1, path_effects=halo)
    _points(ax, zone, halo)
    limit = 1.2 * radius
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    ax.set_facecolor("0.94")
    ax.set_xlabel("$q_x$ (rad/Å)")
    ax.set_ylabel("$q_y$ (rad/Å)")
    below = "min" if intensity.min() < 0.999 * bottom else "neither"
    ax.figure.colorbar(tiles, ax=ax, label="$S(\\mathbf{q})$ (μ$_\\mathrm{B}^2$)", shrink=0.85, extend=below)
    return ax


def _frame(factor: analysis.StructureFactor) -> Array:
    """Projection of wave vectors onto the plane of the steps, shape (3, 2); onto x and y for a layer in xy."""
    return plane_axes(np.cross(*(factor.steps @ factor.reciprocal)))[:2].T


def _cell(vectors: Array) -> Array:
    """Wigner-Seitz cell of the lattice of two vectors, counter-clockwise corners, shape (n, 2)."""
    short = reduced(np.column_stack([vectors, np.zeros(2)]))[0][:, :2]
    numbers = np.indices((7, 7)).reshape(2, -1).T - 3
    diagram = Voronoi(numbers @ short)
    corners = diagram.vertices[diagram.regions[diagram.point_region[len(numbers) // 2]]]
    corners = corners[np.argsort(np.arctan2(corners[:, 1], corners[:, 0]))]
    lengths = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
    return np.asarray(corners[lengths > 1e-6 * lengths.max()])


def _points(ax: Any, zone: Array, halo: Any) -> None:
    """Names of the symmetric points of hexagonal and square zones."""
    radii = np.linalg.norm(zone, axis=1)
    edges = np.linalg.norm(zone - np.roll(zone, 1, axis=0), axis=1)
    if np.ptp(radii) > 1e-3 * radii[0] or np.ptp(edges) > 1e-3 * edges[0] or len(zone) not in (4, 6):
        return
    corner = zone[np.argmax(zone @ (1.0, 0.1))]
    others = zone[np.argsort(np.linalg.norm(zone - corner, axis=1))[1:3]]
    middle = (corner + others[np.argmax(others[:, 1])]) / 2
    names = ("K", "M") if len(zone) == 6 else ("M", "X")
    for name, place, shift in (("Γ", np.zeros(2), 0.0), (names[0], corner, 0.09), (names[1], middle, 0.11)):
        if shift:
            ax.plot(*place, "o", color="white", ms=3, mec="0.25", mew=0.6)
        else:  # a ring, in which the intensity of the magnetisation is seen
            ax.plot(*place, "o", mfc="none", ms=9, mec="white", mew=0.9, path_effects=halo)
        ax.annotate(
            name,
            place * (1 + shift) + (0.0 if shift else 0.1 * radii[0]),
            color="white",
            ha="center",
            va="center",
            path_effects=halo,
        )
