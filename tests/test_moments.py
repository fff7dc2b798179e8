"""Moments on Atoms: kept by what ASE does with atoms, and refused when wrong."""

import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from ase_klm import lattices, textures
from ase_klm.errors import KLMError
from ase_klm.moments import directions, get_magnetic_forces, get_moments, is_magnetic, rotate_moments, set_moments


@pytest.fixture
def atoms():
    lattice = lattices.honeycomb((3, 2))
    lattice.symbols[::2] = "O"
    textures.random(lattice, length=np.arange(12) % 2 * 1.7, seed=3)
    return lattice


def test_copy_slice_repeat_and_pickle_keep_moments(atoms):
    m = get_moments(atoms)
    np.testing.assert_array_equal(get_moments(atoms.copy()), m)
    np.testing.assert_array_equal(get_moments(atoms[2:7]), m[2:7])
    np.testing.assert_array_equal(get_moments(atoms.repeat((2, 1, 1))), np.tile(m, (2, 1)))
    np.testing.assert_array_equal(get_moments(pickle.loads(pickle.dumps(atoms))), m)  # noqa: S301 - our own bytes
    del atoms[0]
    np.testing.assert_array_equal(get_moments(atoms), m[1:])


@pytest.mark.parametrize(("suffix", "tolerance"), [("traj", 0.0), ("extxyz", 5e-9)])  # extxyz writes eight decimals
def test_files_keep_moments(atoms, tmp_path, suffix, tolerance):
    write(tmp_path / f"a.{suffix}", atoms)
    np.testing.assert_allclose(get_moments(read(tmp_path / f"a.{suffix}")), get_moments(atoms), rtol=0, atol=tolerance)


def test_moments_are_copied_both_ways():
    atoms = lattices.chain(3)
    given = np.ones((3, 3))
    set_moments(atoms, given)
    given[:] = 5
    get_moments(atoms)[:] = 7
    np.testing.assert_array_equal(get_moments(atoms), 1.0)


def test_scalar_moments_are_collinear_and_get_replaced():
    iron = bulk("Fe")
    scalar = iron.get_initial_magnetic_moments()[0]
    assert scalar > 0
    np.testing.assert_array_equal(get_moments(iron), [(0, 0, scalar)])
    set_moments(iron, [(1, 2, 3)])
    np.testing.assert_array_equal(iron.get_initial_magnetic_moments(), [(1, 2, 3)])
    np.testing.assert_array_equal(get_moments(Atoms("Fe2")), np.zeros((2, 3)))


@pytest.mark.parametrize("n_atoms", [1, 2, 4, 12])
@pytest.mark.parametrize("before", [None, "scalars", "vectors"])
def test_numbers_are_set_along_z_as_they_are_read(n_atoms, before, rng):
    """What ASE's own scalar moments would be read as, whatever the atoms had."""
    for numbers in (2.2, np.float32(-1.5), 3, rng.normal(size=n_atoms), list(range(n_atoms))):
        atoms, scalar = Atoms(f"Fe{n_atoms}"), Atoms(f"Fe{n_atoms}")
        if before is not None:
            atoms.set_initial_magnetic_moments(np.ones(n_atoms if before == "scalars" else (n_atoms, 3)))
        scalar.set_initial_magnetic_moments(np.broadcast_to(numbers, n_atoms))
        set_moments(atoms, numbers)
        assert atoms.arrays["initial_magmoms"].shape == (n_atoms, 3)
        np.testing.assert_array_equal(get_moments(atoms), get_moments(scalar))


@pytest.mark.parametrize("wrong", [(0, 0, 1), np.ones(5), "up", [None] * 4, np.nan, [[2.2]]])
def test_numbers_that_fit_no_atoms(wrong):
    with pytest.raises(KLMError, match="moments"):
        set_moments(Atoms("Fe4"), wrong)
    with pytest.raises(KLMError, match="one vector for all"):
        set_moments(Atoms("Fe3"), (0, 0, 1))  # three atoms: numbers or a vector?


def test_directions_and_magnetic_sites(atoms):
    e = directions(get_moments(atoms))
    np.testing.assert_array_equal(is_magnetic(atoms), np.arange(12) % 2 == 1)
    np.testing.assert_allclose(np.linalg.norm(e, axis=1), np.arange(12) % 2, atol=1e-15)
    assert directions(np.zeros((4, 2, 3))).shape == (4, 2, 3)


@pytest.mark.parametrize(
    "wrong",
    [np.ones((2, 3)), np.ones(3), np.ones((3, 2)), np.full((3, 3), np.nan), np.full((3, 3), np.inf), "up", [[1, 2], 3]],
)
def test_wrong_moments_are_refused_and_leave_the_old_ones(wrong):
    atoms = lattices.chain(3)
    textures.uniform(atoms)
    with pytest.raises(KLMError) as caught:
        set_moments(atoms, wrong)
    assert all((caught.value.what, caught.value.why, caught.value.remedy))
    np.testing.assert_array_equal(get_moments(atoms)[:, 2], 1.0)


def test_rotation_keeps_angles_and_refuses_mirrors(atoms):
    before = get_moments(atoms)
    c, s = np.cos(0.3), np.sin(0.3)
    rotate_moments(atoms, [(c, -s, 0), (s, c, 0), (0, 0, 1)])
    after = get_moments(atoms)
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-14)
    np.testing.assert_allclose(after[1, 1], s * before[1, 0] + c * before[1, 1], atol=1e-15)  # counter-clockwise
    for wrong in (np.diag([1, 1, -1]), 2 * np.eye(3), np.eye(2)):
        with pytest.raises(KLMError):
            rotate_moments(atoms, wrong)


def test_magnetic_forces_from_array_info_or_nowhere(atoms):
    with pytest.raises(KLMError, match="no magnetic forces"):
        get_magnetic_forces(atoms)
    atoms.calc = SinglePointCalculator(atoms, energy=1.0)  # a calculator without them
    with pytest.raises(KLMError, match="no magnetic forces"):
        get_magnetic_forces(atoms)
    atoms.info["magnetic_forces"] = np.full((12, 3), 2.0)
    assert get_magnetic_forces(atoms)[0, 0] == 2.0
    atoms.arrays["magnetic_forces"] = np.full((12, 3), 3.0)
    assert get_magnetic_forces(atoms)[0, 0] == 3.0
    atoms.calc.results["magnetic_forces"] = np.full((12, 3), 4.0)
    assert get_magnetic_forces(atoms)[0, 0] == 4.0


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(KLMError("a", "b", "c")))  # noqa: S301 - our own bytes
    assert (error.what, error.why, error.remedy) == ("a", "b", "c")
    assert "what to do: c" in str(error)
