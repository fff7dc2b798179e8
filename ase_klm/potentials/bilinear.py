"""Energies bilinear in directions e = m/abs(m), with what all of them share.

    E = ½ e·K·e - f·e = Σ_bonds e_i·M·e_j - Σ_i f_i·e_i,   g = K·e - f,   F = -P g/abs(m),   P = 1 - e eᵀ,

every bond once, in eV, so that M > 0 is antiferromagnetic. On-site terms e_i·A·e_i are bonds (i, i) in the home cell.
The energy does not depend on the lengths, so the magnetic forces are transverse.
"""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from ase_klm.potentials.base import BoundPotential
from ase_klm.potentials.second_derivatives import Blocks
from ase_klm.vectors import transverse


class BoundBilinear(BoundPotential):
    """Hessian and second derivatives of such an energy; `site_fields` f broadcast against moments."""

    site_fields: Tensor

    @abstractmethod
    def bond_matrices(
        self, positions: Tensor | None = None, cell: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """All bonds with their matrices at positions (..., N, 3) in cells (..., 3, 3), by default the present ones.

        Returns
        -------
        i, j : Tensor
            Atoms, shape (n_bonds,). Bonds with i = j are on-site terms, or join an atom to its image.
        M : Tensor
            eV, shape (..., n_bonds, 3, 3). With `site_fields` f, E = Σ e_i·M·e_j - Σ f_i·e_i.
        """

    def bond_strengths(
        self, positions: Tensor | None = None, cell: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """As `bond_matrices`, with numbers M (..., n_bonds) where all matrices are known to be M times unity."""
        return None

    @abstractmethod
    def bond_cells(self) -> Tensor:
        """Cells R of the atoms j of `bond_matrices`, shape (n_bonds, 3)."""

    @property
    def interaction_range(self) -> float:
        """Length of the longest bond at the present positions, Å."""
        i, j, _ = self.bond_matrices()
        ends = self.positions.index_select(-2, j) - self.positions.index_select(-2, i)
        lengths = torch.linalg.vector_norm(ends + self.bond_cells().to(self.cell) @ self.cell, dim=-1)
        return float(lengths.max()) if len(i) else 0.0

    def apply(self, vectors: Tensor) -> Tensor:
        """K·v for v of shape (..., N, 3)."""
        i, j, matrices = self.bond_matrices()
        at_i = (matrices @ vectors.index_select(-2, j)[..., None])[..., 0]
        at_j = (matrices.mT @ vectors.index_select(-2, i)[..., None])[..., 0]
        found = torch.zeros_like(vectors).expand(at_i.shape[:-2] + vectors.shape[-2:]).clone()
        return found.index_add_(-2, i, at_i).index_add_(-2, j, at_j)

    def own_blocks(self) -> Tensor:
        """Blocks of K on its diagonal, (..., N, 3, 3), eV."""
        i, j, matrices = self.bond_matrices()
        own = i == j
        blocks = matrices[..., own, :, :]
        found = blocks.new_zeros((*blocks.shape[:-3], self.n_atoms, 3, 3))
        return found.index_add_(-3, i[own], blocks + blocks.mT)

    def frame(self, moments: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Directions e, lengths, the product K·e, and the gradient g = K·e - f."""
        e, length = unit_vectors(moments)
        product = self.apply(e)
        return e, length, product, product - self.site_fields

    def magnetic_forces(self, gradient: Tensor, e: Tensor, length: Tensor) -> Tensor:
        """F = -P g/abs(m), zero on non-magnetic atoms."""
        return torch.where(self.magnetic[:, None], -transverse(gradient, e) / length, 0.0)

    def hessian_vector_product(self, moments: Tensor, vectors: Tensor) -> Tensor:
        e, length, _, g = self.frame(moments)
        v = torch.where(self.magnetic[:, None], vectors, 0.0)
        along = (e * v).sum(-1, keepdim=True)
        across = v - along * e
        longitudinal = (e * g).sum(-1, keepdim=True)
        g_across = g - longitudinal * e
        turned = transverse(self.apply(across / length), e) / length
        curved = across * longitudinal + e * (across * g).sum(-1, keepdim=True) + g_across * along
        return torch.where(self.magnetic[:, None], turned - curved / length**2, 0.0)

    def site_hessian(self, moments: Tensor) -> Tensor:
        e, length, _, g = self.frame(moments)
        projector = torch.eye(3, dtype=e.dtype, device=e.device) - e[..., :, None] * e[..., None, :]
        longitudinal = (e * g).sum(-1)[..., None, None]
        mixed = e[..., :, None] * transverse(g, e)[..., None, :]
        block = projector @ self.own_blocks() @ projector - longitudinal * projector - mixed - mixed.mT
        return torch.where(self.magnetic[:, None, None], block / length[..., None] ** 2, 0.0)

    def second_derivatives(self, moments: Tensor) -> Blocks:
        e, length, _, g = (values.cpu().numpy() for values in self.frame(moments))
        i, j, matrices = (values.cpu().numpy() for values in self.bond_matrices())
        cells = self.bond_cells().cpu().numpy().astype(int)
        sites = np.arange(self.n_atoms)
        projector = np.eye(3) - e[:, :, None] * e[:, None, :]
        bonded = projector[i] @ matrices @ projector[j] / (length[i] * length[j])[:, :, None]
        longitudinal = (e * g).sum(1)[:, None, None]
        mixed = e[:, :, None] * (g - longitudinal[:, 0] * e)[:, None, :]
        own = -(longitudinal * projector + mixed + mixed.transpose(0, 2, 1)) / length[:, :, None] ** 2
        return Blocks(
            self.n_atoms,
            np.concatenate([i, j, sites]),
            np.concatenate([j, i, sites]),
            np.concatenate([cells, -cells, np.zeros((self.n_atoms, 3), int)]),
            np.concatenate([bonded, bonded.transpose(0, 2, 1), own]),
        )


def unit_vectors(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Directions e, and lengths (..., N, 1); a moment of zero has the direction zero and the length 1."""
    length = torch.linalg.vector_norm(moments, dim=-1, keepdim=True)
    length = torch.where(length > 0, length, 1.0)
    return moments / length, length
