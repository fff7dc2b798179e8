"""Landau-Lifshitz-Gilbert dynamics of the moments of ASE `Atoms`, in the shape of ASE's dynamics.

dm/dt = -γ/(1+α²) [m×B + (α/abs(m)) m×(m×B)],   B = F + field + ζ,   F = -∂E/∂m,
<ζ_a ζ_b> = 2 α kT/(γ abs(m) Δt) δ_ab

The state stays on the device as one tensor, replicas along its first axis. Atoms are brought up to date when an
observer is due, at each step of `irun`, and at the end of `run`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from ase import Atoms
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ase_klm import units
from ase_klm.dynamics.equation import Equation, Integrator
from ase_klm.dynamics.heun import Heun
from ase_klm.dynamics.outputs import SpinOutputs
from ase_klm.dynamics.parameters import applied_field, checked_damping, thermal_energies_over_time
from ase_klm.dynamics.restart import RestartState
from ase_klm.dynamics.run import Run
from ase_klm.dynamics.semi_implicit_b import SemiImplicitB
from ase_klm.dynamics.thermostat import Thermostat, check_bath, drawn
from ase_klm.errors import KLMError
from ase_klm.potentials.foreign import potential_of
from ase_klm.runs.inputs import checked_replicas, pinned_sites
from ase_klm.runs.state import SpinState
from ase_klm.validate import checked_number

INTEGRATORS: dict[str, Integrator] = {"sib": SemiImplicitB(), "heun": Heun()}
"""Integrators by name."""


class LLGDynamics(Run):
    """Evolve the moments of one structure, or of several replicas of it in one batch.

    Parameters
    ----------
    atoms : Atoms or list of Atoms
        With moments and a calculator. Replicas share the lattice and the calculator's parameters, but for fields.
    timestep : float
        In ASE's unit of time: ``1.0 * ase.units.fs``. With ``gamma=1.0`` in ħ/eV. See `suggest_timestep`.
    damping : float or callable
        Gilbert damping α, or a function of time; see Notes.
    temperature_K, kT : float, sequence or callable, optional
        Temperature of the bath in K, or in eV; one number, or one a replica, or a function of time that returns them.
        Default: no noise.
    gamma : float
        γ, default g/ħ with g = 2 (`units.GAMMA`). ``gamma=1.0`` gives model units: times in ħ/eV, spin temperature in
        eV, with no ASE conversion.
    integrator : str
        "sib" or "heun".
    seed : int, optional
        Of the thermal noise; needed when there is some.
    trajectory : str or Path, optional
        ``.traj`` or ``.extxyz``. Frames hold moments, and the calculator's energy and magnetic forces; atoms are at
        rest, so atomic forces are left out. Replicas are written to ``name-0.traj``, ``name-1.traj``...
    logfile : str, Path or file object, optional
        "-" is the standard output. A line: step, time (fs, or ħ/eV), energy a magnetic site with the applied field
        (eV), mean moment of the magnetic sites (μB), largest torque abs(m×B) of the sites that move (eV), spin
        temperature (K, or eV; blank where the potential has no second derivatives).
    loginterval : int
        Steps between log lines and between frames.
    restart : str or Path, optional
        File that lets a killed run continue; see Notes.
    restart_interval : int
        Steps between two writings of it. It is written at the end of each `run`, too.
    field : array_like or callable, optional
        A further Zeeman field in eV/μB, shape (3,), (N, 3), or (replicas, 3); or a function of time (in the unit of
        the time step) that returns one. It is no part of the calculator's results.
    pinned : array_like, optional
        Sites that do not move: boolean mask (N,), or indices.
    progress : bool
        Whether runs of more than two seconds show a progress bar, on a terminal only.

    Raises
    ------
    KLMError
        For bad input, before anything is computed.

    Notes
    -----
    With `restart`, a script that was killed is simply run again, unchanged: the steps that the restart file has behind
    it count as done. ``run(1000); run(500)`` killed at step 1200 then passes over the first run and does the last 300
    steps of the second, and ends in the same bits as if it had not been killed. Log and trajectory are cut back to
    the restart step, and go on from there. To lengthen a finished run, ask for more steps. Observers are not called
    again for the steps passed over; meanwhile the atoms show the state of the restart file.

    Observers, and the script between two runs, may change the moments: they are taken over.

    Functions of time take it in the unit of the time step, since step 0. For instance,
    ``temperature_K=lambda t: 1000 - t / units.fs`` cools by one kelvin a femtosecond. Temperature and damping are those
    at the middle of a step. A restart file keeps the values of a function at 17 equal times from step 0 to its own. A
    run is continued only where they are the same, to ten digits; what the function will be later is not compared. Other
    parameters of a run cannot be set once it is made.

    A step in which a spin turns by more than 0.7 rad gets a warning with a value that fits. What turns it is the
    fastest magnon, the noise, or the field at that moment. The run looks at the start, at steps 64, 256, 1024..., and
    at each line of its log or frame. In bcc iron the fastest magnon turns a spin by 0.43 rad in 1 fs. At 700 K the
    spins are then 1 % too hot with "sib", and 6 % too cold with "heun" (`benchmarks/thermostat.py`).
    """

    restart_kind = RestartState

    def __init__(
        self,
        atoms: Atoms | list[Atoms],
        timestep: float,
        damping: float | Callable[[float], float] = 0.1,
        temperature_K: ArrayLike | Callable[[float], ArrayLike] | None = None,
        kT: ArrayLike | Callable[[float], ArrayLike] | None = None,
        gamma: float = units.GAMMA,
        integrator: str = "sib",
        seed: int | None = None,
        trajectory: str | Path | None = None,
        logfile: str | Path | TextIO | None = None,
        loginterval: int = 1,
        restart: str | Path | None = None,
        restart_interval: int = 100,
        field: Any = None,
        pinned: ArrayLike | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__(loginterval, restart, restart_interval, progress)
        self.atoms = atoms
        self.replicas = checked_replicas(atoms)
        self.timestep = checked_number(timestep, "timestep", "ASE's unit of time, or ħ/eV in model units", above=0)
        self._damping = checked_damping(damping)
        self.gamma = checked_number(gamma, "gamma", "1/(eV/μB) per unit of time", above=0)
        self._spin_energy = thermal_energies_over_time(temperature_K, kT, len(self.replicas))
        noisy = check_bath(
            self._spin_energy, self._damping, "damping", "give damping > 0, or leave the temperature out"
        )
        if not isinstance(integrator, str) or integrator not in INTEGRATORS:
            raise KLMError(
                f"integrator = {integrator!r} is not known",
                f"there are {', '.join(map(repr, INTEGRATORS))}",
                'leave it out to use "sib"',
            )
        self.integrator = INTEGRATORS[integrator]
        self.pinned = pinned_sites(pinned, len(self.replicas[0]))
        self._single = isinstance(atoms, Atoms)
        self._state = SpinState(self.replicas, self._single)
        device = self._state.moments.device
        scale = potential_of(self.replicas[0]).force_scale
        self._applied = applied_field(field, tuple(self._state.moments.shape), device, scale)
        self._thermostat = Thermostat(self.gamma, self.timestep / self.integrator.stretches, noisy, seed, device)
        self._turning = ~torch.tensor(self.pinned, device=device)[:, None]
        self._take_parameters(0.0)
        self._outputs = SpinOutputs(self._state, self._turning, logfile, trajectory, self.model_units)
        self._parameters = {
            "integrator": integrator,
            "timestep": self.timestep,
            "damping": self._damping,
            "gamma": self.gamma,
            "kT": self._spin_energy,
            "seed": int(seed) if self._thermostat.active and seed is not None else None,
            "field": self._applied,
            "pinned": np.flatnonzero(self.pinned).tolist(),
            "species": self.replicas[0].numbers.tolist(),
            "number of replicas": None if self._single else len(self.replicas),
        }
        self._begin()

    @property
    def kT(self) -> NDArray[np.float64]:
        """Of the bath at the present time, eV, shape (replicas,)."""
        return self._spin_energy.at(self.time).copy()

    @property
    def temperature_K(self) -> NDArray[np.float64]:
        """Of the bath at the present time, K, shape (replicas,)."""
        return self.kT / units.KB

    @property
    def model_units(self) -> bool:
        """Whether times are in ħ/eV."""
        return self.gamma == 1.0

    @property
    def time_in_log(self) -> float:
        """Time in fs, or in ħ/eV in model units."""
        return self.time if self.model_units else super().time_in_log

    def _step(self) -> None:
        state, start = self._state, self.time

        def field_at(m: Tensor, fraction: float) -> Tensor:
            found = state.bound.evaluate(m, atomic=False).magnetic_forces
            return self._with_applied(found, start + fraction * self.timestep)

        field = self._with_applied(state.evaluation().magnetic_forces, start)
        if self._damping.varies or self._spin_energy.varies:
            self._take_parameters(start + self.timestep / 2)
        noise = drawn(self._thermostat.noise, state.length, self.integrator.stretches)
        equation = Equation(state.length, self._rate, self._alpha)
        moved = self.integrator.step(state.moments, field, field_at, noise, equation)
        state.advance(torch.where(self._turning, moved, state.moments) if self.pinned.any() else moved)
        self.nsteps += 1

    def _take_parameters(self, time: float) -> None:
        """Temperature and damping of that time."""
        self._alpha, kT = self._damping.at(time), self._spin_energy.at(time)
        self._thermostat.take(kT[0] if self._single else kT[:, None, None], self._alpha)
        self._rate = self.gamma * self.timestep / (1 + self._alpha**2) * self._turning.to(torch.float64)

    def _present(self) -> RestartState:
        return RestartState(
            self.nsteps,
            self._state.moments.cpu().numpy(),
            self._state.length.cpu().numpy(),
            self._state.evaluation().energy.cpu().numpy(),
            self._thermostat.state,
            self._parameters_at(self.nsteps),
        )

    def _take_over(self, found: Any) -> None:
        self._thermostat.state = found.generator
        self._state.set(self._state.bound.tensor(found.moments), self._state.bound.tensor(found.length))
