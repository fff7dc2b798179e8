"""Learning curves: ``curves.csv`` and ``curves.png``."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ase_klm.errors import KLMError
from ase_klm.files import written_atomically
from ase_klm.training.quality import UNITS

COLUMNS = ("epoch", "step", "minutes", "learning_rate", "training_loss")
"""What every training has; errors on the validation part follow."""

PREFIX = "validation_"

PANELS = {
    "energy (meV/atom)": ("energy",),
    "forces (meV/Å)": ("forces",),
    "stress (meV/Å³)": ("stress",),
    "magnetic (meV/μ$_\\mathrm{B}$)": ("magnetic_forces", "transverse"),
}
"""Errors that are drawn, by the labels of their axes."""


def write(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write ``curves.csv``; one row a validation. Units are those of `Errors`, all in eV."""
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
            _panels([row])
        return rows
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KLMError(
            f"{path} cannot be read as learning curves",
            f"{type(error).__name__}: {error}",
            "give the curves.csv of a training",
        ) from None


def _panels(rows: Sequence[Mapping[str, float]]) -> dict[str, list[str]]:
    """The errors that rows tell of, by the labels of their axes."""
    columns = rows[0].keys()
    unknown = {name for name in columns if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in UNITS}
    if unknown or not {*COLUMNS} <= columns:
        raise KeyError("these are no columns of learning curves")
    found = {label: [name for name in names if PREFIX + name in columns] for label, names in PANELS.items()}
    return {label: names for label, names in found.items() if names}


def draw(rows: Sequence[Mapping[str, float]]) -> Any:
    """A figure: training loss above, validation errors below, against epochs, on logarithmic axes.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    panels = _panels(rows)
    height = 2.8 + 1.8 * len(panels)
    figure = Figure(figsize=(5.0, height), layout="constrained")
    above, *below = figure.subplots(1 + len(panels), 1, sharex=True, squeeze=False)[:, 0]
    epochs = [row["epoch"] for row in rows]
    above.plot(epochs, [row["training_loss"] for row in rows], color="0.15", lw=1.2)
    above.set_ylabel("training loss")
    for (label, names), ax in zip(panels.items(), below, strict=True):
        for name in names:
            ax.plot(epochs, [1e3 * row[PREFIX + name] for row in rows], lw=1.2, label=name.replace("_", " "))
        ax.set_ylabel(label)
    (below[-1] if below else above).set_xlabel("epoch")
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
