"""Langevin bath of moving atoms, the exact solution of dv = -η v dt + noise over one step (Ornstein-Uhlenbeck):

    v ← c v + sqrt((1 - c²) kT/M) ξ,   c = exp(-η Δt).

It stands in the middle of the step, as O in BAOAB (Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34,
doi:10.1093/amrx/abs010).
"""

import math

import torch
from torch import Tensor

from ase_klm.errors import KLMError


class Langevin:
    """Friction and noise on velocities.

    Parameters
    ----------
    kT : float
        eV.
    friction : float
        η, per unit of time. Zero: no bath.
    inverse_mass : Tensor
        1/M, zero for atoms that do not move, shape (N, 1).
    timestep : float
        Δt.
    generator : torch.Generator or None
        Source of the noise; needed when kT > 0.
    """

    def __init__(
        self, kT: float, friction: float, inverse_mass: Tensor, timestep: float, generator: torch.Generator | None
    ) -> None:
        if kT > 0 and friction == 0:
            raise KLMError(
                "a temperature of the lattice was given, but its friction is zero",
                "the noise is proportional to the friction: without it no bath acts on the atoms",
                "give lattice_friction=0.01 / ase.units.fs, or leave the temperature out",
            )
        self._kept = math.exp(-friction * timestep)
        self._amplitude = (-math.expm1(-2 * friction * timestep) * kT * inverse_mass).sqrt()
        self._generator = generator
        self._noisy = kT > 0

    def __call__(self, v: Tensor) -> Tensor:
        """Velocities (N, 3) after one step in the bath."""
        if self._kept == 1.0:
            return v
        v = self._kept * v
        if not self._noisy:
            return v
        noise = torch.randn(v.shape, generator=self._generator, dtype=v.dtype, device=v.device)
        return torch.addcmul(v, self._amplitude, noise)
