"""Learning curves: ``curves.csv`` and ``curves.png``."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_klm.errors import KLMError
from ase_klm.files import written_atomically
from ase_klm.training.atomic_loss import AtomicMeasures
from ase_klm.training.loss import Measures
from ase_klm.training.quality import Quality

COLUMNS = ("epoch", "step", "minutes", "learning_rate", "training_loss")
"""What every training has; errors on the validation part follow."""

KINDS: tuple[type[Quality], ...] = (Measures, AtomicMeasures)


def write(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write ``curves.csv``; one row a validation. Units are those of the `Measures` or `AtomicMeasures`, all in eV."""
    with written_atomically(folder / "curves.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read(path: str | Path) -> list[dict[str, float]]:
    """Rows of a ``curves.csv``.

    Raises
    ------
    KLMError
        When it is not one.
    """
    try:
        with Path(path).open(newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        for row in rows:
            _kind([row])
        return rows
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KLMError(
            f"{path} cannot be read as learning curves",
            f"{type(error).__name__}: {error}",
            "give the curves.csv of a training",
        ) from None


def _kind(rows: Sequence[Mapping[str, float]]) -> type[Quality]:
    """The errors that rows tell of, known by their columns."""
    for kind in KINDS:
        if {*COLUMNS, *kind.columns()} <= rows[0].keys():
            return kind
    raise KeyError("columns are missing")


def draw(rows: Sequence[Mapping[str, float]]) -> Any:
    """A figure: training loss above, validation errors below, against epochs, on logarithmic axes.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    kind = _kind(rows)
    height = 4.6 + 1.8 * (len(kind.panels) - 1)
    figure = Figure(figsize=(5.0, height), layout="constrained")
    above, *below = figure.subplots(1 + len(kind.panels), 1, sharex=True)
    epochs = [row["epoch"] for row in rows]
    above.plot(epochs, [row["training_loss"] for row in rows], color="0.15", lw=1.2)
    above.set_ylabel(kind.loss_label)
    for panel, ax in zip(kind.panels, below, strict=True):
        for name in panel.names:
            values = [panel.factor * row[f"validation_{name}"] for row in rows]
            if not all(map(math.isnan, values)):  # as where no frame has such labels
                ax.plot(epochs, values, lw=1.2, label=name.replace("_", " "))
        ax.set_ylabel(panel.label)
    below[-1].set_xlabel("epoch")
    for ax in (above, *below):
        ax.set_xscale("log")
        if ax.lines:
            ax.set_yscale("log")
            few_log_ticks(ax.yaxis)
        few_log_ticks(ax.xaxis)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in below:
        if ax.lines:
            ax.legend(frameon=False)
    figure.align_ylabels([above, *below])
    return figure


def few_log_ticks(axis: Any) -> None:
    """Labels of a logarithmic axis that do not touch, two to seven wherever the data lie, in plain numbers."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    low, high = axis.get_view_interval()
    powers = np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for leading in ((1.0, 2.0, 5.0), (1.0, 3.0), (1.0,)):
        every = 10.0 ** powers[:: max(1, len(powers) // 7)]
        ticks = np.outer(every, leading).ravel()
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if 2 <= len(ticks) <= 7:
            axis.set_major_locator(FixedLocator(ticks.tolist()))
            break
        if len(ticks) < 2:  # less than an octave or two
            axis.set_major_locator(MaxNLocator(4))
            break
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def save_picture(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write ``curves.png``."""
    with written_atomically(folder / "curves.png") as temporary:
        draw(rows).savefig(temporary, dpi=130)
