"""The same atoms have the same energy, whatever a calculator has seen before; shells are counted on what is given."""

from contextlib import suppress

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.mixing import SumCalculator
from ase.optimize import BFGS
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_klm import (
    ECNNCalculator,
    ExchangeCalculator,
    KLMError,
    KLMWarning,
    KondoEDCalculator,
    LLGDynamics,
    MagNetCalculator,
    Magnons,
    SpinCalculator,
    SpinLatticeDynamics,
    SpinLatticeFilter,
    calculators,
    get_magnetic_forces,
    get_moments,
    graphs,
    lattices,
    potentials,
    set_moments,
    textures,
    units,
)
from ase_klm.models.magnet import MagNet
from ase_klm.potentials import ExchangeOfDistance, LatticeEnergy

DECAY = potentials.Exponential(-0.01, r0=3.0, decay=0.5)
HOPPING = potentials.ExponentialHopping(1.0, 3.0, 1.0)
NETWORK = MagNet.seeded(1, ("Cr", "I"), cutoff=4.0, channels=4, sent=2, radial=4)


def square(a=3.0):
    cell = lattices.square((1, 1), a=a)
    cell.pbc = (True, True, False)
    return cell


def chromium_iodide():
    return lattices.cri3_monolayer((1, 1))


def along(r):
    return -np.outer(r, r)


LATTICE = square()
MATRIX = np.array([(-1.0, 0.2, 0.0), (-0.2, -1.0, 0.1), (0.0, -0.1, -0.8)])

# name: (cell, calculator without, and with a lattice)
CALCULATORS = {
    "shells": (square, lambda lattice: ExchangeCalculator({1: -1.0, 2: 0.3}, lattice=lattice)),
    "matrices along vectors": (
        square,
        lambda lattice: ExchangeCalculator({1: along}, lattice=lattice),
    ),
    "shells that follow": (
        square,
        lambda lattice: ExchangeCalculator({1: [DECAY, potentials.DMAlongBond(DECAY)], 2: -0.1}, lattice=lattice),
    ),
    "pairs": (square, lambda lattice: ExchangeCalculator(function=DECAY, cutoff=5.0, lattice=lattice)),
    "springs and angles": (
        square,
        lambda lattice: SpinCalculator(LatticeEnergy({1: 5.0, 2: 1.0}, bends={1: 0.5}), lattice=lattice),
    ),
    "electrons": (
        square,
        lambda lattice: KondoEDCalculator({1: 1.0, 2: 0.2}, 2.0, filling=0.3, temperature=0.1, lattice=lattice),
    ),
    "hopping by distance": (
        square,
        lambda _: KondoEDCalculator(HOPPING, 2.0, mu=0.0, temperature=0.1, cutoff=4.0),
    ),
    "network": (square, lambda lattice: ECNNCalculator("kondo-square-ecnn", dtype="float64", lattice=lattice)),
    "cri3": (chromium_iodide, lambda lattice: SpinCalculator(potentials.cri3_model(), lattice=lattice)),
    "MagNet": (
        chromium_iodide,
        lambda _: MagNetCalculator(NETWORK, dtype="float64"),
    ),
    "sum": (
        square,
        lambda lattice: SumCalculator(
            [
                ExchangeCalculator({1: -1.0}, lattice=lattice),
                SpinCalculator(LatticeEnergy({1: 5.0}) + potentials.UniaxialAnisotropy(0.1), lattice=lattice),
                ExchangeCalculator(function=DECAY, cutoff=5.0),
            ]
        ),
    ),
}
CALCULATORS["bonds"] = (
    square,
    lambda _: ExchangeCalculator(bonds=[(0, 0, (1, 0, 0), MATRIX), (0, 0, (1, 1, 0), 0.1)], lattice=LATTICE),
)


def perfect(cell, sizes, rng):
    """A repeated cell, strained, with random moments (Cr and Fe only)."""
    atoms = cell.repeat((*sizes, 1))
    strain = np.eye(3)
    strain[:2, :2] += rng.uniform(-0.02, 0.02) * np.eye(2)
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    moments = rng.standard_normal((len(atoms), 3))
    moments /= np.linalg.norm(moments, axis=1, keepdims=True)
    moments[atoms.symbols == "I"] = 0.0
    set_moments(atoms, moments)
    return atoms


