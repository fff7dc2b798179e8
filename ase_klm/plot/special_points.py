"""Names of special points on the axis of a path of wave vectors."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from ase_klm.validate import Array

LETTER = 7.0
"""Width of a letter on the axis, points."""


def pretty(name: str) -> str:
    """The name as it is printed: Γ for "G", an index lowered for "X1"; other texts, such as "0.5 0 0", as they are."""
    if name in ("G", "Gamma"):
        return "Γ"
    if len(name) > 1 and name[0].isalpha() and name.isascii() and name.isalnum():
        return f"{name[0]}$_{{{name[1:]}}}$"
    return name


def name_places(ax: Any, labels: Iterable[tuple[float, str]], colour: str = "0.75", zorder: float = 0) -> None:
    """Ticks and vertical lines at the places of special points; where the path jumps, two of them share a place.

    A name that would touch the one before it stands in a row below.
    """
    names: dict[float, tuple[float, str]] = {}
    for place, name in labels:
        key, text = round(float(place), 9), pretty(name)
        there, known = names.get(key, (float(place), text))
        names[key] = there, f"{known}|{text}" if known != text else text
    for place, _ in names.values():
        ax.axvline(place, color=colour, lw=0.6, zorder=zorder)
    ordered = sorted(names.values())
    ends = np.full(3, -np.inf)  # where the last name of each row ends
    total = ordered[-1][0] - ordered[0][0]
    width = total * LETTER / max(1.0, float(ax.get_window_extent().width) * 72 / ax.figure.dpi)
    shown = []
    for place, name in ordered:
        half = width * (len(re.sub(r"[${}_]", "", name)) + 0.5) / 2
        free = ends <= place - half
        row = int(np.argmax(free) if free.any() else np.argmin(ends))
        ends[row] = place + half
        shown.append("\n" * row + name)
    ax.set_xticks([place for place, _ in ordered], shown)


def broken_at_jumps(along: Array, energies: Array) -> tuple[Array, Array]:
    """Places (n_q,) and energies (n_q, n_bands) with a row of NaN where the path jumps, so that no line crosses it."""
    jumps = np.flatnonzero(np.diff(along) < 1e-12) + 1
    return np.insert(np.asarray(along, dtype=np.float64), jumps, np.nan), np.insert(energies, jumps, np.nan, axis=0)
