"""S(q, ω) of moments and velocities: lines of linear theory, the sign of q and ω, sum rules, sources of every kind."""

import runpy
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from conftest import reference

from ase_klm import (
    ExchangeCalculator,
    LLGDynamics,
    SpinCalculator,
    SpinLatticeDynamics,
    analysis,
    data,
    graphs,
    lattices,
    plot,
    potentials,
    textures,
    units,
)
from ase_klm.analysis import dynamical_structure_factor, spectra, trajectories, velocity_spectrum, wave_vector_path
from ase_klm.errors import KLMError, KLMWarning
from ase_klm.moments import get_moments, set_moments


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def recorded(atoms, steps, interval, **keywords):
    """Moments of a run at every so many steps, shape (n, N, 3)."""
    moments = []
    dynamics = LLGDynamics(atoms, progress=False, **keywords)
    dynamics.attach(lambda: moments.append(get_moments(atoms)), interval)
    dynamics.run(steps)
    return np.array(moments)


def tilted(atoms, axes, tilt=0.01, length=1.0):
    """Directions with small random tilts, so that every spin wave is there."""
    noise = tilt * np.random.default_rng(1).normal(size=(len(atoms), 3))
    e = np.array(axes) + noise
    set_moments(atoms, length * e / np.linalg.norm(e, axis=1, keepdims=True))


def minus_intensity(result):
    """S of m⁻ with itself, <m⁻(q)* m⁻(q)> = S_xx + S_yy - i S_xy + i S_yx: creation in a ferromagnet along z."""
    s = result.tensor
    return (s[..., 0, 0] + s[..., 1, 1] - 1j * s[..., 0, 1] + 1j * s[..., 1, 0]).real


def random_series(atoms, frames=64, seed=1):
    return np.random.default_rng(seed).normal(size=(frames, len(atoms), 3))


def as_frames(atoms, moments, **info):
    frames = []
    for number, m in enumerate(moments):
        frame = atoms.copy()
        set_moments(frame, m)
        frame.info |= {name: values[number] for name, values in info.items()}
        frames.append(frame)
    return frames


# the sign of q and ω


@pytest.fixture(scope="module")
def dm_chain():
    """Undamped spin waves of B = 10, D = 1 (model units)."""
    atoms = lattices.chain(24)
    tilted(atoms, np.tile((0, 0, 1.0), (24, 1)))
    coupling = np.array([(0, 1.0, 0), (-1.0, 0, 0), (0, 0, 0)])  # D z·(e_i × e_j)
    bonds = [(i, (i + 1) % 24, (int(i == 23), 0, 0), coupling) for i in range(24)]
    atoms.calc = ExchangeCalculator(bonds=bonds, site_fields=np.tile((0, 0, 10.0), (24, 1)))
    moments = recorded(atoms, 1600, 5, timestep=0.02, damping=0.0, gamma=1.0)
    return atoms, moments, 0.1


def test_dm_chain_in_components(dm_chain):
    atoms, moments, step = dm_chain
    result = dynamical_structure_factor(moments, atoms=atoms, timestep=step, gamma=1.0)
    bin_width = result.energies[1] - result.energies[0]
    expected = 10 + 2 * np.sin(2 * np.pi * result.q[:, 0])
    for intensity in (minus_intensity(result), np.where(result.energies > 1, result.intensity, 0)):
        peaks = result.energies[intensity.argmax(axis=1)]
        # nearest energy of the grid, and 0.5 % from the time step, (ωΔt)²/12
        np.testing.assert_allclose(peaks, expected, atol=0.5 * bin_width + 0.005 * 10)
    creation = minus_intensity(result)
    assert creation[:, result.energies < 0].max() < 1e-3 * creation.max()
    at = (np.arange(24), creation.argmax(axis=1))
    np.testing.assert_allclose(result.tensor[..., 0, 1][at], 1j * result.tensor[..., 0, 0][at], rtol=0.02)
    reference_energies = reference("spinwave_references/dm_chain_nonreciprocal.json")["energies_meV"]
    for name, q in (("third", 1 / 3), ("mthird", -1 / 3)):
        row = np.flatnonzero(np.isclose(result.q[:, 0], q))[0]
        assert result.energies[creation[row].argmax()] == pytest.approx(reference_energies[name][0], abs=0.16)


def test_dm_chain_by_the_transform_of_the_conventions(dm_chain):
    """Σ_R ∫ m⁺ exp(-i(2πq·R + ωt)), summed as it stands."""
    atoms, moments, step = dm_chain
    result = dynamical_structure_factor(moments, atoms=atoms, timestep=step, gamma=1.0, window=None)
    plus = moments[..., 0] + 1j * moments[..., 1]
    in_space = np.exp(-2j * np.pi * np.outer(result.q[:, 0], np.arange(24)))
    in_time = np.exp(-1j * np.outer(result.energies, step * np.arange(len(moments))))
    direct = abs(in_space @ plus.T @ in_time.T) ** 2
    bin_width = result.energies[1] - result.energies[0]
    direct /= len(moments) ** 2 * 24 * bin_width
    np.testing.assert_allclose(minus_intensity(result), direct, atol=1e-9 * direct.max())
    peaks = result.energies[direct.argmax(axis=1)]
    np.testing.assert_allclose(peaks, 10 + 2 * np.sin(2 * np.pi * result.q[:, 0]), atol=0.5 * bin_width + 0.05)


