"""Analysis: charges are integers and have the right sign; structure factors obey sum rules and closed forms."""

import numpy as np
import pytest
from ase import Atoms

from ase_klm import analysis, graphs, lattices, textures
from ase_klm.errors import KLMError
from ase_klm.moments import get_moments, rotate_moments, set_moments

PLANAR = [lattices.square, lattices.triangular, lattices.honeycomb, lattices.kagome, lattices.triangular_magnetic_cell]


# magnetisation


def test_magnetisation_counts_magnetic_atoms_only():
    atoms = lattices.square((2, 1))
    textures.uniform(atoms, (1, 0, 0), length=[3.0, 0.0])
    np.testing.assert_allclose(analysis.magnetisation(atoms), (3, 0, 0))
    with pytest.raises(KLMError, match="no atom carries"):
        analysis.magnetisation(lattices.square())


# topological charge


@pytest.mark.parametrize("build", PLANAR)
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (1, 3), (5, 7)])
def test_triangles_cover_the_torus_and_the_charge_is_an_integer(build, size):
    atoms = build(size)
    textures.random(atoms, seed=1)
    triangles = analysis.triangulate(atoms)
    assert triangles.shape == (2 * len(atoms), 3)
    charge = analysis.topological_charge(atoms, triangles=triangles)
    assert charge == pytest.approx(round(charge), abs=1e-9)  # rounding of the sum of angles
    assert analysis.topological_charge_density(atoms).sum() == pytest.approx(charge, abs=1e-12)


@pytest.mark.parametrize("build", [lattices.square, lattices.triangular, lattices.honeycomb, lattices.kagome])
def test_triangles_are_counter_clockwise_and_fill_the_cell(build):
    atoms = build((6, 6))
    textures.uniform(atoms)
    corners = atoms.positions[analysis.triangulate(atoms)]
    cell = atoms.cell.array[:2, :2]
    sides = (corners[:, 1:] - corners[:, :1])[..., :2]
    sides -= np.round(sides @ np.linalg.inv(cell)) @ cell  # sides are far shorter than half the cell
    areas = np.linalg.det(sides) / 2
    assert (areas > 0).all()
    assert areas.sum() == pytest.approx(np.linalg.det(cell))


@pytest.mark.parametrize(("n_sk", "charge"), [(2, 54), (1, 27)])
def test_skyrmion_crystals_of_the_triangular_lattice(n_sk, charge):
    atoms = lattices.triangular((36, 36))
    textures.skyrmion_crystal(atoms, n_sk=n_sk)
    assert abs(analysis.topological_charge(atoms)) == pytest.approx(charge, abs=1e-9)
    assert abs(analysis.topological_charge(atoms, per=48)) == pytest.approx(n_sk, abs=1e-9)
    cell = lattices.triangular_magnetic_cell()
    textures.skyrmion_crystal(cell, n_sk=n_sk)
    assert abs(analysis.topological_charge(cell)) == pytest.approx(n_sk, abs=1e-9)


@pytest.mark.parametrize(("n_sk", "charge"), [(2, 384), (1, 192)])
def test_skyrmion_crystals_96(n_sk, charge):
    atoms = lattices.triangular((96, 96))
    textures.skyrmion_crystal(atoms, n_sk=n_sk)
    assert abs(analysis.topological_charge(atoms)) == pytest.approx(charge, abs=1e-9)


@pytest.mark.parametrize("build", [lattices.square, lattices.triangular, lattices.honeycomb, lattices.kagome])
@pytest.mark.parametrize("vorticity", [1, -1, 2])
def test_sign_of_a_skyrmion(build, vorticity):
    atoms = build((24, 24))
    size = np.sqrt(np.linalg.norm(np.cross(*atoms.cell.array[:2])))
    textures.skyrmion(atoms, size / 5, vorticity=vorticity, helicity=30)
    assert analysis.topological_charge(atoms) == pytest.approx(-vorticity, abs=1e-9)


