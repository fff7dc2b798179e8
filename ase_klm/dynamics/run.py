"""What runs of spins alone and of spins with their lattice share: steps, observers, output, restart."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ase_klm import units
from ase_klm.dynamics import restart as restart_files
from ase_klm.dynamics.outputs import Outputs
from ase_klm.dynamics.parameters import OverTime
from ase_klm.dynamics.timestep import CHECK_ITERATIONS, LONG, Turn, largest_curvature, warn_of_timestep
from ase_klm.errors import KLMError
from ase_klm.files import check_apart
from ase_klm.runs.inputs import check_folder, checked_steps
from ase_klm.runs.observers import Observers
from ase_klm.runs.state import SpinState, all_finite
from ase_klm.vectors import directions, norm, transverse

THOROUGH_CHECKS = {64 * 4**n for n in range(16)}
"""Steps at which the time step is compared with the fastest magnon again: four evaluations each."""
WATCH_INTERVAL = 16
"""Steps between two looks at the field and the noise of a step, which may change in time."""
TIMES_KEPT = 17
"""Times from step 0 to that of a restart file at which it holds the values of functions of time."""


class Run(ABC):
    """A run in the shape of ASE's dynamics. A subclass sets the attributes below, and then calls `_begin`.

    Attributes
    ----------
    timestep : float
        In the unit of the run.
    gamma : float
        γ.
    _state, _applied, _outputs
        What moves, the further field, what is written.
    _turning : Tensor
        Sites that are not pinned, bool, shape (N, 1).
    _damping, _spin_energy : OverTime
        α, and the temperature of the bath of the moments, kT in eV.
    _parameters : dict
        What must be equal in a run that continues this one, JSON, or `OverTime`.
    """

    timestep: float
    gamma: float
    _state: SpinState
    _applied: OverTime[Tensor | None]
    _outputs: Outputs
    _turning: Tensor
    _damping: OverTime[float]
    _spin_energy: OverTime[Any]
    _parameters: dict[str, Any]
    restart_kind: type[restart_files.RestartState]

    def __init__(self, loginterval: int, restart: str | Path | None, restart_interval: int, progress: bool) -> None:
        self._ready = False
        self._loginterval = _checked_interval(loginterval, "loginterval")
        self._restart_interval = _checked_interval(restart_interval, "restart_interval")
        self._progress = progress
        if restart is not None:
            check_folder(restart, "restart")
        self._restart = None if restart is None else Path(restart).absolute()
        self.nsteps = 0
        self._observers = Observers()
        self._started = False
        self._behind = 0
        self._resumed: restart_files.RestartState | None = None
        self._recognised = False
        self._timestep_is_doubtful = False

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name != "nsteps" and getattr(self, "_ready", False):
            raise KLMError(
                f"{name} of a run that is made cannot be set",
                "its parameters are fixed, and restart files hold them",
                "make a new run, which goes on from the present atoms; what shall change in time (temperature, field, "
                "damping, friction) is given as a function of time, e.g. temperature_K=lambda t: 300 + 0.1 * t",
            )
        super().__setattr__(name, value)

    # What a script asks for -------------------------------------------------------------------------------------

    def run(self, steps: int) -> bool:
        """Make `steps` steps (with `restart`: including those that the restart file has behind it).

        Returns
        -------
        bool
            True, as ASE's dynamics does.
        """
        for _ in self._advance(steps, show=self._progress):
            pass
        return True

    def irun(self, steps: int) -> Iterator[int]:
        """As `run`, but a generator: yields the number of the step, at the start and after each step."""
        for step in self._advance(steps, show=False):
            self._state.show()
            yield step
            self._synchronise()

    def attach(self, function: Any, interval: int = 1, *args: Any, **kwargs: Any) -> None:
        """Call a function during the run.

        Parameters
        ----------
        function : callable or object with a ``write`` method
            Called as ``function(*args, **kwargs)`` with the atoms up to date.
        interval : int
            Positive: every so many steps, step 0 included. Negative: once, at that step.
        """
        self._observers.attach(function, interval, *args, **kwargs)

    @property
    def time(self) -> float:
        """Time since step 0, in the unit of the time step."""
        return self.nsteps * self.timestep

    @property
    def time_in_log(self) -> float:
        """Time in fs."""
        return self.time / units.FS

    @property
    def damping(self) -> float:
        """Gilbert damping at the present time."""
        return self._damping.at(self.time)

    @property
    def moments(self) -> Tensor:
        """Present moments on the device, μB, shape (..., N, 3)."""
        return self._state.moments

    def get_number_of_steps(self) -> int:
        return self.nsteps

    def get_time(self) -> float:
        return self.time

    @property
    def model_units(self) -> bool:
        """Whether times are in ħ/eV."""
        return False

    def close(self) -> None:
        """Close log and trajectories; a later run opens them again and goes on with them."""
        self._outputs.close()
        self._started = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # What a subclass does its own way ---------------------------------------------------------------------------

    def _synchronise(self) -> None:
        """Take over what was changed on the atoms."""
        self._state.synchronise()

    @abstractmethod
    def _step(self) -> None:
        """One step; counts it."""

    def _check_timestep(self) -> None:
        """Warn of a step that is too long or too short, at the start."""
        self._timestep_is_doubtful = warn_of_timestep(self.timestep, self._turns(thorough=True), self.model_units)

    def _check_structure(self) -> None:  # noqa: B027, most runs follow every change
        """Refuse changes of the atoms that the run cannot follow."""

    @abstractmethod
    def _present(self) -> restart_files.RestartState:
        """What a restart file is to hold."""

    @abstractmethod
    def _take_over(self, found: Any) -> None:
        """Go on from the state of a restart file."""

    # The run ----------------------------------------------------------------------------------------------------

    def _advance(self, steps: int, show: bool) -> Iterator[int]:
        steps = checked_steps(steps)
        passed_over = min(steps, self._behind)
        self._behind -= passed_over
        remaining = steps - passed_over
        if passed_over:
            self._state.show()
        if remaining == 0 and passed_over:
            if self._behind == 0 and self._resumed is not None:  # before the script changes what comes next
                self._synchronise()
                self._check_energy(self._resumed)
                self._recognised = True
            yield self.nsteps
            return
        self._synchronise()
        self._check_structure()
        if not self._started:
            self._start()
        yield self.nsteps
        try:
            with tqdm(total=remaining, disable=None if show else True, delay=2, unit="step", leave=False) as bar:
                for _ in range(remaining):
                    self._step()
                    self._report()
                    bar.update()
                    yield self.nsteps
            if self._restart is not None and self.nsteps:
                self._save()
        finally:
            self._state.show()

    def _start(self) -> None:
        """Before the first step: check what is continued, open files, report step 0."""
        if self._resumed is None:
            self._check_timestep()
        elif not self._recognised:
            self._check_energy(self._resumed)
        self._resumed = None
        self._started = True
        self._outputs.open(self.nsteps or None)
        if self.nsteps == 0:
            self._report()

    def _report(self) -> None:
        """Log, trajectory, observers, and last the restart file, so that it never runs ahead of the others."""
        step = self.nsteps
        regular = step % self._loginterval == 0
        due = self._observers.due(step)
        if (regular and self._outputs.wanted) or due:
            self._check_finite()
        if (regular and self._outputs.has_trajectory) or due:
            self._state.show()
        if (regular and self._outputs.wanted) or step % WATCH_INTERVAL == 0:
            self._watch_timestep(thorough=step in THOROUGH_CHECKS)
        if regular:
            self._outputs.write_log(step, self.time_in_log, self._applied.at(self.time))
            self._outputs.write_frames(step, self.time_in_log)
        for call in due:
            call()
        if due:
            self._synchronise()
        if self._restart is not None and step and step % self._restart_interval == 0:
            self._save()

    def _with_applied(self, field: Tensor, time: float) -> Tensor:
        applied = self._applied.at(time)
        return field if applied is None else field + applied

    # The time step ----------------------------------------------------------------------------------------------

    def _watch_timestep(self, thorough: bool) -> None:
        """Look again while the run goes on, until there has been a warning."""
        if not self._timestep_is_doubtful:
            turns = self._turns(thorough)
            if any(turn.angle > LONG for turn in turns):
                self._timestep_is_doubtful = warn_of_timestep(self.timestep, turns, self.model_units)

    def _turns(self, thorough: bool) -> list[Turn]:
        """What one step turns: a spin in the field at this moment, in its noise, and, when `thorough`, a magnon."""
        state, time, damping = self._state, self.time, self._damping.at(self.time)
        m, present = state.moments, self._with_applied(state.evaluation().magnetic_forces, time)
        turning = self._turning & state.bound.magnetic[:, None]
        if not bool(turning.any()):
            return []
        rate = self.gamma * self.timestep / (1 + damping**2) ** 0.5
        across = norm(transverse(present, directions(m)))
        applied = self._applied.at(time)
        if applied is not None:  # spins that lie along it by now precess about it when they are disturbed
            across = torch.maximum(across, norm(applied).expand_as(across))
        across = torch.where(turning, across, 0.0)
        shortest = float(torch.where(turning, state.length, torch.inf).min())
        kT = float(np.max(self._spin_energy.at(time)))
        diffusion = 2 * damping * self.gamma * kT * self.timestep / shortest / (1 + damping**2)
        found = [
            Turn("the field turns a spin", rate * float(across.max())),
            Turn("thermal noise turns a spin", diffusion**0.5, power=0.5),
        ]
        if thorough:
            curvature = largest_curvature(lambda m: self._field(m, time), m, turning, CHECK_ITERATIONS)
            found.append(Turn("the fastest magnon turns a spin", rate * curvature))
        return found

    def _field(self, m: Tensor, time: float) -> Tensor:
        """B without noise of other moments at the present positions."""
        return self._with_applied(self._state.bound.evaluate(m, atomic=False).magnetic_forces, time)

    # Checks and restart -----------------------------------------------------------------------------------------

    def _check_finite(self) -> None:
        if not all_finite(self._state.evaluation().energy, self._state.moments):
            raise KLMError(
                f"energy or moments are not finite at step {self.nsteps}",
                "the calculator has returned NaN or infinity",
                "look at the calculator's results for the last frame of the trajectory",
            )

    def _parameters_at(self, step: int) -> dict[str, Any]:
        """What must be equal in a run that goes on from a step; functions of time by their values up to there."""
        times = np.linspace(0, step * self.timestep, TIMES_KEPT).tolist()
        return {
            name: value.description(times) if isinstance(value, OverTime) else value
            for name, value in self._parameters.items()
        }

    def _save(self) -> None:
        if self._restart is None:
            return
        self._check_finite()
        restart_files.save(self._restart, self._present())

    def _begin(self) -> None:
        """Check the outputs, go on from the restart file if there is one, and take no more parameters."""
        check_apart(self._outputs.named | {"restart": self._restart})
        self._resume_if_wanted()
        self._ready = True

    def _resume_if_wanted(self) -> None:
        if self._restart is None or not self._restart.exists():
            return
        state = restart_files.load(self._restart, self._parameters_at, self.restart_kind)
        if state.moments.shape != tuple(self._state.moments.shape):
            raise KLMError(
                f"{self._restart} belongs to another structure",
                f"its moments have shape {state.moments.shape}, here {tuple(self._state.moments.shape)}",
                "give another restart file",
            )
        try:
            self._take_over(state)
        except (RuntimeError, TypeError) as error:
            raise KLMError(
                f"the random state of {self._restart} does not fit this device",
                str(error),
                "continue on the device it began on",
            ) from None
        self._resumed, self.nsteps, self._behind = state, state.step, state.step
        self._state.show()

    def _check_energy(self, state: restart_files.RestartState) -> None:
        """The Hamiltonian must still be that of the run that is continued."""
        evaluation = self._state.evaluation()
        there = torch.tensor(state.energy, device=self._state.moments.device)
        scale = there.abs() + (norm(self._state.moments) * norm(evaluation.magnetic_forces)).sum(dim=(-2, -1))
        if bool(((evaluation.energy - there).abs() > 1e-5 * scale).any()):
            raise KLMError(
                f"{self._restart} belongs to a run with another Hamiltonian",
                f"there the energy at step {state.step} was {state.energy.tolist()} eV, "
                f"here it is {evaluation.energy.tolist()} eV",
                "give the calculator and field of that run, or another restart file",
            )


def _checked_interval(interval: Any, name: str) -> int:
    if isinstance(interval, bool) or not isinstance(interval, int | np.integer) or interval < 1:
        raise KLMError(f"{name} = {interval!r} is no number of steps", "it must be an integer >= 1", f"give {name}=10")
    return int(interval)
