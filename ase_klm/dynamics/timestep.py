"""A time step for spin dynamics from the fastest precession and the thermal turn of one step, and its check."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ase_klm import units
from ase_klm.dynamics.parameters import applied_field, thermal_energies
from ase_klm.dynamics.vibrations import vibration_of
from ase_klm.errors import KLMError, warn
from ase_klm.potentials.foreign import potential_of
from ase_klm.runs.inputs import checked_replicas, pinned_sites
from ase_klm.runs.state import SpinState
from ase_klm.validate import checked_number
from ase_klm.vectors import directions, dot, norm, transverse

POWER_ITERATIONS = 10
"""Of `suggest_timestep`; from below, by 5 % typically."""
CHECK_ITERATIONS = 4
"""Of the check of a run; 10 % typically."""
DISPLACEMENT = 1e-3
"""Largest displacement of a moment in units of its length, in differences of the field."""

LONG, GOOD = 0.7, 0.3
"""Turns in one step, rad, from which on a step is long, and which fit. At 0.43 and 0.85 rad the spins of bcc iron at
700 K are 1 and 2 % too hot with semi-implicit B, 6 and 8 % too cold with Heun's method (`benchmarks/thermostat.py`)."""
NOTHING = 1e-8
"""Turns in one step, rad, below which a run never gets anywhere."""


def suggest_timestep(
    atoms: Any,
    damping: float = 0.1,
    temperature_K: ArrayLike | None = None,
    kT: ArrayLike | None = None,
    gamma: float = units.GAMMA,
    angle: float = 0.1,
    *,
    field: ArrayLike | None = None,
    pinned: ArrayLike | None = None,
    moving_atoms: bool = False,
) -> float:
    """Time step in which no spin turns by more than `angle`, neither by precession nor by thermal noise.

    The fastest precession at the present moments is γ times the larger of two: the largest field across a spin, and
    the largest eigenvalue in magnitude of abs(m_i)^½ C_ij abs(m_j)^½, where C = P E'' P + δ_ij (e·F/abs(m)) P is the
    transverse Hessian. It is found by ten power iterations (one field evaluation each). The noise turns a spin by
    sqrt(2 α γ kT Δt/((1+α²) abs(m))) (rms per component).

    Parameters
    ----------
    atoms : Atoms or list of Atoms
        With moments and a calculator; of replicas the first is looked at.
    damping, temperature_K, kT, gamma
        As in `LLGDynamics`, the largest where they change in time.
    angle : float
        rad. With 0.1 the energy of undamped dynamics is conserved to about 1e-4 of its thermal part a picosecond. Runs
        warn of steps in which a spin turns by 0.7, and then suggest 0.3.
    field, pinned
        As in `LLGDynamics`, of one structure; the largest field where it changes in time.
    moving_atoms : bool
        For `SpinLatticeDynamics`: the fastest vibration goes on by no more than `angle`, either.

    Returns
    -------
    float
        In ASE's unit of time (divide by `units.FS` for fs), or in ħ/eV with ``gamma=1.0``; infinite when nothing turns.
    """
    replicas = checked_replicas(atoms)
    for name, given in (("damping", damping), ("temperature_K", temperature_K), ("kT", kT), ("field", field)):
        if callable(given):
            raise KLMError(
                f"{name} is a function of time",
                "one time step is suggested for one value",
                "give the largest value that it has in the run",
            )
    alpha = checked_number(damping, "damping", minimum=0)
    thermal = float(thermal_energies(temperature_K, kT, len(replicas)).max())
    gyromagnetic_ratio = checked_number(gamma, "gamma", "1/(eV/μB) per unit of time", above=0)
    largest = checked_number(angle, "angle", "rad", above=0)
    bound = SpinState(replicas[:1], single=True).bound
    m, scale = bound.moments, potential_of(replicas[0]).force_scale
    applied = applied_field(field, tuple(m.shape), m.device, scale).at(0.0)
    turning = bound.magnetic[:, None] & ~bound.tensor(pinned_sites(pinned, bound.n_atoms))[:, None]

    def field_at(m: Tensor) -> Tensor:
        found = bound.evaluate(m, atomic=False).magnetic_forces
        return found if applied is None else found + applied

    steps = [float("inf")]
    if bool(turning.any()):
        across = torch.where(turning, norm(transverse(field_at(m), directions(m))), 0.0)
        fastest = max(float(across.max()), largest_curvature(field_at, m, turning))
        frequency = gyromagnetic_ratio * fastest / (1 + alpha**2) ** 0.5
        shortest = float(norm(m)[turning].min())
        diffusion = 2 * alpha * gyromagnetic_ratio * thermal / shortest / (1 + alpha**2)
        with np.errstate(divide="ignore"):
            steps += [float(np.divide(largest, frequency)), float(np.divide(largest**2, diffusion))]
    if moving_atoms:
        vibration = vibration_of(replicas[0], bound)
        steps.append(largest / vibration if vibration else float("inf"))
    return min(steps)


