"""The CrI3 monolayer and its model: bonds of any layer, symmetries, magnons, phonons, magnetostriction."""

import numpy as np
import pytest
import torch
from ase.build import make_supercell
from ase.filters import UnitCellFilter
from ase.optimize import BFGS

from ase_klm import (
    KLMError,
    Magnons,
    SpinCalculator,
    get_magnetic_forces,
    get_moments,
    lattices,
    set_moments,
    testing,
)
from ase_klm.magnons.topology import chern_numbers
from ase_klm.potentials import CrI3Exchange, CrI3Lattice, cri3_model
from ase_klm.potentials.cri3 import J1

S = 1.5


def layer(size=(1, 1), signs=1.0, random=None):
    """With moments of 3 μB along ±z, or at random."""
    atoms = lattices.cri3_monolayer(size)
    chromium = np.flatnonzero(atoms.symbols == "Cr")
    moments = np.zeros((len(atoms), 3))
    moments[chromium, 2] = 3.0 * np.asarray(signs)
    if random is not None:
        rng = np.random.default_rng(random)
        moments[chromium] = rng.standard_normal((len(chromium), 3))
        moments[chromium] *= rng.uniform(2.7, 3.3, (len(chromium), 1)) / np.linalg.norm(
            moments[chromium], axis=1, keepdims=True
        )
    set_moments(atoms, moments)
    atoms.calc = SpinCalculator(cri3_model())
    return atoms


def displaced(size=(2, 2), amplitude=0.1, seed=0):
    atoms = layer(size, random=seed)
    rng = np.random.default_rng(seed)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.uniform(-1, 1, (3, 3))), scale_atoms=True)
    atoms.positions += amplitude * rng.standard_normal((len(atoms), 3))
    return atoms


# Structure


def test_the_structure():
    atoms = lattices.cri3_monolayer((3, 4))
    assert atoms.get_chemical_formula() == "Cr24I72"
    np.testing.assert_array_equal(atoms.pbc, [True, True, False])
    honeycomb = lattices.honeycomb((3, 4), a=6.867)
    np.testing.assert_allclose(atoms.positions[:24, :2], honeycomb.positions[:, :2], atol=1e-12)
    distances = atoms.get_all_distances(mic=True)
    near = np.sort(distances[:24, 24:], axis=1)
    np.testing.assert_allclose(near[:, :6], 2.73, atol=2e-3)
    assert near[:, 6].min() > 4.8
    heights = atoms.positions[:, 2] - atoms.positions[0, 2]
    np.testing.assert_allclose(np.unique(heights.round(6)), [-1.571, 0, 1.571])
    assert atoms.positions[:, 2].min() == pytest.approx(10.0)
    assert lattices.cri3_monolayer(vacuum=7.0).cell[2, 2] == pytest.approx(2 * 7.0 + 3.142)
    assert lattices.cri3_monolayer(a=7.0).cell.lengths()[:2] == pytest.approx([7.0, 7.0])
    assert not get_moments(atoms).any()


@pytest.mark.parametrize(
    "arguments", [{"size": (1,)}, {"size": (0, 1)}, {"a": -1.0}, {"vacuum": 0}, {"vacuum": "much"}]
)
def test_bad_structures(arguments):
    with pytest.raises(KLMError):
        lattices.cri3_monolayer(**arguments)


# Bonds


def bonds_of(potential, atoms):
    bound = potential.bind(atoms)
    edges = bound._edges
    rows = np.column_stack([edges.start, edges.end, edges.cells])
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("potential", [CrI3Exchange(), CrI3Lattice()])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (3, 4)])
def test_a_displaced_and_strained_layer_has_the_same_bonds(potential, size):
    expected = bonds_of(potential, layer(size))
    for seed in range(3):
        moved = displaced(size, seed=seed)
        np.testing.assert_array_equal(bonds_of(potential, moved), expected)


def test_the_energy_of_a_supercell_is_that_of_its_cells():
    one = layer()
    one.rattle(0.05, seed=1)
    many = one.repeat((3, 2, 1))
    many.calc = SpinCalculator(cri3_model())
    assert many.get_potential_energy() == pytest.approx(6 * one.get_potential_energy(), rel=1e-12)
    np.testing.assert_allclose(many.get_forces()[:8], one.get_forces(), atol=1e-12)
    wrapped = many.copy()
    wrapped.positions += (5.0, 3.0, 0.0)
    wrapped.wrap()
    wrapped.calc = SpinCalculator(cri3_model())
    assert wrapped.get_potential_energy() == pytest.approx(many.get_potential_energy(), rel=1e-12)


# Gradients and symmetries


def test_gradients_and_second_derivatives():
    atoms = displaced()
    errors = testing.check(atoms, sites=[0, 5, 9, 31], tolerance=1e-8)
    assert set(errors) == {"magnetic_forces", "forces", "stress"}
    assert testing.hessian_error(atoms) < 1e-7
    assert testing.time_reversal_error(atoms) < testing.SYMMETRY_TOLERANCE


