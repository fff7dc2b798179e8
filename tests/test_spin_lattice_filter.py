"""SpinLatticeFilter: exact generalised forces, one minimum for all optimizers, two criteria, economy, bad input."""

import io

import numpy as np
import pytest
from ase import Atoms, optimize
from ase.calculators.calculator import all_changes
from ase.calculators.mixing import SumCalculator
from ase.constraints import FixAtoms, FixBondLength, Hookean, MirrorForce
from ase.filters import FrechetCellFilter, StrainFilter
from ase.optimize.cellawarebfgs import CellAwareBFGS
from ase.optimize.precon import PreconLBFGS
from ase.optimize.sciopt import SciPyFminBFGS, SciPyFminCG
from test_potentials import ForeignCalculator

from ase_klm import (
    ExchangeCalculator,
    KLMError,
    KLMWarning,
    SpinCalculator,
    SpinLatticeFilter,
    SpinMinimizer,
    data,
    get_magnetic_forces,
    get_moments,
    lattices,
    set_moments,
    textures,
)
from ase_klm.potentials import (
    Exchange,
    ExchangeOfDistance,
    Exponential,
    LatticeEnergy,
    MomentLengths,
    UniaxialAnisotropy,
    Zeeman,
)

EXCHANGE = ExchangeOfDistance({1: Exponential(-10e-3, 3.0, 0.5), 2: Exponential(2e-3, 5.2, 0.5)})
CANTED = Zeeman((1e-3, 0.0, 0.0)) + UniaxialAnisotropy(2e-3)
"""With a field across an easy axis the spins of the minimum point up or down and towards the field."""


class Counting(SpinCalculator):
    evaluations = 0

    def calculate(self, *args, **kwargs):
        self.evaluations += 1
        super().calculate(*args, **kwargs)


@pytest.fixture(autouse=True)
def _scipy_draws():
    """SciPy's matrix logarithm in ASE's cell filter draws from NumPy's global generator."""
    state = np.random.get_state()  # noqa: NPY002, restored
    yield
    np.random.set_state(state)  # noqa: NPY002, restored


def magnet(noise=0.4, rattle=0.05, potential=EXCHANGE + CANTED, seed=1):
    """Triangular ferromagnet on springs with one non-magnetic atom, disturbed."""
    atoms = lattices.triangular((3, 3), a=3.0)
    textures.uniform(atoms, length=[2.0] * 8 + [0.0])
    atoms.calc = Counting(potential + LatticeEnergy({1: 8.0, 2: 4.0}) + MomentLengths(2.1, 0.5), lattice=atoms)
    rng = np.random.default_rng(seed)
    atoms.positions[:, :2] += rattle * rng.standard_normal((9, 2))  # springs in a plane are soft across it
    textures.add_noise(atoms, noise, seed=seed)
    atoms.calc.evaluations = 0
    return atoms


def gradient_error(rows, directions=None):
    """Largest deviation of get_forces from differences of the energy, over random directions in coordinate space."""
    start, forces = rows.get_positions(), rows.get_forces()
    worst = 0.0
    for step in directions:

        def energy(s, step=step):
            rows.set_positions(start + s * step)
            return rows.get_potential_energy()

        slope = (8 * (energy(1e-3) - energy(-1e-3)) - energy(2e-3) + energy(-2e-3)) / 12e-3
        worst = max(worst, abs(slope + np.sum(forces * step)))
    rows.set_positions(start)
    return worst


@pytest.mark.parametrize("turn", [0.0, 0.9, 3.0])
@pytest.mark.parametrize("magnitudes", ["fixed", "free"])
def test_forces_are_the_gradient_in_the_chart(magnitudes, turn, rng):
    """Positions, cell, directions and lengths together; after spins have turned far, too."""
    atoms = magnet(potential=EXCHANGE)
    rows = SpinLatticeFilter(atoms, cell=True, magnitudes=magnitudes, moment_scale=1.0)
    x = rows.get_positions()
    strain = 0.3 * rng.standard_normal((2, 2))
    x[9:11, :2] += strain + strain.T
    if magnitudes == "free":
        x[12:] *= 1 + 0.1 * rng.standard_normal((8, 1))
    axes = np.cross(get_moments(atoms)[:8], rng.standard_normal((8, 3)))
    x[12:] += turn * axes / np.linalg.norm(axes, axis=1, keepdims=True)
    rows.set_positions(x)
    steps = rng.standard_normal((6, *x.shape))
    steps[:, 9:12] = (steps[:, 9:12] + steps[:, 9:12].transpose(0, 2, 1)) / 2  # the stress knows symmetric strains only
    steps[:, 9:12, 2] = steps[:, 11, :] = 0.0
    assert np.abs(rows.get_forces()[12:]).max() > 1e-3
    assert gradient_error(rows, steps) < 1e-8


