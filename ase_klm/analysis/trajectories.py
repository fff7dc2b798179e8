"""Moments as a function of time, read piece by piece from trajectories of any length."""

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from ase_klm import units
from ase_klm.analysis.frames import structures
from ase_klm.analysis.magnetisation import no_moments
from ase_klm.data.frames import checked_frames_path
from ase_klm.errors import KLMError, warn
from ase_klm.moments import get_moments, is_magnetic
from ase_klm.validate import Array, checked_array, checked_atoms, checked_number

CHUNK_BYTES = 2**25
"""Moments that are held at a time."""
SAME_STEP = 1e-4
"""Relative difference of time steps that rounding in text files explains."""


class MomentSeries:
    """The moments of a trajectory, in chunks, and the time between its frames.

    Parameters
    ----------
    trajectory : str, Path, sequence of Atoms or frames, or array_like
        A ``.traj`` or ``.extxyz`` file, of which a chunk at a time is read; its frames; or, with `atoms`, moments in
        μB, shape (n_times, N, 3).
    atoms : Atoms, optional
        Structure of the moments of an array.

    Attributes
    ----------
    first : Atoms
        The first structure.
    """

    def __init__(self, trajectory: Any, atoms: Atoms | None = None) -> None:
        self._moments: Any = None
        self._times: list[float | None] = []
        self._opening: list[Atoms] = []
        if atoms is not None:
            self.first = checked_atoms(atoms)
            self._moments = _checked_moments(trajectory, len(self.first))
            self.magnetic = np.asarray(checked_array(self._moments[0], (None, 3), "moments", "μB").any(axis=1))
        else:
            self._frames = _frames(trajectory)
            first = next(self._frames, None)
            if first is None:
                raise KLMError("there are no frames", "the trajectory is empty", "record some: trajectory='run.traj'")
            self.first = first
            self._frames = chain([first], self._frames)
            self.magnetic = is_magnetic(first)
        if not self.magnetic.any():
            raise no_moments()

    def chunks(self) -> Iterator[tuple[Array, Array | None]]:
        """Moments (n, N, 3) in μB of the magnetic atoms; positions (n, N, 3) in Å, None where all are as in `first`."""
        size = max(1, CHUNK_BYTES // (24 * len(self.first)))
        if self._moments is not None:
            for start in range(0, len(self._moments), size):
                piece = checked_array(self._moments[start : start + size], (None, None, 3), "moments", "μB")
                for number, moments in enumerate(piece, start):
                    self._check_magnetic(moments, number)
                yield piece[:, self.magnetic], None
            return
        number = 0
        while True:
            piece_of: list[tuple[Array, Array]] = []
            for atoms in self._frames:
                piece_of.append(self._checked(atoms, number))
                number += 1
                if len(piece_of) == size:
                    break
            if not piece_of:
                return
            moments, positions = (np.array(values) for values in zip(*piece_of, strict=True))
            moving = np.abs(positions - self.first.positions[self.magnetic]).max() > 1e-9
            yield moments, positions if moving else None

    def timestep(self, given: float | None, gamma: float) -> float:
        """Time between frames in ASE's unit, or in ħ/eV with ``gamma=1.0``; call it after `chunks`."""
        if given is not None:
            given = checked_number(given, "timestep", "ASE's unit of time, or ħ/eV in model units", above=0)
        known = [time for time in self._times if time is not None]
        if not known or len(known) < len(self._times):
            if given is None:
                raise KLMError(
                    "the time between frames is not known",
                    "an array does not hold it"
                    if self._moments is not None
                    else "the frames have no info['time'] (those that LLGDynamics writes have it)",
                    "give timestep=, in the unit of LLGDynamics: its timestep times the steps between two frames",
                )
            return given
        step = self._stored_step(np.array(known)) * (1.0 if gamma == 1.0 else units.FS)
        if given is not None and abs(given - step) > 10 * SAME_STEP * step:
            raise KLMError(
                f"timestep = {given:.6g} is not the time between the frames, {step:.6g} by their info['time']",
                "it counts from frame to frame (loginterval steps of the run), in ASE's unit of time, "
                "or in ħ/eV with gamma=1.0",
                "leave timestep out; give gamma=1.0 if, and only if, the run had it",
            )
        self._check_unit(step, gamma)
        return step

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

    def _checked(self, atoms: Atoms, number: int) -> tuple[Array, Array]:
        first = self.first
        for what, same in (
            ("atoms", len(atoms) == len(first) and np.array_equal(atoms.numbers, first.numbers)),
            ("cell", np.abs(atoms.cell.array - first.cell.array).max() < 1e-6),
        ):
            if not same:
                raise KLMError(
                    f"frame {number} has not the same {what} as the first one",
                    f"{atoms.symbols} in the cell {atoms.cell.cellpar().round(3).tolist()}, "
                    f"first {first.symbols} in {first.cell.cellpar().round(3).tolist()}",
                    "take the frames of one run at a constant cell",
                )
        try:
            moments = get_moments(atoms)
        except KLMError as error:
            raise KLMError(f"frame {number}: {error.what}", error.why, error.remedy) from None
        self._check_magnetic(moments, number)
        time = atoms.info.get("time")
        self._times.append(None if time is None else checked_number(time, f"info['time'] of frame {number}"))
        if len(self._opening) < 30:
            self._opening.append(atoms)
        return moments[self.magnetic], atoms.positions[self.magnetic]

    def _check_magnetic(self, moments: Array, number: int) -> None:
        differing = np.flatnonzero(moments.any(axis=1) != self.magnetic)
        if len(differing):
            raise KLMError(
                f"frame {number} has not the same magnetic atoms as the first one",
                f"atom {differing[0]} has the moment {moments[differing[0]].tolist()} μB",
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


def _frames(trajectory: Any) -> Iterator[Atoms]:
    if not isinstance(trajectory, str | Path):
        if isinstance(trajectory, np.ndarray) or (
            isinstance(trajectory, list | tuple) and trajectory and isinstance(trajectory[0], np.ndarray | list | tuple)
        ):
            raise KLMError(
                "moments were given without a structure",
                "S(q, ω) needs to know where the moments sit",
                "give atoms= with an array of moments (n_times, N, 3), or a list of Atoms",
            )
        yield from structures(trajectory)
        return
    path = checked_frames_path(trajectory, endings=(".traj", ".extxyz", ".xyz"))
    try:
        yield from ase.io.iread(path, ":", format="traj" if path.suffix == ".traj" else "extxyz")
    except GeneratorExit:
        raise
    except Exception as error:  # noqa: BLE001, a damaged file raises anything
        raise KLMError(
            f"{path} cannot be read as a trajectory", f"{type(error).__name__}: {error}", "check that it is complete"
        ) from None


def _checked_moments(moments: ArrayLike, n_atoms: int) -> Any:
    """The array as it is (it may be a memory map), if its shape is right."""
    try:
        array = np.asanyarray(moments)
    except ValueError as error:  # frames of unequal length
        raise KLMError(
            "moments are no array", str(error), f"give moments of shape (n_times, {n_atoms}, 3) with atoms="
        ) from None
    if array.ndim != 3 or array.shape[1:] != (n_atoms, 3) or not len(array):
        raise KLMError(
            f"moments have shape {array.shape}",
            f"atoms= has {n_atoms} atoms, and an array of moments one vector for each of them at each time",
            f"give shape (n_times, {n_atoms}, 3); leave atoms= out for files and lists of Atoms",
        )
    return array
