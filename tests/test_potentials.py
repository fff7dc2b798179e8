"""Every term against differences of its energy; sums, replicas, foreign calculators, and the cache of the ASE faces."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.mixing import SumCalculator
from ase.calculators.singlepoint import SinglePointCalculator

from ase_klm import (
    ExchangeCalculator,
    KLMError,
    KondoEDCalculator,
    SpinCalculator,
    get_magnetic_forces,
    get_moments,
    graphs,
    lattices,
    set_moments,
    testing,
    textures,
)
from ase_klm.potentials import (
    Exchange,
    ExponentialHopping,
    Foreign,
    Kondo,
    Sum,
    UniaxialAnisotropy,
    Zeeman,
    potential_of,
)
from ase_klm.potentials.base import BoundPotential, Potential, hessian_by_differences, stacked


class QuarticBound(BoundPotential):
    """Σ |m|⁴ - Σ (m·x)², differentiable in moments and positions: what a network will be."""

    def energy(self, moments, positions, cell):
        length = (moments**2).sum(-1)
        return (length**2).sum(-1) - ((moments * positions).sum(-1) ** 2).sum(-1)


class Quartic(Potential):
    def bind(self, atoms, device="cpu"):
        return QuarticBound(atoms, device)


def lattice(rng, size=(3, 3)):
    atoms = lattices.honeycomb(size, a=2.0)
    length = rng.uniform(0.5, 2.0, len(atoms))
    textures.random(atoms, length=length, seed=rng)
    return atoms


def terms(rng, n):
    return {
        "exchange by shells": Exchange({1: -0.3, 2: np.diag([0.1, 0.2, 0.3])}),
        "exchange by bonds": Exchange(bonds=[(0, 1, (0, 0, 0), rng.standard_normal((3, 3))), (2, 2, (1, 0, 0), 0.4)]),
        "on-site terms": Exchange(onsite=rng.standard_normal((n, 3, 3)), site_fields=rng.standard_normal((n, 3))),
        "anisotropy": UniaxialAnisotropy(rng.standard_normal(n), (1, 1, 0)),
        "Zeeman": Zeeman(rng.standard_normal((n, 3))),
        "Kondo": Kondo({1: 1.0}, 2.0, filling=0.3, temperature=0.1),
        "Kondo by distance": Kondo(ExponentialHopping(1.0, 1.15, 0.5), 2.0, mu=-1.0, temperature=0.1, cutoff=2.5),
        "differentiable": Quartic(),
    }


NAMES = list(terms(np.random.default_rng(0), 2))


@pytest.mark.parametrize("name", NAMES)
def test_gradients_and_second_derivatives(name, rng):
    """One consistency test for every term: E → F → Hessian."""
    atoms = lattice(rng)
    atoms.calc = SpinCalculator(terms(rng, len(atoms))[name])
    testing.check(atoms, tolerance=1e-7, sites=[0, 5])
    assert testing.hessian_error(atoms) < 1e-6
    bound = atoms.calc.bound(atoms)
    blocks = bound.site_hessian(bound.moments)
    if blocks is not None:
        vector = torch.zeros_like(bound.moments)
        vector[5] = torch.tensor([0.3, -0.5, 0.2])
        product = hessian_by_differences(bound, bound.moments, vector)[5]
        np.testing.assert_allclose(blocks[5] @ vector[5], product, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_time_reversal(name, rng):
    """E(-m) = E(m) without fields."""
    atoms = lattice(rng)
    if name in ("Zeeman", "on-site terms"):
        pytest.skip("has a field")
    atoms.calc = SpinCalculator(terms(rng, len(atoms))[name])
    assert testing.time_reversal_error(atoms) < testing.SYMMETRY_TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_single_evaluations(name, rng):
    replicas = [lattice(np.random.default_rng(0)) for _ in range(3)]
    for atoms in replicas:
        set_moments(atoms, get_moments(lattice(rng)))
    potential = terms(rng, len(replicas[0]))[name]
    together = potential.bind(replicas).evaluate()
    vectors = torch.randn(3, len(replicas[0]), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bound = potential.bind(replicas)
    product = bound.hessian_vector_product(bound.moments, vectors)
    for number, atoms in enumerate(replicas):
        single = potential.bind(atoms)
        alone = single.evaluate()
        for quantity in ("energy", "magnetic_forces", "forces", "stress"):
            np.testing.assert_allclose(getattr(together, quantity)[number], getattr(alone, quantity), atol=1e-11)
        np.testing.assert_allclose(
            product[number], single.hessian_vector_product(single.moments, vectors[number]), atol=1e-6
        )


def test_exchange_counts_every_bond_once():
    """Two sites, one bond: antiferromagnetic for M > 0; DM energy D·(e1 × e2) with its sign."""
    atoms = Atoms("Fe2", positions=[(0, 0, 0), (1, 0, 0)])
    set_moments(atoms, [(2, 0, 0), (0, 3, 0)])
    D = 0.7
    M = 1.5 * np.eye(3) + D * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])
    atoms.calc = ExchangeCalculator(bonds=[(0, 1, (0, 0, 0), M)])
    assert atoms.get_potential_energy() == pytest.approx(D)
    set_moments(atoms, [(0, 0, 2), (0, 0, 1)])
    assert atoms.get_potential_energy() == pytest.approx(1.5)
    atoms.calc = ExchangeCalculator({1: 1.5})
    assert atoms.get_potential_energy() == pytest.approx(1.5)


def test_exchange_by_a_function_of_the_bond_vector(rng):
    """The same as explicit bonds, in whichever direction they are found; DM must be odd."""
    atoms = lattices.honeycomb((3, 2))
    textures.random(atoms, seed=rng)

    def bond(r):
        x, y, z = 0.3 * np.cross((0, 0, 1), r)
        return -np.outer(r, r) + np.array([(0, z, -y), (-z, 0, x), (y, -x, 0)])

    bonds = graphs.neighbour_shells(atoms, [1])
    explicit = [
        (int(j), int(i), tuple(-cell), bond(-vector))
        for i, j, cell, vector in zip(bonds.i, bonds.j, bonds.cells, bonds.vectors, strict=True)
    ]
    energies = []
    for exchange in (Exchange({1: bond}), Exchange(bonds=explicit)):
        atoms.calc = SpinCalculator(exchange)
        energies.append(atoms.get_potential_energy())
        testing.check(atoms, sites=[0])
    assert energies[0] == pytest.approx(energies[1], abs=1e-12)
    atoms.calc = SpinCalculator(Exchange({1: lambda _: np.array([(0, 1, 0), (-1, 0, 0), (0, 0, 0)])}))
    with pytest.raises(KLMError, match="which end of a bond comes first"):
        atoms.get_potential_energy()


@pytest.mark.parametrize(("builder", "neighbours"), [("square", 4), ("kagome", 4), ("body_centred_cubic", 8)])
def test_ferromagnetic_exchange_energy(builder, neighbours):
    size = (1, 1, 1) if "cubic" in builder else (1, 1)
    atoms = getattr(lattices, builder)(size)
    textures.uniform(atoms, length=2.2)
    atoms.calc = ExchangeCalculator({1: -1.0})
    assert atoms.get_potential_energy() == pytest.approx(-neighbours / 2 * len(atoms))


def test_exchange_shells_are_those_of_the_magnetic_atoms():
    atoms = Atoms("FeOFe", positions=[(0, 0, 0), (1, 0, 0), (2, 0, 0)])
    set_moments(atoms, [(0, 0, 1), (0, 0, 0), (0, 0, 1)])
    atoms.calc = ExchangeCalculator({1: 1.0})
    assert atoms.get_potential_energy() == pytest.approx(1.0)
    assert not get_magnetic_forces(atoms)[1].any()


def test_triangular_120_order_is_the_minimum():
    """-1.5 J S² a site, and no torque, where the spins of each triangle add up to zero."""
    atoms = lattices.triangular((3, 3))
    textures.spiral(atoms, (4 * np.pi / 3, 0, 0))
    atoms.calc = ExchangeCalculator({1: 1.0})
    assert atoms.get_potential_energy() / 9 == pytest.approx(-1.5)
    np.testing.assert_allclose(get_magnetic_forces(atoms), 0, atol=1e-12)


def test_sums(rng):
    atoms = lattice(rng)
    parts = [Exchange({1: -1.0}), Zeeman((0, 0, 0.1)), UniaxialAnisotropy(0.2)]
    total = parts[0] + parts[1] + parts[2]
    assert isinstance(total, Sum)
    assert total.terms == tuple(parts)
    energy = sum(part.bind(atoms).evaluate().energy for part in parts)
    assert total.bind(atoms).evaluate().energy == pytest.approx(energy)
    atoms.calc = SumCalculator([SpinCalculator(part) for part in parts])
    assert atoms.get_potential_energy() == pytest.approx(energy.item())
    unwrapped = potential_of(atoms)
    assert isinstance(unwrapped, Sum)
    assert len(unwrapped.terms) == 3
    np.testing.assert_allclose(unwrapped.bind(atoms).evaluate().magnetic_forces, get_magnetic_forces(atoms), atol=1e-14)


class ForeignCalculator(Calculator):
    """An ASE calculator from elsewhere: E = Σ m⁴/4, no forces; counts its evaluations."""

    implemented_properties = ["energy", "magnetic_forces"]
    evaluations = 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        moments = get_moments(self.atoms)
        square = (moments**2).sum(1)
        type(self).evaluations += 1
        self.results = {"energy": (square**2).sum() / 4, "magnetic_forces": -square[:, None] * moments}


def test_foreign_calculators_are_wrapped(rng):
    atoms = lattice(rng)
    atoms.calc = ForeignCalculator()
    bound = potential_of(atoms).bind([atoms, atoms])
    found = bound.evaluate()
    assert found.energy.shape == (2,)
    assert found.forces is None
    np.testing.assert_allclose(found.magnetic_forces[1], get_magnetic_forces(atoms))
    vectors = torch.ones_like(bound.moments)
    m = bound.moments
    exact = (m**2).sum(-1, keepdim=True) * vectors + 2 * m * (m * vectors).sum(-1, keepdim=True)
    np.testing.assert_allclose(bound.hessian_vector_product(m, vectors), exact, atol=1e-6)
    total = (Foreign(atoms.calc) + Zeeman((0, 0, 1))).bind(atoms).evaluate()
    assert total.forces is None  # a sum gives what all its terms give
    with pytest.raises(KLMError, match="no magnetic forces"):
        Foreign(SinglePointCalculator(atoms, energy=0.0))
    atoms.calc = None
    with pytest.raises(KLMError, match="no calculator"):
        potential_of(atoms)


def test_replicas_may_differ_in_fields_only(rng):
    replicas = [lattice(np.random.default_rng(0)) for _ in range(3)]
    for number, atoms in enumerate(replicas):
        atoms.calc = ExchangeCalculator({1: -1.0}, field=(0, 0, 0.1 * number))
    bound = potential_of(replicas).bind(replicas)
    for number, atoms in enumerate(replicas):
        assert bound.evaluate().energy[number].item() == pytest.approx(atoms.get_potential_energy())
    replicas[1].calc = ExchangeCalculator({1: -1.1})
    with pytest.raises(KLMError, match="cannot run in one batch"):
        potential_of(replicas)
    with pytest.raises(KLMError, match="cannot run in one batch"):
        stacked([Zeeman((0, 0, 1)), Exchange({1: 1.0})])
    with pytest.raises(KLMError, match="species differ"):
        Zeeman((0, 0, 1)).bind([replicas[0], lattices.honeycomb((3, 3), symbol="Co")])


# The cache of the ASE faces: each kind of change is seen, and nothing is computed twice.


def counted(calc, monkeypatch):
    calls = []
    original = calc.potential.bind

    def bind(*args, **kwargs):
        bound = original(*args, **kwargs)
        evaluate = bound.evaluate
        bound.evaluate = lambda *a, **k: calls.append(1) or evaluate(*a, **k)
        return bound

    monkeypatch.setattr(type(calc.potential), "bind", lambda _, *a, **k: bind(*a, **k))
    return calls


def test_all_results_cost_one_evaluation(rng, monkeypatch):
    atoms = lattice(rng)
    atoms.calc = SpinCalculator(Exchange({1: -1.0}) + Zeeman((0, 0, 0.1)))
    calls = counted(atoms.calc, monkeypatch)
    for _ in range(2):
        atoms.get_potential_energy()
        atoms.get_potential_energy(force_consistent=True)
        get_magnetic_forces(atoms)
        atoms.get_forces()
        atoms.get_stress()
    assert len(calls) == 1


def test_changes_of_moments_positions_and_cell_are_seen(rng):
    atoms = lattice(rng)
    parameters = {
        "hopping": ExponentialHopping(1.0, 1.15, 0.5),
        "cutoff": 2.5,
        "J": 2.0,
        "mu": -1.0,
        "temperature": 0.1,
    }
    atoms.calc = KondoEDCalculator(**parameters)
    before = atoms.get_potential_energy()
    changes = [
        lambda: atoms.arrays["initial_magmoms"].__setitem__(0, (0, 0, 1.0)),
        lambda: atoms.positions.__setitem__(0, atoms.positions[0] + 0.05),
        lambda: atoms.set_cell(atoms.cell.array * 1.01, scale_atoms=True),
    ]
    for change in changes:
        change()
        after = atoms.get_potential_energy()
        fresh = atoms.copy()
        fresh.calc = KondoEDCalculator(**parameters)
        assert after == pytest.approx(fresh.get_potential_energy(), abs=1e-12)
        assert after != before
        before = after


def test_changes_of_parameters_are_seen(rng):
    atoms = lattice(rng)
    field = np.array([0.0, 0.0, 0.1])
    atoms.calc = calc = ExchangeCalculator({1: -1.0}, field=field)
    zero = ExchangeCalculator({1: -1.0})
    total = get_moments(atoms).sum(0)

    def zeeman():
        other = atoms.copy()
        other.calc = zero
        return atoms.get_potential_energy() - other.get_potential_energy()

    assert zeeman() == pytest.approx(-0.1 * total[2])
    calc.set(field=(0.2, 0, 0))
    assert zeeman() == pytest.approx(-0.2 * total[0])
    calc.parameters["field"] = (0, 0.3, 0)
    assert zeeman() == pytest.approx(-0.3 * total[1])
    calc.potential = Exchange({1: -1.0}) + Zeeman((0.4, 0, 0))
    assert zeeman() == pytest.approx(-0.4 * total[0])
    with pytest.raises(KLMError, match="no parameter"):
        calc.set(fields=1)
    with pytest.raises(KLMError, match="field"):
        calc.set(field="up")
    assert zeeman() == pytest.approx(-0.4 * total[0])  # the wrong value changed nothing


def test_a_field_array_changed_in_place_is_seen(rng):
    atoms = lattice(rng)
    field = np.zeros(3)
    atoms.calc = ExchangeCalculator({1: -1.0}, field=field)
    before = atoms.get_potential_energy()
    field[2] = 0.5
    assert atoms.get_potential_energy() == pytest.approx(before - 0.5 * get_moments(atoms)[:, 2].sum())


def test_one_calculator_serves_different_lattices():
    calc = ExchangeCalculator({1: -1.0})
    for builder, neighbours in ((lattices.square, 4), (lattices.triangular, 6), (lattices.square, 4)):
        atoms = builder((3, 3))
        textures.uniform(atoms)
        atoms.calc = calc
        assert atoms.get_potential_energy() / 9 == pytest.approx(-neighbours / 2)


def test_scalar_moments_of_builders_are_collinear():
    atoms = bulk("Fe", cubic=True)
    atoms.calc = ExchangeCalculator({1: -0.01})
    assert atoms.get_potential_energy() == pytest.approx(-0.01 * 8)
    atoms.set_initial_magnetic_moments([2.2, -2.2])
    assert atoms.get_potential_energy() == pytest.approx(0.01 * 8)


@pytest.mark.parametrize(
    ("parameters", "what"),
    [
        ({"shells": {1: [[1, 2, 3], [0, 1, 0], [0, 0, 1]]}}, "not symmetric"),
        ({"shells": {1: "strong"}}, "exchange of shell 1"),
        ({"bonds": [(0, 1, 1.0)]}, "not a bond"),
        ({"bonds": [(0.5, 1, (0, 0, 0), 1.0)]}, "not a bond"),
        ({"bonds": [(0, 99, (0, 0, 0), 1.0)]}, "names atom"),
        ({"bonds": [(0, 0, (0, 0, 0), 1.0)]}, "to itself"),
        ({"bonds": [(0, 1, (0, 0, 1), 1.0)]}, "non-periodic"),
        ({"bonds": [(0, 1, (0, 0, 0), 1.0), (1, 0, (0, 0, 0), 1.0)]}, "listed twice"),
        ({"onsite": np.zeros((2, 3, 3))}, "onsite"),
        ({"site_fields": np.zeros((7, 3))}, "site_fields"),
        ({"field": np.zeros((7, 3))}, "field"),
    ],
)
def test_bad_exchange(parameters, what, rng):
    atoms = lattice(rng)
    with pytest.raises(KLMError, match=what):  # noqa: PT012, some are found at binding
        atoms.calc = ExchangeCalculator(**parameters)
        atoms.get_potential_energy()


def test_exchange_needs_moments_on_its_atoms(rng):
    atoms = lattice(rng)
    moments = get_moments(atoms)
    moments[4] = 0
    set_moments(atoms, moments)
    atoms.calc = ExchangeCalculator(bonds=[(0, 4, (0, 0, 0), 1.0)])
    with pytest.raises(KLMError, match="atom 4"):
        atoms.get_potential_energy()


def test_spin_calculator_wants_a_potential():
    with pytest.raises(KLMError, match="not a potential"):
        SpinCalculator("exchange")
