"""Coupled dynamics of the atoms and moments of ASE `Atoms`, in the shape of ASE's dynamics.

dx/dt = v,   M dv/dt = -∂E/∂x,   dm/dt = -γ/(1+α²) [m×B + (α/abs(m)) m×(m×B)],   B = -∂E/∂m + field + ζ,

with a Langevin bath on the atoms and another, ζ, on the moments. Without baths, energy and, where the energy does not
change when atoms and moments are rotated together, Σ x×p - Σ m/γ are conserved.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from ase import Atoms
from numpy.typing import ArrayLike
from torch import Tensor

from ase_klm import units
from ase_klm.dynamics.coupled import CoupledEquations, CoupledIntegrator
from ase_klm.dynamics.coupled_state import CoupledState
from ase_klm.dynamics.couplings import Couplings
from ase_klm.dynamics.langevin import Langevin
from ase_klm.dynamics.masses import checked_masses, fixed_atoms, inverse_masses, no_atomic_forces
from ase_klm.dynamics.outputs import SpinLatticeOutputs
from ase_klm.dynamics.parameters import OverTime, applied_field, checked_damping, thermal_energy_over_time
from ase_klm.dynamics.restart import SpinLatticeRestartState, lattices_in
from ase_klm.dynamics.run import Run
from ase_klm.dynamics.semi_implicit_b import SemiImplicitB
from ase_klm.dynamics.suzuki_trotter import SuzukiTrotter, checked_couplings
from ase_klm.dynamics.thermostat import Thermostat, check_bath, seeded
from ase_klm.dynamics.timestep import Turn, remedy, told
from ase_klm.dynamics.velocity_verlet import VelocityVerlet
from ase_klm.dynamics.vibrations import fastest_vibration
from ase_klm.errors import KLMError
from ase_klm.potentials.foreign import potential_of
from ase_klm.potentials.serialisation import written
from ase_klm.runs.inputs import checked_replicas, pinned_sites
from ase_klm.runs.lattice import keep_lattice, lattices_of
from ase_klm.runs.state import all_finite
from ase_klm.validate import checked_atoms, checked_number

SPIN_LATTICE_INTEGRATORS: dict[str, Callable[[], CoupledIntegrator]] = {
    "suzuki-trotter": SuzukiTrotter,
    "sib": lambda: VelocityVerlet(SemiImplicitB()),
}
"""Integrators by name."""

STABLE = 2.0
"""Velocity Verlet follows vibrations up to ω Δt = 2, and none beyond."""


class SpinLatticeDynamics(Run):
    """Evolve positions, velocities and moments of one structure.

    Parameters
    ----------
    atoms : Atoms
        With moments, velocities (``MaxwellBoltzmannDistribution``; else at rest) and a calculator that has forces and
        magnetic forces. Of ASE's constraints, `FixAtoms` is obeyed.
    timestep : float
        In ASE's unit of time: ``1.0 * ase.units.fs``.
    lattice_temperature_K : float or callable, optional
        Of the bath of the atoms, K, or a function of time. Default: none, so that friction only cools.
    lattice_friction : float or callable
        Friction of that bath, as in ASE's `Langevin`: in 1/(ASE's unit of time), e.g. ``0.01 / ase.units.fs``. Zero: no
        bath.
    spin_temperature_K : float or callable, optional
        Of the bath of the moments, K, or a function of time.
    damping : float or callable
        Gilbert damping α, the coupling to that bath, or a function of time. Zero: no bath.
    gamma : float
        γ, default g/ħ with g = 2 (`units.GAMMA`).
    integrator : str
        "suzuki-trotter" turns the spins one sublattice after the other, for energies bilinear in spins. "sib" takes the
        fields of all at once, with semi-implicit B, for any potential. "auto" takes the first where it can.
    seed : int, optional
        Of the thermal noise; needed when there is some.
    trajectory : str or Path, optional
        ``.traj`` or ``.extxyz``, with momenta, moments, energy, forces and magnetic forces.
    logfile : str, Path or file object, optional
        "-" is the standard output. A line: step, time (fs); potential energy with the applied field, kinetic and total
        energy (eV); temperature of the lattice (K); mean moment of the magnetic sites (μB); temperature of the spins
        (K; blank where the potential has no second derivatives).
    loginterval : int
        Steps between log lines and between frames.
    restart : str or Path, optional
        File that lets a killed run continue to the same bits, as in `LLGDynamics`.
    restart_interval : int
        Steps between two writings of it. Neighbour lists are found anew then, so that both runs have the same.
    field : array_like or callable, optional
        A further Zeeman field on the moments in eV/μB, shape (3,) or (N, 3), or a function of time that returns one.
    pinned : array_like, optional
        Sites whose moments do not move: boolean mask (N,), or indices.
    progress : bool
        Whether runs of more than two seconds show a progress bar, on a terminal only.

    Raises
    ------
    KLMError
        For bad input, before the first step.

    Notes
    -----
    Observers, and the script between two runs, may change positions, momenta and moments: they are taken over.

    Bonds by neighbour shells stay while atoms move. They are found on the lattice of the calculator, else on the
    structure at the start: then `atoms.calc` becomes a copy of the calculator with that lattice. The log says which
    one it is, and the restart file holds it.

    Functions of time, restart files and the check of the time step are as in `LLGDynamics`.
    """

    restart_kind = SpinLatticeRestartState
    _state: CoupledState

    def __init__(
        self,
        atoms: Atoms,
        timestep: float,
        lattice_temperature_K: float | Callable[[float], float] | None = None,
        lattice_friction: float | Callable[[float], float] = 0.0,
        spin_temperature_K: float | Callable[[float], float] | None = None,
        damping: float | Callable[[float], float] = 0.0,
        gamma: float = units.GAMMA,
        integrator: str = "auto",
        seed: int | None = None,
        trajectory: str | Path | None = None,
        logfile: str | Path | TextIO | None = None,
        loginterval: int = 1,
        restart: str | Path | None = None,
        restart_interval: int = 1000,
        field: Any = None,
        pinned: ArrayLike | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__(loginterval, restart, restart_interval, progress)
        self.atoms = checked_atoms(atoms)
        checked_replicas(atoms)
        self.timestep = checked_number(timestep, "timestep", "ASE's unit of time", above=0)
        self._damping = checked_damping(damping)
        self._friction = OverTime(
            lattice_friction, lambda eta: checked_number(eta, "lattice_friction", "1/(ASE's unit of time)", minimum=0)
        )
        self.gamma = checked_number(gamma, "gamma", "1/(eV/μB) per unit of time", above=0)
        self._lattice_energy = thermal_energy_over_time(lattice_temperature_K, "lattice_temperature_K")
        self._spin_energy = thermal_energy_over_time(spin_temperature_K, "spin_temperature_K")
        spins_noisy = check_bath(
            self._spin_energy, self._damping, "damping", "give damping > 0, or leave the temperature out"
        )
        lattice_noisy = check_bath(
            self._lattice_energy,
            self._friction,
            "friction",
            "give lattice_friction=0.01 / ase.units.fs, or leave the temperature out",
        )
        self.pinned = pinned_sites(pinned, len(atoms))
        self.fixed = fixed_atoms(atoms)
        masses = checked_masses(atoms, self.fixed)

        bonds = keep_lattice(atoms, lambda: lattices_in(self._restart))
        self._state = state = CoupledState(atoms, self.fixed)
        if state.evaluation().forces is None:
            raise no_atomic_forces(atoms)
        device = state.moments.device
        self.integrator = _chosen(integrator, state)
        scale = potential_of(atoms).force_scale
        self._applied = applied_field(field, tuple(state.moments.shape), device, scale)
        self._inverse_mass = torch.tensor(inverse_masses(masses, self.fixed), device=device)
        stretch = self.timestep / self.integrator.stretches
        self._thermostat = Thermostat(self.gamma, stretch, spins_noisy, seed, device)
        self._generator = self._thermostat.generator
        self._noisy = spins_noisy or lattice_noisy
        if lattice_noisy and not spins_noisy:
            seeded(self._generator, seed)
        self._bath = Langevin(self._inverse_mass, self.timestep, self._generator)
        self._turning = ~torch.tensor(self.pinned, device=device)[:, None]
        self._masses = masses
        self._equations = CoupledEquations(
            self.timestep,
            self._inverse_mass,
            not self.fixed.all(),
            self._turning_now,
            self.gamma,
            0.0,
            self._bath,
            self._thermostat.noise,
            self._applied.at,
        )
        self._take_parameters(0.0)
        self._outputs = SpinLatticeOutputs(state, self._turning, logfile, trajectory, self._inverse_mass, bonds)
        self._parameters = {
            "integrator": self.integrator.name,
            "timestep": self.timestep,
            "lattice_friction": self._friction,
            "damping": self._damping,
            "gamma": self.gamma,
            "lattice kT": self._lattice_energy,
            "spin kT": self._spin_energy,
            "seed": int(seed) if self._noisy and seed is not None else None,
            "field": self._applied,
            "pinned": np.flatnonzero(self.pinned).tolist(),
            "fixed atoms": np.flatnonzero(self.fixed).tolist(),
            "masses": masses.tolist(),
            "species": atoms.numbers.tolist(),
            "cell": atoms.cell.array.tolist(),
            "lattices": [written(lattice) for lattice in lattices_of(potential_of(atoms))],
            "restart_interval": self._restart_interval,
        }
        self._begin()

    @property
    def lattice_temperature_K(self) -> float:
        """Of the bath of the atoms at the present time, K."""
        return self._lattice_energy.at(self.time) / units.KB

    @property
    def lattice_friction(self) -> float:
        """Of that bath at the present time, 1/(ASE's unit of time)."""
        return self._friction.at(self.time)

    @property
    def spin_temperature_K(self) -> float:
        """Of the bath of the moments at the present time, K."""
        return self._spin_energy.at(self.time) / units.KB

    @property
    def positions(self) -> Tensor:
        """Present positions on the device, Å, shape (N, 3)."""
        return self._state.positions

    @property
    def velocities(self) -> Tensor:
        """Present velocities on the device, Å per ASE's unit of time, shape (N, 3)."""
        return self._state.velocities

    def _take_parameters(self, time: float) -> None:
        """Temperatures, friction and damping of that time."""
        alpha = self._damping.at(time)
        self._bath.take(self._lattice_energy.at(time), self._friction.at(time))
        self._thermostat.take(self._spin_energy.at(time), alpha)
        self._equations = replace(self._equations, gamma=self.gamma / (1 + alpha**2), damping=alpha)

    def _step(self) -> None:
        if any(found.varies for found in (self._damping, self._friction, self._lattice_energy, self._spin_energy)):
            self._take_parameters(self.time + self.timestep / 2)
        self.integrator.step(self._state, self.time, self._equations)
        self.nsteps += 1

    def _synchronise(self) -> None:
        if self._state.synchronise():
            self._take_sites()

    def _take_sites(self) -> None:
        """See which atoms have a moment now: one may have got it, or lost it."""
        self._equations = replace(self._equations, turning=self._turning_now)

    @property
    def _turning_now(self) -> Tensor:
        """Sites that turn, bool, shape (N, 1)."""
        return self._turning & self._state.bound.magnetic[:, None]

    def _turns(self, thorough: bool) -> list[Turn]:
        """As for spins alone; at the start with the fastest vibration, which may make the run impossible."""
        found = super()._turns(thorough)
        if thorough and not self._started:
            state = self._state
            vibration = fastest_vibration(state.bound, state.moments, state.positions, state.cell, self._inverse_mass)
            found.append(Turn("the fastest vibration of the atoms goes on", self.timestep * vibration, of_atoms=True))
            if found[-1].angle >= STABLE:
                raise KLMError(
                    f"the time step of {told(self.timestep, self.model_units)} is too long for these atoms",
                    f"in one step {found[-1].what} by {found[-1].angle:.2g} rad; from 2 rad on, atoms would fly apart",
                    remedy(self.timestep, found, self.model_units),
                )
        return found

    def _field(self, m: Tensor, time: float) -> Tensor:
        state = self._state
        found = state.bound.evaluate(m, state.positions, state.cell, atomic=False).magnetic_forces
        return self._with_applied(found, time)

    def _check_structure(self) -> None:
        if not np.array_equal(self.atoms.get_masses(), self._masses):
            what, keyword = "masses", "set_masses"
        elif not np.array_equal(fixed_atoms(self.atoms), self.fixed):
            what, keyword = "constraints", "set_constraint"
        else:
            return
        raise KLMError(
            f"the {what} of the atoms have changed since this run was made",
            "it goes on with those that they had",
            f"call atoms.{keyword}(...) first, and make a new run, which goes on from the present atoms",
        )

    def _check_finite(self) -> None:
        super()._check_finite()
        if not all_finite(self._state.positions, self._state.velocities):
            raise KLMError(
                f"positions or velocities are not finite at step {self.nsteps}",
                "the calculator has returned forces of NaN or infinity, or the time step is too long",
                "look at the last frame of the trajectory, and shorten the time step",
            )

    def _present(self) -> SpinLatticeRestartState:
        state = self._state
        state.bind_anew()
        return SpinLatticeRestartState(
            self.nsteps,
            state.moments.cpu().numpy(),
            state.length.cpu().numpy(),
            state.evaluation().energy.cpu().numpy(),
            self._generator.get_state().numpy() if self._noisy else np.zeros(0, dtype=np.uint8),
            self._parameters_at(self.nsteps),
            state.positions.cpu().numpy(),
            state.velocities.cpu().numpy(),
        )

    def _take_over(self, found: Any) -> None:
        state = self._state
        if self._noisy:
            self._generator.set_state(torch.tensor(found.generator))
        tensor = state.bound.tensor
        state.set(tensor(found.moments), tensor(found.length))
        state.place(tensor(found.positions))
        state.velocities = tensor(found.velocities)
        state.bind_anew()
        self._take_sites()


def _chosen(name: Any, state: CoupledState) -> CoupledIntegrator:
    if name == "auto":
        name = "sib" if Couplings.of(state.bound) is None else "suzuki-trotter"
    if not isinstance(name, str) or name not in SPIN_LATTICE_INTEGRATORS:
        raise KLMError(
            f"integrator = {name!r} is not known",
            f"there are {', '.join(map(repr, SPIN_LATTICE_INTEGRATORS))}",
            'leave it out, and a fitting one is taken ("auto")',
        )
    if name == "suzuki-trotter":
        checked_couplings(state.bound)
    return SPIN_LATTICE_INTEGRATORS[name]()
