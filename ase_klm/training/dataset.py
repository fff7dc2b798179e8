"""Labelled frames: what a training takes, which part is held apart, and how data are told apart."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.data import labels
from ase_klm.data.frames import Frame
from ase_klm.errors import KLMError
from ase_klm.models.labels import Labels
from ase_klm.training.quality import Errors
from ase_klm.training.recipes import Recipe
from ase_klm.validate import checked_atoms


@dataclass(frozen=True)
class Batch:
    """Configurations of one group, by their numbers."""

    group: int
    chosen: tuple[int, ...]


class DataSet(ABC):
    """Labelled frames, placed by a network: how they share batches, and what a card says of them.

    Attributes
    ----------
    counts : list of int
        Configurations by groups; those of one group may share a batch.
    """

    counts: list[int]

    units: ClassVar[str]
    """Of the loss, unless it says otherwise."""

    @abstractmethod
    def batch(self, batch: Batch, recipe: Recipe, generator: torch.Generator) -> Labels:
        """The labels of a batch, changed at random as the recipe wants it."""

    @abstractmethod
    def frames(self, batch: Batch) -> list[int]:
        """Numbers of a batch's frames."""

    @abstractmethod
    def placed(self) -> list[Labels]:
        """All labels, one for all structures that were placed together."""

    @abstractmethod
    def pieces(self) -> Iterator[Labels]:
        """The same in pieces that are evaluated in one go."""

    @abstractmethod
    def fractions(self) -> Tensor:
        """Of each species in each structure, in a row, shape (S, species)."""

    @abstractmethod
    def contents(self) -> dict[str, Any]:
        """What a card says of the structures and their labels."""

    @abstractmethod
    def score(self, loss: float, errors: Errors) -> float:
        """By what the best weights are told; small is good."""

    def __len__(self) -> int:
        return sum(self.counts)


def checked_frames(frames: Sequence[Frame | Atoms], part: str) -> list[Frame]:
    """Frames, also from Atoms with their results.

    Raises
    ------
    KLMError
        When there are none, or something else.
    """
    several = list(frames) if isinstance(frames, list | tuple) else []
    if not several:
        raise KLMError(
            f"the {part} part has no frames", "a list of labelled frames is needed", "data.read and training.split help"
        )
    structures = [frame.atoms if isinstance(frame, Frame) else checked_atoms(frame) for frame in several]
    return [Frame(atoms) for atoms in labels.checked(structures, f"the {part} part")]


def common_hamiltonian(hamiltonians: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """What the Hamiltonians of all frames agree on; None when that is nothing.

    The field and the k-mesh are no parameters of a network.
    """
    first, *others = [one or {} for one in hamiltonians] or [{}]
    found = {
        key: value
        for key, value in first.items()
        if key not in ("field", "kpts") and all(one.get(key) == value for one in others)
    }
    return found or None


def split(frames: Sequence[Frame], validation: float, seed: int = 0) -> tuple[list[Frame], list[Frame]]:
    """Training and validation parts, chosen at random.

    Parameters
    ----------
    validation : int or float
        How many frames to hold apart, or, below 1, which part of them.
    seed : int
        Of the choice.

    Raises
    ------
    KLMError
        When one of the parts would be empty.
    """
    good = isinstance(validation, int | float) and not isinstance(validation, bool) and np.isfinite(validation)
    count = (round(validation * len(frames)) if 0 < validation < 1 else validation) if good else 0
    if not 0 < count < len(frames) or count != int(count):
        raise KLMError(
            f"validation = {validation!r} of {len(frames)} frames cannot be held apart",
            "both parts need frames: give a number of frames, or a fraction between 0 and 1",
            "for instance 0.1",
        )
    order = np.random.default_rng(seed).permutation(len(frames))
    held = set(order[: int(count)].tolist())
    return [f for i, f in enumerate(frames) if i not in held], [f for i, f in enumerate(frames) if i in held]


def fingerprint(several: Sequence[Labels], frames: Sequence[Frame]) -> str:
    """Short text that differs when the data differ."""
    digest = hashlib.sha256()
    for one in several:
        for tensor in one.tensors().values():
            digest.update(tensor.cpu().numpy().tobytes())
    for frame in frames:
        digest.update(frame.atoms.numbers.tobytes())
    return digest.hexdigest()[:16]
