"""Thermal noise of the stochastic LLG equation (Brown, Phys. Rev. 130, 1677; Garcia-Palacios, Lazaro, Phys. Rev. B
58, 14937): <ζ_a ζ_b> = 2 α kT/(γ abs(m) Δt) δ_ab per component and site, with Δt the stretch of time in which a noise
is held, so that sites of different length reach the same temperature.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ase_klm.dynamics.parameters import OverTime
from ase_klm.errors import KLMError


class Thermostat:
    """Draws the noise, always from its own seeded generator on the device of the moments.

    Parameters
    ----------
    gamma, stretch : float
        γ and Δt.
    active : bool
        Whether there is noise at any time.
    seed : int, optional
        Needed where there is.
    device : torch.device
        Of the moments.
    """

    def __init__(self, gamma: float, stretch: float, active: bool, seed: int | None, device: torch.device) -> None:
        self.active = active
        self._factor = 2 / (gamma * stretch)
        self.generator = torch.Generator(device=device)
        self._variance_times_length = torch.zeros((), dtype=torch.float64, device=device)
        if active:
            seeded(self.generator, seed)

    def take(self, kT: NDArray[np.float64] | float, damping: float) -> None:
        """The bath's temperature in eV, one number or shape (replicas, 1, 1), and α, from now on."""
        strength = np.asarray(self._factor * damping * kT)
        self._variance_times_length = torch.tensor(strength, device=self.generator.device)

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


def check_bath(kT: OverTime[Any], coupling: OverTime[float], what: str, remedy: str) -> bool:
    """Whether a bath makes noise at any time.

    Raises
    ------
    KLMError
        When a temperature is given, but the constant coupling (damping or friction, `what`) is zero.
    """
    noisy = kT.varies or bool(np.any(kT.at(0.0) > 0))
    if noisy and not coupling.varies and coupling.at(0.0) == 0:
        raise KLMError(
            f"a temperature was given, but the {what} is zero",
            f"the noise is proportional to the {what}: without it no bath acts",
            remedy,
        )
    return noisy


def drawn(noise: Callable[[Tensor], Tensor | None], length: Tensor, stretches: int) -> tuple[Tensor, ...] | None:
    """ζ of each stretch of a step; None without noise."""
    found = [noise(length) for _ in range(stretches)]
    known = tuple(zeta for zeta in found if zeta is not None)
    return known or None


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
