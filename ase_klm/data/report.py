"""What a look at a data set found, and how it is told."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ase_klm.data.about import About
from ase_klm.data.work import LEAST_CORRELATION, Slope
from ase_klm.validate import Array

_BAR = 40  # characters

_FACTORS = (
    (-1.0, "the magnetic forces have the wrong sign (they are ∂E/∂m): multiply them by -1"),
    (13.6057, "magnetic forces in Ry/μB beside energies in eV: multiply them by 13.6057"),
    (27.2114, "magnetic forces in Hartree/μB beside energies in eV: multiply them by 27.2114"),
    (1 / 13.6057, "energies in Ry beside magnetic forces in eV/μB: multiply energies by 13.6057"),
    (1 / 27.2114, "energies in Hartree beside magnetic forces in eV/μB: multiply energies by 27.2114"),
    (2.0, "a factor of two: forces for spins of length |m|/2, or energies counted twice"),
    (0.5, "a factor of two: forces of twice their size, or moments in units of spin 1/2"),
    (1000.0, "magnetic forces in keV or energies in meV: one unit for both"),
    (0.001, "magnetic forces in meV/μB beside energies in eV: divide them by 1000"),
    (5.788382e-5, "magnetic forces in tesla: multiply them by 5.788382e-5 (units.TESLA)"),
)


@dataclass(frozen=True)
class Spread:
    """Smallest, largest and root mean square of numbers in a unit."""

    low: float
    high: float
    rms: float
    unit: str

    @classmethod
    def of(cls, values: Array, unit: str) -> "Spread | None":
        """None where there are no values."""
        if not values.size:
            return None
        return cls(float(values.min()), float(values.max()), float(np.sqrt(np.mean(values**2))), unit)

    def __str__(self) -> str:
        return f"{self.low:12.5g} to {self.high:.5g} {self.unit}, rms {self.rms:.5g}"


@dataclass(frozen=True)
class Histogram:
    """Counts of values between edges."""

    name: str
    unit: str
    edges: Array
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, name: str, values: Array, unit: str, high: float | None = None) -> "Histogram | None":
        """Ten bins from zero to the largest value, or to `high`; None where there are no values."""
        if not values.size:
            return None
        top = high or float(values.max()) or 1.0
        counts, edges = np.histogram(values, bins=10, range=(0.0, top))
        return cls(name, unit, edges, counts)

    def __str__(self) -> str:
        most = max(int(self.counts.max()), 1)
        lines = [f"{self.name}, {self.unit}"]
        for low, high, count in zip(self.edges, self.edges[1:], self.counts, strict=False):
            bar = "#" * int(np.ceil(_BAR * count / most))
            lines.append(f"  {low:9.4g} to {high:9.4g}  {count:8d}  {bar}".rstrip())
        return "\n".join(lines)


@dataclass(frozen=True)
class Report:
    """What `check` found; ``str()`` of it is for people.

    Attributes
    ----------
    number : int
        Frames.
    structures : mapping
        Frames by chemical formula.
    spreads : mapping
        Ranges of energies, forces, moments, magnetic forces and their parts across and along the moments.
    histograms : tuple of Histogram
        Tilt of the moments from the axis common to their frame, forces and magnetic forces.
    missing : mapping
        Numbers of the frames without a label, by label; frames without moments under "moments".
    transverse_only : int
        Frames whose magnetic forces are known across the moments only.
    perpendicular : bool
        Whether magnetic forces said to be complete have no part along any moment.
    duplicates : tuple of tuples
        Frames of the same structure and moments.
    conflicts : tuple of tuples
        Those duplicates whose energies differ.
    outliers : tuple of (int, str)
        Frames that lie far from the others, and in what.
    slope : Slope or None
        Energy on work, see `ase_klm.data.work`.
    reason : str
        Why there is no slope.
    sources : tuple of About
        What readers said.
    """

    number: int
    structures: dict[str, int]
    spreads: dict[str, Spread]
    histograms: tuple[Histogram, ...]
    missing: dict[str, tuple[int, ...]]
    transverse_only: int
    perpendicular: bool
    duplicates: tuple[tuple[int, ...], ...]
    conflicts: tuple[tuple[int, ...], ...]
    outliers: tuple[tuple[int, str], ...]
    slope: Slope | None
    reason: str
    sources: tuple[About, ...] = ()

    @property
    def verdict(self) -> str:
        """What the slopes say, in a sentence."""
        found = self.slope
        if found is None:
            return "energies and magnetic forces could not be compared"
        if abs(found.correlation) < LEAST_CORRELATION:
            return "energies and work are too loosely related for a verdict"
        value, error = found.value, 3 * found.error if np.isfinite(found.error) else 0.0
        if abs(value - 1) <= max(0.03, error):
            return "energies and magnetic forces belong together"
        for factor, text in _FACTORS:
            if abs(value / factor - 1) <= max(0.05, error / abs(factor)):
                return text
        if value < 0:
            return "the magnetic forces have the wrong sign, and another unit"
        return _other_slope(found, error)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        lines = [str(about) for about in self.sources]
        kinds = ", ".join(f"{count} of {formula}" for formula, count in list(self.structures.items())[:6])
        lines += [
            f"{self.number} frame{'s' * (self.number > 1)}: {kinds}"
            + (" and others" if len(self.structures) > 6 else "")
        ]
        lines += [f"  {name:34s} {spread}" for name, spread in self.spreads.items()]
        lines += [
            f"  no {name.replace('_', ' ')} in {len(frames)} of {self.number} frames: {_numbers(frames)}"
            for name, frames in self.missing.items()
            if frames
        ]
        if self.transverse_only:
            lines.append(f"  magnetic forces across the moments only in {self.transverse_only} frames")
        if self.perpendicular:
            lines.append(
                "  magnetic forces have no part along any moment. If it is unknown rather than zero, say so:"
                " transverse_only=True, --transverse-only"
            )
        lines += [f"  the same structure and moments: frames {_numbers(found)}" for found in self.duplicates[:5]]
        if len(self.duplicates) > 5:
            lines.append(f"  and {len(self.duplicates) - 5} more duplicates")
        lines += [f"  of these, energies differ: frames {_numbers(found)}" for found in self.conflicts[:5]]
        lines += [f"  frame {frame} lies far out: {text}" for frame, text in self.outliers[:10]]
        if len(self.outliers) > 10:
            lines.append(f"  and {len(self.outliers) - 10} more far out")
        lines += [str(histogram) for histogram in self.histograms]
        if self.slope is None:
            return [*lines, "slope of the energy on the work of torques and forces", f"  none: {self.reason}"]
        found = self.slope
        lines.append("slope of the energy on the work of torques and forces (1: labels belong together)")
        lines.append(
            f"  {found.value:.3f} ± {found.error:.3f}, correlation {found.correlation:.4f}, {len(found.work)} pairs of "
            f"{found.frames} frames that differ by turns of {found.turn:.0f}° rms"
        )
        return [*lines, f"  {self.verdict}"]


def _numbers(frames: Sequence[int]) -> str:
    return ", ".join(map(str, frames[:10])) + (", ..." if len(frames) > 10 else "")


def _other_slope(found: Slope, error: float) -> str:
    """Of a slope that is neither one nor known. What the work does not explain of the energies, the rule may err."""
    explained = found.correlation**2
    if abs(found.value - 1) <= error + 1 - explained:
        return (
            f"energies and magnetic forces may belong together: work explains {explained:.0%} of the differences of "
            "energy, too little to tell this slope from 1"
        )
    return (
        f"energies and magnetic forces disagree by a factor of {found.value:.2f}: "
        "a conservative model trades one for the other"
    )