def largest_curvature(
    field: Callable[[Tensor], Tensor],
    m: Tensor,
    turning: Tensor | None = None,
    iterations: int = POWER_ITERATIONS,
) -> float:
    """Largest abs(eigenvalue) of abs(m)^½ C abs(m)^½, eV/μB, by power iteration on differences of the field.

    Parameters
    ----------
    field : callable
        Moments (..., N, 3) → B without noise, eV/μB: one evaluation an iteration, and one more.
    m : Tensor
        Present moments.
    turning : Tensor, optional
        Sites that turn, bool, shape (N, 1).
    """
    e, length = directions(m), norm(m)
    root = length.sqrt()
    present = field(m)
    along = torch.where(length > 0, dot(e, present) / length.clamp_min(1e-300), 0.0)
    free = length > 0 if turning is None else turning & (length > 0)
    present = transverse(present, e)
    generator = torch.Generator(device=m.device).manual_seed(0)
    start = torch.randn(m.shape, generator=generator, dtype=m.dtype, device=m.device)
    v = torch.where(free, transverse(start, e), 0.0)
    growth = 0.0
    for _ in range(iterations):
        size = torch.linalg.vector_norm(v, dim=(-2, -1), keepdim=True)  # of each replica
        across = root * v / size.clamp_min(1e-300)
        tilt = (norm(across) / length.clamp_min(1e-300)).amax(dim=(-2, -1), keepdim=True)
        step = DISPLACEMENT / tilt.clamp_min(1e-300)
        there = field(length * directions(m + step * across))
        v = root * ((present - transverse(there, e)) / step + along * across)
        v = torch.where(free & (tilt > 0), v, 0.0)
        growth = float(torch.linalg.vector_norm(v, dim=(-2, -1)).max())
        if growth == 0:
            break
    return growth


@dataclass(frozen=True)
class Turn:
    """What one step turns.

    Attributes
    ----------
    what : str
        "thermal noise turns a spin", say.
    angle : float
        rad; grows as Δt**power.
    of_atoms : bool
        Whether it is the atoms that move.
    """

    what: str
    angle: float
    power: float = 1.0
    of_atoms: bool = False

    def fitting(self, timestep: float) -> float:
        """The time step that turns by `GOOD`; infinite where nothing turns."""
        return float("inf") if self.angle == 0 else timestep * (GOOD / self.angle) ** (1 / self.power)

    @property
    def pace(self) -> float:
        """An angle that grows as Δt."""
        return self.angle ** (1 / self.power)


def warn_of_timestep(timestep: float, turns: Sequence[Turn], model_units: bool) -> bool:
    """Warn of a step that is too long or too short for what turns in it, with one that fits; and tell whether."""
    long = [turn for turn in turns if turn.angle > LONG]
    fastest = max((turn.pace for turn in turns), default=0.0)
    if long:
        causes = " and ".join(f"{turn.what} by {turn.angle:.2g} rad" for turn in long)
        warn(
            f"the time step of {told(timestep, model_units)} is long",
            f"in one step {causes}",
            remedy(timestep, turns, model_units),
        )
    elif 0 < fastest < NOTHING:
        warn(
            f"the time step of {told(timestep, model_units)} is very short",
            f"a turn by one radian takes {1 / fastest:.1g} steps",
            remedy(timestep, turns, model_units),
        )
    return bool(long) or 0 < fastest < NOTHING


def told(timestep: float, model_units: bool) -> str:
    """A time step with its unit."""
    if model_units:
        return f"{timestep:.4g} ħ/eV"
    return f"{timestep / units.FS:.4g} fs ({timestep:.4g} in ASE's unit of time)"


def remedy(timestep: float, turns: Sequence[Turn], model_units: bool) -> str:
    """What to give instead, and what was probably meant."""
    fits = min(turn.fitting(timestep) for turn in turns)

    def written(step: float) -> str:
        value = float(f"{step if model_units else step / units.FS:.1e}")
        return f"timestep={value:g}" + (" (ħ/eV)" if model_units else " * ase.units.fs")

    options = "moving_atoms=True, ..." if any(turn.of_atoms for turn in turns) else "..."
    found = f"use {written(fits)} or less; suggest_timestep(atoms, {options}) gives a value"
    round_number = float(f"{timestep:.2g}") == timestep  # as people type it
    femtosecond = units.FS / units.HBAR if model_units else units.FS
    for meant, unit in ((timestep * 1e15 * femtosecond, "seconds"), (timestep * femtosecond, "femtoseconds")):
        if round_number and 0.01 * fits < meant < 3 * fits:
            return f"if {timestep:g} {unit} were meant, give {written(meant)}; else {found}"
    return found
