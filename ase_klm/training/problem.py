"""What a trainer fits: a network with its data, behind the few questions that the loop asks."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ase_klm.training.quality import Quality


@dataclass(frozen=True)
class Batch:
    """Configurations of one group, by their numbers."""

    group: int
    chosen: tuple[int, ...]


@dataclass(frozen=True)
class Validation:
    """How good the network is on the validation part.

    Attributes
    ----------
    loss : float
        By which plateaus are told.
    score : float
        By which the best weights are; small is good.
    quality : Quality
        What people look at.
    """

    loss: float
    score: float
    quality: Quality


class Problem(ABC):
    """A network, the data it is to fit, and a loss.

    Attributes
    ----------
    counts : list of int
        Configurations to train on, by groups; those of one group may share a batch.
    loss_type : type
        A frozen dataclass of weights; its defaults are those of a training.
    """

    counts: list[int]
    loss_type: ClassVar[type[Any]]

    @abstractmethod
    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The loss of a batch, differentiable by the weights; random numbers are the generator's."""

    @abstractmethod
    def validate(self) -> Validation:
        """Loss, score and errors of the present weights on the validation part."""

    @abstractmethod
    def quality(self) -> Quality:
        """The errors alone."""

    @abstractmethod
    def calibrate(self, fine_tuned: bool) -> None:
        """Set what is not trained from statistics of the training part; less of it when fine-tuning."""

    @abstractmethod
    def frames(self, batch: Batch) -> list[int]:
        """Numbers of a batch's frames in the training part."""

    def culprits(self, batch: Batch) -> list[int]:
        """Those frames of a batch that have no finite loss by themselves; the whole batch if all have."""
        alone = [Batch(batch.group, (i,)) for i in batch.chosen]
        generator = torch.Generator().manual_seed(0)
        found = [one for one in alone if not bool(self.loss(one, generator).isfinite())]
        return [number for one in found or alone for number in self.frames(one)]

    @property
    @abstractmethod
    def n_validation(self) -> int:
        """Configurations of the validation part."""

    @property
    @abstractmethod
    def fingerprints(self) -> tuple[str, str]:
        """Short texts that differ when the training or the validation data differ."""

    @abstractmethod
    def card(self, quality: Quality) -> dict[str, Any]:
        """What the card of the weights says of the data, under ``training``, and of the errors."""
