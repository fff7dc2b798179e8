"""How weights are optimised: ready recipes, each a frozen dataclass whose numbers can be overridden."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ase_klm.errors import KLMError
from ase_klm.validate import checked_number


@dataclass(frozen=True, kw_only=True)
class Recipe(ABC):
    """What all recipes have.

    Attributes
    ----------
    learning_rate : float
        Its largest value.
    batch : int
        Configurations a step.
    clip : float
        Longest gradient; longer ones are shortened to it. Infinity: none.
    ema : float
        Decay a step of the running average of the weights, which is what is validated and kept; 0 for no average.
    spin_rotations : bool
        Whether the spins of each configuration are turned at random, atoms staying where they are; for Hamiltonians
        without spin-orbit coupling, and of no use to networks that know this by construction.
    lattice_symmetries : bool
        Whether each configuration is moved by a random symmetry of its lattice; for Hamiltonians that have it, and of
        no effect on networks of atoms. Networks that keep what they once prepared for a configuration get it as it
        is, without either.
    """

    learning_rate: float
    batch: int = 1
    clip: float = math.inf
    ema: float = 0.0
    spin_rotations: bool = False
    lattice_symmetries: bool = True

    def __post_init__(self) -> None:
        checked_number(self.learning_rate, "recipe.learning_rate", above=0.0)
        if checked_number(self.batch, "recipe.batch", minimum=1) != int(self.batch):
            raise KLMError(f"recipe.batch = {self.batch!r} cannot be used", "it is a whole number", "e.g. 1")
        if self.clip != math.inf:
            checked_number(self.clip, "recipe.clip", above=0.0)
        _below_one(self.ema, "ema")

    @abstractmethod
    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer of these weights."""

    def rate(self, step: int, fraction: float, halvings: int) -> float:
        """Learning rate at a step, after a fraction of the training and a number of halvings."""
        return self.learning_rate * 0.5**halvings

    def gradient_factor(self, loss: Tensor) -> Tensor:
        """What gradients of the loss are multiplied with."""
        return torch.ones_like(loss)

    @property
    def plateau(self) -> float:
        """Epochs without a smaller validation loss after which the learning rate is halved."""
        return math.inf


@dataclass(frozen=True, kw_only=True)
class Modern(Recipe):
    """AdamW, linear warm-up, then a cosine down to zero; clipped gradients; a running average of the weights.

    Gradients are those of the square root of the loss, so that steps shrink no further as errors do.

    Attributes
    ----------
    betas : tuple of float
        Decays of AdamW's averages.
    weight_decay : float
        In units of the learning rate, a step.
    warmup : int
        Steps over which the learning rate rises.
    """

    learning_rate: float = 3e-3
    clip: float = 0.3
    ema: float = 0.999
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 1e-3
    warmup: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_betas(self.betas)
        checked_number(self.weight_decay, "recipe.weight_decay", minimum=0.0)
        checked_number(self.warmup, "recipe.warmup", minimum=0)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, self.learning_rate, self.betas, weight_decay=self.weight_decay)

    def rate(self, step: int, fraction: float, halvings: int) -> float:
        rise = min(1.0, (step + 1) / (self.warmup + 1))
        return super().rate(step, fraction, halvings) * rise * 0.5 * (1 + math.cos(math.pi * min(fraction, 1.0)))

    def gradient_factor(self, loss: Tensor) -> Tensor:
        return 0.5 / loss.sqrt().clamp_min(1e-12)


@dataclass(frozen=True, kw_only=True)
class Paper(Recipe):
    """AdaGrad, one configuration a step, the learning rate halved on plateaus of the validation loss.

    As in Y. Miyazaki, Mach. Learn.: Sci. Technol. 4, 045006 (2023), arXiv:2305.03804.

    Attributes
    ----------
    patience : int
        Epochs without a smaller validation loss before the learning rate is halved.
    """

    learning_rate: float = 1e-2
    lattice_symmetries: bool = False
    patience: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_number(self.patience, "recipe.patience", minimum=1)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adagrad(parameters, self.learning_rate)

    @property
    def plateau(self) -> float:
        return self.patience


@dataclass(frozen=True, kw_only=True)
class PlateauAdam(Recipe):
    """Adam, the learning rate halved on plateaus of the validation loss.

    As for MagNet in Z. Yuan et al., Quantum Frontiers 3, 8 (2024), arXiv:2402.04864.

    Attributes
    ----------
    betas : tuple of float
        Decays of Adam's averages.
    patience : int
        Epochs without a smaller validation loss before the learning rate is halved.
    """

    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    patience: int = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_betas(self.betas)
        checked_number(self.patience, "recipe.patience", minimum=1)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, self.learning_rate, self.betas)

    @property
    def plateau(self) -> float:
        return self.patience


RECIPES: dict[str, type[Recipe]] = {"modern": Modern, "paper": Paper, "plateau-adam": PlateauAdam}


def describe(recipe: Recipe) -> dict[str, Any]:
    """Name and numbers, for cards and checkpoints."""
    return {"name": type(recipe).__name__, **vars(recipe)}


def _check_betas(betas: Any) -> None:
    if not isinstance(betas, tuple) or len(betas) != 2:
        raise KLMError(f"recipe.betas = {betas!r} cannot be used", "they are two numbers", "e.g. (0.9, 0.99)")
    for beta in betas:
        _below_one(beta, "betas")


def _below_one(value: Any, name: str) -> None:
    if checked_number(value, f"recipe.{name}", minimum=0.0) >= 1:
        raise KLMError(f"recipe.{name} = {value!r} cannot be used", "it must be below 1", "e.g. 0.99")
