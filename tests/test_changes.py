"""What users change between and during runs is seen: parameters, moments, positions, cells. Each was a bug once."""

import copy
import pickle

import numpy as np
import pytest
from ase.calculators.mixing import SumCalculator
from models import chiral_magnet
from test_potentials import ForeignCalculator

from ase_klm import (
    ExchangeCalculator,
    KondoEDCalculator,
    LLGDynamics,
    SpinLatticeDynamics,
    SpinMinimizer,
    get_magnetic_forces,
    get_moments,
    lattices,
    set_moments,
    textures,
)
from ase_klm.graphs import SkinBonds
from ase_klm.potentials import Exchange, ExponentialHopping, Zeeman, potential_of


def largest_torque(atoms):
    return np.linalg.norm(np.cross(get_moments(atoms), get_magnetic_forces(atoms)), axis=1).max()


def ferromagnet(field=(0, 0, 0.01)):
    atoms = lattices.square((3, 3))
    textures.uniform(atoms, noise=0.1, seed=1)
    atoms.calc = ExchangeCalculator({1: -0.01}, field=field)
    return atoms


def test_a_second_relaxation_sees_another_field():
    atoms = ferromagnet()
    minimizer = SpinMinimizer(atoms)
    assert minimizer.run(fmax=1e-8)
    atoms.calc.set(field=(0.01, 0, 0))
    assert minimizer.run(fmax=1e-8)
    assert largest_torque(atoms) < 1e-8
    assert get_moments(atoms)[:, 0] == pytest.approx(1, abs=1e-5)


@pytest.mark.filterwarnings("ignore:all moments are collinear:ase_klm.KLMWarning")
def test_a_second_relaxation_keeps_new_moments_with_another_field():
    atoms = ferromagnet()
    minimizer = SpinMinimizer(atoms)
    minimizer.run(fmax=1e-8)
    textures.uniform(atoms, (0, -1, 0))
    atoms.calc.set(field=(0, -0.02, 0))
    minimizer.run(fmax=1e-8, steps=0)
    np.testing.assert_allclose(get_moments(atoms), np.tile((0, -1, 0), (9, 1)), atol=1e-12)


def test_an_observer_that_changes_the_field_is_heard():
    atoms = ferromagnet()
    minimizer = SpinMinimizer(atoms)
    minimizer.attach(lambda: atoms.calc.set(field=(0.01, 0, 0)), -2)
    assert minimizer.run(fmax=1e-8)
    assert largest_torque(atoms) < 1e-8


@pytest.mark.parametrize("make", [LLGDynamics, SpinLatticeDynamics])
@pytest.mark.parametrize("integrator", [None, "sib"])
@pytest.mark.parametrize("way", ["between runs", "observer", "irun"])
@pytest.mark.parametrize("first", [(0, 0, 0), (2.0, 0, 0)])
@pytest.mark.parametrize("damping", [0.0, 0.2])
def test_an_atom_that_gets_or_loses_its_moment_counts_from_then_on(make, integrator, way, first, damping):
    """The end is that of a new run that begins with the changed moments."""
    second = np.array((0, 0, 0) if any(first) else (1.2, 0, 1.6))

    def begun():
        atoms = lattices.square((4, 4), a=2.5)
        textures.random(atoms, length=2.0, seed=1)
        moments = get_moments(atoms)
        moments[5] = first
        set_moments(atoms, moments)
        atoms.calc = ExchangeCalculator({1: -0.01}, field=(0.002, 0, 0.005), lattice=lattices.square(a=2.5))
        return atoms

    def change(atoms):
        moments = get_moments(atoms)
        moments[5] = second
        set_moments(atoms, moments)

    chosen = {} if integrator is None else {"integrator": integrator}
    atoms, expected = begun(), begun()
    run = make(atoms, 0.05, damping=damping, **chosen)
    if way == "between runs":
        run.run(4)
        change(atoms)
        run.run(4)
    elif way == "observer":
        run.attach(lambda: change(atoms), -4)
        run.run(8)
    else:
        for step in run.irun(8):
            if step == 4:
                change(atoms)
    make(expected, 0.05, damping=damping, **chosen).run(4)
    change(expected)
    make(expected, 0.05, damping=damping, **chosen).run(4)
    np.testing.assert_allclose(get_moments(atoms), get_moments(expected), atol=1e-12)
    moved = np.abs(get_moments(atoms)[5] - second).max()
    assert moved > 1e-3 if second.any() else moved == 0


