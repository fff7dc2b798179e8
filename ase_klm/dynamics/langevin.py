"""Langevin bath of moving atoms, the exact solution of dv = -η v dt + noise over one step (Ornstein-Uhlenbeck):

    v ← c v + sqrt((1 - c²) kT/M) ξ,   c = exp(-η Δt).

It stands in the middle of the step, as O in BAOAB (Leimkuhler, Matthews, Appl. Math. Res. Express 2013, 34,
doi:10.1093/amrx/abs010).
"""

import math

import torch
from torch import Tensor


class Langevin:
    """Friction and noise on velocities.

    Parameters
    ----------
    inverse_mass : Tensor
        1/M, zero for atoms that do not move, shape (N, 1).
    timestep : float
        Δt.
    generator : torch.Generator
        Source of the noise, seeded when kT > 0 at any time.
    """

    def __init__(self, inverse_mass: Tensor, timestep: float, generator: torch.Generator) -> None:
        self._inverse_mass, self._timestep, self._generator = inverse_mass, timestep, generator
        self.take(0.0, 0.0)

    def take(self, kT: float, friction: float) -> None:
        """The bath's temperature, eV, and η, per unit of time, from now on; η = 0 is no bath."""
        passed = friction * self._timestep
        self._kept = math.exp(-passed)
        self._noisy = kT > 0
        self._amplitude = (-math.expm1(-2 * passed) * kT * self._inverse_mass).sqrt()

    def __call__(self, v: Tensor) -> Tensor:
        """Velocities (N, 3) after one step in the bath."""
        if self._kept == 1.0:
            return v
        v = self._kept * v
        if not self._noisy:
            return v
        noise = torch.randn(v.shape, generator=self._generator, dtype=v.dtype, device=v.device)
        return torch.addcmul(v, self._amplitude, noise)
