"""Data sets labelled by exact diagonalisation of the Kondo lattice.

Each configuration has a random generator of its own, seeded by (seed, index), so that a set does not depend on how
many processes make it. Finished labels are kept in ``<path>.parts/`` as they come, and a sampling that was killed goes
on when it is called again. ``<path>.recipe.json`` says how the set was made.
"""

import hashlib
import json
import shutil
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from tqdm import tqdm

from ase_klm.calculators import KondoEDCalculator
from ase_klm.choices import KINDS
from ase_klm.continuation import short
from ase_klm.data.configurations import Quench, configure, quench, unknown_kind
from ase_klm.data.frames import Frame, checked_frames_path, write
from ase_klm.data.reading import read
from ase_klm.errors import KLMError
from ase_klm.files import written_atomically
from ase_klm.memory import require_memory
from ase_klm.moments import get_magnetic_forces, get_moments, is_magnetic, set_moments
from ase_klm.potentials.kondo import BoundKondo
from ase_klm.processes import carried_out
from ase_klm.validate import checked_atoms, checked_number

FORMAT = "ase_klm sampling 1"


def sample(
    atoms: Atoms,
    path: str | Path,
    count: int,
    *,
    seed: int,
    hopping: Mapping[int, float],
    J: float,
    filling: float | None = None,
    mu: float | None = None,
    temperature: float = 0.0,
    kpts: Sequence[int] = (1, 1, 1),
    kinds: str | Sequence[str] = "random",
    quench_plan: Quench | None = None,
    solver: str = "auto",
    dtype: str = "float64",
    device: str = "cpu",
    workers: int = 1,
    progress: bool = True,
) -> list[Frame]:
    """Make configurations of a lattice, label them with `KondoEDCalculator`, and write them as a data set.

    Parameters
    ----------
    atoms : Atoms
        The lattice. Sites keep the length of their moments; without any, each site gets 1 μB.
    path : str or Path
        Ends in ``.npz``, ``.traj`` or ``.extxyz``. A set that is there already, made with the same parameters, is
        read instead of made again.
    count : int
        Number of configurations.
    seed : int
        Not negative.
    hopping, J, filling, mu, temperature, kpts, solver, dtype, device
        As in `KondoEDCalculator`; hopping by neighbour shell. The frames carry them as ``frame.hamiltonian``.
    kinds : str or sequence of str
        Of "random", "theta-uniform", "textures", "quench" (see `ase_klm.data.configurations`), taken in turn; naming
        one twice doubles its share. Frames carry theirs in ``atoms.info["kind"]``.
    quench_plan : Quench, optional
        Snapshots a run, their spacing, time step and damping.
    workers : int
        Processes, one core each. A script that uses more than one must start below ``if __name__ == "__main__":``.
        With one, the work is done in the calling process, with as many threads as torch has there.
    progress : bool
        Whether a progress bar is shown, on a terminal only.

    Returns
    -------
    list of Frame
        In the order of their index.

    Raises
    ------
    KLMError
        For bad input, before anything is computed; when what is on disk was made with other parameters; when a process
        dies.
    """
    file = checked_frames_path(path, must_exist=False)
    count, seed, workers = _whole(count, "count", 1), _whole(seed, "seed", 0), _whole(workers, "workers", 1)
    names = _checked_kinds(kinds)
    plan_of_quench = _checked_quench(quench_plan)
    lattice = _bare(atoms)
    settings = {
        "hopping": hopping, "J": J, "filling": filling, "mu": mu, "temperature": temperature, "kpts": kpts,
        "solver": solver, "dtype": dtype, "device": device,
    }  # fmt: skip
    hamiltonian, told = _checked_hamiltonian(settings, lattice, workers)
    recipe = {
        "format": FORMAT,
        "lattice": _fingerprint(lattice),
        "hamiltonian": hamiltonian,
        "dtype": dtype,
        "kinds": names,
        "count": count,
        "seed": seed,
        "quench": asdict(plan_of_quench) if "quench" in names else None,
    }
    parts = file.with_name(f"{file.name}.parts")
    if _is_finished(file, parts, recipe):
        return read(file)
    plan = _Plan(lattice, settings, told, json.dumps(hamiltonian), plan_of_quench, seed, parts)
    tasks = _tasks(names, count, plan_of_quench.snapshots)
    missing = [task for task in tasks if not plan.part(task).exists()]
    done = count - sum(len(task.indices) for task in missing)
    with (
        tqdm(total=count, initial=done, unit="label", disable=None if progress else True) as bar,
        closing(_carried_out(plan, missing, workers)) as finished,
    ):
        for number in finished:
            bar.update(number)
    frames = dict(pair for task in tasks for pair in zip(task.indices, plan.finished(task), strict=True))
    write(file, [frames[index] for index in range(count)])
    shutil.rmtree(parts)
    return read(file)


