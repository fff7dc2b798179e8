"""Calculators of the lattice alone, from ASE or elsewhere, in sums with spins: every tool runs, nothing is lost."""

import json
import runpy

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import (
    AverageCalculator,
    LinearCombinationCalculator,
    MixedCalculator,
    SumCalculator,
)
from ase.optimize import BFGS
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import ROOT

from ase_klm import (
    ExchangeCalculator,
    KLMError,
    LLGDynamics,
    SpinCalculator,
    SpinLatticeDynamics,
    SpinLatticeFilter,
    SpinMinimizer,
    get_magnetic_forces,
    get_moments,
    potentials,
    set_moments,
    testing,
    textures,
)
from ase_klm.magnons import Magnons
from ase_klm.potentials import Exchange, Foreign, Scaled, Zeeman, potential_of

FOLLOWING = {1: [potentials.Exponential(-0.02, r0=2.5, decay=0.5)], 2: -0.005}


def nickel(seed=None, size=2):
    """A crystal of fcc nickel, of which EMT is a model; with a seed, displaced atoms and disordered moments."""
    atoms = bulk("Ni", cubic=True).repeat(size)
    set_moments(atoms, np.tile((0, 0, 0.6), (len(atoms), 1)))
    if seed is not None:
        atoms.rattle(0.05, seed=seed)
        textures.add_noise(atoms, 0.3, seed=seed)
    return atoms


def lennard_jones():
    """With the distance and the depth of a metal, smooth at its cutoff."""
    return LennardJones(sigma=2.22, epsilon=0.4, rc=5.0, ro=4.0, smooth=True)


def exchange():
    return ExchangeCalculator(FOLLOWING, lattice=nickel(size=1))


LATTICES = {"LennardJones": lennard_jones, "EMT": EMT}


