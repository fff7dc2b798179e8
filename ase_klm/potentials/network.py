"""A network as a potential: an energy of the moments, magnetic forces by automatic differentiation."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError, warn
from ase_klm.graphs import neighbour_shells, with_complete_cell
from ase_klm.memory import require_memory
from ase_klm.models.base import FARTHEST, LatticeNetwork
from ase_klm.models.files import verified_origin
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Structures
from ase_klm.potentials.tiles import Tile, sums_and_gradient, tiles
from ase_klm.supercells import undistorted
from ase_klm.validate import checked_number

LONGEST_DEVIATION = 0.05
"""Networks of unit spins are trained on unit spins; lengths further from 1 than this are an error."""

LARGEST_TILE = 100_000
"""Sites that are evaluated in one go."""

BYTES_A_SITE = 16_000
"""Of a site that is evaluated in float32: what kondo-square takes; kondo-square-ecnn takes half of it."""

BYTES_OF_TABLES = 2_000
"""Of every site: neighbours, and where they are."""


@dataclass(frozen=True, eq=False)
class Network(Potential):
    """E = Σ_i f(directions around site i): a trained network of spins on a lattice.

    Parameters
    ----------
    model : LatticeNetwork
        Its present weights, in their precision, are copied; the results are float64.
    hamiltonian : mapping, optional
        Other values of the parameters that the network knows, e.g. {"filling": 0.47}.
    largest_tile : int
        Larger lattices are evaluated tile by tile, which bounds memory and changes results by rounding only.
    dtype : str, optional
        "float32" or "float64"; default that of the weights.
    compile : bool
        Whether torch compiles the network.
    lattice : Atoms, optional
        Cell on which sites and their neighbours are told, for all structures that repeat it. Default: the structure
        that this is bound to.
    """

    model: LatticeNetwork
    hamiltonian: Mapping[str, Any] | None = None
    largest_tile: int = LARGEST_TILE
    dtype: str | None = None
    compile: bool = False
    lattice: Atoms | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, LatticeNetwork):
            raise KLMError(
                f"{type(self.model).__name__} is not a network of spins",
                "a LatticeNetwork is needed; networks of atoms and moments belong to MagNetCalculator",
                "take one from ase_klm.models, or load a file with models.files.load",
            )
        checked_number(self.largest_tile, "largest_tile", minimum=1)
        model = deepcopy(self.model).requires_grad_(False)
        model.origin = verified_origin(self.model)
        if self.dtype is not None:
            model = model.to(getattr(torch, self.dtype))
        if self.compile:
            model.local_terms = torch.compile(model.local_terms)  # type: ignore[method-assign]
        _check_known(self.hamiltonian or {}, model)
        object.__setattr__(self, "model", model)
        self._keep_lattice()

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundNetwork":
        return BoundNetwork(self, atoms, device)


def _check_known(hamiltonian: Mapping[str, Any], model: LatticeNetwork) -> None:
    unknown = ", ".join(str(name) for name in hamiltonian if name not in model.knows)
    if unknown and model.knows:
        raise KLMError(
            f"this network does not know {unknown}",
            f"of the parameters of its Hamiltonian it takes other values of {', '.join(model.knows)}",
            "check the name, or train a network on labels with that parameter",
        )
    if unknown:
        raise KLMError(
            f"this network does not know {unknown}",
            "it was trained for one Hamiltonian, and takes nothing but spins",
            "leave them out, use a network of Chebyshev moments such as kondo-square, or train one",
        )


class BoundNetwork(BoundPotential):
    """A network placed on a lattice."""

    def __init__(self, network: Network, atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self.model = network.model.to(self.device)
        self.dtype = self.model.energy_shift.dtype
        self._check_lengths(self.moments)
        self._check_size(network.largest_tile)
        lattice = with_complete_cell(undistorted(atoms, network.lattice).atoms)
        sites = self.model.lattice.place(lattice)
        self.tiles: list[Tile] = []
        if self.n_atoms > network.largest_tile:
            self.tiles = tiles(self.model, lattice, sites, network.largest_tile, network.hamiltonian)
        self.placed: Any = self.model.tables(sites, network.hamiltonian)
        self._shortest = neighbour_shells(lattice, (1,), doubtful=False).distances.min()
        self._warned = False

    def _check_size(self, largest_tile: int) -> None:
        """Whether one evaluation fits into memory: of all replicas at once, or of one tile with its margins."""
        together = float(np.prod(self.moments.shape[:-1]))
        if self.n_atoms > largest_tile:
            together = min(together, 1.2 * largest_tile)
        each = BYTES_A_SITE * torch.empty((), dtype=self.dtype).element_size() / 4
        require_memory(
            each * together + BYTES_OF_TABLES * self.n_atoms,
            f"a network on {self.n_atoms} sites",
            "smaller tiles, potentials.Network(model, largest_tile=10_000), or a smaller lattice",
            self.device,
        )

    @property
    def interaction_range(self) -> float:
        longest = max(np.linalg.norm(star.displacements, axis=1).max() for star in self.model.lattice.stars)
        return 2 * self.model.reach * float(longest * self._shortest)

    def energy(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        return self._total(self.model.local_terms(moments.to(self.dtype), self.placed).double().sum(-1))

    def _total(self, sums: Tensor) -> Tensor:
        """Energies from summed local terms (terms, ...), with a look at what these say of the spins."""
        self._warn_of_distance(self.model.distance(sums.detach(), self.placed))
        return self.model.total(sums, self.placed)

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        self._check_lengths(moments)
        if self.tiles:
            replicas = moments.to(self.dtype).reshape(-1, self.n_atoms, 3)
            found = [sums_and_gradient(self.model, self.tiles, self.placed, replica) for replica in replicas]
            energy = self._total(torch.stack([sums for sums, _ in found], 1)).view(moments.shape[:-2])
            magnetic_forces = -torch.stack([g for _, g in found]).view(moments.shape).to(moments)
        else:
            whole = super()._evaluate(moments, positions, cell, atomic=False)
            energy, magnetic_forces = whole.energy, whole.magnetic_forces
        return Evaluation(energy, magnetic_forces, *self.no_atomic_forces(moments, atomic))

    def _warn_of_distance(self, distances: Tensor | None) -> None:
        """Once for this potential, tell of spins that are far from those that the network has seen."""
        if self._warned or distances is None or not bool((distances > FARTHEST).any()):
            return
        self._warned = True
        warn(
            "these spins are far from those that the network was trained on: its energy and fields are a guess",
            f"what it sees of them is {float(distances.max()):.3g} standard deviations of its training set away from "
            f"there; beyond {FARTHEST:g} the error of the field can be of any size",
            "compare with KondoEDCalculator on a small lattice; fine-tune the network on labels of such spins "
            "(ase-klm sample, then ase-klm train with `start`), or take another one",
        )

    def _check_lengths(self, moments: Tensor) -> None:
        deviation = (torch.linalg.vector_norm(moments, dim=-1) - 1).abs()
        if bool((deviation > LONGEST_DEVIATION).any()):
            site = int(deviation.reshape(-1, self.n_atoms).amax(0).argmax())
            raise KLMError(
                f"the moment of atom {site} is not a unit vector",
                f"its length differs from 1 by {float(deviation.max()):.3g}, and the network has seen unit spins only",
                "use moments of length 1; the length of physical moments belongs into J and the field",
            )