def test_antiferromagnetic_chain_in_physical_units():
    """2JS|sin 2πh|, S = 1 carried by 2 μB, J = 1 meV."""
    known = reference("spinwave_references/afm_chain.json")
    atoms = lattices.chain(40)
    tilted(atoms, np.outer((-1.0) ** np.arange(40), (0, 0, 1)), length=2.0)
    atoms.calc = ExchangeCalculator(shells={1: 1e-3})
    moments = recorded(atoms, 2700, 6, timestep=30 * units.FS, damping=0.0)
    q = [(h, 0, 0) for h in known["q_prim_h"]]
    expected = 1e-3 * np.array([bands[0] for bands in known["energies_meV"].values()])
    result = dynamical_structure_factor(moments, q, atoms=atoms, timestep=180 * units.FS)
    bin_width = result.energies[1] - result.energies[0]
    for sign in (1, -1):
        for intensity in (result.intensity, result.perpendicular()):
            lines = np.where(sign * result.energies > 2 * bin_width, intensity, 0)
            peaks = result.energies[lines.argmax(axis=1)]
            np.testing.assert_allclose(peaks, sign * expected, atol=bin_width)


# linear theory at low temperature


def test_ferromagnet_at_low_temperature(tmp_path):
    """Lines within their width, equipartition, and the sum rule, from a file of LLGDynamics without bookkeeping."""
    J, K, kT, damping = 0.010, 0.002, 5e-5, 0.02
    atoms = lattices.square((12, 12))
    textures.uniform(atoms, length=2.0)  # S = 1
    atoms.calc = ExchangeCalculator(shells={1: -J}, onsite=np.tile(np.diag([0, 0, -K]), (144, 1, 1)))
    run = {"timestep": 3 * units.FS, "damping": damping, "kT": kT, "progress": False}
    LLGDynamics(atoms, seed=1, **run).run(1000)
    with LLGDynamics(atoms, seed=2, trajectory=tmp_path / "run.traj", loginterval=6, **run) as dynamics:
        dynamics.run(3600)
    result = dynamical_structure_factor(tmp_path / "run.traj", segments=3)
    linear = 2 * K + 2 * J * (2 - np.cos(2 * np.pi * result.q[:, :2]).sum(axis=1))
    creation = minus_intensity(result)
    peaks = result.energies[creation.argmax(axis=1)]
    # Lorentzians of width 2αω, whose highest point is noisy; and 1 % from the time step
    assert (abs(peaks - linear) < result.resolution + 2 * damping * linear).all()
    centres = (creation * result.energies * (creation > 0.05 * creation.max(axis=1)[:, None])).sum(axis=1)
    centres /= (creation * (creation > 0.05 * creation.max(axis=1)[:, None])).sum(axis=1)
    fast = linear > 0.015  # modes that have come to equilibrium, and are averaged over many lifetimes
    assert np.mean((centres / linear)[fast]) == pytest.approx(1, abs=0.01)
    bin_width = result.energies[1] - result.energies[0]
    # <|m_x(q)|²>/N = kT g|m|/ω; some 15 independent samples of each of about 120 modes
    spin_waves = result.tensor[:, :, 0, 0].real.sum(axis=1) * bin_width * linear / (2 * 2 * kT)
    assert spin_waves[fast].mean() == pytest.approx(1, abs=0.07)
    # quantum spins at T = 0: <m⁻(q)* m⁻(q)>/N = 2 g² S, one line for each wave vector, whatever its energy
    quantum = minus_intensity(result.quantum(kT=kT)).sum(axis=1) * bin_width
    assert quantum[fast].mean() == pytest.approx(2 * 2**2, rel=0.07)
    frames = data.read(tmp_path / "run.traj")
    static = analysis.structure_factor(frames)
    np.testing.assert_array_equal(static.q, result.q)
    flat = dynamical_structure_factor(frames, window=None)
    integral = flat.tensor.sum(axis=1) * (flat.energies[1] - flat.energies[0])
    np.testing.assert_allclose(integral, static.tensor, atol=1e-10 * 4 * 144)
    # with a taper the integral is an average with other weights: a few per cent for all spin waves together
    total = result.intensity[1:].sum() * bin_width
    assert np.flatnonzero(~result.q.any(axis=1)) == [0]
    assert total == pytest.approx(static.intensity[1:].sum(), rel=0.2)


# definition


def brute_force(result, positions, moments, step, hbar=1.0):
    """S_ab for window=None, summed as the formula stands; positions (n, N, 3)."""
    phases = np.exp(1j * np.einsum("qx,tjx->qtj", result.q_cartesian, positions))
    amplitudes = np.einsum("qtj,tja->qta", phases, moments)
    times = step * np.arange(len(moments)) / hbar
    lines = np.einsum("wt,qta->qwa", np.exp(1j * np.outer(result.energies, times)), amplitudes)
    tensor = np.einsum("qwa,qwb->qwab", lines.conj(), lines)
    return tensor / (len(moments) ** 2 * moments.shape[1] * (result.energies[1] - result.energies[0]))


