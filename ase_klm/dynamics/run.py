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
from ase_klm.dynamics.parameters import AppliedField
from ase_klm.errors import KLMError
from ase_klm.runs.inputs import check_folder, checked_steps
from ase_klm.runs.observers import Observers
from ase_klm.runs.state import SpinState, all_finite
from ase_klm.vectors import norm


class Run(ABC):
    """A run in the shape of ASE's dynamics. A subclass sets the attributes below, and then calls `_resume_if_wanted`.

    Attributes
    ----------
    timestep : float
        In the unit of the run.
    _state, _applied, _outputs
        What moves, the further field, what is written.
    _parameters : dict
        What must be equal in a run that continues this one; JSON.
    """

    timestep: float
    _state: SpinState
    _applied: AppliedField
    _outputs: Outputs
    _parameters: dict[str, Any]
    restart_kind: type[restart_files.RestartState]

    def __init__(self, loginterval: int, restart: str | Path | None, restart_interval: int, progress: bool) -> None:
        self._loginterval = _checked_interval(loginterval, "loginterval")
        self._restart_interval = _checked_interval(restart_interval, "restart_interval")
        self._progress = progress
        if restart is not None:
            check_folder(restart, "restart")
        self._restart = None if restart is None else Path(restart)
        self.nsteps = 0
        self._observers = Observers()
        self._started = False
        self._behind = 0
        self._resumed: restart_files.RestartState | None = None

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
            self._state.synchronise()

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
    def moments(self) -> Tensor:
        """Present moments on the device, μB, shape (..., N, 3)."""
        return self._state.moments

    def get_number_of_steps(self) -> int:
        return self.nsteps

    def get_time(self) -> float:
        return self.time

    def close(self) -> None:
        """Close log and trajectories; a later run opens them again and goes on with them."""
        self._outputs.close()
        self._started = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # What a subclass does its own way ---------------------------------------------------------------------------

    @abstractmethod
    def _step(self) -> None:
        """One step; counts it."""

    @abstractmethod
    def _check_timestep(self) -> None:
        """Warn of a step that is too long."""

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
            yield self.nsteps
            return
        self._state.synchronise()
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
        if self._resumed is not None:
            self._check_energy(self._resumed)
            self._resumed = None
        else:
            self._check_timestep()
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
        if regular:
            self._outputs.write_log(step, self.time_in_log, self._applied.at(self.time))
            self._outputs.write_frames(step, self.time_in_log)
        for call in due:
            call()
        if due:
            self._state.synchronise()
        if self._restart is not None and step and step % self._restart_interval == 0:
            self._save()

    def _with_applied(self, field: Tensor, time: float) -> Tensor:
        applied = self._applied.at(time)
        return field if applied is None else field + applied

    # Checks and restart -----------------------------------------------------------------------------------------

    def _check_finite(self) -> None:
        if not all_finite(self._state.evaluation().energy, self._state.moments):
            raise KLMError(
                f"energy or moments are not finite at step {self.nsteps}",
                "the calculator has returned NaN or infinity",
                "look at the calculator's results for the last frame of the trajectory",
            )

    def _save(self) -> None:
        if self._restart is None:
            return
        self._check_finite()
        restart_files.save(self._restart, self._present())

    def _resume_if_wanted(self) -> None:
        if self._restart is None or not self._restart.exists():
            return
        state = restart_files.load(self._restart, self._parameters, self.restart_kind)
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
