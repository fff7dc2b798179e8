"""Moments and velocities as functions of time, read piece by piece from trajectories of any length."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from ase_klm import units
from ase_klm.analysis.frames import structures
from ase_klm.analysis.magnetisation import no_moments
from ase_klm.data.frames import checked_frames_path, images
from ase_klm.data.readers import aliases
from ase_klm.errors import KLMError, warn
from ase_klm.moments import get_moments, is_magnetic
from ase_klm.validate import Array, checked_array, checked_atoms, checked_number

CHUNK_BYTES = 2**25
"""Vectors that are held at a time."""
SAME_STEP = 1e-4
"""Relative difference of time steps that rounding in text files explains."""


class FrameSeries(ABC):
    """A vector for each atom in each frame of a trajectory, in chunks, and the time between its frames.

    Parameters
    ----------
    trajectory : str, Path, sequence of Atoms or frames, or array_like
        A ``.traj`` or ``.extxyz`` file, of which a chunk at a time is read; its frames; or, with `atoms`, an array of
        the vectors, shape (n_times, N, 3).
    atoms : Atoms, optional
        Structure of an array.

    Attributes
    ----------
    first : Atoms
        The first structure.
    chosen : ndarray
        Atoms that have such a vector, bool, shape (N,).
    """

    name: str
    unit: str
    clock: str
    """The unit of time, for messages."""
    chosen: NDArray[np.bool_]

    def __init__(self, trajectory: Any, atoms: Atoms | None = None) -> None:
        self._array: Any = None
        self._times: list[float | None] = []
        if atoms is not None:
            self.first = checked_atoms(atoms)
            self._array = _checked_series(trajectory, len(self.first), self.name, self.unit)
            return
        self._frames = _frames(trajectory, self.name)
        first = next(self._frames, None)
        if first is None:
            raise KLMError("there are no frames", "the trajectory is empty", "record some: trajectory='run.traj'")
        self.first = first
        self._frames = chain([first], self._frames)

    @abstractmethod
    def _values(self, atoms: Atoms, number: int) -> Array:
        """The vectors of a frame, shape (N, 3)."""

    @abstractmethod
    def _check(self, values: Array, number: int) -> None:
        """Look at the vectors of a frame, (N, 3); an error where they cannot be right."""

    def chunks(self) -> Iterator[tuple[Array, Array | None]]:
        """Vectors (n, N, 3) of the chosen atoms; positions (n, N, 3) in Å, None where all are as in `first`."""
        size = max(1, CHUNK_BYTES // (24 * len(self.first)))
        if self._array is not None:
            for start in range(0, len(self._array), size):
                piece = checked_array(self._array[start : start + size], (None, None, 3), self.name, self.unit)
                for number, values in enumerate(piece, start):
                    self._check(values, number)
                yield piece[:, self.chosen], None
            return
        number = 0
        while True:
            piece_of: list[tuple[Array, Array]] = []
            for atoms in self._frames:
                piece_of.append(self._read(atoms, number))
                number += 1
                if len(piece_of) == size:
                    break
            if not piece_of:
                return
            vectors, positions = (np.array(values) for values in zip(*piece_of, strict=True))
            moving = np.abs(positions - self.first.positions[self.chosen]).max() > 1e-9
            yield vectors, positions if moving else None

    def _step(self, given: float | None, unit: float) -> tuple[float, bool]:
        """Time between frames, and whether they hold it, as info['time'] in this unit; call it after `chunks`."""
        if given is not None:
            given = checked_number(given, "timestep", self.clock, above=0)
        known = [time for time in self._times if time is not None]
        if not known or len(known) < len(self._times):
            if given is None:
                raise KLMError(
                    "the time between frames is not known",
                    "an array does not hold it"
                    if self._array is not None
                    else "the frames have no info['time'] (those of LLGDynamics and SpinLatticeDynamics have it)",
                    "give timestep=, in the unit of the run: its timestep times the steps between two frames",
                )
            return given, False
        step = self._stored_step(np.array(known)) * unit
        if given is not None and abs(given - step) > 10 * SAME_STEP * step:
            raise self._other_step(given, step)
        return step, True

    def _other_step(self, given: float, step: float) -> KLMError:
        return KLMError(
            f"timestep = {given:.6g} is not the time between the frames, {step:.6g} by their info['time']",
            f"it counts from frame to frame (loginterval steps of the run), in {self.clock}",
            "leave timestep out",
        )

    def _stored_step(self, times: Array) -> float:
        steps = np.diff(times)
        step = float(np.median(steps))
        wrong = np.flatnonzero(np.abs(steps - step) > SAME_STEP * abs(step) + 1e-12 * np.abs(times).max())
        if step <= 0 or len(wrong):
            n = int(wrong[0]) if len(wrong) else 0
            raise KLMError(
                "the frames do not follow each other at equal times",
                f"from frame {n} to {n + 1} time goes from {times[n]:.8g} to {times[n + 1]:.8g}, "
                f"elsewhere by {step:.6g}",
                "take a stretch of one run with one loginterval, e.g. data.read('run.traj')[100:]",
            )
        return float(times[-1] - times[0]) / len(steps)

    def _read(self, atoms: Atoms, number: int) -> tuple[Array, Array]:
        check_same_crystal(atoms, self.first, f"frame {number}", "the first one")
        values = self._values(atoms, number)
        self._check(values, number)
        time = atoms.info.get("time")
        self._times.append(None if time is None else checked_number(time, f"info['time'] of frame {number}"))
        return values[self.chosen], atoms.positions[self.chosen]


class MomentSeries(FrameSeries):
    """Moments in μB of the magnetic atoms."""

    name, unit = "moments", "μB"
    clock = "ASE's unit of time, or in ħ/eV with gamma=1.0"

    def __init__(self, trajectory: Any, atoms: Atoms | None = None) -> None:
        super().__init__(trajectory, atoms)
        self._opening: list[Atoms] = []
        if self._array is None:
            self.chosen = is_magnetic(self.first)
        else:
            self.chosen = np.asarray(checked_array(self._array[0], (None, 3), self.name, self.unit).any(axis=1))
        if not self.chosen.any():
            raise no_moments()

    def timestep(self, given: float | None, gamma: float) -> float:
        """Time between frames in ASE's unit, or in ħ/eV with ``gamma=1.0``; call it after `chunks`."""
        step, stored = self._step(given, 1.0 if gamma == 1.0 else units.FS)
        if stored:
            self._check_unit(step, gamma)
        return step

    def _other_step(self, given: float, step: float) -> KLMError:
        error = super()._other_step(given, step)
        return KLMError(error.what, error.why, "leave timestep out; give gamma=1.0 if, and only if, the run had it")

    def _values(self, atoms: Atoms, number: int) -> Array:
        if len(self._opening) < 30:
            self._opening.append(atoms)
        try:
            return get_moments(atoms)
        except KLMError as error:
            raise KLMError(f"frame {number}: {error.what}", error.why, error.remedy) from None

    def _check(self, values: Array, number: int) -> None:
        differing = np.flatnonzero(values.any(axis=1) != self.chosen)
        if len(differing):
            raise KLMError(
                f"frame {number} has not the same magnetic atoms as the first one",
                f"atom {differing[0]} has the moment {values[differing[0]].tolist()} μB",
                "every frame needs the moments of all magnetic atoms; write frames by trajectory= or data.write, "
                "which keep them",
            )

    def _check_unit(self, step: float, gamma: float) -> None:
        """Frames with magnetic forces show by their precession, dm/dt = -γ m×F, in which unit their times are."""
        forces = [atoms.arrays.get("magnetic_forces", atoms.info.get("magnetic_forces")) for atoms in self._opening]
        if len(forces) < 2 or any(force is None or np.shape(force) != (len(self.first), 3) for force in forces):
            return
        moments = np.array([get_moments(atoms) for atoms in self._opening])
        torques = np.cross(np.array(forces, dtype=np.float64), moments)
        middle = (torques[1:] + torques[:-1]) / 2
        size = (middle**2).sum() * step
        if size == 0:
            return
        found = float((np.diff(moments, axis=0) * middle).sum() / size)
        other = units.GAMMA * units.FS if gamma == 1.0 else 1.0 / units.FS  # with the times read in the other unit
        if found > 0 and abs(np.log(found / other)) < 0.4 * abs(np.log(gamma / other)):
            warn(
                f"the energies may be wrong by a factor {other / gamma:.3g}",
                f"by their magnetic forces the spins precess {found / gamma:.3g} times as fast as gamma says",
                "leave gamma out, the run seems to have had ASE's units"
                if gamma == 1.0
                else "give gamma=1.0, which the run seems to have had; a field= of the run may mislead this check",
            )


