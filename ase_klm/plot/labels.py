"""Data sets of labels: energy against work, tilts of moments, sizes of forces."""

from typing import Any

import numpy as np

from ase_klm.data.report import Report
from ase_klm.data.work import Slope
from ase_klm.errors import KLMError
from ase_klm.plot.axes import axes

_MOST_POINTS = 3000


def labels(report: Report, ax: Any = None) -> Any:
    """What `ase_klm.data.check` found, in four panels.

    Energy differences against the work of torques and forces, with the line of slope one and the slope found; then the
    histograms of the report.

    Parameters
    ----------
    report : Report
        Of ``data.check(frames)``.
    ax : sequence of four matplotlib.axes.Axes, optional
        Default: a new figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes
        Four; the lines of the first are slope one and the slope found, then the points.

    Raises
    ------
    KLMError
        When it is no report, or the axes are not four.
    """
    if not isinstance(report, Report):
        raise KLMError(f"{type(report).__name__} is no report", "data.check makes one", "labels(data.check(frames))")
    panels = _panels(ax)
    _work(panels[0], report)
    for panel, histogram in zip(panels[1:], report.histograms, strict=False):
        panel.stairs(histogram.counts, histogram.edges, fill=True, color="C0", alpha=0.8)
        panel.set_xlabel(f"{histogram.name} ({_unit(histogram.unit)})")
        panel.set_ylabel("atoms")
        panel.set_xlim(histogram.edges[0], histogram.edges[-1])
        panel.spines[["top", "right"]].set_visible(False)
    for panel in panels[1 + len(report.histograms) :]:
        panel.set_axis_off()
    return panels


def _work(panel: Any, report: Report) -> None:
    found: Slope | None = report.slope
    panel.spines[["top", "right"]].set_visible(False)
    if found is None:
        panel.text(0.5, 0.5, "no slope of energy on work", ha="center", transform=panel.transAxes, color="0.4")
        panel.set_axis_off()
        return
    thin = slice(None, None, 1 + len(found.work) // _MOST_POINTS)
    x, y = 1e3 * found.work[thin], 1e3 * found.energy[thin]
    ends = np.array([x.min(), x.max()])
    panel.plot(ends, ends, color="0.6", lw=0.8, label="slope 1")
    error = f" ± {found.error:.3f}" if np.isfinite(found.error) else ""
    panel.plot(ends, found.value * ends, color="C1", lw=1.2, label=f"slope {found.value:.3f}{error}")
    panel.plot(x, y, ".", ms=2.5, alpha=0.5, color="C0", zorder=1, rasterized=True)
    panel.set_xlabel("work of torques and forces (meV)")
    panel.set_ylabel("energy difference of pairs (meV)")
    panel.legend(frameon=False, fontsize="small", loc="upper left")


def _unit(unit: str) -> str:
    return unit.replace("μB", "μ$_\\mathrm{B}$")


def _panels(ax: Any) -> Any:
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(2, 2, figsize=(8.0, 6.4), layout="constrained")[1].ravel()
    panels = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(panels) != 4:
        raise KLMError(
            f"{len(panels)} axes were given for four panels", "each has its own", "make them by plt.subplots(2, 2)"
        )
    return np.array([axes(panel) for panel in panels], dtype=object)