def test_turning_and_moving_layer_and_moments_together():
    atoms = displaced()
    rotation = testing._random_rotation(3)
    turned = atoms.copy()
    turned.set_cell(atoms.cell.array @ rotation.T, scale_atoms=False)
    turned.positions = atoms.positions @ rotation.T + (1.0, 2.0, -3.0)
    set_moments(turned, get_moments(atoms) @ rotation.T)
    turned.calc = SpinCalculator(cri3_model())
    assert turned.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-11)
    np.testing.assert_allclose(turned.get_forces() @ rotation, atoms.get_forces(), atol=1e-11)
    np.testing.assert_allclose(get_magnetic_forces(turned) @ rotation, get_magnetic_forces(atoms), atol=1e-11)
    np.testing.assert_allclose(atoms.get_forces().sum(0), 0, atol=1e-11)


def test_numbering_of_the_atoms():
    atoms = displaced()
    order = np.random.default_rng(0).permutation(len(atoms))
    shuffled = atoms[order]
    shuffled.calc = SpinCalculator(cri3_model())
    assert shuffled.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-11)
    np.testing.assert_allclose(shuffled.get_forces(), atoms.get_forces()[order], atol=1e-11)
    np.testing.assert_allclose(get_magnetic_forces(shuffled), get_magnetic_forces(atoms)[order], atol=1e-11)


def test_the_ferromagnet_has_the_symmetry_of_the_crystal():
    atoms = layer()
    forces = atoms.get_forces()
    assert np.abs(forces).max() < 1e-12
    xx, yy, _, yz, xz, xy = atoms.get_stress()
    assert xx == pytest.approx(yy)
    assert np.abs([yz, xz, xy]).max() < 1e-12


# Magnons


def test_magnons_are_those_of_the_published_hamiltonian():
    """Gap, top and splitting at K by the formulas of a honeycomb ferromagnet, in meV; Chern numbers ±1."""
    magnons = Magnons(layer()).run()
    found = 1e3 * magnons.frequencies(np.array([(0, 0, 0), (2 / 3, 1 / 3, 0)]))
    gap = 2 * S * 0.22
    assert found[0, 0] == pytest.approx(gap, rel=1e-3)
    assert found[0, 1] == pytest.approx(gap + 6 * S * (2.01 - 0.08), rel=2e-3)
    assert found[1, 1] - found[1, 0] == pytest.approx(6 * np.sqrt(3) * 0.31 * S, rel=1e-3)
    middle = gap + 3 * S * (2.01 - 0.08) + 9 * S * 0.16
    assert found[1].mean() == pytest.approx(middle, rel=2e-3)
    assert sorted(chern_numbers(magnons, (12, 12))) == [-1, 1]


def test_the_easy_axis_is_the_normal():
    energies = {}
    for name, direction in {"x": (3.0, 0, 0), "y": (0, 3.0, 0), "z": (0, 0, 3.0)}.items():
        atoms = layer()
        set_moments(atoms, np.outer(atoms.symbols == "Cr", direction))
        energies[name] = atoms.get_potential_energy() / 2
    assert energies["x"] == pytest.approx(energies["y"], abs=1e-12)
    assert energies["x"] - energies["z"] == pytest.approx(S**2 * 1e-3 * (0.085 + 1.5 * 0.09), rel=1e-3)


def test_nearest_exchange_changes_sign_when_the_ends_come_closer():

    r = torch.tensor([3.9647, 3.9647 - 0.16], dtype=torch.float64)
    total = sum(part(r) for part in J1)
    assert float(total[0]) == pytest.approx(-2.01e-3 * S**2)
    assert abs(float(total[1])) < 2e-4


# Phonons


@pytest.fixture(scope="module")
def force_constants():
    """Of the lattice alone, from differences of forces: Φ(a, α; R, b, β), (8, 3, 25, 8, 3)."""
    atoms = layer((5, 5))
    atoms.calc = SpinCalculator(CrI3Lattice())
    one = lattices.cri3_monolayer()
    atoms.get_potential_energy()
    home = [int(np.argmin(np.linalg.norm(atoms.positions - x, axis=1))) for x in one.positions]
    delta, constants = 1e-3, np.zeros((8, 3, len(atoms), 3))
    for a, atom in enumerate(home):
        for axis in range(3):
            for sign in (1, -1):
                moved = atoms.copy()
                moved.calc = atoms.calc
                moved.positions[atom, axis] += sign * delta
                constants[a, axis] -= sign * moved.get_forces() / (2 * delta)
    return one, home, atoms, constants


def frequencies(force_constants, q):
    """In meV, negative for unstable modes; q in Cartesian coordinates, by minimal images of the pairs."""
    one, home, atoms, constants = force_constants
    masses = one.get_masses()
    D = np.zeros((8, 3, 8, 3), complex)
    for a in range(8):
        vectors = atoms.get_distances(home[a], np.arange(len(atoms)), mic=True, vector=True)
        for b in range(8):
            cells = np.linalg.solve(one.cell.array.T, (vectors - one.positions[b] + one.positions[a]).T).T
            members = np.flatnonzero(np.abs(cells - cells.round()).max(axis=1) < 1e-6)
            phases = np.exp(2j * np.pi * cells[members] @ np.append(q, 0))
            D[a, :, b] = np.einsum("n,xny->xy", phases, constants[a][:, members]) / np.sqrt(masses[a] * masses[b])
    squares = np.linalg.eigvalsh(D.reshape(24, 24))
    return 1e3 * 6.465415e-2 * np.sign(squares) * np.sqrt(np.abs(squares))  # ħ sqrt(eV/Å²/u) = 64.65 meV