def test_charge_symmetries():
    atoms = lattices.triangular((12, 12))
    textures.skyrmion_crystal(atoms, n_sk=1, noise=0.1, seed=1)
    charge = analysis.topological_charge(atoms)
    assert charge != 0
    c, s = np.cos(0.7), np.sin(0.7)
    rotate_moments(atoms, [(1, 0, 0), (0, c, -s), (0, s, c)])
    assert analysis.topological_charge(atoms) == pytest.approx(charge, abs=1e-9)  # spin rotation
    set_moments(atoms, -get_moments(atoms))
    assert analysis.topological_charge(atoms) == pytest.approx(-charge, abs=1e-9)  # time reversal
    set_moments(atoms, -3 * get_moments(atoms))
    atoms.positions += atoms.cell.array[0] * np.random.default_rng(1).integers(-2, 3, (len(atoms), 1))
    atoms.positions[:, 2] += 4.0
    assert analysis.topological_charge(atoms) == pytest.approx(charge, abs=1e-9)  # length, unwrapped, shifted


def test_upright_and_fully_periodic_layers():
    flat = lattices.square((16, 16))
    textures.skyrmion(flat, 4.0)
    layer = flat.copy()
    layer.pbc = True
    assert analysis.topological_charge(layer) == pytest.approx(-1, abs=1e-9)
    upright = flat.copy()
    upright.rotate(90, "x", rotate_cell=True)  # xy to xz, whose normal counts along +y
    assert abs(analysis.topological_charge(upright)) == pytest.approx(1, abs=1e-9)
    across = flat.copy()  # one layer that lies across the border of its cell
    across.pbc = True
    across.positions[::2, 2] += 10.0
    assert analysis.topological_charge(across) == pytest.approx(-1, abs=1e-9)


def test_open_borders():
    atoms = lattices.square((25, 25))
    textures.skyrmion(atoms, 5.0, centre=(12, 12, 0), width=1.5)
    atoms.pbc = False
    assert len(analysis.triangulate(atoms)) == 2 * 24 * 24
    # what is missing of the sphere is the solid angle outside the border
    assert analysis.topological_charge(atoms) == pytest.approx(-1, abs=0.01)
    atoms.set_cell(None)
    assert len(analysis.triangulate(atoms)) == 2 * 24 * 24
    ribbon = lattices.triangular((8, 5))
    textures.random(ribbon, seed=1)
    ribbon.pbc = (True, False, False)
    assert len(analysis.triangulate(ribbon)) == 2 * 8 * 4
    flake = lattices.triangular((20, 20))
    flake = flake[np.linalg.norm(flake.positions - flake.positions.mean(axis=0), axis=1) < 6]
    flake.pbc = False
    textures.uniform(flake)
    corners = flake.positions[analysis.triangulate(flake)]
    lengths = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    assert lengths.max() < 1.8  # no slivers along the border


def test_only_magnetic_atoms_count():
    atoms = lattices.square((16, 16))
    textures.skyrmion(atoms, 4.0)
    extra = Atoms("O5", positions=np.random.default_rng(1).uniform(0, 16, (5, 3)), magmoms=np.zeros((5, 3)))
    mixed = extra + atoms
    mixed.set_cell(atoms.cell)
    mixed.pbc = atoms.pbc
    assert analysis.topological_charge(mixed) == pytest.approx(-1, abs=1e-9)
    assert analysis.triangulate(mixed).min() == 5
    density = analysis.topological_charge_density(mixed)
    assert density.shape == (261,)
    assert not density[:5].any()


def test_displaced_atoms_and_vacancies():
    atoms = lattices.square((16, 16))
    textures.skyrmion(atoms, 5.0)
    shared = analysis.triangulate(atoms)
    atoms.rattle(0.05, seed=1)
    assert analysis.topological_charge(atoms) == pytest.approx(-1, abs=1e-9)
    assert analysis.topological_charge(atoms, triangles=shared) == pytest.approx(-1, abs=1e-9)
    del atoms[[3, 40, 120]]
    assert analysis.topological_charge(atoms) == pytest.approx(-1, abs=1e-9)
    with pytest.raises(KLMError, match="do not belong"):
        analysis.topological_charge(atoms, triangles=shared)


