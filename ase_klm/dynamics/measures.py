"""What a line of the log tells: quantities of moments in their field, one number a replica."""

import torch
from torch import Tensor

from ase_klm.potentials.base import BoundPotential
from ase_klm.vectors import cross, directions, dot, norm


def largest_torque(m: Tensor, field: Tensor) -> Tensor:
    """Largest abs(m×F), eV, shape (...)."""
    return norm(cross(m, field)).amax(dim=(-2, -1))


def kinetic_energy(v: Tensor, inverse_mass: Tensor) -> Tensor:
    """Σ M v²/2 in eV; atoms that do not move have 1/M = 0, shape (N, 1)."""
    moving = inverse_mass > 0
    return torch.where(moving, dot(v, v) / (2 * inverse_mass), 0.0).sum()


def lattice_temperature(kinetic: Tensor, inverse_mass: Tensor) -> Tensor:
    """Kinetic energy over 3/2 of the number of moving atoms, kT in eV; the motion of their centre counts."""
    return kinetic / (1.5 * (inverse_mass > 0).sum())


def spin_temperature(bound: BoundPotential, m: Tensor, field: Tensor, mobile: Tensor) -> Tensor | None:
    """Temperature of the spins from their torques, kT in eV, shape (...); None without second derivatives.

    kT = Σ abs(m×F)² / Σ (2 m·F + abs(m)² tr(P ∂²E/∂m² P)), P = 1 - e eᵀ. The mean over equilibrium states is kT for
    any energy: the general form of Nurdin, Schotte, Phys. Rev. E 61, 3579 (2000), doi:10.1103/PhysRevE.61.3579, and
    Ma, Dudarev, Semenov, Woo, Phys. Rev. E 82, 031111 (2010), doi:10.1103/PhysRevE.82.031111.

    Parameters
    ----------
    bound : BoundPotential
        Gives the blocks ∂²E/∂m_i∂m_i.
    m, field : Tensor
        Moments and field, shape (..., N, 3).
    mobile : Tensor
        Sites that count, bool, shape (N, 1).
    """
    blocks = bound.site_hessian(m)
    if blocks is None:
        return None
    e = directions(m)
    trace = blocks.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    along = dot(e, (blocks @ e[..., None])[..., 0])
    torque = cross(m, field)
    curvature = 2 * dot(m, field) + dot(m, m) * (trace - along)

    def total(values: Tensor) -> Tensor:
        return torch.where(mobile, values, 0.0).sum(dim=(-2, -1))

    return total(dot(torque, torque)) / total(curvature)
