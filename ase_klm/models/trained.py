"""The contract of all networks: `place`, `energies` (or `magnetic_forces`), `calibrate`.

They are rebuilt from plain hyperparameters and a state dictionary.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from ase import Atoms
from torch import Tensor, nn

from ase_klm.models.labels import Labels


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
    """A network with a card: `LatticeNetwork`, `AtomicNetwork`, or another that keeps the contract.

    `place` keeps the geometry of structures, `energies` or `magnetic_forces` evaluate them, and `calibrate` sets what
    depends on a training set and is not trained. Whoever trains, evaluates or calculates uses nothing else.
    """

    origin: Origin | None = None
    """Where it was loaded from. Weights may have changed since: `models.files.verified_origin`."""

    gives: ClassVar[str] = "energies"
    """What is evaluated: "energies", whose derivatives are the forces, or "magnetic_forces" without an energy."""

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

    @abstractmethod
    def place(self, structures: Atoms | Sequence[Atoms], hamiltonian: Mapping[str, Any] | None = None) -> Any:
        """What stays of structures while their moments change, on the device of the weights.

        Parameters
        ----------
        structures : Atoms or sequence of Atoms
            Configurations of one lattice, or structures of any size side by side, as the kind of network has it.
        hamiltonian : mapping, optional
            Other values of the parameters of the Hamiltonian, for networks that know them.
        """

    def energies(
        self,
        placed: Any,
        moments: Tensor,
        positions: Tensor | None = None,
        cells: Tensor | None = None,
        prepared: list[Any] | None = None,
    ) -> Tensor:
        """Energies of placed structures, eV, float64, differentiable twice.

        Parameters
        ----------
        placed : object
            From `place`.
        moments, positions : Tensor
            μB and Å, shape (..., n, 3) on a lattice and (N, 3) of structures side by side. Networks of spins on a
            lattice need no positions.
        cells : Tensor
            Å, shape (structures, 3, 3).
        prepared : list, optional
            What `prepare` gave for each configuration.
        """
        raise NotImplementedError(f"{type(self).__name__} gives {self.gives}")

    def magnetic_forces(
        self,
        placed: Any,
        moments: Tensor,
        positions: Tensor | None = None,
        cells: Tensor | None = None,
        prepared: list[Any] | None = None,
    ) -> Tensor:
        """Magnetic forces, eV/μB, in the shape of the moments, of networks without an energy; else as `energies`."""
        raise NotImplementedError(f"{type(self).__name__} gives {self.gives}")

    def calibrate(self, labels: Sequence[Labels]) -> None:
        """Set what depends on the training set and is not trained: shifts, scales, statistics, the range.

        Parameters
        ----------
        labels : sequence of Labels
            The training set, one for all structures that were placed together; what is not known is NaN.
        """
        self.learn_range(labels)

    def learn_range(self, labels: Sequence[Labels]) -> None:
        """Take note of what is trained on, beyond which users are warned; all of `calibrate` in fine-tuning."""

    def shift_energies(self, labels: Sequence[Labels], missing: Tensor) -> None:
        """Add to the shifts what the network's energy densities lack on average.

        Parameters
        ----------
        labels : sequence of Labels
            As for `calibrate`.
        missing : Tensor
            eV an atom, one for each structure, in a row; NaN where it is not known.
        """

    def prepare(self, moments: Tensor, placed: Any) -> Any:
        """What does not depend on the weights, worth keeping for a training configuration, shape (N, 3); or None."""
        return None

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        """What the network gives."""
        found: Tensor = getattr(self, self.gives)(*arguments, **options)
        return found

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
