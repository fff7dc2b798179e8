"""Relaxation of spin directions at fixed lengths, in the shape of an ASE optimizer.

L-BFGS on rotations (see `lbfgs`) without line search as long as no step overshoots: a step is taken when the energy
does not rise, nor its slope along the step becomes steeper uphill than it was downhill. Otherwise the step is
shortened by the secant; where the memory of L-BFGS misleads, a damped-torque step, along m × (m × F), begins anew.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import localtime, strftime
from typing import Any, TextIO

import numpy as np
import torch
from ase import Atoms
from numpy.typing import ArrayLike
from torch import Tensor

from ase_klm import textures
from ase_klm.data.frames import FrameWriter
from ase_klm.errors import KLMError, warn
from ase_klm.files import check_apart, writing
from ase_klm.moments import directions, get_moments
from ase_klm.relaxation.lbfgs import RotationLBFGS, largest
from ase_klm.runs.inputs import checked_logfile, checked_replicas, checked_steps, open_log, pinned_sites
from ase_klm.runs.observers import Observers
from ase_klm.runs.state import SpinState
from ase_klm.validate import checked_number
from ase_klm.vectors import rotate

DAMPED_TORQUE_ROTATION = 0.05
"""Largest rotation of a spin in the first damped-torque step, rad; it doubles from one to the next."""

TRIALS = 12
"""Force calls after which a step that cannot be made ends the run."""


ENERGY_NOISE = 1e-7
"""Relative accuracy that energies are trusted to; single-precision potentials have no better."""


class SpinMinimizer:
    """Turn the moments of `atoms` into the nearest minimum of their calculator's energy.

    Parameters
    ----------
    atoms : Atoms
        With moments and a calculator that has magnetic forces. The moments are changed in place.
    trajectory : str or Path, optional
        ``.traj`` or ``.extxyz``; a frame a step.
    logfile : str, Path or file, optional
        "-" for the terminal. A line: step, time of day, energy (eV), largest torque (eV).
    memory : int
        Steps that L-BFGS remembers.
    max_rotation : float
        Largest rotation of a spin in one step, rad.
    pinned : array_like, optional
        Sites that do not turn: boolean mask (N,), or indices.
    nudge : float, optional
        Disturb a collinear start by this noise (see `textures.add_noise`), so that it can leave a saddle.
    seed : int, optional
        For `nudge`.

    Attributes
    ----------
    nsteps, force_calls : int
        Steps taken and evaluations of the calculator.
    """

    def __init__(
        self,
        atoms: Atoms,
        trajectory: str | Path | None = None,
        logfile: str | Path | TextIO | None = None,
        memory: int = 20,
        max_rotation: float = 0.5,
        pinned: ArrayLike | None = None,
        nudge: float | None = None,
        seed: int | None = None,
    ) -> None:
        if isinstance(memory, bool) or not isinstance(memory, int) or memory < 1:
            raise KLMError(f"memory = {memory!r} cannot be used", "it is a positive number of steps", "leave it at 20")
        checked_number(max_rotation, "max_rotation", "rad", above=0)
        if nudge is not None:
            checked_number(nudge, "nudge", above=0)
        checked_logfile(logfile)
        checked_replicas([atoms])
        fixed = pinned_sites(pinned, len(atoms))
        self.atoms = atoms
        self._nudge, self._seed = nudge, seed
        self._state = SpinState([atoms], single=True)
        self._mobile = ~self._state.bound.tensor(fixed)[:, None]
        self._memory = RotationLBFGS(memory)
        self._max_rotation = max_rotation
        self._damped_torque_rotation = DAMPED_TORQUE_ROTATION
        self._gradient: Tensor | None = None
        self.nsteps = self.force_calls = 0
        self._observers = Observers()
        check_apart({"trajectory": trajectory, "logfile": logfile})
        self._writer = None if trajectory is None else FrameWriter(trajectory)
        self._log: TextIO | None = None
        self._owns_log = False
        if logfile is not None:
            self._log, self._owns_log = open_log(logfile, "w")

    def run(self, fmax: float = 1e-6, steps: int = 100_000) -> bool:
        """Relax until no torque abs(m × F) exceeds `fmax` (eV); returns whether that was reached in `steps` steps."""
        converged = False
        for converged in self.irun(fmax, steps):  # noqa: B007, the last one is returned
            pass
        return converged

    def irun(self, fmax: float = 1e-6, steps: int = 100_000) -> Iterator[bool]:
        """As `run`, but a generator: yields whether it has converged, at the start and after each step."""
        checked_number(fmax, "fmax", "eV", above=0)
        last = self.nsteps + checked_steps(steps)
        self._begin(fmax)
        while True:
            self._report()
            yield self.torque < fmax
            self._synchronise()
            if self.torque < fmax or self.nsteps >= last or not self._step():
                return

    @property
    def torque(self) -> float:
        """Largest abs(m × F), eV."""
        return largest(self._found_gradient())

    @property
    def energy(self) -> float:
        """EV."""
        return float(self._state.evaluation().energy)

    def attach(self, function: Any, interval: int = 1, *args: Any, **kwargs: Any) -> None:
        """Call ``function(*args, **kwargs)`` every `interval` steps (negative: at that step), atoms up to date."""
        self._observers.attach(function, interval, *args, **kwargs)

    def get_number_of_steps(self) -> int:
        return self.nsteps

    def close(self) -> None:
        """Close log and trajectory."""
        log, writer, self._log, self._writer = self._log, self._writer, None, None
        with ExitStack() as closing:  # both of them, even when one complains
            if log is not None and self._owns_log:
                closing.enter_context(writing(log))
                closing.callback(log.close)
            if writer is not None:
                closing.callback(writer.close)

    def __enter__(self) -> "SpinMinimizer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _begin(self, fmax: float) -> None:
        """Take moments changed since the last run, and look for a start that symmetry keeps from moving."""
        self._synchronise()
        if self.torque >= fmax or not _collinear(get_moments(self.atoms)):
            return
        if self._nudge is None:
            warn(
                "all moments are collinear, and no torque acts on them",
                "by symmetry such a state is stationary whether it is a minimum or a saddle",
                "start from a disturbed state: SpinMinimizer(atoms, nudge=0.01, seed=1)",
            )
            return
        textures.add_noise(self.atoms, self._nudge, seed=self._seed)
        self._synchronise()

    def _synchronise(self) -> None:
        """Begin anew where the atoms or their calculator were changed."""
        if self._state.synchronise():
            self._forget()

    def _forget(self) -> None:
        self._gradient = None
        self._forget_steps()

    def _forget_steps(self) -> None:
        self._memory.forget()
        self._damped_torque_rotation = DAMPED_TORQUE_ROTATION

    def _found_gradient(self) -> Tensor:
        """∂E/∂a = -m × F of the present moments."""
        if self._gradient is None:
            evaluation = self._state.evaluation()
            self.force_calls += 1
            torque = torch.linalg.cross(self._state.moments, evaluation.magnetic_forces)
            self._gradient = torch.where(self._mobile, -torque, 0.0)
            if not torch.isfinite(self._gradient).all():
                raise KLMError(
                    f"the magnetic forces are not finite after {self.force_calls} evaluations",
                    "the calculator has returned NaN or infinity",
                    "look at its results for the last frame of the trajectory",
                )
        return self._gradient

    def _step(self) -> bool:
        """Turn the moments once; False when no step can be made any more."""
        gradient, energy, moments = self._found_gradient(), self.energy, self._state.moments
        step = self._proposed(gradient)
        for trial in range(TRIALS):
            slope = (gradient * step).sum()
            self._state.advance(rotate(moments, step))
            self._gradient = None
            slope_there = (self._found_gradient() * step).sum()
            if slope_there <= -slope and self.energy - energy <= ENERGY_NOISE * abs(energy) - 0.1 * float(slope):
                self._memory.learn(step, self._found_gradient() - gradient)
                self.nsteps += 1
                return True
            step = step * float((slope / (slope - slope_there)).clamp(0.1, 0.5))
            if trial == 1 and self._memory:
                self._forget_steps()
                step = self._proposed(gradient)
        self._state.advance(moments)
        self._gradient = gradient
        warn(
            f"no step lowers the energy any more at a torque of {self.torque:.1e} eV",
            "the magnetic forces are not the gradient of the energy to that accuracy",
            "accept this state with a larger fmax, or use float64 and a smooth occupation (temperature > 0)",
        )
        return False

    def _proposed(self, gradient: Tensor) -> Tensor:
        """Rotation vectors by L-BFGS, or of a damped-torque step."""
        direction = self._memory.direction(gradient)
        if not self._memory or (direction * gradient).sum() >= 0:
            self._memory.forget()
            bound = min(self._damped_torque_rotation, self._max_rotation)
            self._damped_torque_rotation *= 2
            return -gradient * (bound / largest(gradient))
        self._damped_torque_rotation = DAMPED_TORQUE_ROTATION
        return direction * min(1.0, self._max_rotation / largest(direction))

    def _report(self) -> None:
        if self._log is not None:
            clock = strftime("%H:%M:%S", localtime())
            with writing(self._log):
                if self.nsteps == 0:
                    self._log.write(f"{'':15s} Step     Time          Energy/eV      torque/eV\n")
                self._log.write(f"SpinMinimizer: {self.nsteps:5d} {clock} {self.energy:18.8f} {self.torque:14.4e}\n")
                self._log.flush()
        self._state.evaluation()
        self._state.show()
        if self._writer is not None:
            forces = self._state.array(self._state.evaluation().magnetic_forces, 0)
            self._writer.write(self.atoms, energy=self.energy, magnetic_forces=forces, step=self.nsteps)
        due = self._observers.due(self.nsteps)
        for call in due:
            call()
        if due:
            self._synchronise()


def _collinear(moments: np.ndarray) -> bool:
    e = directions(moments)
    first = e[np.argmax(np.abs(e).sum(axis=1))]
    return bool(np.abs(np.cross(e, first)).max() < 1e-6)
