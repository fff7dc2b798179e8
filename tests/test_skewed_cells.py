"""The crystal, not its description, decides: all quantities in random cells of the same crystal."""

import numpy as np
import pytest
import torch
from ase.build import bulk
from scipy.spatial.transform import Rotation
from test_images import described

from ase_klm import (
    ECNNCalculator,
    ExchangeCalculator,
    KondoEDCalculator,
    MagNetCalculator,
    SpinCalculator,
    analysis,
    get_magnetic_forces,
    get_moments,
    graphs,
    images,
    lattices,
    potentials,
    set_moments,
    textures,
)
from ase_klm.data.configurations import _halves
from ase_klm.magnons import Magnons, berry_curvature, thermal_hall_conductivity, zero_point_energy
from ase_klm.magnons import structure_factor as magnon_structure_factor
from ase_klm.magnons.columns import _nearest_distance
from ase_klm.magnons.magnons import _holds_range, _whole_range
from ase_klm.nn.lattice import LatticeStars
from ase_klm.nn.symmetry import site_permutations
from ase_klm.plot.cells import wigner_seitz_cells
from ase_klm.plot.structure_factor import _cell, _frame
from ase_klm.potentials.tiles import _blocks

SEEDS = range(3)
Z = np.array((0.0, 0.0, 1.0))
WAVES = np.random.default_rng(4).uniform(-2, 2, (6, 3))  # rad/Å


def skyrmions(noise=0.3):
    atoms = lattices.triangular((12, 12))
    textures.skyrmion_crystal(atoms, noise=noise, seed=1)
    return atoms


def random_spins(atoms):
    textures.random(atoms, seed=5)
    return atoms


def buckled():
    atoms = random_spins(lattices.honeycomb((4, 6)))
    atoms.positions[::2, 2] += 0.2
    return atoms


def area(corners):
    x, y = corners.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def fractional(atoms, waves):
    """Cartesian wave vectors in units of the reciprocal vectors, zero along open directions."""
    return np.where(atoms.pbc, waves @ atoms.cell.array.T / (2 * np.pi), 0.0)


# Energies


def cri3():
    return SpinCalculator(potentials.cri3_model())


MODELS = {
    "exchange": lambda: ExchangeCalculator({1: -0.01, 2: 0.004}),
    "exchange of distance": lambda: SpinCalculator(
        potentials.ExchangeOfDistance({1: potentials.Exponential(-0.01, 0.5, 1.0)})
    ),
    "Kondo lattice": lambda: KondoEDCalculator({1: 1.0, 2: 0.3}, J=2.0, filling=0.45, temperature=0.05, kpts=(2, 2, 1)),
    "network": lambda: ECNNCalculator("kondo-square", dtype="float64"),
    "convolutional network": lambda: ECNNCalculator("kondo-square-ecnn", dtype="float64"),
}


@pytest.mark.parametrize("model", MODELS)
def test_energies_and_magnetic_forces(model):
    atoms = random_spins(lattices.square((3, 3) if model == "Kondo lattice" else (8, 8)))
    found = []
    for structure in (atoms, *(described(atoms, seed) for seed in SEEDS)):
        structure.calc = MODELS[model]()
        found.append((structure.get_potential_energy(), get_magnetic_forces(structure)))
    for energy, forces in found[1:]:
        assert energy == pytest.approx(found[0][0], rel=1e-11)
        np.testing.assert_allclose(forces, found[0][1], atol=1e-11)


@pytest.mark.parametrize("model", ["exchange of distance", "CrI3", "network of atoms"])
def test_forces_and_stresses(model):
    """Left-handed cells have the volume of right-handed ones."""
    if model == "exchange of distance":
        atoms, build = random_spins(lattices.square((3, 3))), MODELS[model]
    else:
        atoms = lattices.cri3_monolayer()
        set_moments(atoms, np.outer(atoms.symbols == "Cr", 3 * Z))
        build = cri3 if model == "CrI3" else lambda: MagNetCalculator("cri3-model", dtype="float64")
    atoms.positions += 0.005 * np.random.default_rng(2).standard_normal((len(atoms), 3)) * (1, 1, len(atoms) == 8)
    found = []
    for structure in (atoms, *(described(atoms, seed) for seed in SEEDS[:2])):
        structure.calc = build()
        found.append((structure.get_forces(), structure.get_stress()))
    assert np.abs(found[0][1]).max() > 1e-6
    for forces, stress in found[1:]:
        np.testing.assert_allclose(forces, found[0][0], atol=1e-11)
        np.testing.assert_allclose(stress, found[0][1], atol=1e-12)


