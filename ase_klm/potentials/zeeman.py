"""Zeeman energy E = -Σ_i B_i·m_i of the local moments in a field B (eV/μB; one tesla is `units.TESLA`)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.plausibility import Doubt, doubts_about
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Structures, frozen_array, over_moments
from ase_klm.potentials.second_derivatives import Blocks


@dataclass(frozen=True, eq=False)
class Zeeman(Potential):
    """E = -Σ_i B_i·m_i: a field on the local moments, not on electrons.

    Parameters
    ----------
    field : array_like
        eV/μB, broadcast against moments: (3,) uniform, (N, 3) per site, (replicas, 1, 3) per replica.
    """

    field: Any
    uses_lattice: ClassVar[bool] = False
    per_replica: ClassVar[tuple[str, ...]] = ("field",)
    per_site: ClassVar[Mapping[str, int]] = {"field": -2}

    def __post_init__(self) -> None:
        object.__setattr__(self, "field", frozen_array(self.field, "field", "eV/μB"))

    def doubts(self, atoms: Atoms, force_scale: float) -> Iterator[Doubt]:
        # twice its exchange field saturates an antiferromagnet; a field without other terms may have any unit
        yield from doubts_about(
            "field", np.linalg.norm(np.atleast_1d(self.field), axis=-1), limit=3 * (force_scale or 1.0)
        )

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundZeeman":
        return BoundZeeman(self, atoms, device)


class BoundZeeman(BoundPotential):
    """F_i = B_i on every magnetic site."""

    def __init__(self, zeeman: Zeeman, atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self.field = over_moments(zeeman.field, self, "field")

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        magnetic_forces = torch.where(self.magnetic[:, None], self.field.expand_as(moments), 0.0)
        energy = -(magnetic_forces * moments).sum(dim=(-2, -1))
        return Evaluation(energy, magnetic_forces, *self.no_atomic_forces(moments, atomic))

    def hessian_vector_product(self, moments: Tensor, vectors: Tensor) -> Tensor:
        return torch.zeros_like(moments)

    def site_hessian(self, moments: Tensor) -> Tensor:
        return moments.new_zeros((*moments.shape, 3))

    def second_derivatives(self, moments: Tensor) -> Blocks:
        return Blocks.none(self.n_atoms)
