"""Textures: unit lengths, their formulas, statistics of random directions, seeds."""

import numpy as np
import pytest
from scipy import stats

from ase_klm import lattices, textures
from ase_klm.errors import KLMError
from ase_klm.moments import get_moments

ALL = {
    "uniform": lambda atoms, **kw: textures.uniform(atoms, (1, 1, 0), **kw),
    "spiral": lambda atoms, **kw: textures.spiral(atoms, (0.3, 0.1, 0), **kw),
    "crystal 1": lambda atoms, **kw: textures.skyrmion_crystal(atoms, n_sk=1, **kw),
    "crystal 2": lambda atoms, **kw: textures.skyrmion_crystal(atoms, n_sk=2, **kw),
    "skyrmion": lambda atoms, **kw: textures.skyrmion(atoms, 3.0, **kw),
    "wall": lambda atoms, **kw: textures.domain_wall(atoms, 2.0, **kw),
    "random": lambda atoms, **kw: textures.random(atoms, **({"seed": 1} | kw)),
}


@pytest.fixture
def atoms():
    return lattices.triangular((12, 12))


@pytest.mark.parametrize("name", ALL)
def test_lengths(atoms, name):
    ALL[name](atoms)
    np.testing.assert_allclose(np.linalg.norm(get_moments(atoms), axis=1), 1.0, atol=1e-12)
    lengths = np.arange(len(atoms)) % 3 * 0.9
    ALL[name](atoms, length=lengths)
    np.testing.assert_allclose(np.linalg.norm(get_moments(atoms), axis=1), lengths, atol=1e-12)
    assert not get_moments(atoms)[0].any()  # exactly zero on non-magnetic atoms


@pytest.mark.parametrize("name", [name for name in ALL if name != "random"])
def test_noise_formula(atoms, name):
    ALL[name](atoms)
    clean = get_moments(atoms)
    ALL[name](atoms, noise=0.4, seed=7)
    disturbed = clean + 0.4 * np.random.default_rng(7).standard_normal(clean.shape)
    expected = disturbed / np.linalg.norm(disturbed, axis=1, keepdims=True)
    np.testing.assert_allclose(get_moments(atoms), expected, atol=1e-14)
    with pytest.raises(KLMError, match="without a seed"):
        ALL[name](atoms, noise=0.4)


