"""Energy of the lengths of moments: a Landau well around a preferred length, so that lengths can relax.

E = Σ_i κ/(8 m₀²) (m_i² - m₀²)²,   ∂E/∂m = κ/(2 m₀²) (m² - m₀²) m,   d²E/dm² = κ at m = m₀.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.plausibility import Doubt, doubts_about
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Structures, frozen_array
from ase_klm.potentials.second_derivatives import Blocks
from ase_klm.validate import checked_number


@dataclass(frozen=True, eq=False)
class MomentLengths(Potential):
    """E = Σ_i κ/(8 m₀²) (m_i² - m₀²)²: a well at the length m₀ for every magnetic atom.

    Parameters
    ----------
    length : float or array_like
        m₀ in μB, a number or one an atom (N,); only those of magnetic atoms count.
    stiffness : float
        κ in eV/μB².
    """

    length: Any
    stiffness: float
    uses_lattice: ClassVar[bool] = False
    per_site: ClassVar[Mapping[str, int]] = {"length": -1}

    def __post_init__(self) -> None:
        length = frozen_array(self.length, "length", "μB")
        if length.ndim > 1 or not (length > 0).all():
            raise KLMError(
                f"length = {self.length!r} cannot be used", "lengths of moments are positive", "e.g. length=3.0, in μB"
            )
        object.__setattr__(self, "length", length)
        checked_number(self.stiffness, "stiffness", "eV/μB²", minimum=0)

    def doubts(self, atoms: Atoms, force_scale: float) -> Iterator[Doubt]:
        for quantity in ("moment", "faint moment"):
            yield from doubts_about(quantity, self.length, "preferred length")

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundMomentLengths":
        return BoundMomentLengths(self, atoms, device)


class BoundMomentLengths(BoundPotential):
    """Forces along the moments, and none on the atoms."""

    turns_spins = False

    def __init__(self, potential: MomentLengths, atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        length = self.tensor(potential.length)
        if length.ndim and len(length) != self.n_atoms:
            raise KLMError(
                f"length has shape {tuple(length.shape)}, and there are {self.n_atoms} atoms",
                "it is a number, or one for each atom",
                "check its length",
            )
        self.squared = torch.where(self.magnetic, length**2, 1.0)[:, None]  # (N, 1)
        self.stiffness = torch.where(self.magnetic, potential.stiffness, 0.0).to(self.squared)[:, None]

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        excess = (moments**2).sum(-1, keepdim=True) - self.squared
        energy = (self.stiffness / (8 * self.squared) * excess**2).sum(dim=(-2, -1))
        forces = -self.stiffness / (2 * self.squared) * excess * moments
        return Evaluation(energy, forces, *self.no_atomic_forces(moments, atomic))

    def hessian_vector_product(self, moments: Tensor, vectors: Tensor) -> Tensor:
        return (self.site_hessian(moments) @ vectors[..., None])[..., 0]

    def site_hessian(self, moments: Tensor) -> Tensor:
        excess = ((moments**2).sum(-1, keepdim=True) - self.squared)[..., None]
        unity = torch.eye(3, dtype=moments.dtype, device=moments.device)
        scale = (self.stiffness / (2 * self.squared))[..., None]
        return scale * (excess * unity + 2 * moments[..., :, None] * moments[..., None, :])

    def second_derivatives(self, moments: Tensor) -> Blocks:
        sites = self.magnetic.nonzero()[:, 0].cpu().numpy()
        blocks = self.site_hessian(moments).cpu().numpy()[sites]
        return Blocks(self.n_atoms, sites, sites, 0 * sites[:, None].repeat(3, axis=1), blocks)