def test_coordinates_do_not_jump(rng):
    """Setting what was got changes nothing; the way does not matter; moments set by others are taken."""
    atoms = magnet()
    rows = SpinLatticeFilter(atoms, moment_scale=0.5, magnitudes="free")
    x = rows.get_positions()
    before = atoms.positions.copy(), get_moments(atoms)
    rows.set_positions(x)
    np.testing.assert_array_equal(atoms.positions, before[0])
    np.testing.assert_allclose(get_moments(atoms), before[1], atol=1e-15)
    for _ in range(60):  # far around
        step = np.zeros_like(x)
        step[9:] = 0.1 * rng.standard_normal((8, 3))
        rows.set_positions(rows.get_positions() + step)
        moved = rows.get_positions()
        rows.set_positions(moved)
        np.testing.assert_allclose(rows.get_positions(), moved, atol=1e-15)
    assert np.isfinite(get_moments(atoms)).all()
    turned = get_moments(atoms)
    lengths = np.linalg.norm(turned[:8], axis=1)
    set_moments(atoms, -0.9 * turned)
    x = rows.get_positions()
    rows.set_positions(x)
    np.testing.assert_allclose(get_moments(atoms), -0.9 * turned, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(get_moments(atoms)[:8], axis=1), 0.9 * lengths)


def alternating(atoms, fmax, magnetic_fmax):
    """Positions by BFGS, spins by SpinMinimizer, and again."""
    for _ in range(30):
        optimize.BFGS(atoms, logfile=None).run(fmax=fmax)
        SpinMinimizer(atoms).run(fmax=magnetic_fmax)
        if np.linalg.norm(atoms.get_forces(), axis=1).max() < fmax:
            return atoms
    raise AssertionError


@pytest.fixture(scope="module")
def minimum():
    return alternating(magnet(), 1e-5, 1e-7)


OPTIMIZERS = {
    **{
        name: (getattr(optimize, name), {})
        for name in ("BFGS", "LBFGS", "BFGSLineSearch", "LBFGSLineSearch", "GoodOldQuasiNewton", "RFO", "FIRE", "FIRE2")
    },
    "ODE12r": (optimize.ODE12r, {}),
    "PreconLBFGS": (PreconLBFGS, {"precon": None}),
    "SciPyFminBFGS": (SciPyFminBFGS, {}),
    "SciPyFminCG": (SciPyFminCG, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "scale"), [(optimize.MDMin, None), (optimize.GPMin, 1.0)])
