"""One frame format, and its two kinds of file that ASE, `ase gui` and OVITO open.

=====================  ===========================  ====================================
quantity               ``.traj``                    ``.extxyz`` (eight decimals)
=====================  ===========================  ====================================
moments, μB            initial magnetic moments     column ``initial_magmoms:R:3``
magnetic forces, eV/μB ``info["magnetic_forces"]``  column ``magnetic_forces:R:3``
energy, eV; forces     ASE results                  ``energy=``, column ``forces:R:3``
step, time             ``info``                     ``step=``, ``time=``
which part is known    ``info["mag_forces_part"]``  ``mag_forces_part=transverse``
=====================  ===========================  ====================================

ASE drops unknown results and, in ``.traj``, unknown arrays without a word, hence this writer. Data sets of labels are
read from and written to ``.npz`` as well; see `ase_klm.data.sets`. Output of DFT codes and files of other packages are
read by `ase_klm.data.readers`.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import read_xyz, write_xyz
from ase.io.trajectory import TrajectoryReader, TrajectoryWriter

from ase_klm.data import labels, readers, sets
from ase_klm.data.about import TRANSVERSE, About
from ase_klm.data.readers import ase_database
from ase_klm.errors import KLMError, warn
from ase_klm.files import check_still_there, writing, written_atomically
from ase_klm.moments import get_moments
from ase_klm.validate import Array, checked_array, checked_atoms

ONE_BY_ONE = (".traj", ".extxyz", ".xyz")
_UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError, struct.error)


@dataclass(frozen=True)
class Frame:
    """One structure of a trajectory or data set; what the file does not hold is None.

    Attributes
    ----------
    atoms : Atoms
        With moments, and with ASE's single-point calculator where the file holds energy or forces.
    """

    atoms: Atoms

    @property
    def moments(self) -> Array:
        """Moment vectors, μB, shape (N, 3)."""
        return get_moments(self.atoms)

    @property
    def magnetic_forces(self) -> Array | None:
        """-∂E/∂m, eV/μB, shape (N, 3)."""
        found = labels.at_hand(self.atoms).get("magnetic_forces")
        return None if found is None else checked_array(found, (len(self.atoms), 3), "magnetic forces", "eV/μB")

    @property
    def transverse_only(self) -> bool:
        """Whether only the part of the magnetic forces across the moments is known; their part along means nothing."""
        return bool(self.atoms.info.get("mag_forces_part") == TRANSVERSE)

    @property
    def energy(self) -> float | None:
        """EV; the free energy where electrons are smeared, since forces are its derivative."""
        found = labels.at_hand(self.atoms).get("energy")
        return None if found is None or not np.isfinite(found) else float(found)

    @property
    def forces(self) -> Array | None:
        """eV/Å, shape (N, 3)."""
        found = labels.at_hand(self.atoms).get("forces")
        return None if found is None or not np.isfinite(found).all() else np.array(found, dtype=np.float64)

    @property
    def chemical_potential(self) -> float | None:
        """Of the electrons, eV."""
        return None if "chemical_potential" not in self.atoms.info else float(self.atoms.info["chemical_potential"])

    @property
    def step(self) -> int | None:
        """Number of the step of the run that wrote the frame."""
        return None if "step" not in self.atoms.info else int(self.atoms.info["step"])

    @property
    def time(self) -> float | None:
        """Time in the unit of that run's log: fs, or ħ/eV in model units."""
        return None if "time" not in self.atoms.info else float(self.atoms.info["time"])

    @property
    def hamiltonian(self) -> dict[str, Any] | None:
        """Parameters of the Hamiltonian behind the labels; ``atoms.info["hamiltonian"]`` is their JSON text."""
        return sets.parameters(self.atoms.info.get("hamiltonian"))


class Frames(list[Frame]):
    """A list of frames that knows where they come from.

    Attributes
    ----------
    about : About
        Format, which moment, sign of the magnetic forces, frames left out; ``print(frames.about)``.
    """

    def __init__(self, frames: Iterable[Frame], about: About) -> None:
        super().__init__(frames)
        self.about = about