@pytest.mark.parametrize("make", [LLGDynamics, SpinLatticeDynamics])
@pytest.mark.parametrize("first", [(0, 0, 0), (2.0, 0, 0)])
@pytest.mark.parametrize("killed", [7, 10, 14])
def test_a_run_in_which_an_atom_gets_or_loses_its_moment_continues_to_the_same_bits(make, first, killed, tmp_path):
    second = (0, 0, 0) if any(first) else (1.2, 0, 1.6)
    bath = {"temperature_K": 50} if make is LLGDynamics else {"spin_temperature_K": 50}

    def script(file, until=20):
        atoms = lattices.square((4, 4), a=2.5)
        textures.random(atoms, length=2.0, seed=1)
        change(atoms, first)
        atoms.calc = ExchangeCalculator({1: -0.01}, lattice=lattices.square(a=2.5))
        run = make(atoms, 0.05, damping=0.2, seed=1, restart=tmp_path / file, restart_interval=5, **bath)
        run.run(min(10, until))
        if until > 10:
            change(atoms, second)
            atoms.calc.set(field=(0, 0, 0.01))
            run.run(until - 10)
        return get_moments(atoms)

    def change(atoms, moment):
        moments = get_moments(atoms)
        moments[5] = moment
        set_moments(atoms, moments)

    script("killed", killed)
    np.testing.assert_array_equal(script("killed"), script("whole"))


@pytest.mark.parametrize("how", ["set", "parameters", "component"])
def test_dynamics_sees_changes_of_parameters_in_irun(how):
    """A free spin along x, whose field is switched on later, begins to precess."""
    atoms = lattices.chain(1)
    textures.uniform(atoms, (1, 0, 0))
    calc = ExchangeCalculator(onsite=np.zeros((1, 3, 3)))
    atoms.calc = SumCalculator([calc, ExchangeCalculator(onsite=np.zeros((1, 3, 3)))]) if how == "component" else calc
    for step in LLGDynamics(atoms, 0.01, damping=0.0, gamma=1.0).irun(10):
        if step == 5 and how == "parameters":
            calc.parameters["field"] = (0, 0, 1.0)
        elif step == 5:
            calc.set(field=(0, 0, 1.0))
    assert np.arctan2(*get_moments(atoms)[0, 1::-1]) == pytest.approx(0.05, abs=1e-6)


def test_a_site_that_becomes_magnetic_moves():
    atoms = ferromagnet()
    moments = get_moments(atoms)
    moments[4] = 0
    set_moments(atoms, moments)
    atoms.calc = KondoEDCalculator({1: 1.0}, 1.0, mu=-1.0, temperature=0.1, field=(0, 0, 0.1))
    dynamics = LLGDynamics(atoms, 0.1, gamma=1.0)
    dynamics.run(2)
    assert not get_moments(atoms)[4].any()
    moments[4] = (1, 0, 0)
    set_moments(atoms, moments)
    dynamics.run(2)
    assert 0 < get_moments(atoms)[4, 2] < 0.1


@pytest.mark.parametrize("bound_first", [True, False])
def test_bonds_of_the_lattice_survive_displacements(bound_first):
    """Shells belong to the lattice, for tools, changes of parameters, and wrapped atoms alike."""
    atoms = lattices.square((4, 4))
    textures.random(atoms, seed=1)
    atoms.calc = KondoEDCalculator({1: 1.0}, 1.0, filling=0.3, temperature=0.05, lattice=atoms)
    if bound_first:
        energy = atoms.get_potential_energy()
    else:
        LLGDynamics(atoms, 1.0, gamma=1.0).run(0)
        energy = atoms.get_potential_energy()
    atoms.rattle(0.05, seed=2)
    LLGDynamics(atoms, 1.0, gamma=1.0).run(0)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-10)
    atoms.calc.set(J=1.0 + 1e-13)
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-10)
    atoms.wrap()
    assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-10)
    bands = atoms.calc.band_structure(atoms, path="GX", npoints=5)
    assert np.ptp(bands.energies) > 7.5  # 8 t of the square lattice


def test_shells_are_those_of_the_structure_or_of_the_lattice():
    atoms = lattices.square((4, 4))
    textures.uniform(atoms)
    atoms.calc = ExchangeCalculator({1: -1.0}, lattice=atoms)
    assert atoms.get_potential_energy() == pytest.approx(-32)
    atoms.set_cell(atoms.cell.array * [[1.15], [1], [1]], scale_atoms=True)
    assert atoms.get_potential_energy() == pytest.approx(-32)
    atoms.calc.set(lattice=None)
    assert atoms.get_potential_energy() == pytest.approx(-16)