def test_a_crystal_in_three_dimensions():
    atoms = random_spins(lattices.body_centred_cubic((2, 2, 2), a=2.87))
    found = []
    for structure in (atoms, *(described(atoms, seed) for seed in SEEDS)):
        structure.calc = ExchangeCalculator({1: -0.02, 2: -0.01})
        peaks = analysis.bragg_peaks(structure, 4)
        found.append(
            [
                [structure.get_potential_energy(), abs(np.linalg.det(graphs.primitive_vectors(structure)))],
                np.array([peak.q_cartesian for peak in peaks]),
                [peak.intensity for peak in peaks],
                [len(peak.star) for peak in peaks],
            ]
        )
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            np.testing.assert_allclose(other, one, atol=1e-9)


def test_bonds_are_kept_when_displaced_atoms_are_wrapped():
    atoms = random_spins(lattices.body_centred_cubic((2, 2, 2), a=2.87))
    for seed in SEEDS:
        other = described(atoms, seed)
        other.calc = ExchangeCalculator({1: -0.02}, lattice=other)
        energy = other.get_potential_energy()
        other.positions += np.random.default_rng(seed).uniform(-0.5, 0.5, (len(atoms), 3))
        other.wrap()
        assert other.get_potential_energy() == pytest.approx(energy, rel=1e-12)


def test_antiferromagnets_that_data_sets_draw():
    atoms = lattices.honeycomb((4, 6))
    for seed in SEEDS:
        np.testing.assert_allclose(_halves(described(atoms, seed)), _halves(atoms), atol=1e-9)


# Magnons


def ferromagnet():
    atoms = lattices.triangular(a=3.0)
    set_moments(atoms, 2 * Z[None])
    return atoms, {1: -1e-3, 2: -0.5e-3}, (5, 5, 1)


def honeycomb_with_moriya_vectors():
    def matrix(bond):
        across = 2e-4 * np.cross(bond, Z) / np.linalg.norm(bond)
        return -1e-3 * np.eye(3) + np.einsum("abc,c->ab", EPSILON, across)

    atoms = lattices.honeycomb(a=6.867)
    set_moments(atoms, np.tile(3 * Z, (2, 1)))
    return atoms, {1: matrix, 2: -2e-4}, (4, 4, 1)


def iron():
    atoms = bulk("Fe")
    set_moments(atoms, 2.2 * Z[None])
    return atoms, {1: -0.02, 2: -0.01}, (4, 4, 4)


EPSILON = np.zeros((3, 3, 3))
for a, b, c in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    EPSILON[a, b, c], EPSILON[b, a, c] = 1, -1


@pytest.mark.parametrize("crystal", [ferromagnet, honeycomb_with_moriya_vectors, iron])
def test_magnons_by_differences(crystal):
    """Triangular ones were off by up to 3.5 meV from b + 3 a on."""
    atoms, shells, supercell = crystal()
    atoms.calc = ExchangeCalculator(shells, field=(0, 0, 1e-3))
    expected = Magnons(atoms, method="exact").frequencies(fractional(atoms, WAVES))
    assert np.ptp(expected) > 1e-3
    edge = Magnons(atoms, method="differences", supercell=supercell).run()._columns[0].at_the_edge
    for seed in SEEDS:
        other = described(atoms, seed)
        other.calc = ExchangeCalculator(shells, field=(0, 0, 1e-3))
        magnons = Magnons(other, method="differences", supercell=supercell)
        np.testing.assert_allclose(magnons.frequencies(fractional(other, WAVES)), expected, atol=1e-9)
        assert magnons._columns[0].at_the_edge == pytest.approx(edge, abs=1e-6)


