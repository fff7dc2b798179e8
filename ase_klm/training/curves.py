"""Learning curves: ``curves.csv`` and ``curves.png``."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ase_klm.errors import KLMError

COLUMNS = (
    "epoch",
    "step",
    "minutes",
    "learning_rate",
    "training_loss",
    "validation_energy",
    "validation_field",
    "validation_torque",
    "validation_correlation",
)


def write(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write ``curves.csv``; one row a validation. Energies are in eV a site, fields and torques in eV/μB."""
    temporary = folder / ".curves.csv.tmp"
    try:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        temporary.replace(folder / "curves.csv")
    except OSError as error:
        raise KLMError(f"{folder}/curves.csv cannot be written", str(error), "make room, or mend the folder") from None


def read(path: str | Path) -> list[dict[str, float]]:
    """Rows of a ``curves.csv``.

    Raises
    ------
    KLMError
        When it is not one.
    """
    try:
        with Path(path).open(newline="") as file:
            return [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KLMError(
            f"{path} cannot be read as learning curves",
            f"{type(error).__name__}: {error}",
            "give the curves.csv of a training",
        ) from None


def draw(rows: Sequence[Mapping[str, float]]) -> Any:
    """A figure: training loss above, validation errors below, against epochs, on logarithmic axes.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 4.6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    epochs = [row["epoch"] for row in rows]
    above.plot(epochs, [row["training_loss"] for row in rows], color="0.15", lw=1.2)
    above.set_ylabel("training loss (eV²)")
    for name, label in (("field", "field"), ("torque", "torque")):
        below.plot(epochs, [row[f"validation_{name}"] for row in rows], lw=1.2, label=label)
    below.set_ylabel("validation RMSE (eV/μ$_\\mathrm{B}$)")
    below.set_xlabel("epoch")
    below.legend(frameon=False)
    for panel in (above, below):
        panel.set_xscale("log")
        panel.set_yscale("log")
        panel.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels([above, below])
    return figure


def save_picture(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write ``curves.png``."""
    temporary = folder / ".curves.tmp.png"
    draw(rows).savefig(temporary, dpi=130)
    temporary.replace(folder / "curves.png")
