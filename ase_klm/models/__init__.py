"""Networks, one a file, and their files of weights."""

from typing import Any

from ase_klm.models.files import ARCHITECTURES, architecture, available, card, load, save

__all__ = [
    "ECNN",
    "ChebyshevNetwork",
    "InvariantNetwork",
    "MagNet",
    "PublishedMagNet",
    "available",
    "card",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    """Networks are imported when they are asked for: e3nn takes seconds."""
    if name in ARCHITECTURES:
        return architecture(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