def test_solid_angle_of_an_octant():
    angles = analysis.solid_angles(np.stack([np.eye(3), -np.eye(3)]), np.array([(0, 1, 2), (0, 2, 1)]))
    np.testing.assert_allclose(angles, np.pi / 2 * np.array([(1, -1), (-1, 1)]))


def bilayer():
    """Two layers, atom upon atom."""
    upper = lattices.triangular((3, 3))
    upper.translate((0, 0, 3.0))
    return lattices.triangular((3, 3)) + upper


@pytest.mark.parametrize(
    ("atoms", "text"),
    [
        (lattices.square((3, 3)), "no atom carries"),
        (Atoms(), "no atom carries"),
        (lattices.chain(5), "line"),
        (lattices.simple_cubic((3, 3, 3)), "one plane"),
        (bilayer(), r"3 Å thick, more than half the spacing of its sites"),
        (Atoms("Fe2", positions=[(0, 0, 0), (1, 0, 0)]), "line"),
        (Atoms("Fe8", positions=np.indices((2, 2, 2)).reshape(3, 8).T), "one plane"),
        (Atoms("Fe2", positions=[(0, 0, 0), (0, 0, 0)], cell=(1, 1, 5), pbc=(1, 1, 0)), "cannot be triangulated"),
    ],
)
def test_charge_errors(atoms, text):
    if text != "no atom carries":
        textures.random(atoms, seed=1)
    with pytest.raises(KLMError, match=text):
        analysis.topological_charge(atoms)


def test_per_must_be_positive():
    atoms = lattices.square((3, 3))
    textures.random(atoms, seed=1)
    for per in (0, -1, np.nan):
        with pytest.raises(KLMError, match="number of sites"):
            analysis.topological_charge(atoms, per=per)


# structure factor


@pytest.mark.parametrize(
    "atoms",
    [
        lattices.chain(7),
        lattices.square((4, 6)),
        lattices.triangular((5, 6)),
        lattices.triangular_magnetic_cell((2, 1)),
        lattices.simple_cubic((2, 3, 4)),
        lattices.body_centred_cubic((2, 3, 2)),
        lattices.face_centred_cubic((2, 2, 3)),
    ],
    ids=lambda atoms: f"{len(atoms)}",
)
def test_sum_rule_and_direct_sum(atoms):
    textures.random(atoms, length=np.linspace(0.5, 2, len(atoms)), seed=1)
    found = analysis.structure_factor(atoms)
    m = get_moments(atoms)
    assert len(found.q) == len(atoms)  # as many wave vectors as cells
    assert found.intensity.mean() == pytest.approx((m**2).sum() / len(atoms), rel=1e-12)
    amplitudes = np.exp(1j * found.q_cartesian @ atoms.positions.T) @ m
    tensor = np.einsum("qa,qb->qab", amplitudes.conj(), amplitudes) / len(atoms)
    np.testing.assert_allclose(found.tensor, tensor, atol=1e-10 * len(atoms))
    again = analysis.structure_factor_at(atoms, found.q)
    np.testing.assert_allclose(again.tensor, found.tensor, atol=1e-10 * len(atoms))


def test_wave_vectors_lie_in_the_first_zone():
    atoms = lattices.triangular((12, 12))
    textures.uniform(atoms)
    found = analysis.structure_factor(atoms)
    lengths = np.linalg.norm(found.q_cartesian, axis=1)
    for shift in ((1, 0, 0), (0, 1, 0), (1, -1, 0), (-1, 0, 0), (0, -1, 0), (-1, 1, 0)):
        assert (np.linalg.norm((found.q + shift) @ found.reciprocal, axis=1) >= lengths - 1e-9).all()
    assert lengths.max() == pytest.approx(4 * np.pi / 3)  # the corner K


