"""Outputs are whole or not there, and never two in one file: full disks, vanished folders, names spelled twice."""

import contextlib
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk

from ase_klm import (
    KLMError,
    LLGDynamics,
    SpinCalculator,
    SpinLatticeDynamics,
    SpinLatticeFilter,
    SpinMinimizer,
    data,
    lattices,
    potentials,
    textures,
)
from ase_klm.dynamics import restart
from ase_klm.files import check_apart, written_atomically
from ase_klm.models.files import write_tensors
from ase_klm.training import curves


def magnet(seed=1):
    atoms = lattices.square((3, 3))
    textures.random(atoms, seed=seed)
    atoms.calc = SpinCalculator(potentials.Exchange({1: -0.01}))
    return atoms


def crystal():
    atoms = bulk("Fe", cubic=True)
    textures.uniform(atoms, length=2.2, noise=0.1, seed=1)
    atoms.calc = SpinCalculator(potentials.Exchange({1: -0.01}) + potentials.LatticeEnergy({1: 3.0}))
    return atoms


def llg(**outputs):
    return LLGDynamics(magnet(), 0.5, gamma=1.0, **outputs)


def replicas(**outputs):
    return LLGDynamics([magnet(1), magnet(2)], 0.5, gamma=1.0, **outputs)


def coupled(**outputs):
    return SpinLatticeDynamics(crystal(), 0.5 * units.fs, **outputs)


def minimizer(**outputs):
    return SpinMinimizer(magnet(), **outputs)