@pytest.mark.parametrize("small_pieces", [False, True])
def test_definition_with_several_sites_a_cell(monkeypatch, small_pieces):
    if small_pieces:
        monkeypatch.setattr(trajectories, "CHUNK_BYTES", 7 * 24 * 27)
        monkeypatch.setattr(spectra, "BLOCK_BYTES", 2000)
    atoms = lattices.kagome((3, 3))
    moments = random_series(atoms, 33)
    q = [(1 / 3, 0, 0), (1, 0, 0), (4 / 3, -1 / 3, 0), (0, 0, 0), (2, 0, 0)]
    result = dynamical_structure_factor(moments, q, atoms=atoms, timestep=0.5, gamma=1.0, window=None)
    positions = np.tile(atoms.positions, (33, 1, 1))
    np.testing.assert_allclose(result.tensor, brute_force(result, positions, moments, 0.5), atol=1e-11)
    assert abs(result.tensor[3] - result.tensor[1]).max() > 0.1  # not periodic with the first reciprocal vector
    np.testing.assert_allclose(result.tensor, result.tensor.swapaxes(2, 3).conj(), atol=1e-14)
    frames = as_frames(atoms, moments)
    np.testing.assert_allclose(
        dynamical_structure_factor(frames, q, timestep=0.5, gamma=1.0, window=None).tensor, result.tensor, atol=1e-12
    )
    # atoms that move scatter from where they are
    cell = graphs.primitive_cell(atoms)
    for number, frame in enumerate(frames):
        frame.rattle(0.05, seed=number)
    moved = dynamical_structure_factor(frames, q, cell=cell, timestep=0.5, gamma=1.0, window=None)
    positions = np.array([frame.positions for frame in frames])
    np.testing.assert_allclose(moved.tensor, brute_force(moved, positions, moments, 0.5), atol=1e-11)


def test_reversed_wave_vector_and_energy():
    atoms = lattices.square((4, 4))
    moments = random_series(atoms, 31)  # odd, so that energies are symmetric
    q = np.array([(0.25, 0.5, 0), (-0.25, -0.5, 0)])
    there, back = dynamical_structure_factor(moments, q, atoms=atoms, timestep=1.0, segments=1).tensor
    np.testing.assert_allclose(back[::-1], there.conj(), atol=1e-12)


@pytest.mark.parametrize("window", ["hann", "blackmanharris", None])
@pytest.mark.parametrize("segments", [1, 3])
def test_line_on_the_grid_has_its_integral_and_width(window, segments):
    """Moments that turn from x to y, as an up moment's tip does, in ASE's units."""
    atoms = lattices.chain(4)
    energy, frames = 0.02, 128
    length = frames // segments if window is None else 2 * frames // (segments + 1)
    step = 2 * np.pi * units.HBAR / energy * 8 / length  # eight periods in a window
    phase = energy / units.HBAR * step * np.arange(frames)[:, None] * np.ones(4)
    moments = 3 * np.stack([np.cos(phase), np.sin(phase), 0 * phase], axis=2)
    result = dynamical_structure_factor(
        moments, [(0, 0, 0)], atoms=atoms, timestep=step, window=window, segments=segments
    )
    assert len(result.energies) == length
    bin_width = result.energies[1] - result.energies[0]
    assert result.intensity.sum() * bin_width == pytest.approx(4 * 9, rel=1e-9)
    creation = minus_intensity(result)[0]  # m⁻ = 3 exp(-iωt): one line at +ω, that of m⁺ at -ω
    assert result.energies[creation.argmax()] == pytest.approx(energy, rel=1e-9)
    assert creation.sum() * bin_width == pytest.approx(4 * 9, rel=1e-9)
    assert 4 * 9 / creation.max() == pytest.approx(result.resolution, rel=1e-9)


def test_windows_reduce_noise():
    atoms = lattices.chain(8)
    moments = random_series(atoms, 4096)
    one = dynamical_structure_factor(moments, atoms=atoms, timestep=1.0)
    many = dynamical_structure_factor(moments, atoms=atoms, timestep=1.0, segments=31)
    assert len(many.energies) == 256

    def scatter(s):  # of the intensity, a sum of three independent components
        return s.intensity.std() / s.intensity.mean() * np.sqrt(3)

    assert scatter(one) == pytest.approx(1.0, rel=0.05)
    assert scatter(many) == pytest.approx(
        1 / np.sqrt(31), rel=0.1
    )  # half-overlapping Hann windows are nearly independent


def test_perpendicular_and_quantum_intensities():
    atoms = lattices.square((4, 4))
    result = dynamical_structure_factor(
        random_series(atoms, 31), [(0.25, 0, 0), (0, 0.5, 0), (0.25, 0.25, 0), (0, 0, 0)], atoms=atoms, timestep=1.0
    )
    xx, yy, zz = (result.tensor[..., n, n].real for n in range(3))
    seen = result.perpendicular()
    np.testing.assert_allclose(seen[0], (yy + zz)[0])
    np.testing.assert_allclose(seen[1], (xx + zz)[1])
    np.testing.assert_allclose(seen[2], ((xx + yy) / 2 - result.tensor[..., 0, 1].real + zz)[2])
    np.testing.assert_allclose(seen[3], 2 / 3 * (xx + yy + zz)[3])
    assert (seen >= 0).all()
    kT = 0.3 * result.energies[-1]
    beta_w = result.energies / kT
    factor = result.quantum(kT=kT).intensity / result.intensity
    moving = beta_w != 0
    np.testing.assert_allclose(factor[0][moving], beta_w[moving] / (1 - np.exp(-beta_w[moving])))
    np.testing.assert_allclose(factor[:, 15], 1.0)
    np.testing.assert_allclose(factor, np.exp(beta_w) * factor[:, ::-1])  # detailed balance
    np.testing.assert_allclose(result.quantum(temperature_K=1e9).intensity, result.intensity, rtol=1e-4)
    cold = result.quantum(temperature_K=1e-6).intensity
    assert np.isfinite(cold).all()
    assert not cold[:, result.energies < 0].any()
    for wrong in ({}, {"kT": 1.0, "temperature_K": 1.0}, {"kT": 0.0}, {"temperature_K": -3}):
        with pytest.raises(KLMError):
            result.quantum(**wrong)


