"""Coupled equations of motion of atoms and moments, in the form that their integrators step.

    dx/dt = v,   M dv/dt = -∂E/∂x,   dm/dt = -γ/(1+α²) [m×B + (α/abs(m)) m×(m×B)],   B = -∂E/∂m + field,

with the Langevin bath of `langevin` on v and the noise of `thermostat` in B.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ase_klm.dynamics.coupled_state import CoupledState
from ase_klm.dynamics.equation import Equation


@dataclass(frozen=True)
class CoupledEquations:
    """What stays fixed from step to step.

    Attributes
    ----------
    timestep : float
        Δt.
    inverse_mass : Tensor
        1/M, shape (N, 1); zero for atoms that do not move.
    moving : bool
        Whether any atom moves.
    turning : Tensor
        Sites whose moments move, bool, shape (N, 1).
    gamma, damping : float
        γ/(1+α²) and α.
    bath : callable
        Velocities (N, 3) after a step in the bath of the lattice.
    noise : callable
        ζ, eV/μB, for moments of a given length (N, 1), over one stretch of time in which the integrator holds it; None
        without a bath.
    field : callable
        Time → a further field in eV/μB that broadcasts against moments; None without one.
    """

    timestep: float
    inverse_mass: Tensor
    moving: bool
    turning: Tensor
    gamma: float
    damping: float
    bath: Callable[[Tensor], Tensor]
    noise: Callable[[Tensor], Tensor | None]
    field: Callable[[float], Tensor | None]

    def spins(self, length: Tensor, stretch: float) -> Equation:
        """The equation of the moments over a stretch of time."""
        return Equation(length, self.gamma * stretch * self.turning, self.damping)


class CoupledIntegrator(Protocol):
    """One way to make a step of atoms and moments.

    Attributes
    ----------
    name, reference : str
        What log lines, restart files and papers call it.
    order : int
        The error after a given time falls as Δt**order without noise.
    stretches : int
        Pieces of a step, each with a noise of its own.
    """

    name: str
    reference: str
    order: int
    stretches: int

    def step(self, state: CoupledState, time: float, equations: CoupledEquations) -> None:
        """Take the state, at that time, one step on."""
        ...