@contextlib.contextmanager
def disk_with_room_for(size):
    """No file may grow beyond `size` bytes: writing fails half-way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


# One name for two outputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["a.traj", "./a.traj", "folder/../a.traj", "link.traj", "hard.traj", "absolute"])
@pytest.mark.parametrize(
    ("make", "first", "second"),
    [
        (llg, "trajectory", "restart"),
        (llg, "trajectory", "logfile"),
        (llg, "logfile", "restart"),
        (coupled, "trajectory", "restart"),
        (coupled, "restart", "logfile"),
        (minimizer, "trajectory", "logfile"),
    ],
)
def test_one_file_for_two_outputs_is_refused_before_anything_is_written(
    make, first, second, spelling, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("a.traj").write_text("kept")
    Path("link.traj").symlink_to("a.traj")
    Path("hard.traj").hardlink_to("a.traj")
    before = contents(".")
    name = str(tmp_path / "a.traj") if spelling == "absolute" else spelling
    for names in (("a.traj", name), (name, "a.traj")):
        with pytest.raises(KLMError, match="are one file"):
            make(**dict(zip((first, second), names, strict=True)))
    assert contents(".") == before


@pytest.mark.parametrize("other", ["restart", "logfile"])
def test_trajectories_of_replicas_count_by_the_names_they_get(other, tmp_path):
    with pytest.raises(KLMError, match=r"trajectory of replica 1"):
        replicas(trajectory=tmp_path / "run.traj", **{other: tmp_path / "run-1.traj"})
    assert not contents(tmp_path)
    replicas(trajectory=tmp_path / "run.traj", **{other: tmp_path / "run.traj"}).run(1)  # which nobody else writes
    assert len(contents(tmp_path)) == 3


def test_an_open_file_counts_by_its_name_and_the_terminal_does_not(tmp_path):
    with (tmp_path / "log").open("w") as log, pytest.raises(KLMError, match="are one file"):
        llg(logfile=log, restart=tmp_path / "log")
    check_apart({"logfile": "-", "other": "-", "trajectory": None, "restart": None})
    check_apart({"logfile": "/dev/null", "other": "/dev/null"})


# A full disk, a folder that vanishes -------------------------------------------------------------------------------


def save_restart(path):
    zeros = np.zeros((40, 3))
    restart.save(path, restart.RestartState(1, zeros, zeros, np.zeros(()), np.zeros(0, np.uint8), {}))


WRITERS = {
    "run.npz": save_restart,
    "set.npz": lambda path: data.write(path, [magnet()]),
    "frames.traj": lambda path: data.write(path, [magnet()] * 3),
    "frames.extxyz": lambda path: data.write(path, [magnet()] * 3),
    "base.db": lambda path: data.write(path, [magnet()]),
    "weights.safetensors": lambda path: write_tensors(path, {"w": torch.zeros(100)}, {}),
    "curves.csv": lambda path: curves.write(path.parent, [{"epoch": float(n), "step": 1.0} for n in range(50)]),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("room", [0, 100])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(name, room, tmp_path):
    path = tmp_path / name
    path.write_text("old")
    with (
        disk_with_room_for(room),
        pytest.raises(KLMError, match=rf"(?s){name} cannot be written.*(File too large|disk I/O error)"),
    ):
        WRITERS[name](path)
    assert contents(tmp_path) == {name: b"old"}
    WRITERS[name](path)
    assert path.stat().st_size > 100
    assert len(contents(tmp_path)) == 1


def torn(path, error):
    with written_atomically(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_atomic_writing_is_all_or_nothing(error, tmp_path):
    path = tmp_path / "a.txt"
    for old in (None, "old"):
        with pytest.raises(KLMError if error is OSError else error):
            torn(path, error)
        assert contents(tmp_path) == ({} if old is None else {"a.txt": b"old"})
        path.write_text("old")
    with written_atomically(path) as temporary:
        temporary.write_text("new")
    assert contents(tmp_path) == {"a.txt": b"new"}


@pytest.mark.parametrize("make", [llg, coupled])
@pytest.mark.parametrize("output", ["restart", "trajectory.traj", "trajectory.extxyz", "logfile"])
def test_a_disk_that_fills_during_a_run_leaves_the_last_restart_file(make, output, tmp_path):
    keyword, _, ending = output.partition(".")
    path = tmp_path / f"out.{ending}" if ending else tmp_path / "out"
    outputs = {"restart": tmp_path / "run.npz", "restart_interval": 2, keyword: path}
    dynamics = make(**outputs)
    dynamics.run(4)
    kept = contents(tmp_path)
    with disk_with_room_for(10 if keyword == "restart" else path.stat().st_size):
        with pytest.raises(KLMError, match=r"(?s)out\S* cannot be written.*what was written before"):
            dynamics.run(1)
        with contextlib.suppress(KLMError):
            dynamics.close()
    found = contents(tmp_path)
    assert found.keys() == kept.keys()
    assert found.get("run.npz") == kept.get("run.npz")
    if keyword == "restart":
        assert found == kept
    with make(**outputs) as dynamics:  # with room again, the run goes on
        dynamics.run(6)
    if keyword == "trajectory":
        assert [frame.step for frame in data.read(path)] == list(range(7))


@pytest.mark.parametrize("output", ["trajectory.traj", "trajectory.extxyz", "logfile", "restart"])
def test_a_folder_that_vanishes_is_said(output, tmp_path):
    keyword, _, ending = output.partition(".")
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / f"out.{ending or 'npz'}"
    outputs = {keyword: path, "restart_interval": 2}
    if keyword != "restart":
        outputs["restart"] = tmp_path / "run.npz"
    dynamics = llg(**outputs)
    dynamics.run(4)
    kept = contents(tmp_path)
    shutil.rmtree(folder)
    with pytest.raises(KLMError, match=rf"(?s)folder/out.{ending or 'npz'} cannot be written"):
        dynamics.run(2)
    dynamics.close()
    assert contents(tmp_path) == kept


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize(
    "use",
    [
        lambda log: llg(logfile=log).run(1),
        lambda log: coupled(logfile=log).run(1),
        lambda log: minimizer(logfile=log).run(steps=1),
        lambda log: SpinLatticeFilter(crystal(), logfile=log).report(),
    ],
)
def test_a_full_device_is_named_by_every_log(use):
    with pytest.raises(KLMError, match=r"(?s)/dev/full cannot be written.*No space left"):
        use("/dev/full")


def test_relative_names_are_those_of_the_folder_in_which_a_run_was_made(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(tmp_path)
    dynamics = llg(trajectory="run.traj", logfile="log", restart="run.npz")
    monkeypatch.chdir(other)
    dynamics.run(2)
    assert set(contents(tmp_path)) == {"run.traj", "log", "run.npz"}
