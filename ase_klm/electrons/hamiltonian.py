"""Tight-binding electrons coupled to classical spins, in k-space.

    H(k) = -Σ_b t_b [e^{ik·R_b} c†_i c_j + h.c.] ⊗ 1 - (J/2) Σ_i m_i·(c†_i σ c_i)

with bonds b = (i, j, R), each once. The basis is (site, spin), spin fastest: index 2 i + s. A bond of a site with its
own image adds 2 t cos(k·R) on the diagonal.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def monkhorst_pack_gamma(sizes: Sequence[int]) -> NDArray[np.float64]:
    """Γ-centred mesh, also when even: k = (i/n1, j/n2, l/n3), shape (N_k, 3), fractional."""
    axes = [np.arange(n) / n for n in sizes]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


class TightBinding:
    """Bonds and k-points of a lattice; builds Hamiltonians from hopping amplitudes and moments.

    Parameters
    ----------
    n_sites : int
    i, j : Tensor
        Ends of the bonds, shape (n_bonds,).
    cells : Tensor
        Cell R of site j, shape (n_bonds, 3).
    kpoints : Tensor
        Fractional, shape (N_k, 3).
    dtype : torch.dtype
        complex128 or complex64.
    """

    def __init__(self, n_sites: int, i: Tensor, j: Tensor, cells: Tensor, kpoints: Tensor, dtype: torch.dtype) -> None:
        self.n_sites, self.i, self.j, self.dtype = n_sites, i, j, dtype
        angles = 2 * torch.pi * kpoints @ cells.to(kpoints.dtype).mT  # (k, bond)
        self.phases = torch.polar(torch.ones_like(angles), angles)

    def hopping_matrix(self, amplitudes: Tensor) -> Tensor:
        """Spinless part of H(k), shape (..., N_k, N, N), from amplitudes t_b of shape (..., n_bonds)."""
        values = -amplitudes[..., None, :] * self.phases  # (..., k, bond)
        matrix = values.new_zeros((*values.shape[:-1], self.n_sites**2))
        matrix.index_add_(-1, self.i * self.n_sites + self.j, values)
        matrix.index_add_(-1, self.j * self.n_sites + self.i, values.conj())
        return matrix.unflatten(-1, (self.n_sites, self.n_sites)).to(self.dtype)

    def hamiltonian(self, hopping_matrix: Tensor, moments: Tensor, J: float) -> Tensor:
        """H(k), shape (..., N_k, 2N, 2N), for moments of shape (..., N, 3)."""
        n = self.n_sites
        replicas = torch.broadcast_shapes(hopping_matrix.shape[:-3], moments.shape[:-2])
        n_k = hopping_matrix.shape[-3]
        H = torch.zeros((*replicas, n_k, n, 2, n, 2), dtype=self.dtype, device=moments.device)
        H[..., 0, :, 0] = hopping_matrix
        H[..., 1, :, 1] = hopping_matrix
        x, y, z = (-(J / 2) * moments[..., None, :, :]).unbind(-1)  # (..., 1, site)
        site_blocks = torch.diagonal(H, dim1=-4, dim2=-2)  # (..., k, s, s', site)
        site_blocks[..., 0, 0, :] += z
        site_blocks[..., 1, 1, :] -= z
        site_blocks[..., 0, 1, :] += torch.complex(x, -y)
        site_blocks[..., 1, 0, :] += torch.complex(x, y)
        return H.view(*replicas, n_k, 2 * n, 2 * n)

    def bond_order(self, states: Tensor, occupations: Tensor, k: int) -> Tensor:
        """Re e^{ik·R} Σ_s <c†_is c_js> of each bond at one k-point, shape (n_bonds,).

        The energy of the hopping is -2 Σ_b t_b times this, summed over k-points.
        """
        psi = states.reshape(self.n_sites, -1)  # (site, spin·state)
        weights = occupations.to(states.real.dtype).repeat(2)
        correlation = torch.einsum("bn,bn->b", psi[self.i].conj() * weights, psi[self.j])
        return (self.phases[k] * correlation).real


def spin_density(states: Tensor, occupations: Tensor) -> Tensor:
    """<σ_i> = Σ_n f_n ψ†_n σ ψ_n at each site, shape (..., N, 3).

    Parameters
    ----------
    states : Tensor
        Eigenvectors as columns, shape (..., 2N, n).
    occupations : Tensor
        f_n, shape (..., n).
    """
    up, down = states.unflatten(-2, (-1, 2)).unbind(-2)  # (..., site, state)
    weights = occupations.to(up.real.dtype)[..., None]
    mixed = ((up.conj() * down) @ weights.to(up.dtype))[..., 0]
    polarised = ((up.abs().square() - down.abs().square()) @ weights)[..., 0]
    return torch.stack([2 * mixed.real, 2 * mixed.imag, polarised], dim=-1)