class Counting(EMT):
    """Counts the calculations, as its subclasses in other packages are slow."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        self.asked += list(properties)
        super().calculate(atoms, properties, system_changes)


@pytest.mark.parametrize("lattice", LATTICES.values(), ids=LATTICES.keys())
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**31), parts=st.permutations(range(3)))
def test_a_sum_is_its_parts(lattice, seed, parts):
    """Energy, forces, stress and magnetic forces, by our tools and by ASE, and as differences of the energy."""
    atoms = nickel(seed, size=1)
    spins, field = exchange(), SpinCalculator(Zeeman((0, 0.01, 0)))
    calculators = [(spins, field, lattice())[number] for number in parts]
    atoms.calc = SumCalculator(calculators)
    found = potential_of(atoms).bind(atoms)
    state = [found.tensor(values) for values in (get_moments(atoms), atoms.positions, atoms.cell.array)]
    evaluation = found.evaluate(*state)
    assert float(evaluation.energy) == pytest.approx(sum(c.get_potential_energy(atoms) for c in calculators))
    np.testing.assert_allclose(evaluation.forces, sum(c.get_forces(atoms) for c in calculators), atol=1e-12)
    stress = sum(c.get_stress(atoms) for c in calculators)
    np.testing.assert_allclose(evaluation.stress.numpy().ravel()[[0, 4, 8, 5, 2, 1]], stress, atol=1e-12)
    expected = sum(c.get_property("magnetic_forces", atoms) for c in (spins, field))
    np.testing.assert_allclose(evaluation.magnetic_forces, expected, atol=1e-12)
    np.testing.assert_allclose(get_magnetic_forces(atoms), expected, atol=1e-12)
    np.testing.assert_allclose(found.forces(*state), evaluation.forces, atol=1e-14)
    np.testing.assert_allclose(found.effective_field(*state), expected, atol=1e-14)
    assert set(testing.check(atoms, sites=[1])) == {"magnetic_forces", "forces", "stress"}
    assert testing.hessian_error(atoms) < 1e-6


@pytest.mark.parametrize("lattice", LATTICES.values(), ids=LATTICES.keys())
def test_every_tool_runs(lattice, tmp_path):
    atoms = nickel(seed=1, size=1)
    atoms.calc = SumCalculator([exchange(), lattice(), lattice()])
    cold = atoms.get_potential_energy()
    LLGDynamics(atoms, 0.5 * units.fs, damping=0.5, logfile=str(tmp_path / "llg")).run(5)
    assert atoms.get_potential_energy() < cold
    atoms.set_velocities(np.zeros((len(atoms), 3)))
    with SpinLatticeDynamics(atoms, 0.5 * units.fs, trajectory=tmp_path / "a.traj") as dynamics:
        start = atoms.get_total_energy()
        dynamics.run(20)
        assert dynamics.integrator.name == "suzuki-trotter"  # the lattice does not know spins, which can be swept
        assert atoms.get_kinetic_energy() > 0.05
        assert atoms.get_total_energy() == pytest.approx(start, abs=2e-3)  # errors of Δt², which do not grow
    assert SpinMinimizer(atoms).run(fmax=1e-5)
    state = np.random.get_state()  # noqa: NPY002, ASE's FrechetCellFilter draws from it
    assert BFGS(SpinLatticeFilter(atoms, cell=True), logfile=None).run(fmax=0.05, steps=100)
    np.random.set_state(state)  # noqa: NPY002


@pytest.mark.parametrize("method", ["exact", "autograd", "differences"])
def test_magnons_are_those_of_the_spins(method):
    atoms = bulk("Ni", cubic=True)
    set_moments(atoms, np.tile((0, 0, 0.6), (4, 1)))
    q = [[0.5, 0, 0], [0.25, 0.5, 0]]
    calc = SumCalculator([EMT(), ExchangeCalculator({1: -0.02}, lattice=nickel(size=1))])
    alone = Magnons(atoms, ExchangeCalculator({1: -0.02}, lattice=nickel(size=1)))
    found = Magnons(atoms, calc, method=method, supercell=(4, 2, 1))
    np.testing.assert_allclose(found.frequencies(q), alone.frequencies(q), atol=1e-7)


def test_a_lattice_at_rest_is_calculated_once():
    atoms, lattice = nickel(seed=1, size=1), Counting()
    atoms.calc = SumCalculator([exchange(), lattice])
    dynamics = LLGDynamics(atoms, 0.5 * units.fs)
    dynamics.run(2)
    asked = len(lattice.asked)
    dynamics.run(20)
    assert len(lattice.asked) == asked
    assert not {"forces", "stress"} & set(lattice.asked)  # nobody has wanted them
    atoms.positions[0, 0] += 0.1  # as a script may do
    dynamics.run(1)
    assert len(lattice.asked) > asked
    lattice.reset()  # as `calc.set(...)` does: it has other parameters now
    asked = len(lattice.asked)
    dynamics.run(1)
    assert len(lattice.asked) == asked + 1


@pytest.mark.parametrize(("integrator", "most"), [("suzuki-trotter", 1), ("sib", 1)])
def test_moving_atoms_cost_one_calculation_a_step(integrator, most):
    atoms, lattice = nickel(seed=1, size=1), Counting()
    atoms.calc = SumCalculator([exchange(), lattice])
    dynamics = SpinLatticeDynamics(atoms, 0.5 * units.fs, integrator=integrator)
    dynamics.run(1)
    asked = len(lattice.asked)
    dynamics.run(10)
    assert len(lattice.asked) - asked <= 10 * most


def test_others_may_use_the_calculator_meanwhile():
    """Results that were kept are asked for again when the calculator has seen other atoms, or other parameters."""
    atoms, lattice = nickel(seed=1, size=1), lennard_jones()
    bound = Foreign(lattice).bind(atoms)
    energy = float(bound.evaluate().energy)
    assert energy == pytest.approx(lattice.get_potential_energy(atoms))
    lattice.get_potential_energy(nickel(seed=2, size=1))
    assert float(bound.evaluate().energy) == energy
    lattice.set(epsilon=0.8)
    lattice.reset()  # ASE's own results are stale without
    assert float(bound.evaluate().energy) == pytest.approx(2 * energy)
    moved = bound.positions.clone()
    moved[0, 0] += 0.1
    assert float(bound.evaluate(None, moved).energy) != pytest.approx(2 * energy)


def test_replicas():
    replicas = [nickel(seed=number, size=1) for number in range(3)]
    lattice = lennard_jones()
    bound = (Foreign(lattice) + Exchange({1: -0.02}, lattice=nickel(size=1))).bind(replicas)
    found = bound.evaluate()
    assert found.forces.shape == (3, 4, 3)
    for atoms in replicas:
        atoms.calc = SumCalculator([ExchangeCalculator({1: -0.02}, lattice=nickel(size=1)), lattice])
    single = [potential_of(atoms).bind(replicas[0]) for atoms in replicas]
    for number, (atoms, alone) in enumerate(zip(replicas, single, strict=True)):
        state = [alone.tensor(values) for values in (get_moments(atoms), atoms.positions)]
        assert float(found.energy[number]) == pytest.approx(float(alone.evaluate(*state).energy))
        np.testing.assert_allclose(found.forces[number], alone.evaluate(*state).forces, atol=1e-12)
    LLGDynamics(replicas, 0.5 * units.fs).run(2)


def test_strained_cells_and_open_directions():
    """The cell of an evaluation reaches the calculator, and zero vectors stay zero."""
    atoms = nickel(size=1)
    bound = Foreign(lennard_jones()).bind(atoms)
    bound.move_to(1.05 * bound.positions, 1.05 * bound.cell)
    stretched = atoms.copy()
    stretched.set_cell(1.05 * atoms.cell.array, scale_atoms=True)
    assert float(bound.evaluate().energy) == pytest.approx(lennard_jones().get_potential_energy(stretched))
    cluster = nickel(size=1)
    cluster.set_cell(None)
    cluster.pbc = False
    found = Foreign(lennard_jones()).bind(cluster).evaluate()
    assert float(found.energy) == pytest.approx(lennard_jones().get_potential_energy(cluster))
    assert found.stress is None
    assert found.forces is not None


def test_iron_of_the_example(tmp_path):
    """A table that ASE reads has the published crystal; with exchange beside it, forces are slopes of the energy."""
    example = runpy.run_path(str(ROOT / "examples" / "iron_eam.py"))
    table = example["write_table"](str(tmp_path / "Fe.eam.alloy"))
    published = [example[name] for name in ("LATTICE_CONSTANT", "COHESION", "BULK_MODULUS")]
    for value, known, error in zip(example["equation_of_state"](table), published, (1e-4, 1e-4, 2e-3), strict=True):
        assert value == pytest.approx(known, rel=error)  # the elastic constants were published to 0.1 GPa
    atoms = example["iron"](table, size=2, tilt=0.3)
    atoms.rattle(0.05, seed=1)
    testing.check(atoms, sites=[3])
    with SpinLatticeDynamics(atoms, 1.0 * units.fs) as dynamics:
        dynamics.run(2)


# What may depend on moments is not taken for a lattice


class Density(Calculator):
    """As codes of density functional theory: moments in, moments out, no magnetic forces."""

    implemented_properties = ["energy", "forces", "magmoms"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 1.0, "forces": np.zeros((len(self.atoms), 3)), "magmoms": np.ones(len(self.atoms))}


class Secret(Density):
    """Depends on moments without saying so."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["energy"] = 1e-3 * float((get_moments(self.atoms)[1:] * get_moments(self.atoms)[:-1]).sum())