@pytest.mark.parametrize("method", ["exact", "differences"])
def test_magnons_of_electrons(method):
    """Linear response on a mesh n × n, and differences in a supercell with the mesh of the same states."""
    atoms = lattices.square()
    set_moments(atoms, Z[None])
    mesh, supercell = ((6, 6, 1), None) if method == "exact" else ((2, 2, 1), (3, 3, 1))
    found = []
    for structure in (atoms, *(described(atoms, seed) for seed in SEEDS)):
        structure.calc = KondoEDCalculator({1: 1.0}, J=12.0, filling=0.3, temperature=0.1, kpts=mesh)
        magnons = Magnons(structure, method=method, supercell=supercell)
        magnons._warned = True  # of a supercell shorter than twice the range
        found.append(magnons.frequencies(fractional(structure, WAVES)))
    assert found[0].max() > 0.01
    np.testing.assert_allclose(found[1:], np.broadcast_to(found[0], np.shape(found[1:])), atol=1e-10)


@pytest.mark.parametrize("k", [3, 5, -4])
def test_magnons_of_the_sheared_triangular_lattice(k):
    """2 Σ J (6 - Σ cos q·r) over six neighbours, ħω = (g/m) Σ_r J (1 - cos q·r), with b + k a as the second vector."""
    atoms, shells, supercell = ferromagnet()
    atoms.set_cell(np.array([(1, 0, 0), (k, 1, 0), (0, 0, 1)]) @ atoms.cell.array)
    atoms.calc = ExchangeCalculator(shells)
    waves = np.where((True, True, False), WAVES, 0.0)
    expected = 0.0
    for exchange, distance, turn in ((1e-3, 3.0, 0.0), (0.5e-3, 3 * np.sqrt(3), np.pi / 6)):
        angles = turn + np.pi / 3 * np.arange(6)
        bonds = distance * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1)
        expected = expected + exchange * (1 - np.cos(waves @ bonds.T)).sum(1)
    magnons = Magnons(atoms, method="differences", supercell=supercell)
    np.testing.assert_allclose(magnons.frequencies(fractional(atoms, waves))[:, 0], expected, atol=1e-9)


def test_magnons_of_a_network_take_the_supercell_of_the_crystal():
    """Second derivatives by autograd; the range asks for as many cells whichever vectors are given."""
    atoms = lattices.square((2, 2))
    set_moments(atoms, np.tile(Z, (4, 1)))
    calc = ECNNCalculator("kondo-square-ecnn", dtype="float64")
    sizes = []
    for structure in (atoms, described(atoms, 0), described(atoms, 1)):
        bound = calc.bound(structure).terms[0]
        size = _whole_range(bound, structure)
        assert _holds_range(bound, structure, size)
        assert not _holds_range(bound, structure, (1, 1, 1))
        shortest = images.reduced(np.array(size)[:2, None] * structure.cell.array[:2])[0][0]
        assert np.linalg.norm(shortest) > 2 * bound.interaction_range
        sizes.append(int(np.prod(size)))
    assert len(set(sizes)) == 1


def test_shortest_distance_of_a_crystal():
    atoms = bulk("Fe")
    assert _nearest_distance(atoms) == pytest.approx(2.87 * np.sqrt(3) / 2)
    for seed in SEEDS:
        assert _nearest_distance(described(atoms, seed)) == pytest.approx(2.87 * np.sqrt(3) / 2)
    pair = bulk("Fe").repeat((1, 1, 2))  # the closest pair is not one of atom 0
    pair.positions[1] += (5.0, 5.0, 5.0)
    pair += pair[1:]
    pair.positions[2] += (0.5, 0, 0)
    assert _nearest_distance(pair) == pytest.approx(0.5)


def test_zero_point_energy():
    atoms = lattices.honeycomb()
    found = []
    for structure in (atoms, *(described(atoms, seed) for seed in SEEDS)):
        set_moments(structure, np.array((Z, -Z)))
        structure.calc = ExchangeCalculator({1: 1.0})
        found.append(zero_point_energy(Magnons(structure)))
    np.testing.assert_allclose(found, found[0], rtol=1e-6)  # half-steps of a mesh depend on the cell; extrapolated


