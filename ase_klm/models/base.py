"""What all lattice networks share: an energy of the spins, whose gradient moves them."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from ase import Atoms
from torch import Tensor

from ase_klm.models.trained import TrainedNetwork
from ase_klm.nn.lattice import LatticeStars, Sites

FARTHEST = 3.0
"""Distance from its training set, in standard deviations, up to which a network may be trusted; docs/networks.md."""


@dataclass(frozen=True)
class Labels:
    """Labelled configurations of one lattice; C of them, on N sites.

    Attributes
    ----------
    moments, magnetic_forces : Tensor
        μB and eV/μB, shape (C, N, 3), in the precision of the network.
    energies : Tensor
        eV, shape (C,), float64.
    chemical_potentials : Tensor or None
        eV, shape (C,), float64, where they are known.
    """

    moments: Tensor
    magnetic_forces: Tensor
    energies: Tensor
    chemical_potentials: Tensor | None = None


class LatticeNetwork(TrainedNetwork):
    """The energy of a spin lattice as a differentiable function of the moments.

    A network belongs to the stars of a lattice (species and displacements of neighbours), not to its size. It is
    rebuilt from its `hyperparameters` and a state dictionary.

    Parameters
    ----------
    lattice : LatticeStars
        The lattice it is for; ``LatticeStars.of(atoms, shells)``.
    """

    energy_shift: Tensor

    knows: ClassVar[tuple[str, ...]] = ()
    """Parameters of the Hamiltonian of which `place` takes other values."""

    def __init__(self, lattice: LatticeStars) -> None:
        super().__init__()
        self.lattice = lattice
        self.register_buffer("energy_shift", torch.zeros(()))  # eV a site

    @classmethod
    def for_atoms(
        cls, atoms: Atoms, shells: Iterable[int] = (1,), seed: int = 0, **hyperparameters: Any
    ) -> "LatticeNetwork":
        """A network with random weights for the lattice of a structure, joined by neighbour shells."""
        return cls.seeded(seed, LatticeStars.of(atoms, shells), **hyperparameters)

    @property
    def dtype(self) -> torch.dtype:
        return self.energy_shift.dtype

    def place(self, atoms: Atoms, hamiltonian: Mapping[str, Any] | None = None) -> Any:
        """Tables of a structure, on the device of the weights.

        Networks that know parameters of the Hamiltonian take other values of them from `hamiltonian`, and pass over
        what else labels carry there.
        """
        return self.tables(self.lattice.place(atoms), hamiltonian)

    def tables(self, sites: Sites, hamiltonian: Mapping[str, Any] | None = None) -> Any:
        """What `place` returns, for sites whose neighbours are known."""
        return sites.to(self.energy_shift.device)

    @abstractmethod
    def local_terms(self, moments: Tensor, placed: Any, prepared: Any = None) -> Tensor:
        """Quantities of each site whose sums make the energy, shape (terms, ..., N), of moments (..., N, 3)."""

    @abstractmethod
    def total(self, sums: Tensor, placed: Any) -> Tensor:
        """Energies, eV, shape (...), from the local terms summed over all sites, (terms, ...)."""

    def total_energies(self, moments: Tensor, placed: Any, prepared: Any = None) -> Tensor:
        """Energies, eV, shape (...), float64, of moments (..., N, 3) on a placed structure."""
        return self.total(self.local_terms(moments, placed, prepared).double().sum(-1), placed)

    def forward(self, moments: Tensor, placed: Any, prepared: Any = None) -> Tensor:
        return self.total_energies(moments, placed, prepared)

    @abstractmethod
    def calibrate(self, sets: Sequence[tuple[Labels, Any]]) -> None:
        """Set what depends on the training set and is not trained: shifts, scales, statistics.

        Parameters
        ----------
        sets : sequence
            Labels of the configurations on each lattice, and what `place` gave for it.
        """

    def learn_range(self, sets: Sequence[tuple[Labels, Any]]) -> None:
        """Take note of which spins are trained on, for `distance`; also before fine-tuning."""

    def distance(self, sums: Tensor, placed: Any) -> Tensor | None:
        """How far spins are from the training set, shape (...), from local terms summed over all sites, (terms, ...).

        In standard deviations: the root mean square over the training set is 1. None where it is not known.
        """
        return None

    def prepare(self, moments: Tensor, placed: Any) -> Any:
        """What does not depend on the weights, worth keeping for a training configuration, shape (N, 3); or None."""
        return None


class LocalNetwork(LatticeNetwork):
    """A network whose energy is a sum of site energies, E = Σ_i E_i."""

    energy_scale: Tensor

    def __init__(self, lattice: LatticeStars) -> None:
        super().__init__(lattice)
        self.register_buffer("energy_scale", torch.ones(()))

    @abstractmethod
    def site_terms(self, moments: Tensor, placed: Any) -> Tensor:
        """Site energies in units of `energy_scale` from `energy_shift`, shape (..., N), of moments (..., N, 3)."""

    def site_energies(self, moments: Tensor, placed: Any) -> Tensor:
        """Site energies, eV, shape (..., N), of moments (..., N, 3) on a placed structure."""
        return self.energy_shift + self.energy_scale * self.site_terms(moments, placed)

    def local_terms(self, moments: Tensor, placed: Any, prepared: Any = None) -> Tensor:
        return self.site_energies(moments, placed)[None]

    def total(self, sums: Tensor, placed: Any) -> Tensor:
        return sums[0]

    def calibrate(self, sets: Sequence[tuple[Labels, Any]]) -> None:
        """The shift from the mean energy of a site, and the scale from the spread of the fields."""
        densities = torch.cat([labels.energies / labels.moments.shape[-2] for labels, _ in sets])
        fields = torch.cat([labels.magnetic_forces.flatten() for labels, _ in sets])
        self.energy_shift.fill_(float(densities.mean()))
        self.energy_scale.fill_(float(fields.square().mean().sqrt()))