def test_slow_optimizers(optimizer, scale, minimum):
    atoms = magnet(noise=0.1)
    assert optimizer(SpinLatticeFilter(atoms, moment_scale=scale), logfile=None).run(fmax=0.01, steps=1500)
    assert atoms.get_potential_energy() == pytest.approx(minimum.get_potential_energy(), abs=2e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_reach_the_minimum_of_alternating_relaxation(name, minimum):
    atoms = magnet()
    optimizer, options = OPTIMIZERS[name]
    rows = SpinLatticeFilter(atoms, magnetic_fmax=1e-5)
    assert optimizer(rows, logfile=None, **options).run(fmax=1e-3, steps=1500)
    assert rows.largest_force < 1e-3
    assert rows.largest_magnetic_force < 1e-4 if name == "PreconLBFGS" else 1e-5
    assert atoms.get_potential_energy() == pytest.approx(minimum.get_potential_energy(), abs=2e-5)
    np.testing.assert_allclose(get_moments(atoms), get_moments(minimum), atol=5e-2)
    np.testing.assert_allclose(np.linalg.norm(get_moments(atoms)[:8], axis=1), 2.0, atol=1e-12)
    np.testing.assert_array_equal(get_moments(atoms)[8], 0.0)
    np.testing.assert_allclose(atoms.get_all_distances(mic=True), minimum.get_all_distances(mic=True), atol=5e-3)


def test_random_spins_turn_far():
    """SpinMinimizer alone takes about 20 force calls from such a start."""
    atoms = magnet(noise=30.0)
    rows = SpinLatticeFilter(atoms)
    assert optimize.LBFGS(rows, logfile=None).run(fmax=0.01, steps=100)
    assert atoms.calc.evaluations <= 70


def test_an_evaluation_of_the_optimizer_is_one_of_the_calculator():
    atoms = magnet()
    rows = SpinLatticeFilter(atoms, cell=True)
    assert atoms.calc.evaluations == 2
    optimize.BFGS(rows, logfile=None).run(fmax=1e-9, steps=10)
    assert atoms.calc.evaluations == 2 + 1 + 10
    atoms = magnet()
    rows = SpinLatticeFilter(atoms, moment_scale=0.05)
    assert atoms.calc.evaluations == 1
    optimize.BFGS(rows, logfile=None).run(fmax=1e-9, steps=10)
    assert atoms.calc.evaluations == 1 + 10


def test_economy():
    """Asked: at most twice the force calls of both apart, never more than alternating. Measured: less than one half."""

    def calls(mask, atoms):
        before = atoms.calc.evaluations
        rows = SpinLatticeFilter(atoms, mask=mask, moment_scale=0.03)
        assert optimize.LBFGS(rows, logfile=None).run(fmax=0.01, steps=300)
        return atoms.calc.evaluations - before

    positions = np.tile((True, False), (9, 1))
    apart = calls(positions, magnet()) + calls(~positions, magnet())
    atoms = magnet()
    optimize.LBFGS(SpinLatticeFilter(atoms), logfile=None).run(fmax=0.01)
    together = atoms.calc.evaluations
    assert together <= 1.1 * apart


def test_criteria_are_separate_and_logged():
    atoms = magnet()
    log, ase_log = io.StringIO(), io.StringIO()
    rows = SpinLatticeFilter(atoms, magnetic_fmax=1e-6, logfile=log)
    optimizer = optimize.BFGS(rows, logfile=ase_log)
    assert optimizer.run(fmax=0.05)
    lines = log.getvalue().splitlines()
    assert "eV/Å" in lines[0]
    assert "eV/μB" in lines[0]
    assert len(lines) == optimizer.nsteps + 2
    energy, force, magnetic_force = map(float, lines[-1].split()[2:])
    assert energy == pytest.approx(atoms.get_potential_energy())
    assert force == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max(), rel=1e-3)
    moments, found = get_moments(atoms)[:8], get_magnetic_forces(atoms)[:8]
    across = np.linalg.norm(np.cross(moments, found), axis=1) / np.linalg.norm(moments, axis=1)
    assert magnetic_force == pytest.approx(across.max(), rel=1e-3)
    assert magnetic_force < 1e-6
    assert float(ase_log.getvalue().split()[-1]) == pytest.approx(force, abs=1e-6)  # ASE's column is the lattice's
    loose = SpinLatticeFilter(magnet(), magnetic_fmax=1.0)
    optimize.BFGS(loose, logfile=None).run(fmax=0.05)
    assert loose.largest_magnetic_force > 1e-5  # not asked for


def test_free_magnitudes_relax():
    atoms = magnet()
    rows = SpinLatticeFilter(atoms, magnitudes="free", magnetic_fmax=1e-6)
    assert rows.moment_scale[1] > 3 * rows.moment_scale[0]  # lengths are stiffer than directions
    assert optimize.BFGS(rows, logfile=None).run(fmax=1e-3, steps=200)
    assert np.linalg.norm(get_magnetic_forces(atoms), axis=1).max() < 1e-6
    lengths = np.linalg.norm(get_moments(atoms)[:8], axis=1)
    np.testing.assert_allclose(lengths, 2.1, atol=0.02)
    assert np.ptp(lengths) > 0 or lengths[0] != 2.0


