"""What all lattice networks share: an energy of the spins, whose gradient moves them."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from ase import Atoms
from torch import Tensor

from ase_klm.models.labels import Labels
from ase_klm.models.trained import TrainedNetwork
from ase_klm.nn.lattice import LatticeStars, Sites

FARTHEST = 3.0
"""Distance from its training set, in standard deviations, up to which a network may be trusted; docs/networks.md."""


class NetworkOnLattice(TrainedNetwork):
    """A network of the moments on a lattice.

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
    def for_atoms(cls, atoms: Atoms, shells: Iterable[int] = (1,), seed: int = 0, **hyperparameters: Any) -> Any:
        """A network with random weights for the lattice of a structure, joined by neighbour shells."""
        return cls.seeded(seed, LatticeStars.of(atoms, shells), **hyperparameters)

    @property
    def dtype(self) -> torch.dtype:
        return self.energy_shift.dtype

    def place(self, structures: Atoms | Sequence[Atoms], hamiltonian: Mapping[str, Any] | None = None) -> Any:
        """Tables of a structure, or of the first of several configurations of it, on the device of the weights.

        Networks that know parameters of the Hamiltonian take other values of them from `hamiltonian`, and pass over
        what else labels carry there.
        """
        atoms = structures if isinstance(structures, Atoms) else structures[0]
        return self.tables(self.lattice.place(atoms), hamiltonian)

    def tables(self, sites: Sites, hamiltonian: Mapping[str, Any] | None = None) -> Any:
        """What `place` returns, for sites whose neighbours are known."""
        return sites.to(self.energy_shift.device)


class LatticeNetwork(NetworkOnLattice):
    """The energy of a spin lattice as a differentiable function of the moments."""

    @abstractmethod
    def local_terms(self, moments: Tensor, placed: Any, prepared: Any = None) -> Tensor:
        """Quantities of each site whose sums make the energy, shape (terms, ..., N), of moments (..., N, 3)."""

    @abstractmethod
    def total(self, sums: Tensor, placed: Any) -> Tensor:
        """Energies, eV, shape (...), from the local terms summed over all sites, (terms, ...)."""

    def energies(
        self,
        placed: Any,
        moments: Tensor,
        positions: Tensor | None = None,
        cells: Tensor | None = None,
        prepared: list[Any] | None = None,
    ) -> Tensor:
        """Energies, eV, shape (...), float64, of moments (..., N, 3) on a placed structure."""
        return self.total(self.local_terms(moments, placed, prepared).double().sum(-1), placed)

    def shift_energies(self, labels: Sequence[Labels], missing: Tensor) -> None:
        if bool(missing.isfinite().any()):
            self.energy_shift += missing.nanmean()

    def distance(self, sums: Tensor, placed: Any) -> Tensor | None:
        """How far spins are from the training set, shape (...), from local terms summed over all sites, (terms, ...).

        In standard deviations: the root mean square over the training set is 1. None where it is not known.
        """
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

    def calibrate(self, labels: Sequence[Labels]) -> None:
        """The shift from the mean energy of a site, and the scale from the spread of the magnetic forces."""
        densities = torch.cat([one.energy_densities for one in labels])
        forces = torch.cat([one.magnetic_forces.flatten() for one in labels])
        if bool(densities.isfinite().any()):
            self.energy_shift.fill_(float(densities.nanmean()))
        if bool(forces.isfinite().any()):
            self.energy_scale.fill_(float(forces.square().nanmean().sqrt()))
        super().calibrate(labels)