def test_random_directions_are_isotropic():
    atoms = lattices.square((100, 100))
    textures.random(atoms, seed=5)
    e = get_moments(atoms)
    # on the sphere each Cartesian component is uniform in -1...1, and the azimuth in -π...π (Archimedes)
    for component in e.T:
        assert stats.kstest(component, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert stats.kstest(np.arctan2(e[:, 1], e[:, 0]), stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-3
    np.testing.assert_allclose(e.T @ e / len(e), np.eye(3) / 3, atol=5 * np.sqrt(4 / 45 / len(e)))  # five sigma


def test_seeds(atoms):
    textures.random(atoms, seed=1)
    first = get_moments(atoms)
    textures.random(atoms, seed=1)
    np.testing.assert_array_equal(get_moments(atoms), first)
    generator = np.random.default_rng(1)
    textures.random(atoms, seed=generator)
    np.testing.assert_array_equal(get_moments(atoms), first)
    textures.random(atoms, seed=generator)  # a generator moves on
    assert not np.allclose(get_moments(atoms), first)
    for seed in (None, -1, "x"):
        with pytest.raises(KLMError):
            textures.random(atoms, seed=seed)


def test_add_noise_keeps_lengths_and_zeros(atoms):
    lengths = np.arange(len(atoms)) % 3 * 0.9
    textures.uniform(atoms, length=lengths)
    textures.add_noise(atoms, 0.2, seed=1)
    np.testing.assert_allclose(np.linalg.norm(get_moments(atoms), axis=1), lengths, atol=1e-12)
    assert get_moments(atoms)[1:3].std() > 0.01


def test_spiral_is_periodic_and_turns_about_its_axis():
    atoms = lattices.square((12, 12))
    q = 2 * np.pi * np.array((1 / 6, 1 / 4, 0))
    textures.spiral(atoms, q, axis=(1, 2, 2), cone=60, phase=0.4)
    m = get_moments(atoms).reshape(12, 12, 3)
    np.testing.assert_allclose(np.roll(m, 6, axis=0), m, atol=1e-12)
    np.testing.assert_allclose(np.roll(m, 4, axis=1), m, atol=1e-12)
    w = np.array((1, 2, 2)) / 3
    np.testing.assert_allclose(m @ w, 0.5, atol=1e-12)  # cos 60°
    step = np.cross(m[0, 0] - 0.5 * w, m[1, 0] - 0.5 * w) @ w  # right-handed about w along +q
    assert step == pytest.approx(0.75 * np.sin(2 * np.pi / 6))


def test_flat_spiral_about_z(atoms):
    textures.spiral(atoms, (0.7, -0.2, 0))
    angle = atoms.positions @ (0.7, -0.2, 0)
    np.testing.assert_allclose(
        get_moments(atoms), np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1), atol=1e-12
    )


def test_wave_vectors_of_the_triangular_crystal(atoms):
    waves = textures.triangular_wave_vectors(atoms)
    np.testing.assert_allclose(np.linalg.norm(waves, axis=1), np.pi / 3)
    np.testing.assert_allclose(waves.sum(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(waves[0], (np.pi / 3, 0, 0), atol=1e-12)
    for lattice in (atoms, lattices.triangular_magnetic_cell()):  # both fit
        turns = lattice.cell.array[:2] @ textures.triangular_wave_vectors(lattice).T / (2 * np.pi)
        np.testing.assert_allclose(turns, turns.round(), atol=1e-9)


def test_crystals_follow_their_formulas(atoms):
    phase = atoms.positions @ textures.triangular_wave_vectors(atoms).T
    textures.skyrmion_crystal(atoms, n_sk=2)
    expected = np.cos(phase) / np.linalg.norm(np.cos(phase), axis=1, keepdims=True)
    np.testing.assert_allclose(get_moments(atoms), expected, atol=1e-12)
    textures.skyrmion_crystal(atoms, n_sk=1)
    turn = 2 * np.pi * np.arange(3) / 3
    sums = np.stack([np.sin(phase) @ np.cos(turn), np.sin(phase) @ np.sin(turn), 0.3 - np.cos(phase).sum(1)], axis=1)
    np.testing.assert_allclose(get_moments(atoms), sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-12)
    textures.skyrmion_crystal(atoms, n_sk=2, amplitudes=(1, 0, 0), magnetisation=0.5)
    assert np.allclose(get_moments(atoms)[:, 1], 0)
    assert (get_moments(atoms)[:, 2] > 0).all()


def test_skyrmion_profile():
    atoms = lattices.square((41, 41))
    textures.skyrmion(atoms, 6.0, centre=(20, 20, 0), helicity=90)
    m = get_moments(atoms).reshape(41, 41, 3)
    np.testing.assert_allclose(m[20, 20], (0, 0, -1), atol=1e-12)
    assert abs(m[26, 20, 2]) < 1e-12  # e_z = 0 at the radius
    np.testing.assert_allclose(m[26, 20], (0, 1, 0), atol=1e-12)  # Bloch: at right angles to the radius
    assert m[0, 0, 2] > 0.99
    textures.skyrmion(atoms, 6.0, centre=(20, 20, 0))
    np.testing.assert_allclose(get_moments(atoms).reshape(41, 41, 3)[26, 20], (1, 0, 0), atol=1e-12)  # Néel: outwards


@pytest.mark.parametrize(("kind", "component"), [("bloch", 1), ("neel", 0)])
def test_domain_wall(kind, component):
    atoms = lattices.square((41, 2))
    textures.domain_wall(atoms, width=3.0, position=20.0, kind=kind)
    m = get_moments(atoms)[::2]
    x = np.arange(41) - 20
    np.testing.assert_allclose(m[:, 2], -np.tanh(x / 3), atol=1e-12)
    np.testing.assert_allclose(m[:, component], 1 / np.cosh(x / 3), atol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda a: textures.uniform(a, (0, 0, 0)),
        lambda a: textures.uniform(a, (0, 1)),
        lambda a: textures.uniform(a, length=-1.0),
        lambda a: textures.uniform(a, length=np.nan),
        lambda a: textures.uniform(a, length=[1.0, 2.0]),
        lambda a: textures.uniform(a, noise=np.nan, seed=1),
        lambda a: textures.spiral(a, (1, 0)),
        lambda a: textures.spiral(a, (np.inf, 0, 0)),
        lambda a: textures.skyrmion_crystal(a, n_sk=3),
        lambda a: textures.skyrmion_crystal(a, phases=(0, 0)),
        lambda a: textures.skyrmion_crystal(a, amplitudes=(0, 0, 0)),
        lambda a: textures.skyrmion(a, 0.0),
        lambda a: textures.skyrmion(a, 2.0, width=0.0),
        lambda a: textures.domain_wall(a, -1.0),
        lambda a: textures.domain_wall(a, 1.0, kind="other"),
        lambda a: textures.domain_wall(a, 1.0, normal=(0, 0, 1), kind="neel"),
        lambda a: textures.domain_wall(a, 1.0, normal=(0, 0, 1)),
    ],
)
def test_errors(atoms, call):
    with pytest.raises(KLMError):
        call(atoms)
    assert not get_moments(atoms).any()  # nothing was set