TOOLS = {
    "LLG": lambda atoms: LLGDynamics(atoms, 0.1),
    "coupled": lambda atoms: SpinLatticeDynamics(atoms, 0.1),
    "minimizer": SpinMinimizer,
    "filter": SpinLatticeFilter,
    "magnons": lambda atoms: Magnons(atoms).run(),
}


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS.keys())
def test_a_lattice_alone_turns_nothing(tool):
    atoms = nickel(size=1)
    weighted = LinearCombinationCalculator([EMT(), lennard_jones()], [0.5, 2.0])
    stated = SpinCalculator(Foreign(EMT(), magnetic=False))
    for calc in (EMT(), SumCalculator([EMT(), lennard_jones()]), weighted, stated):
        atoms.calc = calc
        with pytest.raises(KLMError, match=r"gives no magnetic forces(.|\n)*nothing turns the moments"):
            tool(atoms)


@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS.keys())
@pytest.mark.parametrize("calculator", [Density, Secret])
def test_hidden_magnetic_forces_are_refused(tool, calculator):
    atoms = nickel(size=1)
    atoms.calc = SumCalculator([exchange(), calculator()])
    with pytest.raises(KLMError, match=r"gives no magnetic forces(.|\n)*depend(.|\n)*magnetic=False"):
        tool(atoms)


