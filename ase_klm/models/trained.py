"""What all trained networks share: they are rebuilt from plain hyperparameters and a state dictionary."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn


class TrainedNetwork(nn.Module, ABC):
    """A network with a card: `LatticeNetwork` or `AtomicNetwork`."""

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

    @property
    def n_weights(self) -> int:
        """Number of trained weights."""
        return sum(p.numel() for p in self.parameters())