def test_intensities_of_magnons_in_a_buckled_layer():
    """q in the layer has no component across it, wherever the vacuum vector leans."""
    atoms = lattices.honeycomb(a=3.0)
    atoms.positions[1, 2] += 0.7
    set_moments(atoms, np.tile(2 * Z, (2, 1)))
    found = []
    for structure in (atoms, *(described(atoms, seed) for seed in SEEDS)):
        structure.calc = ExchangeCalculator({1: -1e-3})
        q = fractional(structure, WAVES)
        found.append(magnon_structure_factor(Magnons(structure), q, np.linspace(0, 0.01, 20), 1e-3))
    for spectrum in found[1:]:
        np.testing.assert_allclose(spectrum.q_cartesian, found[0].q_cartesian, atol=1e-9)
        np.testing.assert_allclose(spectrum.tensor, found[0].tensor, atol=1e-7)


# Structure factors


@pytest.mark.parametrize("build", [skyrmions, buckled])
@pytest.mark.parametrize("q_max", [None, 9.0])
def test_structure_factors_at_equal_wave_vectors(build, q_max):
    atoms = build()

    def sorted_factor(structure):
        factor = analysis.structure_factor(structure, q_max=q_max)
        order = np.lexsort(factor.q_cartesian.round(6).T + 0.0)
        return factor.q_cartesian[order], factor.tensor[order]

    waves, tensor = sorted_factor(atoms)
    assert not waves[:, 2].any()
    for seed in SEEDS:
        q, found = sorted_factor(described(atoms, seed))
        np.testing.assert_allclose(q, waves, atol=1e-9)
        np.testing.assert_allclose(found, tensor, atol=1e-8)


@pytest.mark.parametrize("of", [analysis.dynamical_structure_factor, analysis.velocity_spectrum])
def test_spectra_at_equal_wave_vectors(of, rng):
    atoms = random_spins(lattices.body_centred_cubic((2, 2, 1), a=2.87))
    series = rng.standard_normal((16, len(atoms), 3))
    found = []
    for structure in (atoms, *(described(atoms, seed) for seed in SEEDS)):
        spectrum = of(series, atoms=structure, timestep=1.0)
        order = np.lexsort(spectrum.q_cartesian.round(6).T + 0.0)
        found.append((spectrum.q_cartesian[order], spectrum.tensor[order]))
    for waves, tensor in found[1:]:
        np.testing.assert_allclose(waves, found[0][0], atol=1e-9)
        np.testing.assert_allclose(tensor, found[0][1], atol=1e-8 * np.abs(tensor).max())


def test_bragg_peaks_and_their_stars():
    """A false neighbour hid peaks from b + 2 a on."""
    atoms = skyrmions()
    peaks = analysis.bragg_peaks(atoms, 6)
    assert len(peaks[0].star) == 6
    for seed in SEEDS:
        other = described(atoms, seed)
        reciprocal = analysis.structure_factor(other).reciprocal
        for peak, found in zip(peaks, analysis.bragg_peaks(other, 6), strict=True):
            np.testing.assert_allclose(found.q_cartesian, peak.q_cartesian, atol=1e-9)
            assert found.intensity == pytest.approx(peak.intensity)
            np.testing.assert_allclose(found.star_intensities, peak.star_intensities, rtol=1e-8)
            lengths = [
                np.linalg.norm(star @ vectors, axis=1)
                for star, vectors in (
                    (found.star, reciprocal),
                    (peak.star, analysis.structure_factor(atoms).reciprocal),
                )
            ]
            np.testing.assert_allclose(*lengths, atol=1e-9)


@pytest.mark.parametrize("k", [0, 2, 3, 7])
def test_the_first_zone_has_the_area_of_the_reciprocal_cell(k):
    atoms = skyrmions()
    atoms.set_cell(np.array([(1, 0, 0), (k, 1, 0), (0, 0, 1)]) @ atoms.cell.array)
    factor = analysis.structure_factor(atoms)
    zone = _cell((factor.reciprocal @ _frame(factor))[:2])
    assert len(zone) == 6
    assert area(zone) == pytest.approx((2 * np.pi) ** 2 / np.sqrt(0.75))


