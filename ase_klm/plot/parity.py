"""Predicted against labelled magnetic forces and torques, as figure 3 of Y. Miyazaki, arXiv:2305.03804."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ase_klm.errors import KLMError
from ase_klm.moments import directions
from ase_klm.plot.axes import axes
from ase_klm.validate import Array, checked_array

QUANTITIES = ("field", "transverse field")


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
    panels = _panels(ax)
    for panel, quantity, across in zip(panels, QUANTITIES, (False, True), strict=True):
        x, y = (_transverse(given, e), _transverse(found, e)) if across else (given, found)
        low, high = min(x.min(), y.min()), max(x.max(), y.max())
        panel.plot([low, high], [low, high], color="0.6", lw=0.8, zorder=1)
        for component, letter in enumerate("xyz"):
            panel.plot(x[:, component], y[:, component], ".", ms=2, alpha=0.5, rasterized=True, label=f"${letter}$")
        error = np.sqrt(np.mean((x - y) ** 2))
        panel.text(
            0.04, 0.96, f"RMSE {error:.2e} eV/μ$_\\mathrm{{B}}$", transform=panel.transAxes, va="top", fontsize="small"
        )
        panel.locator_params(nbins=5)  # both axes alike, without labels that touch
        panel.set_xlabel(f"{quantity}, label (eV/μ$_\\mathrm{{B}}$)")
        panel.set_ylabel(f"{quantity}, predicted (eV/μ$_\\mathrm{{B}}$)")
        panel.set_aspect("equal")
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(loc="lower right", frameon=False, fontsize="small", markerscale=4, handletextpad=0.2)
    return panels


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


def _panels(ax: Any) -> Any:
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(1, 2, figsize=(8.0, 4.0), layout="constrained")[1]
    panels = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(panels) != len(QUANTITIES):
        raise KLMError(
            f"{len(panels)} axes were given for {len(QUANTITIES)} quantities",
            "each has its own panel",
            "make them by plt.subplots(1, 2), or leave ax out",
        )
    return np.array([axes(panel) for panel in panels], dtype=object)
