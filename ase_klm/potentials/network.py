"""A network as a potential: E = Σ_i E_i(m), magnetic forces by automatic differentiation."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.models.base import LatticeNetwork
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Structures

LONGEST_DEVIATION = 0.05
"""Networks of unit spins are trained on unit spins; lengths further from 1 than this are an error."""


@dataclass(frozen=True, eq=False)
class Network(Potential):
    """A trained network.

    Parameters
    ----------
    model : LatticeNetwork
        Its weights are used as they are, in their precision; the results are float64.
    """

    model: LatticeNetwork

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundNetwork":
        return BoundNetwork(self, atoms, device)


class BoundNetwork(BoundPotential):
    """A network placed on a lattice."""

    def __init__(self, network: Network, atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self.model = network.model.to(self.device)
        self.dtype = next(self.model.parameters()).dtype
        self.placed: Any = self.model.place(self.reference)
        self._check_lengths(self.moments)

    def energy(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        return self.model(moments.to(self.dtype), self.placed)

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        self._check_lengths(moments)
        found = super()._evaluate(moments, positions, cell, atomic=False)
        forces, stress = self.no_atomic_forces(moments, atomic)
        return Evaluation(found.energy, found.magnetic_forces, forces, stress)

    def _check_lengths(self, moments: Tensor) -> None:
        deviation = (torch.linalg.vector_norm(moments, dim=-1) - 1).abs()
        if bool((deviation > LONGEST_DEVIATION).any()):
            site = int(deviation.flatten(0, -2).amax(0).argmax()) if deviation.dim() > 1 else int(deviation.argmax())
            raise KLMError(
                f"the moment of atom {site} is not a unit vector",
                f"its length differs from 1 by {float(deviation.max()):.3g}, and the network has seen unit spins only",
                "use moments of length 1 (textures make such unless told otherwise); the length of physical moments"
                " belongs into J and the field",
            )