class VelocitySeries(FrameSeries):
    """Velocities in Å per ASE's unit of time of all atoms, from their momenta.

    Parameters
    ----------
    trajectory : str, Path, sequence of Atoms or frames, or array_like
        As in the base class.
    atoms : Atoms, optional
        The crystal at rest, which must be the same as that of the frames; its masses count.
    """

    name, unit = "velocities", "Å per ASE's unit of time"
    clock = "ASE's unit of time"

    def __init__(self, trajectory: Any, atoms: Atoms | None = None) -> None:
        super().__init__(trajectory, atoms if _is_array(trajectory) else None)
        self.at_rest = self.first if atoms is None else checked_atoms(atoms)
        check_same_crystal(self.at_rest, self.first, "atoms=", "the trajectory")
        self.chosen = np.ones(len(self.first), dtype=bool)
        self.masses = self.at_rest.get_masses()
        bad = np.flatnonzero(~(np.isfinite(self.masses) & (self.masses > 0)))
        if len(bad):
            raise KLMError(
                f"atom {bad[0]} ({self.at_rest.symbols[bad[0]]}) has the mass {self.masses[bad[0]]}",
                "velocities are momenta over masses, and their spectrum is weighted with masses",
                "set masses with atoms.set_masses(...), as in the run",
            )
        self._moves = False

    def timestep(self, given: float | None) -> float:
        """Time between frames in ASE's unit; call it after `chunks`."""
        if not self._moves:
            raise KLMError(
                "all velocities are zero",
                "the atoms do not move in this trajectory, so that there is no spectrum",
                "give that of a run in which they do, e.g. of SpinLatticeDynamics, LLGDynamics moves the moments only",
            )
        return self._step(given, units.FS)[0]

    def _values(self, atoms: Atoms, number: int) -> Array:
        if not atoms.has("momenta"):
            raise KLMError(
                f"frame {number} has no velocities",
                "it holds no momenta; runs of the moments alone and other programs' files have none",
                "record it with SpinLatticeDynamics(..., trajectory=), or with ASE's dynamics to a .traj file",
            )
        momenta = checked_array(atoms.arrays["momenta"], (len(atoms), 3), f"momenta of frame {number}")
        return momenta / self.masses[:, None]

    def _check(self, values: Array, number: int) -> None:
        self._moves = self._moves or bool(values.any())