def test_phonons_at_the_centre_of_the_zone(force_constants):
    """Within 16 cm⁻¹ of those listed in `cri3`, to which the springs were fitted; acoustic modes at zero."""
    found = frequencies(force_constants, (0, 0))
    assert np.abs(found[:3]).max() < 1e-3
    expected = [53, 53, 59, 68, 68, 83, 95, 95, 105, 111, 111, 111, 111, 122, 128, 138, 147, 217, 217, 236, 236]
    np.testing.assert_allclose(found[3:] * 8.065544, expected, atol=1.0)
    for listed in (76.1, 129, 50.1, 101.8, 107.5, 241.1, 56.8, 133.3, 80.3, 114.3, 225.3):
        assert np.abs(found * 8.065544 - listed).min() < 16


def test_no_phonon_is_unstable(force_constants):
    mesh = [(a, b) for a in np.linspace(0, 1, 10, endpoint=False) for b in np.linspace(0, 1, 10, endpoint=False)]
    found = np.array([frequencies(force_constants, q) for q in mesh[1:]])
    assert found.min() > 0.05
    assert 28 < found.max() < 31


# Magnetostriction


def relaxed(atoms):
    """Lattice constants along x and y, after relaxation of atoms and plane."""
    plane = UnitCellFilter(atoms, mask=[True, True, False, False, False, True])
    assert BFGS(plane, logfile=None).run(fmax=1e-5, steps=200)
    return atoms.cell.array[0, 0], atoms.cell.array[1, 1]


def stripe():
    """Ferromagnetic zigzag chains along x that alternate, in the rectangular cell of four chromium atoms."""
    atoms = make_supercell(lattices.cri3_monolayer(), [[1, 0, 0], [-1, 2, 0], [0, 0, 1]])
    rows = np.argsort(np.where(atoms.symbols == "Cr", atoms.positions[:, 1], np.inf))[:4]
    moments = np.zeros((len(atoms), 3))
    moments[rows, 2] = 3.0, 3.0, -3.0, -3.0
    set_moments(atoms, moments)
    atoms.calc = SpinCalculator(cri3_model())
    return atoms


def test_lattice_constants_differ_between_orders():
    ferromagnetic, neel, striped = relaxed(layer()), relaxed(layer(signs=(1, -1))), relaxed(stripe())
    assert ferromagnetic[0] == pytest.approx(6.8710, abs=2e-4)
    assert neel[0] == pytest.approx(6.8625, abs=2e-4)
    assert striped == pytest.approx((6.8691, 11.8947), abs=4e-4)
    energies = [atoms.get_potential_energy() for atoms in (layer(), layer(signs=(1, -1)))]
    assert energies[0] < energies[1]


# Bad input


def test_other_structures_are_refused():
    plain = layer()
    del plain[7]
    with pytest.raises(KLMError, match="5 I nearer"):
        CrI3Lattice().bind(plain)
    with pytest.raises(KLMError, match="atoms Fe"):
        CrI3Lattice().bind(lattices.honeycomb((2, 2), a=6.867))
    stretched = layer()
    stretched.set_cell(stretched.cell.array * 1.6, scale_atoms=True)
    with pytest.raises(KLMError, match="no layer of CrI3"):
        CrI3Exchange().bind(stretched)


def test_moments_stand_on_chromium():
    atoms = layer()
    set_moments(atoms, np.ones((8, 3)))
    with pytest.raises(KLMError, match=r"atom 2 \(I\) has a moment"):
        atoms.get_potential_energy()
    moments = np.zeros((8, 3))
    moments[0] = 3.0
    set_moments(atoms, moments)
    with pytest.raises(KLMError, match=r"atom 1 \(Cr\) has no moment"):
        atoms.get_potential_energy()


def test_magnons_at_the_present_positions():
    """Of a strained layer with displaced atoms, by a calculator that was used and by a fresh one."""
    q = [(0.1, 0.2, 0.0), (1 / 3, 1 / 3, 0.0)]
    atoms = layer()
    before = Magnons(atoms).frequencies(q)
    atoms.set_cell(atoms.cell.array * (1.02, 1.02, 1.0), scale_atoms=True)
    atoms.positions[0] += (0.02, 0.01, 0.01)
    after = Magnons(atoms, fmax=1e-3).frequencies(q)
    fresh = atoms.copy()
    fresh.calc = SpinCalculator(cri3_model())
    np.testing.assert_allclose(after, Magnons(fresh, fmax=1e-3).frequencies(q), atol=1e-12)
    assert np.abs(after - before).max() > 1e-4
