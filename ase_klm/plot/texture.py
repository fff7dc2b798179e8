"""Spin texture of a layer: the in-plane direction as hue, e_z as lightness."""

from typing import Any

import numpy as np
from ase import Atoms

from ase_klm.analysis.planes import MagneticPlane, magnetic_plane
from ase_klm.moments import directions, get_moments
from ase_klm.plot.axes import axes
from ase_klm.plot.cells import wigner_seitz_cells
from ase_klm.plot.colours import colour_wheel, spin_colours
from ase_klm.validate import Array

MOST_ARROWS = 800
"""With more sites than this, arrows would be too small to see."""


def texture(atoms: Atoms, ax: Any = None, wheel: bool = True) -> Any:
    """Directions of the moments, one Wigner-Seitz cell a magnetic site, with arrows where there are few sites.

    Non-magnetic atoms are small grey discs. x and y of the spins are those of the layer's plane; for a layer in the xy
    plane, Cartesian ones.

    Parameters
    ----------
    atoms : Atoms
        Magnetic atoms in one plane; a chain or a crystal is refused, pick a layer of it.
    ax : matplotlib.axes.Axes, optional
        Default: a new figure.
    wheel : bool
        Whether to draw the wheel that explains the colours; one is enough for several panels.

    Returns
    -------
    matplotlib.axes.Axes
        Its first collection holds the cells.

    Raises
    ------
    KLMError
        When there are no moments, or the magnetic atoms do not lie in one plane.
    """
    from matplotlib.collections import PolyCollection

    plane = magnetic_plane(atoms)
    polygons = wigner_seitz_cells(plane)
    ax = axes(ax, figure_size(polygons))
    spins = in_plane_directions(atoms, plane)
    colours = spin_colours(spins)
    # edges in the colour of the face close the hairlines between the polygons
    cells = PolyCollection(polygons, facecolors=colours, edgecolors=colours, linewidths=0.3)
    ax.add_collection(cells)
    draw_arrows(ax, plane, spins)
    others = np.setdiff1d(np.arange(len(atoms)), plane.sites)
    if len(others):
        places = atoms.positions[others] @ plane.axes[:2].T
        ax.scatter(*places.T, s=8, color="0.6", edgecolors="0.2", linewidths=0.4, zorder=4)
    ax.autoscale_view()
    ax.margins(0.02)
    ax.set_aspect("equal")
    names = ("x", "y") if np.allclose(plane.axes, np.eye(3)) else ("u", "v")
    ax.set_xlabel(f"${names[0]}$ (Å)")
    ax.set_ylabel(f"${names[1]}$ (Å)")
    ax.spines[["top", "right"]].set_visible(False)
    if wheel:
        colour_wheel(ax, _free_corner(ax, polygons), names)
    return ax


def in_plane_directions(atoms: Atoms, plane: MagneticPlane) -> Array:
    """Directions of the magnetic atoms along the axes of the plane, shape (n, 3)."""
    return directions(get_moments(atoms)[plane.sites]) @ plane.axes.T


def figure_size(polygons: list[Array]) -> tuple[float, float]:
    """Inches that suit the shape of the layer."""
    width, height = np.ptp(np.concatenate(polygons), axis=0)
    return 6.0, float(np.clip(0.9 + 4.8 * height / width, 2.2, 6.0))


def _free_corner(ax: Any, polygons: list[Array]) -> tuple[float, float, float, float]:
    """Bounds of a square for the colour wheel, in axes fractions: in a corner without sites, else outside."""
    low, high = np.array([ax.get_xlim(), ax.get_ylim()]).T
    size = max(0.3 * (high - low).min(), 0.2 * (high - low).max()) / (high - low)
    corners = (np.concatenate(polygons) - low) / (high - low)
    for place in ((0.02, 1 - size[1]), (1 - size[0], 0.02)):  # free in skew cells
        if not ((corners > place) & (corners < place + size)).all(axis=1).any():
            return (*place, *size)
    return (1.02, 1 - size[1], *size)


def draw_arrows(ax: Any, plane: MagneticPlane, spins: Array) -> None:
    """Arrows of the in-plane parts, centred on the sites, light on dark and dark on light cells, if there are few."""
    if len(plane.sites) > MOST_ARROWS:
        return
    length = 0.78 * plane.spacing
    shades = np.where(spins[:, 2] < -0.25, 0.92, 0.12)
    seen = np.hypot(spins[:, 0], spins[:, 1]) > 0.08
    ax.quiver(
        *plane.points[seen].T,
        *(length * spins[seen, :2].T),
        color=np.repeat(shades[seen, None], 3, axis=1),
        pivot="mid",
        units="xy",
        angles="xy",
        scale_units="xy",
        scale=1.0,
        width=0.075 * plane.spacing,
        headwidth=3.6,
        headlength=3.8,
        headaxislength=3.4,
        minlength=0.1,
        zorder=3,
    )