@dataclass(frozen=True)
class _Task:
    """A configuration, or the snapshots of one quench, with their places in the set."""

    kind: str
    indices: tuple[int, ...]


def _tasks(kinds: list[str], count: int, snapshots: int) -> list[_Task]:
    kind_of = [kinds[index % len(kinds)] for index in range(count)]
    single = [_Task(kind, (index,)) for index, kind in enumerate(kind_of) if kind != "quench"]
    quenched = [index for index, kind in enumerate(kind_of) if kind == "quench"]
    runs = [tuple(quenched[i : i + snapshots]) for i in range(0, len(quenched), snapshots)]
    return single + [_Task("quench", run) for run in runs]


@dataclass(frozen=True)
class _Plan:
    """What all tasks share; sent to the processes."""

    lattice: Atoms
    settings: dict[str, Any]
    told: set[str]
    hamiltonian: str
    quench: Quench
    seed: int
    folder: Path

    def part(self, task: _Task) -> Path:
        return self.folder / f"{task.indices[0]:06d}.npz"

    def carry_out(self, task: _Task) -> int:
        """Make and label the configurations of a task, write them, and return their number."""
        generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(task.indices[0],)))
        atoms, calc = self.lattice.copy(), KondoEDCalculator(**self.settings)
        calc.told |= self.told
        if task.kind == "quench":
            snapshots = quench(atoms, calc, self.quench, generator)
            frames = [self._labelled(snapshot, task) for _, snapshot in zip(task.indices, snapshots, strict=False)]
        else:
            configure(atoms, task.kind, generator)
            atoms.calc = calc
            frames = [self._labelled(atoms, task)]
        write(self.part(task), frames)
        return len(frames)

    def finished(self, task: _Task) -> list[Frame]:
        frames = read(self.part(task))
        if len(frames) != len(task.indices):
            raise KLMError(
                f"{self.part(task)} holds {len(frames)} frames instead of {len(task.indices)}",
                "it was changed, or is from another sampling",
                "remove it and sample again: what is missing is made anew",
            )
        return frames

    def _labelled(self, atoms: Atoms, task: _Task) -> Atoms:
        energy = atoms.get_potential_energy()
        frame = atoms.copy()
        frame.set_array("magnetic_forces", get_magnetic_forces(atoms), float, (3,))
        mu = float(atoms.calc.results["chemical_potential"])
        frame.info |= {"hamiltonian": self.hamiltonian, "kind": task.kind, "chemical_potential": mu}
        frame.calc = SinglePointCalculator(frame, energy=energy, free_energy=energy)
        return frame


def _carried_out(plan: _Plan, tasks: list[_Task], workers: int) -> Generator[int, None, None]:
    """Carry out the tasks; yields the number of labels as each is done."""
    if workers == 1 or len(tasks) < 2:
        yield from map(plan.carry_out, tasks)
        return
    with closing(carried_out(plan.carry_out, tasks, workers)) as finished:
        for _, labels in finished:
            yield labels