def displaced(atoms, rng, amplitude=0.1, wrap=True):
    moved = atoms.copy()
    moved.positions += rng.uniform(-amplitude, amplitude, (len(atoms), 3))
    if wrap and rng.integers(2):
        moved.wrap()
    return moved


def results(calculator, atoms):
    energy = calculator.get_potential_energy(atoms)
    found = [energy, calculator.get_property("magnetic_forces", atoms)]
    if "forces" in calculator.implemented_properties:
        with suppress(NotImplementedError):
            found.append(calculator.get_property("forces", atoms))
    return found


@pytest.mark.parametrize("name", CALCULATORS)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_used_and_fresh_calculators_agree(name, seed):
    """Over sequences of perfect lattices of several sizes, strains and moments; and, with a lattice, displaced ones."""
    rng = np.random.default_rng(seed)
    build, calculator = CALCULATORS[name]
    cell = build()
    fixed = name in ("pairs", "hopping by distance", "MagNet", "cri3", "bonds")  # which count no shells
    for lattice in (None, cell):
        used = calculator(lattice)
        for _ in range(3):
            atoms = perfect(cell, rng.choice([(2, 2), (2, 3), (3, 3)]) if name != "cri3" else (2, 2), rng)
            if name == "network":
                atoms = perfect(cell, (3, 3), rng)
            if lattice is not None or fixed:
                atoms = displaced(atoms, rng)
            expected = results(calculator(lattice), atoms)
            for found, fresh in zip(results(used, atoms), expected, strict=True):
                scale = max(np.abs(fresh).max(), 1.0)
                np.testing.assert_allclose(found, fresh, rtol=1e-12, atol=1e-12 * scale)


@pytest.mark.parametrize("name", [name for name in CALCULATORS if name != "matrices along vectors"])
def test_wrapped_and_shifted_atoms(name, rng):
    """Which image of an atom is listed, and where the crystal stands, changes nothing, with a lattice or without."""
    build, calculator = CALCULATORS[name]
    calc = calculator(build())
    atoms = displaced(perfect(build(), (4, 4) if name == "network" else (3, 2), rng), rng)
    expected = results(calc, atoms)
    shifted = atoms.copy()
    shifted.positions += rng.integers(-2, 3, (len(atoms), 2)) @ atoms.cell.array[:2] + (1.3, -0.4, 0.2)
    for found, before in zip(results(calc, shifted), expected, strict=True):
        np.testing.assert_allclose(found, before, rtol=1e-9, atol=1e-9)


def dimerised():
    """The chain of the issue."""
    chain = lattices.chain(8)
    textures.random(chain, seed=1)
    moved = chain.copy()
    moved.positions[::2, 0] += 0.1
    return chain, moved


def test_a_dimerised_chain():
    chain, moved = dimerised()
    calc = ExchangeCalculator({1: -0.01})
    for _ in range(2):
        assert calc.get_potential_energy(moved) == pytest.approx(0.002042009502913223, rel=1e-12)
        assert calc.get_potential_energy(chain) == pytest.approx(0.0016069736603353526, rel=1e-12)
    on_chain = ExchangeCalculator({1: -0.01}, lattice=lattices.chain(1))
    assert on_chain.get_potential_energy(moved) == pytest.approx(0.0016069736603353526, rel=1e-12)


# Shells of displaced atoms


@pytest.mark.parametrize("build", [lattices.square, lattices.triangular, lattices.honeycomb, lattices.kagome])
@pytest.mark.parametrize("amplitude", [0.02, 0.05, 0.1])
def test_ambiguous_shells_name_the_lattice(build, amplitude, rng):
    atoms = build((4, 4))
    textures.random(atoms, seed=1)
    cold = ExchangeCalculator({1: -1.0, 2: 0.1})
    perfect = cold.get_potential_energy(atoms)
    warm = ExchangeCalculator({1: -1.0, 2: 0.1}, lattice=atoms)
    atoms.positions[:, :2] += amplitude * rng.uniform(-1.7, 1.7, (len(atoms), 2))
    for calculator in (cold, ExchangeCalculator({1: -1.0, 2: 0.1})):
        with pytest.raises(KLMError, match=r"ambiguous(.|\n)*lattice="):
            calculator.get_potential_energy(atoms)
    assert warm.get_potential_energy(atoms) == pytest.approx(perfect)
    ExchangeCalculator({1: -1.0}, lattice=atoms).get_potential_energy(atoms)  # its own lattice, if somebody says so


