"""What a reader says of the frames it gives: where they come from, which moment, which sign, what was left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ase_klm.errors import warn

TRANSVERSE = "transverse"
"""Value of ``info["mag_forces_part"]`` where only the part of the magnetic forces across the moments is known."""


@dataclass(frozen=True)
class About:
    """Provenance of a list of frames; ``str()`` of it is for people.

    Attributes
    ----------
    format : str
        Name of the format.
    path : str
        What was read.
    moments, magnetic_forces, energy : str
        Which quantity of the source was taken, its sign and unit; empty where the source has none.
    dropped : mapping
        Frames left out: how many by reason.
    notes : tuple of str
        What else one should know.
    """

    format: str
    path: str
    moments: str = ""
    magnetic_forces: str = ""
    energy: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def number_dropped(self) -> int:
        """Frames that were left out."""
        return sum(self.dropped.values())

    @property
    def source(self) -> str:
        """One line for ``info["source"]`` of each frame, in ASCII; empty for this package's own files."""
        said = [
            f"{name}: {text}"
            for name, text in (("moments", self.moments), ("magnetic forces", self.magnetic_forces))
            if text
        ]
        line = "; ".join([self.format, *said]) if said else ""
        return (
            line.replace("μ", "u")
            .replace("λ", "lambda")
            .replace("∂", "d")
            .replace("·", ".")
            .encode("ascii", "replace")
            .decode()
        )

    def __str__(self) -> str:
        said = {"moments": self.moments, "magnetic forces": self.magnetic_forces, "energy": self.energy}
        said["left out"] = self.dropped_text
        lines = [f"{self.path}: {self.format}", *(f"  {name}: {text}" for name, text in said.items() if text)]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    @property
    def dropped_text(self) -> str:
        """The reasons with their counts."""
        return ", ".join(f"{count} {reason}" for reason, count in self.dropped.items())

    def warn_of_dropped(self, kept: int) -> None:
        """A `KLMWarning` where frames were left out."""
        if self.dropped:
            warn(
                f"{self.path}: {self.number_dropped} of {self.number_dropped + kept} frames are left out",
                self.dropped_text,
                "converge these calculations, or train without them",
            )
