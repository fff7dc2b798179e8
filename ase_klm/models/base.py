"""What all lattice networks share: local energies of the spins, summed to the energy whose gradient moves them."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from ase import Atoms
from torch import Tensor, nn

from ase_klm.nn.lattice import LatticeStars, Sites


class LatticeNetwork(nn.Module, ABC):
    """Site energies of a spin lattice, E = Σ_i E_i, as a differentiable function of the moments.

    A network belongs to the stars of a lattice (species and displacements of neighbours), not to its size. It is rebuilt
    from its `hyperparameters` and a state dictionary.

    Parameters
    ----------
    lattice : LatticeStars
        The lattice it is for; ``LatticeStars.of(atoms, shells)``.
    """

    energy_shift: Tensor
    energy_scale: Tensor

    def __init__(self, lattice: LatticeStars) -> None:
        super().__init__()
        self.lattice = lattice
        self.register_buffer("energy_shift", torch.zeros(()))  # eV a site
        self.register_buffer("energy_scale", torch.ones(()))

    @classmethod
    def for_atoms(cls, atoms: Atoms, shells: Iterable[int] = (1,), **hyperparameters: Any) -> "LatticeNetwork":
        """A network with random weights for the lattice of a structure, joined by neighbour shells."""
        return cls(LatticeStars.of(atoms, shells), **hyperparameters)

    @property
    @abstractmethod
    def hyperparameters(self) -> dict[str, Any]:
        """Arguments that rebuild the network, beside `lattice`; plain numbers, strings and lists."""

    @property
    @abstractmethod
    def reach(self) -> int:
        """Number of bonds over which the energy of a site depends on the spins."""

    @property
    def n_weights(self) -> int:
        """Number of trained weights."""
        return sum(p.numel() for p in self.parameters())

    def place(self, atoms: Atoms) -> Any:
        """Tables of a structure for `site_energies`, on the device and in the precision of the weights."""
        return self.lattice.place(atoms).to(self.energy_shift.device)

    @abstractmethod
    def site_energies(self, moments: Tensor, placed: Any, prepared: Any = None) -> Tensor:
        """Site energies in units of `energy_scale` from `energy_shift`, shape (..., N), of moments (..., N, 3)."""

    def forward(self, moments: Tensor, placed: Any, prepared: Any = None) -> Tensor:
        """Site energies, eV, shape (..., N), of moments (..., N, 3) on a placed structure."""
        return self.energy_shift + self.energy_scale * self.site_energies(moments, placed, prepared)

    def calibrate(self, moments: Tensor, energies: Tensor, magnetic_forces: Tensor, placed: Any) -> None:
        """Set what depends on the training set and is not trained.

        Here the shift, from the mean energy of a site, and the scale, from the spread of the fields.

        Parameters
        ----------
        moments, magnetic_forces : Tensor
            Shape (configurations, N, 3).
        energies : Tensor
            eV, shape (configurations,).
        """
        self.energy_shift.fill_(float(energies.mean()) / moments.shape[-2])
        self.energy_scale.fill_(float(magnetic_forces.square().mean().sqrt()))

    def prepare(self, moments: Tensor, placed: Any) -> Any:
        """What does not depend on the weights, worth keeping for a training configuration, shape (N, 3); or None."""
        return None


__all__ = ["LatticeNetwork", "Sites"]
