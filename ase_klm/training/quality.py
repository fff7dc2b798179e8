"""What every kind of network is judged by: a few numbers, with their units, and how they are drawn."""

from abc import ABC
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar


@dataclass(frozen=True)
class Panel:
    """Some of the numbers on one pair of axes.

    Attributes
    ----------
    label : str
        Of the axis.
    names : tuple of str
        Of the numbers.
    factor : float
        What they are multiplied with.
    """

    label: str
    names: tuple[str, ...]
    factor: float = 1.0


@dataclass(frozen=True)
class Quality(ABC):
    """Errors of a network on labelled configurations; a subclass has the numbers.

    Attributes
    ----------
    units : mapping
        Of each number, as users read it.
    note : str
        What a card says of units.
    loss_label : str
        Of the axis of the training loss.
    panels : tuple of Panel
        Learning curves.
    """

    units: ClassVar[Mapping[str, str]]
    note: ClassVar[str]
    loss_label: ClassVar[str]
    panels: ClassVar[tuple[Panel, ...]]

    @property
    def numbers(self) -> dict[str, float]:
        """All of them by name."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @property
    def watched(self) -> dict[str, float]:
        """Those that a progress bar shows."""
        return {name: getattr(self, name) for panel in self.panels for name in panel.names}

    @property
    def report(self) -> str:
        """A line for each."""
        lines = []
        for name, value in self.numbers.items():
            unit = self.units[name]
            lines.append(f"  {name.replace('_', ' '):<16} " + (f"{value:.3e} {unit}" if unit else f"{value:.5f}"))
        return "\n".join(lines)

    @classmethod
    def columns(cls) -> list[str]:
        """Names in ``curves.csv``."""
        return [f"validation_{part.name}" for part in fields(cls)]