@pytest.mark.parametrize("own", [False, True])
def test_cell_relaxes(own):
    """A parallel alignment shortens the bonds; of a plane only strains within it relax."""
    atoms = magnet()
    atoms.set_cell(atoms.cell * np.array((1.05, 0.97, 1.0))[:, None], scale_atoms=True)
    height = atoms.cell[2].copy()
    plane = np.zeros((3, 3))
    plane[:2, :2] = 1
    rows = SpinLatticeFilter(FrechetCellFilter(atoms, mask=plane)) if own else SpinLatticeFilter(atoms, cell=True)
    assert optimize.BFGS(rows, logfile=None).run(fmax=1e-3, steps=200)
    np.testing.assert_allclose(atoms.cell[2], height)
    assert np.abs(atoms.get_stress()[[0, 1, 5]]).max() * atoms.get_volume() / 9 < 2e-3
    assert atoms.cell.lengths()[0] < 9.0
    np.testing.assert_allclose(atoms.cell.lengths()[:2], atoms.cell.lengths()[0], rtol=1e-3)


def test_masks_and_constraints_hold():
    atoms = magnet()
    atoms.set_constraint(FixAtoms([0, 1]))
    mask = np.ones((9, 2), dtype=bool)
    mask[2, 0] = mask[3, 1] = False
    before = atoms.positions.copy(), get_moments(atoms)
    rows = SpinLatticeFilter(atoms, mask=mask)
    assert len(rows) == 9 + 7
    assert optimize.BFGS(rows, logfile=None).run(fmax=1e-3, steps=200)
    np.testing.assert_array_equal(atoms.positions[:3], before[0][:3])
    np.testing.assert_array_equal(get_moments(atoms)[3], before[1][3])
    assert np.abs(atoms.positions[3:] - before[0][3:]).max() > 1e-2
    assert np.abs(get_moments(atoms)[0] - before[1][0]).max() > 1e-2
    assert np.linalg.norm(atoms.get_forces()[3:], axis=1).max() < 1e-3


def test_sums_of_calculators_relax(minimum):
    atoms = magnet()
    parts = EXCHANGE + CANTED, LatticeEnergy({1: 8.0, 2: 4.0}) + MomentLengths(2.1, 0.5)
    reference = lattices.triangular((3, 3), a=3.0)
    calculators = [Counting(part, lattice=reference) for part in parts]
    atoms.calc = SumCalculator(calculators)
    rows = SpinLatticeFilter(atoms, moment_scale=0.03, magnetic_fmax=1e-5)
    optimizer = optimize.BFGS(rows, logfile=None)
    assert optimizer.run(fmax=1e-3)
    assert [calculator.evaluations for calculator in calculators] == [optimizer.nsteps + 1] * 2
    assert atoms.get_potential_energy() == pytest.approx(minimum.get_potential_energy(), abs=2e-5)


def test_trajectories_hold_moments(tmp_path):
    atoms = magnet()
    optimizer = optimize.BFGS(SpinLatticeFilter(atoms), logfile=None, trajectory=tmp_path / "relax.traj")
    assert optimizer.run(fmax=0.01)
    frames = data.read(tmp_path / "relax.traj")
    assert len(frames) == optimizer.nsteps + 1
    np.testing.assert_array_equal(frames[-1].moments, get_moments(atoms))
    np.testing.assert_allclose(frames[-1].magnetic_forces, get_magnetic_forces(atoms))
    np.testing.assert_allclose(frames[-1].forces, atoms.get_forces())
    assert frames[-1].energy == pytest.approx(atoms.get_potential_energy())
    assert "magnetic_forces" not in atoms.info


def test_a_saddle_is_said():
    atoms = lattices.square((4, 4), a=3.0)
    textures.uniform(atoms)
    atoms.calc = SpinCalculator(Exchange({1: 1.0}) + LatticeEnergy({1: 8.0}))
    with pytest.warns(KLMWarning, match="no minimum"):
        SpinLatticeFilter(atoms)


class ForcelessCalculator(ForeignCalculator):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)


