"""Electron bands along a path of wave vectors."""

from typing import Any

import numpy as np
from ase.spectrum.band_structure import BandStructure

from ase_klm.errors import KLMError
from ase_klm.plot.axes import axes
from ase_klm.plot.special_points import broken_at_jumps, name_places


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
    check_band_structure(band_structure, "calc.band_structure(atoms)")
    ax = axes(ax)
    along, places, names = band_structure.get_labels()
    n_bands = sum(spin.shape[1] for spin in band_structure.energies)
    for energies, colour in zip(band_structure.energies, ("C0", "C3"), strict=False):
        ax.plot(*broken_at_jumps(along, energies), color=colour, lw=line_width(n_bands))
    mu = band_structure.reference
    ax.axhline(mu, color="0.2", lw=0.9, ls="--")
    ax.annotate("$\\mu$", (1.01, mu), xycoords=("axes fraction", "data"), va="center")
    name_places(ax, zip(places, names, strict=True))
    ax.set_xlim(along[0], along[-1])
    ax.set_ylabel("$E$ (eV)")
    return ax


def check_band_structure(given: Any, example: str) -> None:
    """Raise a `KLMError` if something is no ASE `BandStructure`; the example says where one comes from."""
    if not isinstance(given, BandStructure):
        raise KLMError(
            f"{type(given).__name__} is not a band structure",
            "energies along a path are needed",
            f"pass {example}, an ase.spectrum.band_structure.BandStructure",
        )


def line_width(n_bands: int) -> float:
    """Points; thinner where there are many bands."""
    return float(np.clip(12 / n_bands, 0.5, 1.4))