def _is_finished(file: Path, parts: Path, recipe: dict[str, Any]) -> bool:
    """Whether the set is there already; otherwise leave the recipe and a folder for its parts."""
    record = file.with_name(f"{file.name}.recipe.json")
    in_the_way = file if file.exists() else parts if any(parts.glob("*.npz")) else None
    try:
        there = json.loads(record.read_text()) if record.exists() else {}
        there = there if isinstance(there, dict) else {}
    except (OSError, ValueError):
        there = {}
    here = json.loads(json.dumps(recipe))
    different = [name for name in here if name not in there or there[name] != here[name]]
    if in_the_way is not None and different:
        raise KLMError(
            f"{in_the_way} is there, and was made with other parameters: {', '.join(different)}",
            f"in {record}: " + "; ".join(f"{name} = {short(there.get(name))}" for name in different)
            if there
            else f"there is no readable {record} that says how it was made",
            "give the parameters of that sampling, another name, or remove what is there",
        )
    try:
        if file.exists():
            shutil.rmtree(parts, ignore_errors=True)
            return True
        parts.mkdir(exist_ok=True)
        with written_atomically(record) as temporary:
            temporary.write_text(json.dumps(here, indent=1) + "\n")
    except OSError as error:
        raise KLMError(f"{file} cannot be written", str(error), "choose another name or folder") from None
    return False


def _checked_hamiltonian(settings: dict[str, Any], lattice: Atoms, workers: int) -> tuple[dict[str, Any], set[str]]:
    """The Hamiltonian's parameters as JSON, and what a calculator has warned of.

    Everything that needs no diagonalisation is checked.
    """
    if not isinstance(settings["hopping"], Mapping):
        raise KLMError(
            "hopping must be given by neighbour shell",
            "it is written into the data set, where a function of distance cannot be",
            "for instance hopping={1: 1.0}",
        )
    checked_number(settings["temperature"], "temperature", "eV", minimum=0)
    calc = KondoEDCalculator(**settings)
    trial = lattice.copy()
    configure(trial, "random", np.random.default_rng(0))
    kondo: BoundKondo = calc.bound(trial).terms[0]  # type: ignore[attr-defined]
    if workers > 1:
        require_memory(
            workers * kondo.memory_needed,
            f"exact diagonalisation of {len(trial)} sites in {workers} processes at once",
            "use fewer workers: each needs its own memory",
            calc.device,
        )
    parameters = {
        "kind": "kondo",
        "hopping": {str(int(shell)): float(t) for shell, t in sorted(settings["hopping"].items())},
        "J": float(settings["J"]),
        "filling": None if settings["filling"] is None else float(settings["filling"]),
        "mu": None if settings["mu"] is None else float(settings["mu"]),
        "temperature": float(settings["temperature"]),
        "kpts": [int(n) for n in settings["kpts"]],
    }
    return parameters, calc.told


def _checked_kinds(kinds: Any) -> list[str]:
    names = [kinds] if isinstance(kinds, str) else list(kinds) if isinstance(kinds, list | tuple) else []
    if not names or any(not isinstance(name, str) or name not in KINDS for name in names):
        raise unknown_kind(kinds)
    return names


def _checked_quench(plan: Any) -> Quench:
    if plan is not None and not isinstance(plan, Quench):
        raise KLMError(
            f"quench_plan = {plan!r} is no plan", "it must be a Quench", "for instance Quench(snapshots=5, spacing=2)"
        )
    return Quench() if plan is None else plan


def _bare(atoms: Atoms) -> Atoms:
    """Structure and moments, without whatever else the atoms carry."""
    structure = checked_atoms(atoms)
    lattice = Atoms(structure.numbers, structure.positions, cell=structure.cell, pbc=structure.pbc)
    if is_magnetic(structure).any():
        set_moments(lattice, get_moments(structure))
    return lattice


def _fingerprint(atoms: Atoms) -> str:
    length = np.linalg.norm(get_moments(atoms), axis=1)
    digest = hashlib.sha256()
    for array in (atoms.numbers.astype(np.int64), atoms.positions, atoms.cell.array, atoms.pbc, length):
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"{atoms.get_chemical_formula()}, {digest.hexdigest()[:16]}"


def _whole(value: Any, name: str, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise KLMError(f"{name} = {value!r} cannot be used", f"it must be an integer >= {minimum}", f"give {name}=10")
    return int(value)
