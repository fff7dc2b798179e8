"""The Landau-Lifshitz-Gilbert equation, in the form that the integrators step.

dm/dt = -γ/(1+α²) [m×B + (α/abs(m)) m×(m×B)] = m × A,   A = -γ/(1+α²) [B + α e×B],   e = m/abs(m)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ase_klm.vectors import cross

FieldAt = Callable[[Tensor, float], Tensor]
"""(moments, fraction of the step that has passed) → B without noise, eV/μB, shape (..., N, 3)."""

Noise = tuple[Tensor, ...] | None


@dataclass(frozen=True)
class Equation:
    """What stays fixed from step to step.

    Attributes
    ----------
    length : Tensor
        abs(m), μB, shape (..., N, 1), zero on non-magnetic sites.
    rate : Tensor
        γ Δt/(1+α²), per eV/μB, shape (N, 1); zero on sites that do not move.
    damping : float
        α.
    """

    length: Tensor
    rate: Tensor
    damping: float

    def axis(self, e: Tensor, field: Tensor) -> Tensor:
        """A Δt, the rotation vector of one step."""
        if self.damping:
            field = field + self.damping * cross(e, field)
        return -self.rate * field

    def thermal_axis(self, zeta: Tensor) -> Tensor:
        """A rotation vector as likely as that of the noise in one step, A Δt = -γΔt/(1+α²) [ζ + α e×ζ].

        Across e, both terms are as likely as one of sqrt(1+α²) times their length, and along e nothing turns.
        """
        return -((1 + self.damping**2) ** 0.5) * self.rate * zeta


class Integrator(Protocol):
    """One way to make a step.

    Attributes
    ----------
    name, reference : str
        What log lines, restart files and papers call it.
    order : int
        The error after a given time falls as Δt**order without noise.
    stretches : int
        Equal pieces of a step, each with a noise of its own.
    """

    name: str
    reference: str
    order: int
    stretches: int

    def step(self, m: Tensor, field: Tensor, field_at: FieldAt, noise: Noise, equation: Equation) -> Tensor:
        """Moments one step on.

        Parameters
        ----------
        m, field : Tensor
            Moments and B at the start of the step, shape (..., N, 3).
        field_at : callable
            B at predictor points.
        noise : tuple of Tensor, or None
            ζ of each stretch of this step, eV/μB.
        equation : Equation
            Lengths, rate and damping.
        """
        ...