# sources, times, units


def test_file_frames_and_array_agree(tmp_path):
    atoms = lattices.square((3, 3))
    textures.uniform(atoms, length=2.0)
    atoms.calc = ExchangeCalculator(shells={1: -0.01}, field=(0, 0, 0.001))
    run = {"timestep": 2 * units.FS, "damping": 0.1, "temperature_K": 30, "seed": 1, "loginterval": 3}
    results = []
    for name in ("run.traj", "run.extxyz"):
        copy = atoms.copy()
        copy.calc = ExchangeCalculator(shells={1: -0.01}, field=(0, 0, 0.001))
        with LLGDynamics(copy, trajectory=tmp_path / name, **run) as dynamics:
            dynamics.run(90)
        results.append(dynamical_structure_factor(tmp_path / name))
    frames = data.read(tmp_path / "run.traj")
    assert frames[1].time == pytest.approx(6.0)
    moments = np.array([frame.moments for frame in frames])
    results += [
        dynamical_structure_factor(str(tmp_path / "run.traj")),
        dynamical_structure_factor(frames),
        dynamical_structure_factor([frame.atoms for frame in frames], timestep=6 * units.FS),
        dynamical_structure_factor(moments, atoms=atoms, timestep=6 * units.FS),
    ]
    for result in results:
        np.testing.assert_allclose(result.energies, results[0].energies, rtol=1e-6)
        np.testing.assert_allclose(result.tensor, results[0].tensor, rtol=1e-5, atol=1e-3)  # eight decimals in extxyz
    # 4.135667696 eV fs is Planck's constant
    assert results[0].energies[1] - results[0].energies[0] == pytest.approx(4.135667696 / (31 * 6.0), rel=1e-6)
    with pytest.raises(KLMError, match="not the time between the frames"):
        dynamical_structure_factor(frames, timestep=2 * units.FS)
    # the precession shows that the unit is wrong
    with pytest.warns(KLMWarning, match="have had ASE's units"):
        dynamical_structure_factor(frames, gamma=1.0)


def test_model_units_from_a_file(tmp_path):
    atoms = lattices.chain(8)
    tilted(atoms, np.tile((0, 0, 1.0), (8, 1)), tilt=0.1)
    atoms.calc = ExchangeCalculator(shells={1: -1.0}, field=(0, 0, 0.3))
    with LLGDynamics(atoms, 0.05, damping=0.0, gamma=1.0, trajectory=tmp_path / "run.traj", loginterval=4) as dynamics:
        dynamics.run(800)
    result = dynamical_structure_factor(tmp_path / "run.traj", [(0.25, 0, 0)], gamma=1.0)
    peak = result.energies[minus_intensity(result)[0].argmax()]
    assert peak == pytest.approx(0.3 + 2.0, abs=result.resolution)
    with pytest.warns(KLMWarning, match=r"give gamma=1\.0"):
        dynamical_structure_factor(tmp_path / "run.traj", [(0.25, 0, 0)])


# wave vectors


def test_path_of_wave_vectors():
    atoms = lattices.triangular((12, 12))
    path = wave_vector_path(atoms, "GMKG")
    assert len(path.q) == 6 + 2 + 4 + 1
    assert [name for _, name in path.labels] == ["G", "M", "K", "G"]
    ends = [0.0, 2 * np.pi / np.sqrt(3), 2 * np.pi / np.sqrt(3) + 2 * np.pi / 3, 2 * np.pi / np.sqrt(3) + 2 * np.pi]
    np.testing.assert_allclose([place for place, _ in path.labels], ends)
    np.testing.assert_allclose(path.along[[0, 6, 8, 12]], ends)
    counts = 12 * path.q
    np.testing.assert_allclose(counts, counts.round(), atol=1e-9)
    reciprocal = 2 * np.pi * np.linalg.inv(graphs.primitive_cell(atoms)).T
    lengths = np.linalg.norm(np.diff(path.q @ reciprocal, axis=0), axis=1)
    np.testing.assert_allclose(np.diff(path.along), lengths)
    assert len(wave_vector_path(atoms, "GM,KG").q) == 7 + 5


def test_path_leaves_out_corners_that_do_not_belong_to_the_supercell():
    path = wave_vector_path(lattices.square((5, 5)), [(0, 0, 0), (0.5, 0.5, 0), (1, 1, 0)])
    np.testing.assert_allclose(5 * path.q[:, 0], range(6), atol=1e-9)
    assert path.along[3] - path.along[2] == pytest.approx(2 * np.pi * np.sqrt(2) / 5)
    chain = wave_vector_path(lattices.chain(6), "GX")
    np.testing.assert_allclose(chain.q[:, 0], np.arange(4) / 6)