class BrokenCalculator(ForeignCalculator):
    implemented_properties = ["energy", "forces", "magnetic_forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"] = np.full((len(atoms), 3), np.nan)


class PlainCalculator(ForeignCalculator):
    implemented_properties = ["energy", "forces"]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"magnitudes": "loose"}, "magnitudes"),
        ({"moment_scale": 0.0}, "moment_scale"),
        ({"moment_scale": "big"}, "moment_scale"),
        ({"magnetic_fmax": -1.0}, "magnetic_fmax"),
        ({"mask": [0, 1]}, "mask"),
        ({"mask": np.zeros(9, dtype=bool)}, "nothing is left"),
        ({"logfile": "no/such/folder/log"}, "cannot be written"),
    ],
)
def test_bad_arguments(arguments, what):
    atoms = magnet()
    with pytest.raises(KLMError, match=what):
        SpinLatticeFilter(atoms, **arguments)


@pytest.mark.parametrize(
    ("calculator", "what"),
    [
        (None, "no calculator"),
        (ForcelessCalculator(), "gives no forces"),
        (PlainCalculator(), "gives no magnetic forces"),
        (BrokenCalculator(), "not finite"),
    ],
)
def test_calculators_that_lack_something(calculator, what):
    atoms = magnet()
    before = atoms.positions.copy(), get_moments(atoms)
    atoms.info["magnetic_forces"] = np.ones((9, 3))  # of a frame once read; they stand for nothing
    atoms.calc = calculator
    with pytest.raises(KLMError, match=what):
        SpinLatticeFilter(atoms)
    np.testing.assert_array_equal(atoms.positions, before[0])
    np.testing.assert_array_equal(get_moments(atoms), before[1])


def test_structures_that_cannot_be_relaxed():
    with pytest.raises(KLMError, match="no atom carries a moment"):
        SpinLatticeFilter(lattices.chain(3))
    with pytest.raises(KLMError, match="not Atoms"):
        SpinLatticeFilter([magnet(), magnet()])
    with pytest.raises(KLMError, match=r"cannot be evolved(.|\n)*FrechetCellFilter"):
        SpinLatticeFilter(StrainFilter(magnet()))
    relaxed = SpinLatticeFilter(magnet())
    with pytest.raises(KLMError, match="SpinLatticeFilter cannot be evolved together with spins"):
        SpinLatticeFilter(relaxed)
    with pytest.raises(KLMError, match=r"cannot be around(.|\n)*SpinLatticeFilter\(FrechetCellFilter"):
        FrechetCellFilter(relaxed)
    with pytest.raises(KLMError, match="CellAwareBFGS cannot take"):
        CellAwareBFGS(relaxed, logfile=None).run(steps=1)
    molecule = Atoms("Fe2", positions=[(0, 0, 0), (0, 0, 2)])
    textures.random(molecule, seed=1)
    molecule.calc = ExchangeCalculator(bonds=[(0, 1, (0, 0, 0), 1.0)])
    with pytest.raises(KLMError, match="cell of these atoms"):
        SpinLatticeFilter(molecule, cell=True)
    tilted = magnet()
    tilted.rotate(30, "x", rotate_cell=True)
    with pytest.raises(KLMError, match="cell of these atoms"):
        SpinLatticeFilter(tilted, cell=True)


def test_constraints_that_cannot_be_honoured():
    atoms = magnet()
    atoms.set_constraint(MirrorForce(0, 1))
    with pytest.raises(KLMError, match="MirrorForce"):
        SpinLatticeFilter(atoms)
    atoms.set_constraint([FixAtoms([0]), FixBondLength(0, 1)])
    SpinLatticeFilter(atoms)
    with pytest.raises(KLMError, match="FixBondLength"):
        SpinLatticeFilter(atoms, cell=True)
    atoms.set_constraint(Hookean(0, 1, k=5.0, rt=2.0))
    assert optimize.BFGS(SpinLatticeFilter(atoms), logfile=None).run(fmax=0.01, steps=200)


def test_moments_that_vanish_are_said():
    atoms = magnet()
    rows = SpinLatticeFilter(atoms)
    set_moments(atoms, 0 * get_moments(atoms))
    with pytest.raises(KLMError, match="has become zero"):
        rows.get_positions()
