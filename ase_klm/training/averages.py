"""Exponential moving averages of the weights: smoother than the weights themselves, and what is validated and kept."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


class Averages:
    """Averages of some weights.

    Parameters
    ----------
    weights : sequence of Tensor
        Those of the model, which is trained in place.
    decay : float
        Of a step, once many have been made; the first steps weigh more.
    """

    def __init__(self, weights: Sequence[Tensor], decay: float) -> None:
        self.weights, self.decay = list(weights), decay
        self._present: list[Tensor] | None = None
        self.restart()

    def restart(self) -> None:
        """Begin anew with the present weights."""
        self.values = [weight.detach().clone() for weight in self.weights]

    def update(self, step: int) -> None:
        """Take in the weights after a step of this number, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.values, self.weights, strict=True):
            average.lerp_(weight.detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages in the model, for a while."""
        self._present = [weight.detach().clone() for weight in self.weights]
        try:
            _assign(self.weights, self.values)
            yield
        finally:
            self.put_back()

    def put_back(self) -> None:
        """The weights themselves in the model, where an interruption has left the averages."""
        if self._present is not None:
            _assign(self.weights, self._present)
            self._present = None

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {f"average/{number}": value for number, value in enumerate(self.values)}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The reverse of `tensors`."""
        for number, average in enumerate(self.values):
            average.copy_(tensors[f"average/{number}"])


def _assign(weights: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for weight, value in zip(weights, values, strict=True):
            weight.copy_(value)