@pytest.mark.parametrize("fraction", [(1 / 6, 1 / 4), (1 / 3, 0)])
def test_spiral_has_its_peaks_at_its_wave_vector(fraction):
    atoms = lattices.square((12, 12))
    q = np.array((*fraction, 0))
    textures.spiral(atoms, 2 * np.pi * q)
    found = analysis.structure_factor(atoms)
    bright = found.q[found.intensity > 1e-6]
    np.testing.assert_allclose(np.sort(bright, axis=0), np.sort([q, -q], axis=0), atol=1e-12)
    np.testing.assert_allclose(found.intensity.max(), len(atoms) / 2)
    # m(q) = Σ m exp(2πi q·r) of (cos, sin, 0) is N/2 (1, -i, 0) at -q, so that chirality shows in S_xy
    at = analysis.structure_factor_at(atoms, [-q])
    np.testing.assert_allclose(at.tensor[0], len(atoms) / 4 * np.array([(1, -1j, 0), (1j, 1, 0), (0, 0, 0)]), atol=1e-9)


def test_larger_range_of_wave_vectors():
    atoms = lattices.kagome((4, 4))
    textures.uniform(atoms)
    found = analysis.structure_factor(atoms, q_max=20.0)
    assert np.linalg.norm(found.q_cartesian, axis=1).max() <= 20.0 + 1e-9
    assert len(np.unique(found.q.round(6), axis=0)) == len(found.q)
    area = np.linalg.norm(np.cross(*found.reciprocal[:2])) / 16
    assert len(found.q) == pytest.approx(np.pi * 400 / area, rel=0.02)
    # Bragg peaks of the ferromagnet carry the kagome lattice's structure factor: 1 or 1/9 of the full intensity
    peaks = found.intensity[found.intensity > 1e-6]
    np.testing.assert_allclose(np.unique(peaks.round(8)), [48 / 9, 48.0])


def test_average_over_frames_and_given_cell():
    frames = []
    for seed in range(3):
        atoms = lattices.triangular((6, 6))
        textures.random(atoms, seed=seed)
        frames.append(atoms)
    mean = np.mean([analysis.structure_factor(frame).intensity for frame in frames], axis=0)
    np.testing.assert_allclose(analysis.structure_factor(frames).intensity, mean)
    frames[0].rattle(0.02, seed=1)
    cell = graphs.primitive_cell(frames[1])
    moved = analysis.structure_factor(frames[0], cell=cell)
    assert len(moved.q) == 36
    assert len(analysis.structure_factor(frames[0]).q) == 1  # a displaced crystal is its own primitive cell
    amplitude = np.exp(1j * moved.q_cartesian @ frames[0].positions.T) @ get_moments(frames[0])
    np.testing.assert_allclose(moved.intensity, (abs(amplitude) ** 2).sum(1) / 36, atol=1e-10)


def test_non_magnetic_atoms_and_upright_layers():
    atoms = lattices.square((4, 4))
    textures.spiral(atoms, (np.pi / 2, 0, 0))
    mixed = atoms + Atoms("O16", positions=np.add(atoms.positions, (0.5, 0.5, 0.3)), magmoms=np.zeros((16, 3)))
    np.testing.assert_allclose(
        np.sort(analysis.structure_factor(mixed).intensity),
        np.sort(analysis.structure_factor(atoms).intensity),
        atol=1e-10,
    )
    atoms.rotate(90, "x", rotate_cell=True)
    atoms.cell[:] = atoms.cell[[0, 2, 1]]  # periodic along the first and third vector
    atoms.pbc = (True, False, True)
    found = analysis.structure_factor(atoms)
    assert not found.q[:, 1].any()
    assert found.intensity.mean() == pytest.approx(1.0)


