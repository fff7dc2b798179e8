"""What all trained networks share: they are rebuilt from plain hyperparameters and a state dictionary."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Origin:
    """The file that a network was loaded from.

    Attributes
    ----------
    name : str
        A packaged name or a path.
    card : mapping
        What the file says of itself.
    weights : str
        Checksum of the weights in memory when they had been loaded.
    """

    name: str
    card: Mapping[str, Any]
    weights: str

    @property
    def sha256(self) -> str:
        """Checksum of the weights in the file."""
        return str(self.card["sha256"])


class TrainedNetwork(nn.Module, ABC):
    """A network with a card: `LatticeNetwork` or `AtomicNetwork`."""

    origin: Origin | None = None
    """Where it was loaded from. Weights may have changed since: `models.files.verified_origin`."""

    @classmethod
    def seeded(cls, seed: int, *args: Any, **hyperparameters: Any) -> Any:
        """A network with random weights from a seed; torch's own random numbers stay as they are."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return cls(*args, **hyperparameters)

    @property
    @abstractmethod
    def hyperparameters(self) -> dict[str, Any]:
        """Arguments that rebuild the network, a lattice apart; plain numbers, strings and lists."""

    @property
    @abstractmethod
    def reach(self) -> int:
        """Bonds of a lattice, or cutoffs, over which the energy of a site depends on others."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""

    def describe(self) -> str:
        """Architecture, numbers that fix it, and what its card says, as text to print."""
        summary = " ".join(inspect.cleandoc(type(self).__doc__ or "").split("\n\n")[0].split())
        lines = [
            f"{type(self).__name__}: {summary}",
            f"  {self.n_weights} weights in {str(self.dtype).removeprefix('torch.')}, reach {self.reach}",
        ]
        lines += [f"  {name} = {value}" for name, value in self.hyperparameters.items()]
        if self.origin is None:
            return "\n".join([*lines, "  made in memory: no card says what it was trained on"])
        lines.append(f"  from {self.origin.name}")
        said = ("species", "cutoff", "units", "hamiltonian", "errors", "training", "version")
        lines += [f"  {name}: {_flat(self.origin.card[name])}" for name in said if self.origin.card.get(name)]
        return "\n".join(lines)

    @property
    def n_weights(self) -> int:
        """Number of trained weights."""
        return sum(p.numel() for p in self.parameters())


def _flat(value: Any) -> str:
    """An entry of a card in one line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(entry)}" for key, entry in value.items() if not isinstance(entry, list))
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
