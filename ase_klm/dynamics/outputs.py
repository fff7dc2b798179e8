"""Log and trajectories of a run: one log, one trajectory a replica."""

from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from ase_klm import units
from ase_klm.data.frames import FrameWriter
from ase_klm.dynamics.coupled_state import CoupledState
from ase_klm.dynamics.log import Log, SpinLatticeLog, SpinLog
from ase_klm.dynamics.measures import kinetic_energy, largest_torque, lattice_temperature, spin_temperature
from ase_klm.errors import KLMError
from ase_klm.runs.inputs import check_folder, checked_logfile
from ase_klm.runs.state import SpinState
from ase_klm.vectors import dot


class Outputs(ABC):
    """What a run writes, opened when its first step is due.

    Parameters
    ----------
    state : SpinState
        What is written about.
    mobile : Tensor
        Sites that are not pinned, bool, shape (N, 1).
    logfile, trajectory
        As in `LLGDynamics`.
    """

    def __init__(
        self, state: SpinState, mobile: Tensor, logfile: str | Path | TextIO | None, trajectory: str | Path | None
    ) -> None:
        self.state, self.mobile = state, mobile
        checked_logfile(logfile)
        named = isinstance(logfile, str | Path) and logfile != "-"
        self._logfile = Path(logfile).absolute() if named else logfile  # type: ignore[arg-type]
        self._paths = [] if trajectory is None else _trajectory_paths(trajectory, state)
        self._log: Any = None
        self._writers: list[FrameWriter] = []

    @property
    def wanted(self) -> bool:
        """Whether anything is written at all."""
        return self._logfile is not None or bool(self._paths)

    @property
    def named(self) -> dict[str, Any]:
        """Files by what is written to them."""
        names = ["trajectory"] if self.state.single else [f"trajectory of replica {n}" for n in range(len(self._paths))]
        return {"logfile": self._logfile, **dict(zip(names, self._paths, strict=False))}

    @property
    def has_trajectory(self) -> bool:
        """Whether frames are written, which need the atoms up to date."""
        return bool(self._paths)

    def open(self, last_step: int | None) -> None:
        """Open the files: anew, or, given the last step that counts, to go on with them."""
        if self._logfile is not None:
            self._log = self.new_log(self._logfile, last_step)
        self._writers = [FrameWriter(path, last_step is not None, last_step) for path in self._paths]

    def close(self) -> None:
        """Close the files."""
        with ExitStack() as closing:  # all of them, even when one complains
            for file in (self._log, *self._writers):
                if file is not None:
                    closing.callback(file.close)
            self._log, self._writers = None, []

    @abstractmethod
    def new_log(self, target: str | Path | TextIO, last_step: int | None) -> Log:
        """The log with its columns."""

    @abstractmethod
    def write_log(self, step: int, time: float, applied: Tensor | None) -> None:
        """One line a replica, energies and torques with the applied field (eV/μB)."""

    @abstractmethod
    def write_frames(self, step: int, time: float) -> None:
        """One frame a replica; the atoms must show the present state."""