def write(path: str | Path, frames: Atoms | Frame | Iterable[Atoms | Frame]) -> None:
    """Write structures with their moments and whatever results are at hand; nothing is calculated anew.

    Parameters
    ----------
    path : str or Path
        Ends in ``.traj``, ``.extxyz`` or ``.npz``, or in ``.db`` for ASE's database; an existing file is replaced.
    frames : Atoms, Frame, or several
        Results that belong to an older state of the atoms are left out, with a `KLMWarning`. In ``.npz`` all share
        their species.

    Raises
    ------
    KLMError
        When frames share a calculator, which keeps the results of one of them; or when labels under two names differ.
    """
    file = checked_frames_path(path, must_exist=False)
    try:
        several = [frames] if isinstance(frames, Atoms | Frame) else list(frames)
    except TypeError:
        several = [checked_atoms(frames)]
    given = [frame.atoms if isinstance(frame, Frame) else checked_atoms(frame) for frame in several]
    structures = labels.checked(given, str(file))
    if file.suffix in (".npz", ".db"):
        save = sets.save if file.suffix == ".npz" else ase_database.save
        save(file, structures, [labels.at_hand(atoms) for atoms in structures])
        return
    with written_atomically(file) as temporary, FrameWriter(temporary) as writer:
        writer.path = file  # which errors name
        for atoms in structures:
            writer.write(atoms, **labels.at_hand(atoms))


class FrameWriter:
    """Writes frames one by one; each is on disk when `write` returns.

    Parameters
    ----------
    path : str or Path
        Ends in ``.traj`` or ``.extxyz``.
    append : bool
        Whether to continue an existing file instead of replacing it.
    last_step : int, optional
        When appending: frames of a later step, or torn ones at the end of the file, are dropped first.

    Raises
    ------
    KLMError
        When the path cannot be written, or the file to append to is none of this package's trajectories.
    """

    def __init__(self, path: str | Path, append: bool = False, last_step: int | None = None) -> None:
        self.path = checked_frames_path(path, must_exist=False, endings=ONE_BY_ONE)
        if append and not self.path.exists():
            warn(
                f"{self.path} does not exist, so it starts here",
                "the run is continued, but what it wrote before is not there",
                "keep restart file, log and trajectory together",
            )
        continues = append and self.path.exists()
        if continues and last_step is not None:
            _drop_later_frames(self.path, last_step)
        mode = "a" if continues else "w"
        self._place = self.path.absolute()
        try:
            self._file: IO[str] | None = None if self._is_traj else self.path.open(mode)
            self._trajectory = TrajectoryWriter(self.path, mode) if self._is_traj else None
        except _UNREADABLE as error:
            raise _unreadable(self.path, error) from None

    @property
    def _is_traj(self) -> bool:
        return self.path.suffix == ".traj"

    def write(
        self,
        atoms: Atoms,
        energy: float | None = None,
        forces: Array | None = None,
        magnetic_forces: Array | None = None,
        step: int | None = None,
        time: float | None = None,
    ) -> None:
        """Append one frame.

        Parameters
        ----------
        atoms : Atoms
            Structure and moments; the calculator is not asked.
        energy, forces, magnetic_forces : optional
            eV, eV/Å (N, 3), eV/μB (N, 3).
        step, time : optional
            Where the frame stands in its run.
        """
        frame = atoms.copy()
        results = {"energy": energy, "free_energy": energy, "forces": forces}
        known = {name: value for name, value in results.items() if value is not None}
        if known:
            frame.calc = SinglePointCalculator(frame, **known)
        for name in ("magnetic_forces", *results):  # of the state that the run started from, say
            frame.info.pop(name, None)
            frame.arrays.pop(name, None)
        if magnetic_forces is not None:
            place = frame.info if self._is_traj else frame.arrays
            place["magnetic_forces"] = np.asarray(magnetic_forces, dtype=np.float64)
        frame.info |= {name: value for name, value in (("step", step), ("time", time)) if value is not None}
        check_still_there(self._place)
        with writing(self.path):
            if self._trajectory is not None:
                self._trajectory.write(frame)
            elif self._file is not None:
                if "initial_magmoms" in frame.arrays and frame.arrays["initial_magmoms"].ndim == 1:
                    frame.arrays["initial_magmoms"] = get_moments(frame)
                write_xyz(self._file, [frame])
                self._file.flush()

    def close(self) -> None:
        """Close the file."""
        with writing(self.path):
            for file in (self._trajectory, self._file):
                if file is not None:
                    file.close()

    def __enter__(self) -> "FrameWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def images(path: Path, kind: str | None = None) -> Iterator[Atoms]:
    """The structures of a ``.traj`` or ``.extxyz`` file, or of another one that ASE reads, one by one.

    Raises
    ------
    KLMError
        When it is damaged.
    """
    kind = kind or readers.OWN[path.suffix]
    try:
        if kind == "traj":
            with TrajectoryReader(path) as trajectory:
                yield from trajectory
        elif kind == "extxyz":
            with path.open() as file:
                yield from read_xyz(file, index=slice(None))
        else:
            yield from _read_by_ase(path)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from None