@pytest.mark.parametrize("path", ["GZ", "G", "", [(0, 0, 0)], [(0, 0, 0), (0, 0, 0)], [(0.1, 0, 0), (0.1, 0.3, 0)], 3])
def test_impossible_paths(path):
    with pytest.raises(KLMError):
        wave_vector_path(lattices.square((4, 4)), path)


# wrong input


def test_wrong_wave_vectors():
    atoms = lattices.square((12, 12))
    moments = random_series(atoms, 16)
    with pytest.raises(KLMError, match=r"nearest one, \[0\.333333, 0\.083333, 0\.0\]"):
        dynamical_structure_factor(moments, [(0, 0, 0), (0.31, 0.1, 0)], atoms=atoms, timestep=1.0)
    rounded = dynamical_structure_factor(moments, [(0.3333, 0.6667, 0.37)], atoms=atoms, timestep=1.0)
    np.testing.assert_allclose(rounded.q, [(1 / 3, 2 / 3, 0.37)], atol=1e-12)  # free along the open direction
    for q in ([], [(0, 0)], [(np.nan, 0, 0)], "GX"):
        with pytest.raises(KLMError):
            dynamical_structure_factor(moments, q, atoms=atoms, timestep=1.0)
    atoms.pbc = False
    with pytest.raises(KLMError, match="not periodic"):
        dynamical_structure_factor(moments, atoms=atoms, timestep=1.0)
    cluster = dynamical_structure_factor(moments, [(0.31, 0.1, 0)], np.eye(3), atoms=atoms, timestep=1.0)
    assert cluster.intensity.shape == (1, 16)


def test_wrong_series():
    atoms = lattices.chain(4)
    moments = random_series(atoms, 16)
    times = 2.0 * np.arange(16)
    frames = as_frames(atoms, moments, time=times)
    dynamical_structure_factor(frames)
    with pytest.raises(KLMError, match="1 frame is too few"):
        dynamical_structure_factor(frames[0])
    with pytest.raises(KLMError, match="too few for 9 windows"):
        dynamical_structure_factor(frames, segments=9)
    with pytest.raises(KLMError, match="frame 5 has not the same atoms"):
        dynamical_structure_factor([*frames[:5], frames[5][:3], *frames[6:]])
    with pytest.raises(KLMError, match="frame 15 has not the same magnetic atoms"):
        dynamical_structure_factor([*frames[:15], atoms])
    with pytest.raises(KLMError, match="no atom carries"):
        dynamical_structure_factor([atoms] * 16)
    strained = frames[3].copy()
    strained.set_cell(1.01 * strained.cell, scale_atoms=True)
    with pytest.raises(KLMError, match="frame 3 has not the same cell"):
        dynamical_structure_factor([*frames[:3], strained, *frames[4:]])
    bad = [frame.copy() for frame in frames]
    bad[7].arrays["initial_magmoms"][1, 2] = np.nan
    with pytest.raises(KLMError, match=r"frame 7.*NaN"):
        dynamical_structure_factor(bad)
    with pytest.raises(KLMError, match="from frame 6 to 7"):
        dynamical_structure_factor(as_frames(atoms, moments, time=np.where(np.arange(16) > 6, times + 1, times)))
    with pytest.raises(KLMError, match="equal times"):
        dynamical_structure_factor(as_frames(atoms, moments, time=0 * times))
    with pytest.raises(KLMError, match="time between frames is not known"):
        dynamical_structure_factor(as_frames(atoms, moments))
    for wrong in ([], "missing.traj", "run.txt", 3, None, moments, moments.tolist()):
        with pytest.raises(KLMError):
            dynamical_structure_factor(wrong)


def test_wrong_arrays_and_options(tmp_path):
    atoms = lattices.chain(4)
    moments = random_series(atoms, 16)
    with pytest.raises(KLMError, match="time between frames is not known"):
        dynamical_structure_factor(moments, atoms=atoms)
    holed = moments.copy()
    holed[3, 1, 2] = np.nan
    silent = moments.copy()
    silent[3, 1] = 0
    for wrong in (moments[0], moments[:, :3], moments[:0], holed, silent, [[1, 2], [3]], "run.traj"):
        with pytest.raises(KLMError):
            dynamical_structure_factor(wrong, atoms=atoms, timestep=1.0)
    for wrong in (
        {"window": "sharp"}, {"window": 3}, {"window": "kaiser"}, {"segments": 0}, {"segments": 1.5}, {"timestep": 0},
        {"timestep": np.nan}, {"gamma": -1}, {"cell": np.eye(3) * 3}, {"cell": np.zeros((3, 3))}, {"atoms": "Fe4"},
    ):  # fmt: skip
        with pytest.raises(KLMError):
            dynamical_structure_factor(moments, **({"atoms": atoms, "timestep": 1.0} | wrong))
    (tmp_path / "torn.traj").write_bytes(b"nothing of the kind")
    with pytest.raises(KLMError, match="cannot be read"):
        dynamical_structure_factor(tmp_path / "torn.traj")


