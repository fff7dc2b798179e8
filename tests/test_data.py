"""Frames: what is written is read again, by this package, by ASE, and by its viewer."""

import ase.io
import numpy as np
import pytest

from ase_klm import KLMError, KLMWarning, data, get_magnetic_forces, get_moments, lattices, textures
from ase_klm.calculators import ExchangeCalculator

NAMES = ["run.traj", "run.extxyz"]


@pytest.fixture
def atoms():
    magnet = lattices.square((2, 2))
    textures.random(magnet, length=1.5, seed=1)
    magnet.calc = ExchangeCalculator({1: -0.01}, field=(0, 0, 0.01))
    return magnet


@pytest.mark.parametrize("name", NAMES)
def test_written_frames_are_read_again(tmp_path, atoms, name):
    atoms.get_potential_energy()
    data.write(tmp_path / name, [atoms, atoms])
    frame, again = data.read(tmp_path / name)
    tolerance = 0 if name.endswith("traj") else 1e-8  # eight decimals
    assert frame.moments == pytest.approx(get_moments(atoms), abs=tolerance)
    assert frame.magnetic_forces == pytest.approx(atoms.calc.results["magnetic_forces"], abs=tolerance)
    assert frame.forces == pytest.approx(atoms.get_forces(), abs=tolerance)
    assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
    assert frame.step is None
    assert frame.time is None
    data.write(tmp_path / f"again-{name}", again)  # a frame can be written as it is
    assert data.read(tmp_path / f"again-{name}")[0].magnetic_forces == pytest.approx(frame.magnetic_forces)


@pytest.mark.parametrize("name", NAMES)
def test_ase_and_its_viewer_open_the_files(tmp_path, atoms, name):
    images_module = pytest.importorskip("ase.gui.images")
    atoms.get_potential_energy()
    data.write(tmp_path / name, atoms)
    found = ase.io.read(tmp_path / name)
    assert get_moments(found) == pytest.approx(get_moments(atoms), abs=1e-8)
    assert get_magnetic_forces(found) == pytest.approx(atoms.calc.results["magnetic_forces"], abs=1e-8)
    images = images_module.Images()
    images.read([str(tmp_path / name)])
    assert images.get_energy(images[0]) == pytest.approx(atoms.get_potential_energy())
    assert images[0].get_initial_magnetic_moments().shape == (4, 3)  # what the viewer draws as arrows


def test_columns_that_ovito_reads(tmp_path, atoms):
    atoms.get_potential_energy()
    data.write(tmp_path / "run.extxyz", atoms)
    header = (tmp_path / "run.extxyz").read_text().splitlines()[1]
    assert "initial_magmoms:R:3" in header
    assert "magnetic_forces:R:3" in header


def test_stale_results_are_not_written(tmp_path, atoms):
    atoms.get_potential_energy()
    textures.random(atoms, seed=2)
    data.write(tmp_path / "run.traj", atoms)
    (frame,) = data.read(tmp_path / "run.traj")
    assert frame.energy is None
    assert frame.magnetic_forces is None


def test_scalar_moments_are_written_as_vectors(tmp_path):
    magnet = lattices.square((1, 1))
    magnet.set_initial_magnetic_moments([2.0])
    data.write(tmp_path / "run.extxyz", magnet)
    assert data.read(tmp_path / "run.extxyz")[0].moments.tolist() == [[0, 0, 2]]


@pytest.mark.parametrize("name", NAMES)
def test_appending_drops_later_and_torn_frames(tmp_path, atoms, name):
    path = tmp_path / name
    with data.FrameWriter(path) as writer:
        for step in range(5):
            writer.write(atoms, step=step, time=0.5 * step, energy=float(step))
    if name.endswith("extxyz"):
        with path.open("a") as file:
            file.write(path.read_text()[:200])
    with data.FrameWriter(path, append=True, last_step=2) as writer:
        writer.write(atoms, step=7)
    frames = data.read(path)
    assert [frame.step for frame in frames] == [0, 1, 2, 7]
    assert [frame.energy for frame in frames] == [0, 1, 2, None]
    assert sorted(tmp_path.iterdir()) == [path]


def test_missing_trajectory_of_a_continued_run_is_said(tmp_path):
    with pytest.warns(KLMWarning, match="does not exist"), data.FrameWriter(tmp_path / "run.traj", True, 3):
        pass


@pytest.mark.parametrize("name", NAMES)
def test_unreadable_files(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(KLMError, match="no such file"):
        data.read(path)
    path.write_bytes(b"this is no trajectory\n" * 20)
    with pytest.raises(KLMError, match="cannot be read as a trajectory"):
        data.read(path)


def test_bad_paths(tmp_path, atoms):
    with pytest.raises(KLMError, match="neither"):
        data.read("frames.json")
    with pytest.raises(KLMError, match="no folder"):
        data.write(tmp_path / "missing" / "run.traj", atoms)
    data.write(tmp_path / "run.extxyz", atoms)
    with pytest.raises(KLMError, match="without a step"):
        data.FrameWriter(tmp_path / "run.extxyz", append=True, last_step=3)


def test_frames_hold_copies(atoms):
    frame = data.Frame(atoms)
    frame.moments[:] = 0
    assert np.any(get_moments(atoms))
