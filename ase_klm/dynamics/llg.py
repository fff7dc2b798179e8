"""Landau-Lifshitz-Gilbert dynamics of the moments of ASE `Atoms`, in the shape of ASE's dynamics.

dm/dt = -γ/(1+α²) [m×B + (α/abs(m)) m×(m×B)],   B = F + field + ζ,   F = -∂E/∂m,
<ζ_a ζ_b> = 2 α kT/(γ abs(m) Δt) δ_ab

The state stays on the device as one tensor, replicas along its first axis. Atoms are brought up to date when an
observer is due, at each step of `irun`, and at the end of `run`.
"""

from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from ase import Atoms
from numpy.typing import ArrayLike
from torch import Tensor

from ase_klm import units
from ase_klm.dynamics.equation import Equation, Integrator
from ase_klm.dynamics.heun import Heun
from ase_klm.dynamics.outputs import SpinOutputs
from ase_klm.dynamics.parameters import AppliedField, thermal_energies
from ase_klm.dynamics.restart import RestartState
from ase_klm.dynamics.run import Run
from ase_klm.dynamics.semi_implicit_b import SemiImplicitB
from ase_klm.dynamics.thermostat import Thermostat
from ase_klm.errors import KLMError, warn
from ase_klm.plausibility import tell
from ase_klm.potentials.foreign import potential_of
from ase_klm.runs.inputs import checked_replicas, pinned_sites
from ase_klm.runs.state import SpinState
from ase_klm.validate import checked_number
from ase_klm.vectors import directions, norm, transverse

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
    damping : float
        Gilbert damping α.
    temperature_K, kT : float or sequence, optional
        Temperature of the bath in K, or in eV; one number, or one a replica. Default: no noise.
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
    """

    restart_kind = RestartState

    def __init__(
        self,
        atoms: Atoms | list[Atoms],
        timestep: float,
        damping: float = 0.1,
        temperature_K: ArrayLike | None = None,
        kT: ArrayLike | None = None,
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
        self.damping = checked_number(damping, "damping", minimum=0)
        self.gamma = checked_number(gamma, "gamma", "1/(eV/μB) per unit of time", above=0)
        self.kT = thermal_energies(temperature_K, kT, len(self.replicas))
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
        self._applied = AppliedField(field, tuple(self._state.moments.shape), device)
        tell(self._applied.doubts(potential_of(self.replicas[0]).force_scale))
        bath = torch.tensor(self.kT, device=device)
        self._thermostat = Thermostat(
            bath[0] if self._single else bath[:, None, None], self.damping, self.gamma, self.timestep, seed
        )
        self._mobile = ~torch.tensor(self.pinned, device=device)[:, None]
        self._rate = self.gamma * self.timestep / (1 + self.damping**2) * self._mobile.to(torch.float64)
        self._outputs = SpinOutputs(self._state, self._mobile, logfile, trajectory, self.model_units)
        self._parameters = {
            "integrator": integrator,
            "timestep": self.timestep,
            "damping": self.damping,
            "gamma": self.gamma,
            "kT": self.kT.tolist(),
            "seed": int(seed) if self._thermostat.active and seed is not None else None,
            "field": self._applied.description,
            "pinned": np.flatnonzero(self.pinned).tolist(),
            "species": self.replicas[0].numbers.tolist(),
            "number of replicas": None if self._single else len(self.replicas),
        }
        self._resume_if_wanted()

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
        noise = self._thermostat.noise(state.length)
        equation = Equation(state.length, self._rate, self.damping)
        moved = self.integrator.step(state.moments, field, field_at, noise, equation)
        state.advance(torch.where(self._mobile, moved, state.moments) if self.pinned.any() else moved)
        self.nsteps += 1

    def _check_timestep(self) -> None:
        field = transverse(
            self._with_applied(self._state.evaluation().magnetic_forces, 0.0), directions(self._state.moments)
        )
        precession = float((self._rate * norm(field)).max())
        shortest = float(self._state.length[..., self._state.bound.magnetic, :].min())
        diffusion = 2 * self.damping * self.gamma * float(self.kT.max()) * self.timestep / shortest
        thermal = (diffusion / (1 + self.damping**2)) ** 0.5
        if max(precession, thermal) > 1.0:
            cause = "the field" if precession > thermal else "thermal noise"
            warn(
                f"the time step {self.timestep:.4g} is long",
                f"in one step {cause} turns a spin by {max(precession, thermal):.2g} rad",
                "use a shorter one; suggest_timestep(atoms, ...) gives a value",
            )

    def _present(self) -> RestartState:
        return RestartState(
            self.nsteps,
            self._state.moments.cpu().numpy(),
            self._state.length.cpu().numpy(),
            self._state.evaluation().energy.cpu().numpy(),
            self._thermostat.state,
            self._parameters,
        )

    def _take_over(self, found: Any) -> None:
        self._thermostat.state = found.generator
        self._state.set(self._state.bound.tensor(found.moments), self._state.bound.tensor(found.length))