def test_non_magnetic_atoms_do_not_count():
    atoms = lattices.square((3, 3))
    moments = random_series(atoms, 16)
    mixed = atoms + Atoms("O9", positions=np.add(atoms.positions, (0.5, 0.5, 0)))
    padded = np.concatenate([moments, np.zeros((16, 9, 3))], axis=1)
    np.testing.assert_allclose(
        dynamical_structure_factor(padded, atoms=mixed, timestep=1.0).tensor,
        dynamical_structure_factor(moments, atoms=atoms, timestep=1.0).tensor,
        atol=1e-9,
    )


# velocities


def spring_chain(size=12, stiffness=2.0):
    """A chain of irons with springs along it; the moments stand apart."""
    atoms = lattices.chain(size, a=2.5)
    textures.uniform(atoms, length=2.0)
    atoms.calc = SpinCalculator(potentials.LatticeEnergy(shells={1: stiffness}), lattice=atoms)  # springs at rest
    frequencies = 2 * np.sqrt(stiffness / atoms.get_masses()[0]) * np.abs(np.sin(np.pi * np.arange(size) / size))
    return atoms, units.HBAR * frequencies  # of the waves n/size, in eV


def waves(atoms, amplitudes, frequencies, times):
    """Velocities Re[Σ_n v_n exp(2πi n x/L + iω_n t)] along x, shape (n_times, N, 3)."""
    number = np.arange(len(atoms))
    phases = 2 * np.pi * np.outer(number, number) / len(atoms)
    turning = amplitudes * np.exp(1j * np.outer(times, frequencies) / units.HBAR)
    return np.einsum("tn,nj,x->tjx", turning, np.exp(1j * phases), (1, 0, 0)).real


def test_one_phonon_of_a_chain(tmp_path):
    """At 2 sqrt(k/M) sin(πq), with kT/M each component and atom, and at the q and ω of a magnon that turns with it."""
    atoms, energies = spring_chain()
    kT, mode, mass = 1e-3, 4, atoms.get_masses()[0]
    amplitude = np.sqrt(4 * kT / mass / 12) * (np.arange(12) == mode)
    atoms.set_velocities(waves(atoms, amplitude, energies, [0.0])[0])
    # v exp(iωt) is the rate of v exp(iωt)/(iω); with both, the wave goes one way only
    atoms.positions += waves(atoms, amplitude / (1j * energies[mode] / units.HBAR), energies, [0.0])[0]
    at_rest, _ = spring_chain()
    run = {"trajectory": tmp_path / "run.traj", "loginterval": 2, "progress": False}
    with SpinLatticeDynamics(atoms, 4 * units.FS, **run) as dynamics:
        dynamics.run(600)
    q = np.outer(np.arange(-5, 7) / 12, (1, 0, 0))
    result = velocity_spectrum(tmp_path / "run.traj", q, atoms=at_rest)
    bin_width = result.energies[1] - result.energies[0]
    total = result.intensity.sum(axis=1) * bin_width
    # Σ_j M v_j² = 2 kT, half of it at (q, ω), where the convention has this wave, and half at (-q, -ω)
    np.testing.assert_allclose(total, kT * np.isin(np.arange(-5, 7), (4, -4)), rtol=0.01, atol=1e-9)
    for row, sign in ((9, 1), (1, -1)):
        peak = result.energies[result.intensity[row].argmax()]
        assert peak == pytest.approx(sign * energies[mode], abs=0.5 * bin_width)
        np.testing.assert_allclose(result.longitudinal()[row], result.intensity[row], rtol=1e-9)
    assert result.transverse().max() < 1e-9 * result.intensity.max()
    plain = velocity_spectrum(tmp_path / "run.traj", q, atoms=at_rest, mass_weighted=False)
    np.testing.assert_allclose(plain.tensor * mass, result.tensor, rtol=1e-9, atol=1e-15)
    # the same vectors as moments have the same spectrum
    speeds = np.array([frame.atoms.get_velocities() for frame in data.read(tmp_path / "run.traj")])
    same = dynamical_structure_factor(speeds + 1e-12, q, atoms=at_rest, timestep=8 * units.FS)
    np.testing.assert_allclose(same.tensor, plain.tensor, atol=1e-6 * plain.intensity.max())
    np.testing.assert_allclose(same.energies, plain.energies)
    given = velocity_spectrum(speeds, q, atoms=at_rest, timestep=8 * units.FS)
    np.testing.assert_allclose(given.tensor, result.tensor, rtol=1e-6, atol=1e-9)


def test_thermal_phonons_have_kT_each():
    """Harmonic waves of random amplitudes: lines at the analytic energies, kT/M at every q, n + 1 and n quanta."""
    atoms, energies = spring_chain(24)
    rng, kT, step = np.random.default_rng(1), 0.01, 10 * units.FS
    mass = atoms.get_masses()[0]
    spectra_of = []
    for _ in range(40):
        amplitude = np.sqrt(kT / mass / 24) * (rng.normal(size=24) + 1j * rng.normal(size=24))
        velocities = waves(atoms, amplitude, energies, step * np.arange(256))
        spectra_of.append(velocity_spectrum(velocities, atoms=atoms, timestep=step))
    result = spectra_of[0]
    intensity = np.mean([spectrum.intensity for spectrum in spectra_of], axis=0)
    bin_width = result.energies[1] - result.energies[0]
    expected = energies[(24 * result.q[:, 0]).round().astype(int)]
    created = np.where(result.energies >= 0, intensity, 0)
    # neighbours overlap nearly, and the taper has its maximum between two points
    np.testing.assert_allclose(result.energies[created.argmax(axis=1)], expected, atol=bin_width)
    assert (intensity.sum(axis=1) * bin_width).mean() == pytest.approx(kT, rel=0.05)  # 24 × 40 × 2 samples
    quantum = result.quantum(kT=kT)
    assert isinstance(quantum, analysis.VelocitySpectrum)
    fast = result.energies > 0.005
    factor = quantum.intensity[:, fast] / result.intensity[:, fast]
    beta = result.energies[fast] / kT
    np.testing.assert_allclose(factor, np.tile(beta / (1 - np.exp(-beta)), (24, 1)))