class SpinOutputs(Outputs):
    """What `LLGDynamics` writes.

    Parameters
    ----------
    state, mobile, logfile, trajectory
        As in `Outputs`.
    model_units : bool
        Times in ħ/eV and temperatures in eV, instead of fs and K.
    """

    def __init__(
        self,
        state: SpinState,
        mobile: Tensor,
        logfile: str | Path | TextIO | None,
        trajectory: str | Path | None,
        model_units: bool,
    ) -> None:
        super().__init__(state, mobile, logfile, trajectory)
        self.model_units = model_units

    def new_log(self, target: str | Path | TextIO, last_step: int | None) -> SpinLog:
        unit = ("ħ/eV", "eV") if self.model_units else ("fs", "K")
        return SpinLog(target, *unit, not self.state.single, last_step)

    def write_log(self, step: int, time: float, applied: Tensor | None) -> None:
        """One line a replica, energies and torques with the applied field (eV/μB)."""
        if self._log is None:
            return
        state, moments, evaluation = self.state, self.state.moments, self.state.evaluation()
        sites = int(state.bound.magnetic.sum())
        energy, field = evaluation.energy, evaluation.magnetic_forces
        if applied is not None:
            energy = energy - dot(moments, applied.expand_as(moments)).sum(dim=(-2, -1))
            field = field + applied
        torque = largest_torque(moments, torch.where(self.mobile, field, 0.0))
        thermal = spin_temperature(state.bound, moments, field, self.mobile & state.bound.magnetic[:, None])
        replicas = len(state.replicas)
        energies, torques = (energy / sites).reshape(-1).tolist(), torque.reshape(-1).tolist()
        means = (moments.sum(dim=-2) / sites).reshape(replicas, 3).tolist()
        unit = 1.0 if self.model_units else units.KB
        temperatures = [None] * replicas if thermal is None else (thermal / unit).reshape(-1).tolist()
        for number, columns in enumerate(zip(energies, means, torques, temperatures, strict=True)):
            self._log.line(step, time, number, *columns)

    def write_frames(self, step: int, time: float) -> None:
        """One frame a replica; the atoms must show the present moments."""
        evaluation = self.state.evaluation()
        for number, writer in enumerate(self._writers):
            writer.write(
                self.state.replicas[number],
                energy=evaluation.energy.reshape(-1)[number].item(),
                magnetic_forces=self.state.array(evaluation.magnetic_forces, number),
                step=step,
                time=time,
            )


class SpinLatticeOutputs(Outputs):
    """What `SpinLatticeDynamics` writes.

    Parameters
    ----------
    state, mobile, logfile, trajectory
        As in `Outputs`.
    inverse_mass : Tensor
        1/M, zero for atoms that do not move, shape (N, 1).
    bonds : str
        What the log says of the lattice on which bonds are found.
    """

    state: CoupledState

    def __init__(
        self,
        state: CoupledState,
        mobile: Tensor,
        logfile: str | Path | TextIO | None,
        trajectory: str | Path | None,
        inverse_mass: Tensor,
        bonds: str = "",
    ) -> None:
        super().__init__(state, mobile, logfile, trajectory)
        self.inverse_mass, self.bonds = inverse_mass, bonds

    def new_log(self, target: str | Path | TextIO, last_step: int | None) -> SpinLatticeLog:
        return SpinLatticeLog(target, last_step, self.bonds)

    def write_log(self, step: int, time: float, applied: Tensor | None) -> None:
        if self._log is None:
            return
        state, evaluation = self.state, self.state.evaluation()
        energy, field = evaluation.energy, evaluation.magnetic_forces
        if applied is not None:
            energy = energy - dot(state.moments, applied.expand_as(state.moments)).sum()
            field = field + applied
        magnetic = state.bound.magnetic[:, None]
        thermal = spin_temperature(state.bound, state.moments, field, self.mobile & magnetic)
        kinetic = kinetic_energy(state.velocities, self.inverse_mass)
        self._log.line(
            step,
            time,
            energy.item(),
            kinetic.item(),
            lattice_temperature(kinetic, self.inverse_mass).item() / units.KB,
            (state.moments.sum(dim=0) / magnetic.sum()).tolist(),
            None if thermal is None else thermal.item() / units.KB,
        )

    def write_frames(self, step: int, time: float) -> None:
        if not self._writers:
            return
        evaluation = self.state.evaluation()
        for writer in self._writers:
            writer.write(
                self.state.atoms,
                energy=evaluation.energy.item(),
                forces=self.state.array(self.state.forces(), 0),
                magnetic_forces=self.state.array(evaluation.magnetic_forces, 0),
                step=step,
                time=time,
            )


def _trajectory_paths(trajectory: str | Path, state: SpinState) -> list[Path]:
    check_folder(trajectory, "trajectory")
    path = Path(trajectory).absolute()  # a script may change its folder before the first step
    if path.suffix not in (".traj", ".extxyz", ".xyz"):
        raise KLMError(
            f"trajectory = {str(path)!r} has no known ending", "it chooses the format", "use .traj or .extxyz"
        )
    if state.single:
        return [path]
    return [path.with_name(f"{path.stem}-{number}{path.suffix}") for number in range(len(state.replicas))]
