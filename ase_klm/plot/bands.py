"""Electron bands along a path of wave vectors."""

from typing import Any

import numpy as np
from ase.spectrum.band_structure import BandStructure

from ase_klm.errors import KLMError
from ase_klm.plot.axes import axes


def bands(band_structure: BandStructure, ax: Any = None) -> Any:
    """Bands of an ASE `BandStructure`, in eV, with its reference energy as the chemical potential.

    Parameters
    ----------
    band_structure : BandStructure
        For instance ``calc.band_structure(atoms)`` of `KondoEDCalculator`.
    ax : matplotlib.axes.Axes, optional
        Default: a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Its lines are the bands, then the chemical potential.
    """
    if not isinstance(band_structure, BandStructure):
        raise KLMError(
            f"{type(band_structure).__name__} is not a band structure",
            "energies along a path are needed",
            "pass calc.band_structure(atoms), an ase.spectrum.band_structure.BandStructure",
        )
    ax = axes(ax)
    along, places, names = band_structure.get_labels()
    n_bands = sum(spin.shape[1] for spin in band_structure.energies)
    width = float(np.clip(12 / n_bands, 0.5, 1.4))
    for energies, colour in zip(band_structure.energies, ("C0", "C3"), strict=False):
        ax.plot(along, energies, color=colour, lw=width)
    mu = band_structure.reference
    ax.axhline(mu, color="0.2", lw=0.9, ls="--")
    ax.annotate("$\\mu$", (1.01, mu), xycoords=("axes fraction", "data"), va="center")
    labels: dict[float, str] = {}
    for place, name in zip(places, names, strict=True):  # where the path jumps, two points share a place
        text = _pretty(name)
        labels[float(place)] = f"{labels[float(place)]}|{text}" if float(place) in labels else text
    for place in labels:
        ax.axvline(place, color="0.75", lw=0.6, zorder=0)
    ax.set_xticks(list(labels), list(labels.values()))
    ax.set_xlim(along[0], along[-1])
    ax.set_ylabel("$E$ (eV)")
    return ax


def _pretty(name: str) -> str:
    if name in ("G", "Gamma"):
        return "Γ"
    return f"{name[0]}$_{{{name[1:]}}}$" if len(name) > 1 else name