def test_what_a_user_states():
    atoms = nickel(seed=1, size=1)
    total = Exchange({1: -0.02}, lattice=nickel(size=1)) + Foreign(Density(), magnetic=False)
    atoms.calc = SpinCalculator(total)
    alone = ExchangeCalculator({1: -0.02}, lattice=nickel(size=1))
    assert atoms.get_potential_energy() == pytest.approx(1.0 + alone.get_potential_energy(atoms))
    np.testing.assert_allclose(get_magnetic_forces(atoms), alone.get_property("magnetic_forces", atoms), atol=1e-14)
    LLGDynamics(atoms, 0.1).run(2)
    unknown = Calculator()
    for magnetic, calculator in ((True, EMT()), (None, unknown), (False, unknown)):
        with pytest.raises(KLMError, match="gives no magnetic forces"):
            Foreign(calculator, magnetic=magnetic)
    deaf = Foreign(alone, magnetic=False).bind(atoms)  # said on purpose
    assert not deaf.evaluate().magnetic_forces.any()


def test_weighted_sums():
    """A combination with weights of one is a sum; others keep their weights."""
    atoms = nickel(seed=1, size=1)
    plain = LinearCombinationCalculator([exchange(), EMT()], [1.0, 1.0])
    atoms.calc = plain
    assert [type(term).__name__ for term in potential_of(atoms).terms][-1] == "Foreign"
    forces = exchange().get_property("magnetic_forces", atoms)
    np.testing.assert_allclose(get_magnetic_forces(atoms), forces, atol=1e-14)
    atoms.calc = LinearCombinationCalculator([exchange(), EMT()], [0.5, 2.0])
    np.testing.assert_allclose(get_magnetic_forces(atoms), 0.5 * forces, atol=1e-14)


COMBINATIONS = {
    "average": (lambda a, b: AverageCalculator([a, b]), 0.5, 0.5),
    "mixed": (lambda a, b: MixedCalculator(a, b, 0.3, 0.7), 0.3, 0.7),
    "weights": (lambda a, b: LinearCombinationCalculator([a, b], [2, 0.5]), 2.0, 0.5),
    "nested": (lambda a, b: SumCalculator([AverageCalculator([a, a]), AverageCalculator([b, b, b])]), 1.0, 1.0),
    "twice": (lambda a, b: LinearCombinationCalculator([AverageCalculator([a, b]), a], [4.0, -1.0]), 1.0, 2.0),
}