def _read_by_ase(path: Path) -> list[Atoms]:
    try:
        found = ase.io.read(path, index=":")
    except Exception as error:  # noqa: BLE001, ASE's readers raise whatever comes up
        raise ValueError(f"ASE says {type(error).__name__}: {error}") from None
    return found if isinstance(found, list) else [found]


def _drop_later_frames(path: Path, last_step: int) -> None:
    """Keep the frames up to a step. The file is replaced in one go, so that a crash leaves the old one whole."""
    if path.suffix == ".traj":
        steps = [_step_of(atoms.info.get("step"), path) for atoms in images(path)]
        if max(steps, default=-1) <= last_step:
            return
        with written_atomically(path) as temporary, TrajectoryWriter(temporary, "w") as kept:
            for atoms, step in zip(images(path), steps, strict=True):
                if step <= last_step:
                    kept.write(atoms)
    else:
        with written_atomically(path) as temporary, temporary.open("w", errors="surrogateescape") as kept_text:
            for step, text in _blocks(path):
                if step <= last_step:
                    kept_text.write(text)


def _blocks(path: Path) -> Iterator[tuple[int, str]]:
    """Step and text of the whole frames of an extended xyz file; a torn one at its end is passed over."""
    with path.open(errors="surrogateescape") as file:
        while count := file.readline():
            try:
                wanted = int(count) + 1
                lines = [count, *islice(file, wanted)]
            except ValueError as error:
                raise _unreadable(path, error) from None
            if len(lines) <= wanted or not lines[-1].endswith("\n"):
                return
            step = next((word[5:] for word in lines[1].split() if word.startswith("step=")), None)
            yield _step_of(step, path), "".join(lines)


def _step_of(step: Any, path: Path) -> int:
    if step is None:
        raise KLMError(
            f"{path} has frames without a step",
            "a run that is continued drops the frames after its restart step, and cannot tell which these are",
            "give the trajectory another name, or move the file away",
        )
    try:
        return int(step)
    except (TypeError, ValueError) as error:
        raise _unreadable(path, error) from None


def checked_path(path: Any) -> Path:
    """The name of a file as a `Path`.

    Raises
    ------
    KLMError
        When it is no name.
    """
    if not isinstance(path, str | Path) or "\0" in str(path):
        raise KLMError(f"path = {path!r} is not a file name", "it must be a string or a Path", "e.g. 'run.traj'")
    return Path(path)


def checked_frames_path(
    path: str | Path, must_exist: bool = True, endings: tuple[str, ...] | None = (*ONE_BY_ONE, ".npz", ".db")
) -> Path:
    """The name of a file of frames as a `Path`.

    Raises
    ------
    KLMError
        When it has another ending, or there is no such file to read, or no such folder to write to.
    """
    file = checked_path(path)
    if endings is not None and file.suffix not in endings:
        raise KLMError(
            f"{path} is neither a .traj nor an .extxyz file"
            + (" nor an .npz data set nor a .db database" if ".npz" in endings else ""),
            "the ending of the name says how frames are stored",
            "use a name that ends in .traj (exact, compact) or .extxyz (text, opens in OVITO)"
            + ("" if file.suffix != ".npz" else "; an .npz data set is written in one go, by data.write"),
        )
    if must_exist and not file.is_file():
        raise KLMError(f"{path} cannot be read", "there is no such file", "check the name and the folder")
    if not must_exist and not file.absolute().parent.is_dir():
        raise KLMError(f"{path} cannot be written", f"there is no folder {file.parent}", "create it first")
    return file


def _unreadable(path: Path, error: BaseException) -> KLMError:
    return KLMError(
        f"{path} cannot be read as a trajectory",
        f"{type(error).__name__}: {error}",
        "check that it is a complete file that this package or ASE wrote; a copy may have been cut short",
    )
