"""S(q, ω): lines where linear spin-wave theory has them, the sign of q and ω, sum rules, sources of every kind."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from ase import Atoms
from conftest import reference

from ase_klm import ExchangeCalculator, LLGDynamics, analysis, data, graphs, lattices, plot, textures, units
from ase_klm.analysis import dynamical_structure_factor, trajectories, wave_vector_path
from ase_klm.errors import KLMError, KLMWarning
from ase_klm.moments import get_moments, set_moments

dsf_module = __import__("importlib").import_module("ase_klm.analysis.dynamical_structure_factor")


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
        monkeypatch.setattr(dsf_module, "BLOCK_BYTES", 2000)
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
    assert ax.get_ylabel() == "$E$ (meV)"
    _, own = plt.subplots()
    finer = (np.linspace(0, 3, 50), np.full((50, 1), np.nan))
    assert plot.spectrum(along, energies, intensity, bands=finer, ax=own, unit="eV", log=False, top=3.0) is own
    assert own.collections[0].norm.vmax == 3.0
    assert own.get_ylabel() == "$E$ (eV)"
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
