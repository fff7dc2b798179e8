"""A network as a potential: an energy of the moments, magnetic forces by automatic differentiation."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.models.base import LatticeNetwork
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Structures
from ase_klm.potentials.tiles import Tile, energy_and_gradient, tiles
from ase_klm.validate import checked_number

LONGEST_DEVIATION = 0.05
"""Networks of unit spins are trained on unit spins; lengths further from 1 than this are an error."""

LARGEST_TILE = 100_000
"""Sites that are evaluated in one go."""


@dataclass(frozen=True, eq=False)
class Network(Potential):
    """A trained network.

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
    """

    model: LatticeNetwork
    hamiltonian: Mapping[str, Any] | None = None
    largest_tile: int = LARGEST_TILE
    dtype: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, LatticeNetwork):
            raise KLMError(
                f"{type(self.model).__name__} is not a network of spins",
                "a LatticeNetwork is needed",
                "take one from ase_klm.models, or load a file with models.files.load",
            )
        checked_number(self.largest_tile, "largest_tile", minimum=1)
        model = deepcopy(self.model).requires_grad_(False)
        if self.dtype is not None:
            model = model.to(getattr(torch, self.dtype))
        if self.compile:
            model.local_terms = torch.compile(model.local_terms)  # type: ignore[method-assign]
        if self.hamiltonian and not hasattr(model, "hamiltonian"):
            raise KLMError(
                f"this network does not know {', '.join(self.hamiltonian)}",
                "it was trained for one Hamiltonian, and takes nothing but spins",
                "leave them out, use a network of Chebyshev moments such as kondo-square, or train one",
            )
        object.__setattr__(self, "model", model)

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundNetwork":
        return BoundNetwork(self, atoms, device)


class BoundNetwork(BoundPotential):
    """A network placed on a lattice."""

    def __init__(self, network: Network, atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self.model = network.model.to(self.device)
        self.dtype = self.model.energy_shift.dtype
        self._check_lengths(self.moments)
        sites = self.model.lattice.place(self.reference)
        self.tiles: list[Tile] = []
        if self.n_atoms > network.largest_tile:
            self.tiles = tiles(self.model, self.reference, sites, network.largest_tile, network.hamiltonian)
        self.placed: Any = self.model.tables(sites, network.hamiltonian)

    def energy(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        return self.model(moments.to(self.dtype), self.placed)

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        self._check_lengths(moments)
        if self.tiles:
            replicas = moments.to(self.dtype).reshape(-1, self.n_atoms, 3)
            found = [energy_and_gradient(self.model, self.tiles, self.placed, replica) for replica in replicas]
            energy = torch.stack([e for e, _ in found]).view(moments.shape[:-2])
            magnetic_forces = -torch.stack([g for _, g in found]).view(moments.shape).to(moments)
        else:
            whole = super()._evaluate(moments, positions, cell, atomic=False)
            energy, magnetic_forces = whole.energy, whole.magnetic_forces
        return Evaluation(energy, magnetic_forces, *self.no_atomic_forces(moments, atomic))

    def _check_lengths(self, moments: Tensor) -> None:
        deviation = (torch.linalg.vector_norm(moments, dim=-1) - 1).abs()
        if bool((deviation > LONGEST_DEVIATION).any()):
            site = int(deviation.reshape(-1, self.n_atoms).amax(0).argmax())
            raise KLMError(
                f"the moment of atom {site} is not a unit vector",
                f"its length differs from 1 by {float(deviation.max()):.3g}, and the network has seen unit spins only",
                "use moments of length 1; the length of physical moments belongs into J and the field",
            )