def test_structure_factor_errors():
    atoms = lattices.square((4, 4))
    with pytest.raises(KLMError, match="no atom carries"):
        analysis.structure_factor(atoms)
    textures.uniform(atoms)
    with pytest.raises(KLMError, match="whole primitive cells"):
        analysis.structure_factor(atoms, cell=np.diag([3.0, 1.0, 10.0]))
    with pytest.raises(KLMError, match="q_max"):
        analysis.structure_factor(atoms, q_max=-1)
    with pytest.raises(KLMError, match="shape"):
        analysis.structure_factor_at(atoms, [0, 0, 0])
    with pytest.raises(KLMError, match="no frames"):
        analysis.structure_factor([])
    for wrong in ("run.traj", 3, [1, 2]):
        with pytest.raises(KLMError, match="not a structure"):
            analysis.structure_factor(wrong)
    atoms.pbc = False
    with pytest.raises(KLMError, match="not periodic"):
        analysis.structure_factor(atoms)
    assert analysis.structure_factor_at(atoms, [(0, 0, 0)], cell=np.eye(3)).intensity[0] == pytest.approx(16)


# Bragg peaks


@pytest.mark.parametrize("atoms", [lattices.triangular((24, 24)), lattices.triangular_magnetic_cell((3, 2))])
def test_peaks_of_triple_q_and_single_q_states(atoms):
    textures.skyrmion_crystal(atoms, n_sk=2)
    first, second, *_ = analysis.bragg_peaks(atoms)
    assert np.linalg.norm(first.q_cartesian) == pytest.approx(np.pi / 3)
    assert len(first.star) == 6
    np.testing.assert_allclose(first.star_intensities, first.intensity)
    assert second.intensity < 0.1 * first.intensity
    textures.spiral(atoms, textures.triangular_wave_vectors(atoms)[1])
    peaks = analysis.bragg_peaks(analysis.structure_factor(atoms))
    assert len(peaks) == 1
    np.testing.assert_allclose(peaks[0].star_intensities, len(atoms) / 2 * np.array([1, 1, 0, 0, 0, 0]), atol=1e-8)


def test_ferromagnet_and_magnetised_crystal():
    atoms = lattices.triangular((12, 12))
    textures.uniform(atoms)
    (only,) = analysis.bragg_peaks(atoms)
    assert not only.q.any()
    assert only.intensity == pytest.approx(144)
    assert len(only.star) == 1
    textures.skyrmion_crystal(atoms, n_sk=1)
    peaks = analysis.bragg_peaks(atoms, number=2)
    assert [len(peak.star) for peak in peaks] == [6, 1]


@pytest.mark.parametrize(
    ("atoms", "size"), [(lattices.square((6, 6)), 8), (lattices.simple_cubic((6, 6, 6)), 48), (lattices.chain(8), 2)]
)
def test_stars_have_the_size_of_the_point_group(atoms, size):
    q = {8: (1 / 6, 1 / 3, 0), 48: (0, 1 / 6, 1 / 3), 2: (1 / 4, 0, 0)}[size]
    textures.spiral(atoms, 2 * np.pi * np.array(q))
    (peak,) = analysis.bragg_peaks(atoms)
    assert len(peak.star) == {8: 8, 48: 24, 2: 2}[size]  # q in a mirror plane of the cube
    lengths = np.linalg.norm(peak.star @ (2 * np.pi * np.eye(3)), axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(peak.q_cartesian), atol=1e-9)


def test_peaks_beyond_the_first_zone_and_errors():
    atoms = lattices.honeycomb((6, 6))
    textures.uniform(atoms)
    factor = analysis.structure_factor(atoms, q_max=16.0)
    peaks = analysis.bragg_peaks(factor)
    assert [len(peak.star) for peak in peaks][:2] == [1, 6]  # Γ, and the second star (the first has intensity 1/4)
    with pytest.raises(KLMError, match="scattered"):
        analysis.bragg_peaks(analysis.structure_factor_at(atoms, [(0, 0, 0)]))