def test_bands_of_hopping_by_distance():
    atoms = lattices.square((1, 1))
    textures.uniform(atoms)
    atoms.calc = KondoEDCalculator(ExponentialHopping(1.0, 1.0, 0.1), 0.0, mu=0.0, temperature=0.1, cutoff=1.2)
    bands = atoms.calc.band_structure(atoms, path="GM", npoints=3)
    assert bands.energies[0, 0] == pytest.approx([-4, -4])
    assert bands.energies[0, -1] == pytest.approx([4, 4])


@pytest.mark.parametrize(("a", "shrunk", "cutoff"), [(2.0, 1.66, 3.4), (5.0, 4.1, 4.3)])
def test_bonds_that_strain_brings_into_range_are_found(a, shrunk, cutoff):
    parameters = {"hopping": ExponentialHopping(1.0, 2.0, 1.0), "J": 1.0, "mu": 0.0, "temperature": 0.1}
    energies = []
    for first in (a, shrunk):
        atoms = lattices.square((1, 1), a=first)
        textures.uniform(atoms)
        atoms.calc = KondoEDCalculator(**parameters, cutoff=cutoff, kpts=(3, 3, 1))
        atoms.get_potential_energy()
        atoms.set_cell(lattices.square((1, 1), a=shrunk).cell, scale_atoms=True)
        energies.append(atoms.get_potential_energy())
    assert energies[0] == pytest.approx(energies[1], abs=1e-12)


def test_skin_bonds_are_kept_while_valid():
    atoms = lattices.square((4, 4))
    textures.uniform(atoms)
    bound = KondoEDCalculator({1: 1.0}, 1.0, mu=0.0).bound(atoms)
    bonds = SkinBonds(atoms, 1.2)
    assert bonds.update(bound.positions, bound.cell)
    assert not bonds.update(bound.positions + 0.1, bound.cell)
    assert not bonds.update(bound.positions * 1.05, bound.cell * 1.05)
    assert bonds.update(bound.positions * 1.5, bound.cell * 1.5)


@pytest.mark.parametrize("a", [2.5, 2.3, 1.1, 0.7])
def test_a_cutoff_at_a_neighbour_distance_takes_the_whole_shell(a):
    atoms = lattices.triangular((5, 5), a=a)
    textures.uniform(atoms)
    atoms.calc = KondoEDCalculator(lambda r: 1 + 0 * r, 1.0, mu=0.0, temperature=0.1, cutoff=a)
    shells = atoms.copy()
    shells.calc = KondoEDCalculator({1: 1.0}, 1.0, mu=0.0, temperature=0.1)
    assert atoms.get_potential_energy() == pytest.approx(shells.get_potential_energy(), abs=1e-10)


def test_calculators_can_be_copied_after_use():
    atoms = chiral_magnet(4)
    textures.random(atoms, seed=1)
    atoms.calc.potential = Exchange({1: -0.01}) + Zeeman((0, 0, 0.1))
    energy = atoms.get_potential_energy()
    for twin in (copy.deepcopy(atoms), pickle.loads(pickle.dumps(atoms))):  # noqa: S301, our own bytes
        twin.calc.reset()
        assert twin.get_potential_energy() == pytest.approx(energy)


def test_ase_can_export_results():
    atoms = ferromagnet()
    energy = atoms.get_potential_energy()
    assert atoms.calc.export_properties()["energy"] == energy


def test_a_foreign_calculator_gets_its_cell_back():
    atoms = lattices.chain(3)
    textures.random(atoms, seed=1)
    atoms.calc = ForeignCalculator()
    bound = potential_of(atoms).bind(atoms)
    bound.evaluate(cell=1.05 * bound.cell)
    bound.evaluate()
    np.testing.assert_array_equal(bound.template.cell.array, atoms.cell.array)


def test_replicas_with_uniform_and_site_fields():
    uniform, by_site = ferromagnet((0, 0, 0.1)), ferromagnet(np.full((9, 3), 0.1))
    together = potential_of([uniform, by_site]).bind([uniform, by_site]).evaluate().energy
    assert together.tolist() == pytest.approx([uniform.get_potential_energy(), by_site.get_potential_energy()])
