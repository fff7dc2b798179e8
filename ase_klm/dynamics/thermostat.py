"""Thermal noise of the stochastic LLG equation (Brown, Phys. Rev. 130, 1677; Garcia-Palacios, Lazaro, Phys. Rev. B
58, 14937): <ζ_a ζ_b> = 2 α kT/(γ abs(m) Δt) δ_ab per component, site and step, so that sites of different length
reach the same temperature.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_klm.errors import KLMError


class Thermostat:
    """Draws the noise, always from its own seeded generator on the device of the moments.

    Parameters
    ----------
    kT : Tensor
        eV, a number or shape (replicas, 1, 1).
    damping, gamma, timestep : float
        α, γ and Δt.
    seed : int, optional
        Needed when kT > 0 anywhere.
    """

    def __init__(self, kT: Tensor, damping: float, gamma: float, timestep: float, seed: int | None) -> None:
        self.active = bool((kT > 0).any())
        self._variance_times_length = 2 * damping * kT / (gamma * timestep)
        self.generator = torch.Generator(device=kT.device)
        if not self.active:
            return
        if damping == 0:
            raise KLMError(
                "a temperature was given, but the damping is zero",
                "the noise is proportional to the damping: without damping no bath acts on the spins",
                "give damping > 0, or leave the temperature out",
            )
        seeded(self.generator, seed)

    def noise(self, length: Tensor) -> Tensor | None:
        """ζ in eV/μB, shape (..., N, 3), for moments of the given length (..., N, 1); None at T = 0."""
        if not self.active:
            return None
        amplitude = torch.where(length > 0, self._variance_times_length / length, 0.0).sqrt_()
        shape = (*length.shape[:-1], 3)
        return amplitude * torch.randn(shape, generator=self.generator, dtype=length.dtype, device=length.device)

    @property
    def state(self) -> Any:
        """State of the generator, uint8 array; nothing at T = 0."""
        state = self.generator.get_state() if self.active else torch.zeros(0, dtype=torch.uint8)
        return state.numpy()

    @state.setter
    def state(self, state: Any) -> None:
        if self.active:
            self.generator.set_state(torch.tensor(state))


def seeded(generator: torch.Generator, seed: int | None) -> torch.Generator:
    """The generator, started from a seed.

    Raises
    ------
    KLMError
        When the seed is missing or none.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**63:
        raise KLMError(
            "thermal noise needs a seed" if seed is None else f"seed = {seed!r} cannot seed a generator",
            "every run can be repeated, so noise comes from a generator with a given non-negative integer as seed",
            "give seed=1",
        )
    return generator.manual_seed(int(seed))
