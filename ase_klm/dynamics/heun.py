"""Heun's method with projection (Garcia-Palacios, Lazaro, Phys. Rev. B 58, 14937 (1998),
doi:10.1103/PhysRevB.58.14937; Evans et al., J. Phys.: Condens. Matter 26, 103202 (2014), section 3.3).
"""

from torch import Tensor

from ase_klm.dynamics.equation import Equation, FieldAt, Noise
from ase_klm.vectors import cross, directions


class Heun:
    """Two field evaluations a step, order 2; lengths are restored after predictor and corrector.

        m' = m + Δm,   m₁ = m + (Δm + Δm')/2,   Δm = m × A(m)Δt,   Δm' = m' × A(m')Δt

    The cross products leave the longitudinal part of the field out by themselves. Kept for comparison with other
    programs: at 1 fs, energy drifts about a hundred times as fast as with `SemiImplicitB`.
    """

    name = "heun"
    reference = "Evans et al., J. Phys.: Condens. Matter 26, 103202 (2014)"
    order = 2
    stretches = 1

    def step(self, m: Tensor, field: Tensor, field_at: FieldAt, noise: Noise, equation: Equation) -> Tensor:
        zeta = 0.0 if noise is None else noise[0]  # the same for predictor and corrector (Stratonovich)
        change = cross(m, equation.axis(directions(m), field + zeta))
        e_predicted = directions(m + change)
        predicted = equation.length * e_predicted
        change_there = cross(predicted, equation.axis(e_predicted, field_at(predicted, 1.0) + zeta))
        return equation.length * directions(m + (change + change_there) / 2)