# Layers


@pytest.mark.parametrize("build", [skyrmions, buckled])
def test_charges_and_cells_of_a_layer(build):
    atoms = build()
    charge, density = analysis.topological_charge(atoms), analysis.topological_charge_density(atoms)
    polygons = [area(polygon) for polygon in wigner_seitz_cells(analysis.magnetic_plane(atoms))]
    for seed in SEEDS:
        other = described(atoms, seed)
        assert analysis.topological_charge(other) == pytest.approx(charge, abs=1e-9)
        np.testing.assert_allclose(analysis.topological_charge_density(other), density, atol=1e-9)
        found = [area(polygon) for polygon in wigner_seitz_cells(analysis.magnetic_plane(other))]
        np.testing.assert_allclose(found, polygons, rtol=1e-6)


def test_a_layer_that_is_periodic_across_its_vacuum():
    atoms = lattices.triangular((6, 6))
    atoms.pbc = True
    textures.skyrmion(atoms, 1.5, centre=(2.0, 1.0, 0.0))
    for seed in SEEDS:
        other = described(atoms, seed)
        assert analysis.topological_charge(other) == pytest.approx(-1, abs=1e-9)
        np.testing.assert_allclose(analysis.magnetic_plane(other).axes, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("build", [lattices.honeycomb, lattices.square])
def test_a_layer_of_few_sites_holds_both_its_periods(build):
    """Two buckled sites also fit planes across the layer, which depend on the vacuum vector."""
    atoms = build((1, 2) if build is lattices.square else (1, 1))
    atoms.positions[1, 2] += 0.15
    set_moments(atoms, np.tile(Z, (2, 1)))
    for seed in SEEDS:
        np.testing.assert_allclose(analysis.magnetic_plane(described(atoms, seed)).axes, np.eye(3), atol=1e-9)


@pytest.mark.parametrize(
    ("turn", "normal"),
    [
        ((np.pi / 2, 0, 0), (0, 1, 0)),  # z to -y
        ((-np.pi / 2, 0, 0), (0, 1, 0)),
        ((0, np.pi / 2, 0), (1, 0, 0)),
        ((0, -np.pi / 2, 0), (1, 0, 0)),
        ((np.pi, 0, 0), (0, 0, 1)),
        ((0, np.pi / 6, 0), (0.5, 0, np.sqrt(0.75))),
    ],
)
def test_charges_are_seen_from_one_side_however_the_layer_lies(turn, normal):
    """-1 where the former z is the side that it is seen from, and 1 where it is seen from behind."""
    atoms = lattices.triangular((8, 8))
    textures.skyrmion(atoms, 2.0)
    turn = Rotation.from_rotvec(turn).as_matrix()
    expected = -np.sign(turn[:, 2] @ normal)
    for seed in SEEDS:
        other = described(atoms, seed)
        other.set_cell(other.cell.array @ turn.T)
        other.positions[:] = other.positions @ turn.T
        assert analysis.topological_charge(other) == pytest.approx(expected, abs=1e-9)
        np.testing.assert_allclose(analysis.magnetic_plane(other).normal, normal, atol=1e-9)


def test_textures_in_a_layer():
    atoms = lattices.triangular((12, 12))
    upright = lattices.triangular()
    upright.rotate(30, "z", rotate_cell=True)  # two bonds are equally close to x
    waves, turned = textures.triangular_wave_vectors(atoms), textures.triangular_wave_vectors(upright)
    np.testing.assert_allclose(turned[0], np.pi / 3 * np.array((np.sqrt(0.75), 0.5, 0)), atol=1e-9)
    textures.skyrmion(atoms, 2.5, centre=(3.0, 2.0, 0.0))
    for seed in SEEDS:
        other = described(atoms, seed)
        textures.skyrmion(other, 2.5, centre=(3.0, 2.0, 0.0))
        np.testing.assert_allclose(get_moments(other), get_moments(atoms), atol=1e-9)
        np.testing.assert_allclose(textures.triangular_wave_vectors(other), waves, atol=1e-9)
        np.testing.assert_allclose(textures.triangular_wave_vectors(described(upright, seed)), turned, atol=1e-9)


def test_primitive_lattices():
    for atoms in (lattices.honeycomb((4, 6)), lattices.triangular_magnetic_cell(), lattices.kagome((3, 3))):
        expected, _ = images.reduced(graphs.primitive_vectors(atoms))
        for seed in SEEDS:
            other = described(atoms, seed)
            np.testing.assert_allclose(images.reduced(graphs.primitive_vectors(other))[0], expected, atol=1e-8)
            np.testing.assert_allclose(graphs.primitive_cell(other)[2, :2], 0, atol=1e-8)


def test_stars_and_symmetries_of_a_lattice():
    """1.25 bonds lie between two places of the grid that displacements are sorted on."""
    atoms = lattices.square((4, 4), a=2.87)
    atoms.set_cell(np.array((1, 1.25, 1))[:, None] * atoms.cell.array, scale_atoms=True)
    operations = len(site_permutations(atoms))
    assert operations == 4
    for seed in range(5):
        other = described(atoms, seed)
        assert [len(star) for star in LatticeStars.of(other, (1, 2)).stars] == [4]
        assert len(site_permutations(other)) == operations


def test_tiles_are_compact():
    """Blocks of a skewed cell are as large as those of an upright one."""
    atoms = lattices.square((32, 32))

    def widest(structure):
        periods = structure.cell.array[:2]
        return max(
            np.linalg.norm(
                images.nearest_image(atoms.positions[block] - atoms.positions[block[0]], periods), axis=1
            ).max()
            for block in _blocks(structure, 64)
        )

    for seed in SEEDS:
        other = described(atoms, seed)
        assert widest(other) < 1.5 * widest(atoms)
        assert torch.equal(torch.cat(_blocks(other, 64)).sort().values, torch.arange(1024))


# Topology of magnons


def moriya_honeycomb(atoms):
    """A CrI3-like layer with moments along z: Dzyaloshinskii-Moriya vectors between next neighbours, bond by bond."""
    set_moments(atoms, np.tile(3 * Z, (2, 1)))
    found, bonds = graphs.neighbour_shells(atoms, (1, 2)), []
    for i, j, cell, vector, shell in zip(found.i, found.j, found.cells, found.vectors, found.shells, strict=True):
        sixth = round(np.rad2deg(np.arctan2(vector[1], vector[0])) / 60) % 6
        moriya = -0.7e-3 * (-1) ** (sixth + i) * EPSILON[:, :, 2]
        bonds.append((i, j, cell, -4.5e-3 * np.eye(3) if shell == 1 else moriya))
    atoms.calc = ExchangeCalculator(bonds=bonds, onsite=np.tile(-0.5e-3 * np.outer(Z, Z), (2, 1, 1)))
    return Magnons(atoms)


@pytest.mark.parametrize("height", [0.0, 1.0])
def test_chern_numbers_curvatures_and_thermal_hall_effect(height):
    """On equal meshes n × n, in left-handed cells and with leaning vacuum vectors too."""
    atoms = lattices.honeycomb(a=6.867)
    atoms.positions[1, 2] += height

    def measured(structure):
        magnons = moriya_honeycomb(structure)
        found = berry_curvature(magnons, (18, 18))
        return found, found.curvature, thermal_hall_conductivity(magnons, 50.0, mesh=(12, 12))

    expected, curvature, hall = measured(atoms.copy())
    assert hall > 1e-12
    for seed in range(6):
        found, its_curvature, its_hall = measured(described(atoms, seed))
        np.testing.assert_array_equal(found.chern_numbers, expected.chern_numbers)
        np.testing.assert_allclose(found.normal, Z, atol=1e-12)
        np.testing.assert_allclose(its_curvature.sum(0), curvature.sum(0), rtol=1e-8)
        np.testing.assert_allclose(np.sort(its_curvature, axis=0), np.sort(curvature, axis=0), atol=1e-9)
        assert its_hall == pytest.approx(hall, rel=1e-8)