@pytest.mark.filterwarnings("ignore:the time step:ase_klm.KLMWarning")
@pytest.mark.parametrize(("combine", "first", "second"), COMBINATIONS.values(), ids=COMBINATIONS.keys())
@pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS.keys())
def test_every_tool_takes_weighted_combinations(tool, combine, first, second):
    """Each moves as it does for exchange whose parameters, and a lattice whose energy, carry the weights."""

    def moved(calc):
        atoms = nickel(size=1) if tool is TOOLS["magnons"] else nickel(seed=1, size=1)
        atoms.calc = calc
        if tool is TOOLS["magnons"]:
            return [Magnons(atoms).frequencies([(0.3, 0.1, 0)])]
        coupled = tool is TOOLS["coupled"]  # Suzuki-Trotter sweeps over the second, not over weighted terms
        made = SpinLatticeDynamics(atoms, 0.02, integrator="sib") if coupled else tool(atoms)
        if isinstance(made, SpinLatticeFilter):
            BFGS(made, logfile=None).run(steps=3)
        elif isinstance(made, SpinMinimizer):
            made.run(fmax=1e-6, steps=3)
        else:
            made.run(3)
        evaluation = (
            potential_of(atoms)
            .bind(nickel(size=1))
            .evaluate(*(torch.tensor(x) for x in (get_moments(atoms), atoms.positions, atoms.cell.array)))
        )
        return [get_moments(atoms), atoms.positions, evaluation.energy, evaluation.forces, evaluation.stress]

    parameters = {1: [potentials.Exponential(-0.02 * first, r0=2.5, decay=0.5)], 2: -0.005 * first}
    weighted = ExchangeCalculator(parameters, lattice=nickel(size=1)).potential + Scaled(Foreign(EMT()), second)
    for a, b in zip(moved(combine(exchange(), EMT())), moved(SpinCalculator(weighted)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


def test_second_derivatives_of_a_weighted_combination():
    """The bonds to other cells count in "differences" too, and in the rotating frame of a spiral."""
    chain = Atoms("Fe", cell=(3, 0, 0), pbc=(True, False, False))
    set_moments(chain, 2.0)
    M = -1e-3 * np.diag([0.8, 0.9, 1.2])
    q = np.array([(0.1, 0, 0), (0.5, 0, 0)])
    c = np.cos(2 * np.pi * q[:, 0])
    expected = 0.5 * 2e-3 * np.sqrt((1.2 - 0.8 * c) * (1.2 - 0.9 * c))

    def bonds():
        return ExchangeCalculator(bonds=[(0, 0, (1, 0, 0), M)])

    for options in ({}, {"method": "exact"}, {"method": "differences", "supercell": (4, 1, 1)}):
        half = LinearCombinationCalculator([bonds(), bonds()], [2.0, -1.5])
        np.testing.assert_allclose(Magnons(chain, half, **options).frequencies(q)[:, 0], expected, rtol=1e-5)
    spiral = ((0.1, 0, 0), (0, 0, 1))
    doubled = LinearCombinationCalculator([ExchangeCalculator({1: -0.5e-3})], [2.0])
    found = Magnons(chain, doubled, spiral=spiral).form.at(q)
    np.testing.assert_allclose(found, Magnons(chain, ExchangeCalculator({1: -1e-3}), spiral=spiral).form.at(q))


def test_a_weight_that_changes_between_runs_is_seen():
    atoms, expected = nickel(seed=1, size=1), nickel(seed=1, size=1)
    atoms.calc = MixedCalculator(exchange(), EMT(), 1.0, 1.0)
    run = LLGDynamics(atoms, 0.1)
    run.run(3)
    atoms.calc.set_weights(0.0, 1.0)
    before = get_moments(atoms)
    run.run(3)
    np.testing.assert_allclose(get_moments(atoms), before, atol=1e-14)
    expected.calc = exchange()
    LLGDynamics(expected, 0.1).run(3)
    np.testing.assert_allclose(before, get_moments(expected), atol=1e-13)


@given(factor=st.floats(-3, 3))
@settings(max_examples=5, deadline=None)
def test_a_scaled_potential_gives_all_that_its_potential_gives(factor):
    atoms = nickel(seed=1, size=1)
    term = Scaled(exchange().potential, factor)
    bound, alone = term.bind(atoms), exchange().potential.bind(atoms)
    m, x, cell = bound.moments, bound.positions, bound.cell
    v = bound.tensor(np.random.default_rng(1).normal(size=m.shape))
    calls = {"effective_field": (m, x, cell), "forces": (m, x, cell)}
    for name, arguments in (calls | {"hessian_vector_product": (m, v), "site_hessian": (m,)}).items():
        expected = factor * getattr(alone, name)(*arguments)
        np.testing.assert_allclose(getattr(bound, name)(*arguments), expected, atol=1e-14)
    np.testing.assert_allclose(bound.hessian(m)(v), factor * alone.hessian(m)(v), atol=1e-14)
    again = potentials.from_dict(json.loads(json.dumps(term.todict())))
    assert again.bind(atoms).evaluate().energy == bound.evaluate().energy
    double = term.repeated(atoms, (2, 1, 1)).bind(atoms.repeat((2, 1, 1)))
    assert float(double.evaluate().energy) == pytest.approx(2 * float(bound.evaluate().energy), abs=1e-12)
    with pytest.raises(KLMError, match="factor"):
        Scaled(term, np.nan)