def check_same_crystal(atoms: Atoms, other: Atoms, name: str, other_name: str) -> None:
    """Raise an error unless both have the same atoms in the same cell, wherever in it they are."""
    for what, same in (
        ("atoms", len(atoms) == len(other) and np.array_equal(atoms.numbers, other.numbers)),
        ("cell", np.abs(atoms.cell.array - other.cell.array).max() < 1e-6),
    ):
        if not same:
            raise KLMError(
                f"{name} has not the same {what} as {other_name}",
                f"{atoms.symbols} in the cell {atoms.cell.cellpar().round(3).tolist()}, "
                f"{other_name} {other.symbols} in {other.cell.cellpar().round(3).tolist()}",
                "take the frames of one run at a constant cell",
            )


def _is_array(trajectory: Any) -> bool:
    """Whether these are numbers, and not a file or structures."""
    if isinstance(trajectory, list | tuple):
        return bool(trajectory) and isinstance(trajectory[0], np.ndarray | list | tuple)
    return isinstance(trajectory, np.ndarray)


def _frames(trajectory: Any, name: str) -> Iterator[Atoms]:
    if not isinstance(trajectory, str | Path):
        if _is_array(trajectory):
            raise KLMError(
                f"{name} were given without a structure",
                "a spectrum needs to know where the atoms sit",
                f"give atoms= with an array of {name} (n_times, N, 3), or a list of Atoms",
            )
        yield from structures(trajectory)
        return
    path = checked_frames_path(trajectory, endings=(".traj", ".extxyz", ".xyz"))
    for number, atoms in enumerate(images(path)):
        aliases.resolve_frame(atoms, number, path)  # computed moments before a guess
        yield atoms


def _checked_series(values: ArrayLike, n_atoms: int, name: str, unit: str) -> Any:
    """The array as it is (it may be a memory map), if its shape is right."""
    try:
        array = np.asanyarray(values)
    except ValueError as error:  # frames of unequal length
        raise KLMError(
            f"{name} are no array", str(error), f"give {name} of shape (n_times, {n_atoms}, 3) in {unit} with atoms="
        ) from None
    if array.ndim != 3 or array.shape[1:] != (n_atoms, 3) or not len(array):
        raise KLMError(
            f"{name} have shape {array.shape}",
            f"atoms= has {n_atoms} atoms, and an array of {name} one vector for each of them at each time",
            f"give shape (n_times, {n_atoms}, 3) in {unit}; of moments, leave atoms= out for files and lists of Atoms",
        )
    return array