def test_every_branch_at_every_wave_vector():
    """Two masses: an acoustic and an optical line with equal weights, S periodic in q, kT in each of its components."""
    atoms = Atoms("NaCl", positions=[(0, 0, 0), (2, 0, 0)], cell=(4, 10, 10), pbc=(True, False, False)).repeat(
        (6, 1, 1)
    )
    masses, kT = atoms.get_masses(), 0.01
    # normal modes of all springs at once
    ring = 2.0 * (2 * np.eye(12) - np.roll(np.eye(12), 1, axis=0) - np.roll(np.eye(12), -1, axis=0))
    squares, vectors = np.linalg.eigh(ring / np.sqrt(np.outer(masses, masses)))
    frequencies = np.sqrt(squares.clip(0))
    rng, step = np.random.default_rng(2), 5 * units.FS
    series = np.zeros((512, 12, 3))
    phases = rng.uniform(0, 2 * np.pi, 12)
    waves_of_modes = np.sqrt(2 * kT) * np.cos(np.outer(step * np.arange(512), frequencies) + phases)
    waves_of_modes[:, 0] = np.sqrt(kT)  # the drift of the crystal
    series[..., 0] = waves_of_modes @ vectors.T / np.sqrt(masses)
    q = [(1 / 3, 0, 0), (4 / 3, 0, 0), (0, 0, 0)]
    result = velocity_spectrum(series, q, atoms=atoms, timestep=step)
    np.testing.assert_allclose(result.tensor[1], result.tensor[0], atol=1e-12)
    bin_width = result.energies[1] - result.energies[0]
    stiff = 2.0 * (1 / masses[0] + 1 / masses[1])
    half = np.sqrt(stiff**2 - 4 * 2.0**2 / (masses[0] * masses[1]) * np.sin(np.pi / 3) ** 2)
    for row, squares_of_q in ((0, (stiff - half, stiff + half)), (2, (0.0, 2 * stiff))):
        for square in squares_of_q:
            line = units.HBAR * np.sqrt(square)
            near = np.abs(np.abs(result.energies) - line) < 3.5 * bin_width  # of a Hann window's line
            assert result.intensity[row, near].sum() * bin_width == pytest.approx(kT / 2, rel=0.01)
        assert result.intensity[row].sum() * bin_width == pytest.approx(kT, rel=0.01)


def test_magnon_and_phonon_repel_each_other():
    """At the crossing of the example's crystal, after a kick: both spectra have the two energies of linear theory."""
    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "magnon_phonon.py"))
    at_rest, atoms = example["crystal"](2), example["crystal"](2)
    q = np.pi / example["LATTICE_CONSTANT"]  # along z, half-way to H
    hessian = example["hessian_at"](at_rest, example["second_derivatives"](at_rest), q)
    mass = at_rest.get_masses()[0]
    phonon, _, _, magnon = example["uncoupled_modes"](hessian, mass)
    low, other, _, _ = linear = example["coupled_modes"](hessian, mass)
    assert abs(magnon - phonon) < 0.2e-3
    assert linear[2] - low == pytest.approx(2.12e-3, abs=0.02e-3)
    assert other == pytest.approx(phonon, abs=0.1e-3)
    # spins and atoms begin with a wave in x, which holds both circular polarisations
    wave = np.cos(q * atoms.positions[:, 2])
    e = np.stack([0.01 * wave, 0 * wave, np.ones(len(atoms))], axis=1)
    set_moments(atoms, 2.2 * e / np.linalg.norm(e, axis=1, keepdims=True))
    velocities, moments = [], []
    with SpinLatticeDynamics(atoms, 5 * units.FS, progress=False) as dynamics:
        dynamics.attach(lambda: (velocities.append(atoms.get_velocities()), moments.append(get_moments(atoms))), 6)
        dynamics.run(1500)
    options = {"q": [(0.25, 0.25, -0.25)], "cell": bulk("Fe", a=2.8665).cell, "atoms": at_rest}
    options |= {"timestep": 30 * units.FS}
    moving = velocity_spectrum(np.array(velocities), **options)
    turning = dynamical_structure_factor(np.array(moments), **options)
    created = moving.energies > 0
    for intensity in (moving.transverse()[0], turning.tensor[0, :, 0, 0].real):
        found = example["peaks"](moving.energies[created], intensity[created], 2)
        # 0.1 % of velocity Verlet, the parabola through a line, and the line of the other one beside it
        np.testing.assert_allclose(found, [low, linear[2]], atol=0.2e-3)


