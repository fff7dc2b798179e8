"""Velocity Verlet for the atoms around a step of the moments, for potentials of many bodies: an electronic structure or
a network gives all fields in one evaluation, so that turning one spin at a time would cost N evaluations a step.
"""

import torch
from torch import Tensor

from ase_klm.dynamics.coupled import CoupledEquations
from ase_klm.dynamics.coupled_state import CoupledState
from ase_klm.dynamics.equation import Integrator
from ase_klm.dynamics.thermostat import drawn


class VelocityVerlet:
    """Half a kick, drift with the bath in its middle, the moments along the drift, half a kick; order 2.

    The moments are stepped by an integrator of `LLGDynamics`, whose fields at a fraction of the step are those at the
    positions of that fraction. The evaluation at the end of a step gives the forces of both kicks and the first field
    of the moments, so semi-implicit B needs two a step, of which the one at the midpoint leaves the forces out.

    Parameters
    ----------
    spins : Integrator
        Of the moments.
    """

    order = 2

    def __init__(self, spins: Integrator) -> None:
        self.spins, self.stretches = spins, spins.stretches
        self.name = spins.name
        self.reference = f"velocity Verlet and {spins.reference}"

    def step(self, state: CoupledState, time: float, equations: CoupledEquations) -> None:
        step = equations.timestep
        half_kick = step / 2 * equations.inverse_mass
        found = state.evaluation()
        v = torch.addcmul(state.velocities, half_kick, state.forces())
        middle = state.positions + step / 2 * v
        v = equations.bath(v)
        end = middle + step / 2 * v

        def with_applied(B: Tensor, at: float) -> Tensor:
            applied = equations.field(at)
            return B if applied is None else B + applied

        def field_at(m: Tensor, fraction: float) -> Tensor:
            state.place(middle if fraction == 0.5 else end)
            B = state.bound.effective_field(m, state.positions, state.cell)
            return with_applied(B, time + fraction * step)

        start = with_applied(found.magnetic_forces, time)
        noise = drawn(equations.noise, state.length, self.stretches)
        m = self.spins.step(state.moments, start, field_at, noise, equations.spins(state.length, step))
        state.advance(m)
        state.place(end)
        state.evaluation()  # its magnetic forces begin the next step
        state.velocities = torch.addcmul(v, half_kick, state.forces())
