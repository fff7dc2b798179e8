"""Spectra along a path of wave vectors: S(q, ω) of trajectories or of linear spin-wave theory, as a heat map."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ase_klm.errors import KLMError
from ase_klm.plot.axes import axes
from ase_klm.plot.special_points import name_places
from ase_klm.validate import Array, checked_array, checked_number

DECADES = 4
"""Range of the logarithmic colour scale."""
UNITS = {"eV": 1.0, "meV": 1e3}


def spectrum(
    along: ArrayLike,
    energies: ArrayLike,
    intensity: ArrayLike,
    labels: Iterable[tuple[float, str]] = (),
    bands: Any = None,
    ax: Any = None,
    unit: str = "meV",
    log: bool = True,
    top: float | None = None,
    label: str = "$S(\\mathbf{q}, \\omega)$ (μ$_\\mathrm{B}^2$/eV)",
) -> Any:
    """Heat map of an intensity over wave vectors on a path, and energies.

    Parameters
    ----------
    along : array_like
        Distance on the path, ascending, shape (n_q,): of ``analysis.wave_vector_path``, or of ASE's
        ``bandpath.get_linear_kpoint_axis()``. Two equal places are a jump.
    energies : array_like
        eV, ascending, shape (n_w,).
    intensity : array_like
        Shape (n_q, n_w).
    labels : iterable of tuple, optional
        Place and name of special points: ``path.labels``, or ``zip(places, names)`` of ASE.
    bands : array_like or tuple, optional
        Energies in eV to draw over the map, shape (n_q, n_modes); or ``(along, energies)`` with places of their own.
        NaN are left out.
    ax : matplotlib.axes.Axes, optional
        Default: a new figure.
    unit : str
        Of the axis of energies, "meV" or "eV".
    log : bool
        Logarithmic colours over four decades, or linear ones from zero.
    top : float, optional
        Intensity at the end of the colours. Default: the largest beyond the elastic line (Bragg peaks, at zero energy).
    label : str
        Name of the intensity, at the colour bar.

    Returns
    -------
    matplotlib.axes.Axes
        Its first collection is the map, with the transposed intensity as its array; its first lines are the bands.

    Raises
    ------
    KLMError
        When shapes do not match, or places or energies do not ascend.
    """
    from matplotlib.colors import LogNorm, Normalize

    places = checked_array(along, (None,), "along")
    levels = checked_array(energies, (None,), "energies", "eV")
    values = checked_array(intensity, (len(places), len(levels)), "intensity")
    for name, numbers, least in (("along", places, 0.0), ("energies", levels, 1e-300)):
        if not len(numbers) or (np.diff(numbers) < least).any():
            raise KLMError(
                f"{name} does not ascend",
                "the axes of the map go from left to right and from below to above",
                "sort it, and the intensity with it",
            )
    if unit not in UNITS:
        raise KLMError(f"unit = {unit!r} is not known", "energies are in eV and shown in eV or meV", 'give "meV"')
    scale = UNITS[unit]
    highest = _largest_inelastic(levels, values) if top is None else checked_number(top, "top", above=0)
    if highest <= 0:
        raise KLMError("there is no intensity", f"its largest value is {highest:g}", "look where it comes from")
    ax = axes(ax)
    norm = LogNorm(highest * 10.0**-DECADES, highest) if log else Normalize(0, highest)
    tiles = ax.pcolormesh(
        _edges(places), _edges(levels * scale), values.T, norm=norm, cmap="magma", rasterized=True, shading="flat"
    )
    tiles.set_cmap(tiles.cmap.with_extremes(bad="black", under="black"))  # zeros have no logarithm
    ax.set_facecolor("black")
    if bands is not None:
        where, lines = bands if isinstance(bands, tuple) else (places, bands)
        where = checked_array(where, (None,), "along of the bands")
        drawn = _checked_bands(lines, len(where)) * scale
        ax.plot(where, drawn, color="white", lw=0.8, ls=(0, (4, 2)), alpha=0.8)
    _name_places(ax, labels)
    ax.set_xlim(*(places[[0, -1]] if len(places) > 1 else _edges(places)))
    ax.set_ylim(*_edges(levels * scale)[[0, -1]])
    ax.set_ylabel(f"$\\hbar\\omega$ ({unit})")
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    beyond = extend[bool(log and values.min() < norm.vmin), bool(values.max() > highest)]
    ax.figure.colorbar(tiles, ax=ax, label=label, extend=beyond)
    return ax


def _largest_inelastic(energies: Array, intensity: Array) -> float:
    """Largest intensity more than the width of a Hann window's line away from zero energy, if there is any."""
    elastic = np.abs(energies) < 2.5 * np.diff(energies).min(initial=np.inf) if len(energies) > 1 else energies < 0
    beyond = intensity[:, ~elastic].max(initial=0.0)
    return float(beyond if beyond > 0 else intensity.max())


def _edges(centres: Array) -> Array:
    """Borders of tiles halfway between neighbours, the first and last as wide to both sides."""
    if len(centres) == 1:
        return centres[0] + np.array([-0.5, 0.5])
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]])


def _checked_bands(lines: ArrayLike, number: int) -> Array:
    try:
        values = np.array(lines, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise KLMError("bands are no array of energies", str(error), "give eV, shape (n_q, n_modes)") from None
    if values.ndim != 2 or len(values) != number:
        raise KLMError(
            f"bands have shape {values.shape} for {number} wave vectors",
            "each mode is a line over the places of the path",
            f"give shape ({number}, n_modes), or a tuple (along, energies) with places of their own",
        )
    return values


def _name_places(ax: Any, labels: Iterable[tuple[float, str]]) -> None:
    names = list(labels)
    if not names:
        ax.set_xlabel("distance along the path of $\\mathbf{q}$ (rad/Å)")
        return
    name_places(ax, names, colour="0.6", zorder=1.5)