def test_velocities_of_molecular_dynamics_and_wrong_ones(tmp_path):
    atoms, _ = spring_chain(6)
    at_rest = atoms.copy()
    rng = np.random.default_rng(3)
    atoms.set_velocities(0.01 * rng.normal(size=(6, 3)) * (1, 0, 0))
    with VelocityVerlet(atoms, 2 * units.FS, trajectory=str(tmp_path / "md.traj"), loginterval=5) as run:
        run.run(200)
    with pytest.raises(KLMError, match="time between frames is not known"):
        velocity_spectrum(tmp_path / "md.traj", atoms=at_rest)
    result = velocity_spectrum(tmp_path / "md.traj", atoms=at_rest, timestep=10 * units.FS)
    assert result.intensity.shape == (6, 41)
    frames = [frame.atoms for frame in data.read(tmp_path / "md.traj")]
    good = {"atoms": at_rest, "timestep": 10 * units.FS}
    np.testing.assert_allclose(velocity_spectrum(frames, **good).tensor, result.tensor, rtol=1e-9, atol=1e-15)
    still = [frame.copy() for frame in frames]
    for frame in still:
        frame.set_momenta(np.zeros((6, 3)))
    bare = [frame.copy() for frame in frames]
    del bare[7].arrays["momenta"]
    broken = [frame.copy() for frame in frames]
    broken[7].arrays["momenta"][2, 1] = np.nan
    massless = at_rest.copy()
    massless.set_masses([1, 1, 0, 1, 1, 1])
    velocities = np.array([frame.get_velocities() for frame in frames])
    for trajectory, options, message in (
        (bare, good, "frame 7 has no velocities"),
        (still, good, "all velocities are zero"),
        (broken, good, "momenta of frame 7"),
        (velocities[:, :4], good, "velocities have shape"),
        (velocities, {"timestep": 1.0}, "velocities were given without a structure"),
        (velocities, {"atoms": at_rest}, "time between frames is not known"),
        (np.where(np.arange(6)[:, None] == 1, np.nan, velocities), good, "velocities"),
        (frames, good | {"atoms": at_rest[:5]}, "not the same atoms"),
        (frames, good | {"atoms": massless}, "has the mass 0"),
        (frames, good | {"segments": 20}, "too few for 20 windows"),
        (frames, {"timestep": 1.0, "cell": at_rest.cell.array / 3.5}, "whole primitive cells"),
        (frames, good | {"q": [(0.1, 0, 0)]}, "no wave vector"),
        (frames, good | {"window": "sharp"}, "not known"),
        (3, good, "not a structure"),
    ):
        with pytest.raises(KLMError, match=message):
            velocity_spectrum(trajectory, **options)
    scattered = at_rest.copy()
    scattered.positions[2, 0] += 0.8
    with pytest.raises(KLMError, match="do not sit on the places"):
        velocity_spectrum(frames, cell=np.diag([2.5, 10, 10]), **(good | {"atoms": scattered}))


# picture


def test_spectrum():
    along, energies = np.array([0.0, 1.0, 1.5, 1.5, 3.0]), 1e-3 * np.arange(-4, 5)
    intensity = np.random.default_rng(1).uniform(1, 2, (5, 9))
    intensity[0, 4] = 1e6  # a Bragg peak
    bands = 1e-3 * np.arange(10.0).reshape(5, 2)
    labels = [(0.0, "G"), (1.5, "X1"), (1.5, "M"), (3.0, "0.5 0 0")]
    ax = plot.spectrum(along, energies, intensity, labels=labels, bands=bands)
    tiles = ax.collections[0]
    np.testing.assert_allclose(tiles.get_array(), intensity.T)
    assert tiles.norm.vmax == intensity[:, [0, 1, 7, 8]].max()
    corners = tiles.get_coordinates()
    np.testing.assert_allclose(corners[0, :, 0], [-0.5, 0.5, 1.25, 1.5, 2.25, 3.75])
    np.testing.assert_allclose(corners[:, 0, 1], np.arange(-4.5, 5))
    np.testing.assert_allclose(ax.lines[1].get_xydata(), np.stack([along, 1e3 * bands[:, 1]], axis=1))
    assert [text.get_text() for text in ax.get_xticklabels()] == ["Γ", "X$_{1}$|M", "0.5 0 0"]
    assert ax.get_xlim() == (0.0, 3.0)
    assert ax.get_ylabel() == "$\\hbar\\omega$ (meV)"
    _, own = plt.subplots()
    finer = (np.linspace(0, 3, 50), np.full((50, 1), np.nan))
    assert plot.spectrum(along, energies, intensity, bands=finer, ax=own, unit="eV", log=False, top=3.0) is own
    assert own.collections[0].norm.vmax == 3.0
    assert own.get_ylabel() == "$\\hbar\\omega$ (eV)"
    plot.spectrum([0.0], [1e-3], [[1.0]])


@pytest.mark.parametrize(
    "wrong",
    [
        {"along": [0.0, -1.0]},
        {"energies": [1e-3, 1e-3, 2e-3]},
        {"intensity": np.ones((3, 2))},
        {"intensity": np.zeros((2, 3))},
        {"intensity": np.full((2, 3), np.nan)},
        {"bands": np.ones((3, 1))},
        {"bands": "no"},
        {"unit": "K"},
        {"top": -1.0},
        {"ax": 3},
    ],
)
def test_spectrum_errors(wrong):
    good = {"along": [0.0, 1.0], "energies": [1e-3, 2e-3, 3e-3], "intensity": np.ones((2, 3))}
    with pytest.raises(KLMError):
        plot.spectrum(**(good | wrong))
