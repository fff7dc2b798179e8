"""Predicted against labelled energies, forces and magnetic forces, as figure 3 of Y. Miyazaki, arXiv:2305.03804."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ase_klm.errors import KLMError
from ase_klm.moments import directions
from ase_klm.plot.axes import axes
from ase_klm.validate import Array, checked_array

QUANTITIES = ("magnetic force", "across the moment")
_LABELS = ("energy_densities", "forces", "magnetic_forces")


def parity(predicted: ArrayLike, labels: ArrayLike, moments: ArrayLike, ax: Any = None) -> Any:
    """Components of the magnetic force, and of its part across the spin, predicted against labelled.

    Root mean square errors a component stand in the corners.

    Parameters
    ----------
    predicted, labels : array_like
        Magnetic forces, eV/μB, shape (..., 3).
    moments : array_like
        Moments or directions of the same spins, shape (..., 3).
    ax : sequence of two matplotlib.axes.Axes, optional
        Default: a new figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes
        Two; the lines of each are the diagonal, then x, y and z.

    Raises
    ------
    KLMError
        When the arrays do not belong together.
    """
    found, given, e = _vectors(predicted, "predicted"), _vectors(labels, "labels"), _vectors(moments, "moments")
    if not found.shape == given.shape == e.shape:
        raise KLMError(
            f"{len(found)} predicted, {len(given)} labelled vectors and {len(e)} moments do not belong together",
            "every spin has one of each",
            "give arrays of the same configurations in the same order",
        )
    e = directions(e)
    panels = _panels(ax, len(QUANTITIES))
    for panel, quantity, across in zip(panels, QUANTITIES, (False, True), strict=True):
        x, y = (_transverse(given, e), _transverse(found, e)) if across else (given, found)
        _draw(panel, y, x, quantity, "eV/μ$_\\mathrm{B}$", ".2e")
    return panels


def atomic_parity(predicted: Any, labels: Any, ax: Any = None) -> Any:
    """Energies, forces and magnetic forces of atoms and moments, predicted against labelled, where labels are known.

    Energies are those of an atom without their mean over the labels. Root mean square errors stand in the corners.

    Parameters
    ----------
    predicted, labels : Values
        Those of `training.predict`.
    ax : sequence of four matplotlib.axes.Axes, optional
        Default: a new figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes
        Four: energy, forces, magnetic forces, and their part across the moment; empty without labels.
    """
    panels = _panels(ax, 4)
    found, given = ({name: _rows(getattr(values, name)) for name in _LABELS} for values in (predicted, labels))
    e, whole = _rows(labels.directions), ~_rows(labels.transverse_only)[:, 0].astype(bool)
    middle = np.nanmean(given["energy_densities"]) if np.isfinite(given["energy_densities"]).any() else 0.0
    magnetic = "magnetic_forces"
    drawn: tuple[tuple[str, str, Array, Array], ...] = (
        ("energy", "meV/atom", found["energy_densities"] - middle, given["energy_densities"] - middle),
        ("force", "meV/Å", found["forces"], given["forces"]),
        ("magnetic force", "meV/μ$_\\mathrm{B}$", found[magnetic][whole], given[magnetic][whole]),
        ("across the moment", "meV/μ$_\\mathrm{B}$", _transverse(found[magnetic], e), _transverse(given[magnetic], e)),
    )
    for panel, (quantity, unit, y, x) in zip(panels, drawn, strict=True):
        known = np.isfinite(x).all(axis=1)
        if known.any():
            _draw(panel, 1e3 * y[known], 1e3 * x[known], quantity, unit, ".3g")
        else:
            panel.set_axis_off()
    return panels


def _draw(panel: Any, found: Array, given: Array, quantity: str, unit: str, digits: str) -> None:
    """Components (n, 1 or 3) of one quantity, with the diagonal and the error."""
    low, high = min(given.min(), found.min()), max(given.max(), found.max())
    panel.plot([low, high], [low, high], color="0.6", lw=0.8, zorder=1)
    for component, letter in zip(range(given.shape[1]), "xyz", strict=False):
        points = given[:, component], found[:, component]
        panel.plot(*points, ".", ms=2 if len(given) > 500 else 5, alpha=0.5, rasterized=True, label=f"${letter}$")
    error = np.sqrt(np.mean((given - found) ** 2))
    panel.text(0.04, 0.96, f"RMSE {error:{digits}} {unit}", transform=panel.transAxes, va="top", fontsize="small")
    panel.locator_params(nbins=5)  # both axes alike, without labels that touch
    panel.set_xlabel(f"{quantity}, label ({unit})")
    panel.set_ylabel(f"{quantity}, predicted ({unit})")
    panel.set_aspect("equal")
    panel.spines[["top", "right"]].set_visible(False)
    if given.shape[1] > 1:
        legend = panel.legend(loc="lower right", frameon=False, fontsize="small", handletextpad=0.2)
        for marker in legend.legend_handles:
            marker.set_markersize(8)  # of every panel, however small its points are


def _rows(values: Any) -> Array:
    """A tensor of n numbers or vectors, shape (n, 1) or (n, 3)."""
    array = np.asarray(values.detach().cpu(), dtype=np.float64)
    return array.reshape(len(array), -1)


def _vectors(values: ArrayLike, name: str) -> Array:
    """As rows, shape (n, 3)."""
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.zeros(0)
    if array.ndim < 1 or array.shape[-1] != 3 or array.size == 0:
        raise KLMError(
            f"{name} have shape {array.shape}", "they are vectors, shape (..., 3), one or more", "check what was given"
        )
    return checked_array(array.reshape(-1, 3), (None, 3), name, "eV/μB")


def _transverse(fields: Array, e: Array) -> Array:
    return fields - np.sum(fields * e, axis=-1, keepdims=True) * e


def _panels(ax: Any, number: int) -> Any:
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(1, number, figsize=(4.0 * number, 4.0), layout="constrained")[1]
    panels = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(panels) != number:
        raise KLMError(
            f"{len(panels)} axes were given for {number} quantities",
            "each has its own panel",
            f"make them by plt.subplots(1, {number}), or leave ax out",
        )
    return np.array([axes(panel) for panel in panels], dtype=object)
