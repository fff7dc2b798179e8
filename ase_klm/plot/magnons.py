"""Magnon bands along a path of wave vectors, of one model or of several beside each other."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase.spectrum.band_structure import BandStructure

from ase_klm.errors import KLMError
from ase_klm.plot.axes import axes
from ase_klm.plot.bands import check_band_structure, line_width
from ase_klm.plot.special_points import broken_at_jumps, name_places

COLOURS = ("C0", "C3", "C2", "C1", "C4", "C5")
STYLES = ("-", "--", ":", "-.")
"""Of the lines of the first model, the second...: two that agree are both seen."""


def magnon_bands(*band_structures: BandStructure, labels: Sequence[str] | None = None, ax: Any = None) -> Any:
    """Magnon bands of ASE's `BandStructure`, drawn in meV from zero upwards.

    Parameters
    ----------
    *band_structures : BandStructure
        For instance ``magnons.get_band_structure("GMKG")``, in eV; several models are compared along one path.
    labels : sequence of str, optional
        A name for each of them, for the legend.
    ax : matplotlib.axes.Axes, optional
        Default: a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Its first lines are the bands, one model after the other.

    Raises
    ------
    KLMError
        When there is nothing to draw, an energy is complex, or paths or labels do not fit each other.
    """
    if not band_structures:
        raise KLMError("there are no bands", "nothing was given", "pass magnons.get_band_structure(path)")
    for one in band_structures:
        check_band_structure(one, "magnons.get_band_structure(path)")
        if np.iscomplexobj(one.energies):
            raise KLMError(
                "energies of magnons are complex",
                "the state that they belong to is unstable, or they were not made by Magnons",
                "relax it first; Magnons.lowest_curvature(q) shows where",
            )
    if labels is not None and (isinstance(labels, str) or len(labels) != len(band_structures)):
        raise KLMError(
            f"labels = {labels!r} do not fit {len(band_structures)} band structures",
            "each has a name of its own",
            'for instance labels=["exact", "network"]',
        )
    first, *others = (one.get_labels() for one in band_structures)
    along, places, names = first
    for other in others:
        if list(other[2]) != list(names) or not np.allclose(other[1], places, rtol=1e-3):
            raise KLMError(
                "band structures to compare belong to different paths",
                f"{' '.join(names)} with length {along[-1]:.6g} rad/Å, "
                f"and {' '.join(other[2])} with length {other[0][-1]:.6g} rad/Å",
                "take the same path of the same cell",
            )
    ax = axes(ax)
    for number, (one, (where, _, _)) in enumerate(zip(band_structures, (first, *others), strict=True)):
        energies = 1e3 * np.concatenate(list(one.energies), axis=1)  # (q, band), meV
        lines = ax.plot(
            *broken_at_jumps(where, energies),
            color=COLOURS[number % len(COLOURS)],
            ls=STYLES[number % len(STYLES)],
            lw=line_width(energies.shape[1]),
        )
        if labels is not None:
            lines[0].set_label(labels[number])
    name_places(ax, zip(places, names, strict=True))
    highest = 1e3 * max(float(one.energies.max()) for one in band_structures)
    ax.axhline(0, color="0.2", lw=0.9, zorder=0.5)
    if along[-1] > along[0]:
        ax.set_xlim(along[0], along[-1])
    ax.set_ylim(0, 1.05 * highest if highest > 0 else 1)
    ax.set_ylabel("$\\hbar\\omega$ (meV)")
    if labels is not None:
        ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(labels), borderaxespad=0.2)
    return ax