@pytest.mark.filterwarnings("ignore:neighbour shells:ase_klm.KLMWarning")
@pytest.mark.parametrize("sizes", [(1, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("highest", [2, 6, 12])
def test_crystals_of_several_sublattices_are_not_refused(sizes, highest):
    """CrI3, whose iodine is 3.91 to 4.00 Å apart, strained crystals, rutile, and a tube."""
    monolayer = lattices.cri3_monolayer(sizes)
    strained = lattices.honeycomb(sizes)
    strained.set_cell(strained.cell.array * [[1.02], [1], [1]], scale_atoms=True)
    rutile = Atoms(
        "Ti2O4",
        scaled_positions=[(0, 0, 0), (0.5, 0.5, 0.5), *((x, y, z) for x, y, z in _OXYGEN)],
        cell=(4.594, 4.594, 2.959),
        pbc=True,
    ).repeat((*sizes, 1))
    for atoms in (monolayer, strained, rutile, bulk("Co", "hcp", a=2.507, c=4.069).repeat((*sizes, 1))):
        graphs.neighbour_shells(atoms, range(1, highest + 1))


_OXYGEN = ((0.305, 0.305, 0), (0.695, 0.695, 0), (0.195, 0.805, 0.5), (0.805, 0.195, 0.5))


def test_replicas_at_other_positions(rng):
    cell = square()
    start = perfect(cell, (3, 3), rng)
    replicas = [displaced(start, rng, wrap=False) for _ in range(2)]
    for potential in (ExchangeOfDistance({1: DECAY}), LatticeEnergy({1: 5.0}), potentials.Exchange({1: -1.0})):
        together = potential.on_lattice(cell).bind(replicas).evaluate()
        for number, atoms in enumerate(replicas):
            alone = potential.on_lattice(cell).bind(atoms).evaluate()
            np.testing.assert_allclose(together.energy[number], alone.energy, rtol=1e-12)
        with pytest.raises(KLMError, match=r"other positions(.|\n)*lattice="):
            potential.bind([perfect(cell, (3, 3), rng) for _ in replicas])


# The lattice is a parameter


@pytest.mark.parametrize("name", ["shells", "electrons", "network", "springs and angles", "shells that follow"])
def test_the_lattice_is_written_and_read(name, rng, tmp_path):
    cell = square()
    _, build = CALCULATORS[name]
    calc = build(cell)
    atoms = displaced(perfect(cell, (4, 4), rng), rng)
    energy = calc.get_potential_energy(atoms)
    found = calculators.from_dict(calc.todict())
    assert found.lattice == cell
    assert found.get_potential_energy(atoms) == pytest.approx(energy, rel=1e-12)
    assert "lattice=" in repr(calc)
    other = build(None).on_lattice(cell)
    assert other.get_potential_energy(atoms) == pytest.approx(energy, rel=1e-12)
    cell.rattle(0.2, seed=1)  # what happens to it later changes nothing
    calc.reset()
    assert calc.get_potential_energy(atoms) == pytest.approx(energy, rel=1e-12)


# Tools


def moving(lattice=None, seed=1):
    """A square lattice on springs, with exchange that follows and a Kondo term without forces."""
    atoms = square().repeat((3, 3, 1))
    textures.random(atoms, seed=seed)
    potential = ExchangeOfDistance({1: DECAY}) + LatticeEnergy({1: 5.0, 2: 2.0}) + potentials.Exchange({2: -1e-3})
    atoms.calc = SpinCalculator(potential, lattice=lattice)
    atoms.set_velocities(0.002 * np.random.default_rng(seed).standard_normal((len(atoms), 3)))
    return atoms


def test_spin_lattice_dynamics_takes_its_start_as_lattice(tmp_path):
    given, own = moving(square()), moving()
    user = own.calc
    before = user.get_potential_energy(own)
    for atoms, name, whose in ((given, "given", "the calculator's"), (own, "own", "the structure at the start")):
        with SpinLatticeDynamics(atoms, units.FS, logfile=tmp_path / name) as dynamics:
            dynamics.run(20)
        assert f"  # bonds are found on Fe{'' if name == 'given' else 9}, {whose}" in (tmp_path / name).read_text()
    np.testing.assert_allclose(own.positions, given.positions, atol=1e-12)
    np.testing.assert_allclose(get_moments(own), get_moments(given), atol=1e-12)
    energy = own.get_potential_energy()
    own.calc.reset()
    assert own.get_potential_energy() == pytest.approx(energy, rel=1e-12)  # the run's and the calculator's
    assert user.lattice is None
    assert user.get_potential_energy(moving()) == before


def test_a_restart_file_keeps_the_lattice(tmp_path):
    whole, first = moving(), moving()
    SpinLatticeDynamics(whole, units.FS, restart=tmp_path / "whole", restart_interval=10).run(20)
    SpinLatticeDynamics(first, units.FS, restart=tmp_path / "file", restart_interval=10).run(10)
    second = first.copy()  # displaced, as read from a trajectory
    second.calc = moving().calc
    SpinLatticeDynamics(second, units.FS, restart=tmp_path / "file", restart_interval=10).run(20)
    assert np.array_equal(second.positions, whole.positions)
    assert np.array_equal(get_moments(second), get_moments(whole))
    with pytest.raises(KLMError, match="lattices"):
        SpinLatticeDynamics(moving(first), units.FS, restart=tmp_path / "file", restart_interval=10)


def test_relaxation_takes_its_start_as_lattice():
    given, own = moving(square()), moving()
    given.positions += 0.05 * np.random.default_rng(3).standard_normal((9, 3)) * (1, 1, 0)
    own.positions[:] = given.positions
    with pytest.raises(KLMError, match="ambiguous"):
        SpinLatticeFilter(own)  # what lattice it is displaced from is not known
    own = moving()
    user = own.calc
    filtered = SpinLatticeFilter(own)
    own.positions[:] = given.positions
    for one in (SpinLatticeFilter(given), filtered):
        assert BFGS(one, logfile=None).run(fmax=1e-3, steps=300)
    assert own.get_potential_energy() == pytest.approx(given.get_potential_energy(), abs=1e-6)
    assert user.lattice is None


def test_optimizers_of_ase_take_the_lattice_of_the_calculator():
    atoms = moving(square())
    atoms.positions += 0.05 * np.random.default_rng(3).standard_normal((9, 3)) * (1, 1, 0)
    assert BFGS(atoms, logfile=None).run(fmax=1e-3, steps=200)


def test_magnons_leave_the_calculator_alone():
    """Nor do spins that turn on a lattice at rest."""
    _, moved = dimerised()
    textures.uniform(moved)
    calc = ExchangeCalculator({1: -0.01})
    before = calc.get_potential_energy(moved)
    straight = lattices.chain(8)
    textures.uniform(straight)
    Magnons(straight, calc).run()
    straight.calc = calc
    LLGDynamics(straight, units.FS).run(2)
    calc.reset()
    assert calc.get_potential_energy(moved) == before


def test_a_sum_with_another_package(rng):
    """Only the part that counts shells gets a lattice."""
    cell = bulk("Ni", cubic=True)
    set_moments(cell, np.tile((0, 0, 0.6), (4, 1)))
    atoms = cell.repeat(2)
    emt = EMT()
    atoms.calc = SumCalculator([ExchangeCalculator({1: DECAY}), emt])
    with SpinLatticeDynamics(atoms, units.FS) as dynamics:
        dynamics.run(2)
    one, other = atoms.calc.mixer.calcs
    assert one.lattice is not None
    assert other is emt
    assert np.isfinite(get_magnetic_forces(atoms)).all()


def test_close_shells_are_warned_of():
    atoms = lattices.chain(6)
    textures.uniform(atoms)
    atoms.positions[::2, 0] += 0.01
    with pytest.warns(KLMWarning, match=r"look like one shell(.|\n)*lattice=atoms"):
        ExchangeCalculator({1: -1.0}).get_potential_energy(atoms)
