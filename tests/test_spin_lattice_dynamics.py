"""Coupled dynamics of atoms and moments: conservation, order, reversal, baths, restart, bad input.

The model is bcc iron with Bethe-Slater exchange (J. Tranchida et al., J. Comput. Phys. 372, 406 (2018)) and springs
between neighbours.
"""

import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms, FixBondLength
from torch import Tensor

from ase_klm import KLMError, KLMWarning, data, get_moments, lattices, set_moments, textures, units
from ase_klm.calculators import ExchangeCalculator, SpinCalculator
from ase_klm.dynamics import LLGDynamics, SpinLatticeDynamics
from ase_klm.dynamics.couplings import Couplings
from ase_klm.dynamics.sublattices import Sublattices, colouring
from ase_klm.dynamics.vibrations import fastest_vibration
from ase_klm.graphs import bonds_within
from ase_klm.potentials import (
    BetheSlater,
    BondTerm,
    BoundPotential,
    DistanceFunction,
    ExchangeOfDistance,
    Exponential,
    LatticeEnergy,
    Potential,
    Tapered,
    UniaxialAnisotropy,
    Zeeman,
    cri3_model,
)
from ase_klm.potentials.edges import Edges

FS = units.FS
INTEGRATORS = ("suzuki-trotter", "sib")
EXCHANGE = Tapered(BetheSlater(a=0.02726, b=0.2171, d=1.841), 3.2, 3.7)


@dataclass(frozen=True)
class PseudoDipolar(BondTerm):
    """M = λ(r) v vᵀ/r², which couples spins to the directions of bonds."""

    function: DistanceFunction

    def matrices(self, vectors: Tensor) -> Tensor:
        v = vectors[..., 0, :, :]
        r = v.norm(dim=-1)
        return (self.function(r) / r**2)[..., None, None] * v[..., :, None] * v[..., None, :]


@dataclass(frozen=True, eq=False)
class Biquadratic(Potential):
    """What no sweep over single spins can take: E = Σ_bonds b r^-3 (e_i·e_j)²."""

    b: float

    def bind(self, atoms, device="cpu"):
        return BoundBiquadratic(self, atoms, device)


class BoundBiquadratic(BoundPotential):
    def __init__(self, potential, atoms, device):
        super().__init__(atoms, device)
        self.b = potential.b
        bonds = bonds_within(self.reference, 3.0)
        self.edges = Edges(bonds.i, bonds.j, bonds.cells, self.positions)

    def energy(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        r = self.edges.vectors(positions, cell).norm(dim=-1)
        e = moments / moments.norm(dim=-1, keepdim=True)
        cosines = (e[..., self.edges.start, :] * e[..., self.edges.end, :]).sum(-1)
        return self.b * (cosines**2 / r**3).sum(-1)


def iron(size=2, extra=None, kelvin=300.0, tilt=0.3, seed=1, exchange=EXCHANGE, spring=3.0):
    atoms = bulk("Fe", "bcc", a=2.8665, cubic=True) * (size, size, size)
    potential = ExchangeOfDistance(function=exchange, cutoff=3.7) + LatticeEnergy({1: spring, 2: spring})
    atoms.calc = SpinCalculator(potential if extra is None else potential + extra, lattice=atoms)  # springs at rest
    textures.uniform(atoms, length=2.2)
    generator = np.random.default_rng(seed)
    e = np.array([0, 0, 1.0]) + tilt * generator.normal(size=(len(atoms), 3))
    set_moments(atoms, 2.2 * e / np.linalg.norm(e, axis=1, keepdims=True))
    speed = np.sqrt(units.KB * kelvin / atoms.get_masses())[:, None]
    atoms.set_velocities(speed * generator.normal(size=(len(atoms), 3)))
    return atoms


def isolated(**kwargs):
    atoms = iron(**kwargs)
    atoms.pbc = False
    atoms.calc = atoms.calc.on_lattice(atoms)
    return atoms


def turning_field(time):
    """eV/μB; it turns about z once in 30 fs, so that a step notices at which time it is taken."""
    angle = 2 * np.pi * time / (30 * FS)
    return 0.1 * np.cos(angle), 0.1 * np.sin(angle), 0.0


def state(atoms):
    return np.concatenate([atoms.positions, atoms.get_velocities(), get_moments(atoms)])


def energies(atoms, dynamics, interval, steps):
    found = []
    dynamics.attach(lambda: found.append(atoms.get_total_energy()), interval)
    dynamics.run(steps)
    return np.array(found) / len(atoms)


# Without baths ---------------------------------------------------------------------------------------------------


MANY_BODY = {"extra": Biquadratic(0.3)}
SPIN_ORBIT = {"extra": ExchangeOfDistance(shells={1: PseudoDipolar(Exponential(-0.02, r0=2.48, decay=0.5))})}


@pytest.mark.parametrize(
    ("integrator", "arguments"),
    [
        ("suzuki-trotter", {}),
        ("suzuki-trotter", {"extra": UniaxialAnisotropy(0.01, (1, 1, 1)) + UniaxialAnisotropy(-0.02, (0, 1, 0))}),
        ("suzuki-trotter", {"extra": Zeeman((0.0, 0.01, 0.005))}),
        ("suzuki-trotter", SPIN_ORBIT),
        ("sib", {}),
        ("sib", MANY_BODY),
        ("suzuki-trotter", {"field": turning_field}),
        ("sib", {"field": turning_field}),
    ],
)
def test_order_of_convergence(integrator, arguments):
    field = arguments.get("field")
    made = {name: value for name, value in arguments.items() if name != "field"}
    ends = {}
    for femtoseconds in (1.0, 0.5, 0.125):
        atoms = iron(**made)
        dynamics = SpinLatticeDynamics(atoms, femtoseconds * FS, integrator=integrator, field=field)
        dynamics.run(int(16 / femtoseconds))
        ends[femtoseconds] = state(atoms)
    ratio = np.linalg.norm(ends[1.0] - ends[0.125]) / np.linalg.norm(ends[0.5] - ends[0.125])
    # (1 - 1/64) / (1/4 - 1/64) = 4.2 for order 2
    assert ratio == pytest.approx(4.2, rel=0.1)


def test_suzuki_trotter_is_reversible():
    atoms = iron(extra=UniaxialAnisotropy(0.01, (1, 1, 1)))
    before = state(atoms)
    SpinLatticeDynamics(atoms, FS).run(40)
    assert np.abs(state(atoms) - before).max() > 0.1
    atoms.set_momenta(-atoms.get_momenta())
    set_moments(atoms, -get_moments(atoms))
    SpinLatticeDynamics(atoms, FS).run(40)
    n = len(atoms)
    before[n:] *= -1
    assert state(atoms) == pytest.approx(before, abs=1e-11)


@pytest.mark.parametrize(("integrator", "largest"), [("suzuki-trotter", 3e-5), ("sib", 6e-5)])
def test_energy_oscillates_within_a_bound_that_falls_as_the_square_of_the_step(integrator, largest):
    spreads = []
    for femtoseconds in (1.0, 0.5):
        atoms = iron()
        dynamics = SpinLatticeDynamics(atoms, femtoseconds * FS, integrator=integrator)
        spreads.append(np.ptp(energies(atoms, dynamics, round(5 / femtoseconds), round(100 / femtoseconds))))
    assert spreads[0] < largest
    assert spreads[1] < 0.35 * spreads[0]


def cri3(size, kelvin, tilt, seed=1):
    atoms = lattices.cri3_monolayer((size, size))
    atoms.calc = SpinCalculator(cri3_model())
    generator = np.random.default_rng(seed)
    e = np.array([0, 0, 1.0]) + tilt * generator.normal(size=(len(atoms), 3))
    length = np.where(atoms.numbers == 24, 3.0, 0.0)[:, None]
    set_moments(atoms, length * e / np.linalg.norm(e, axis=1, keepdims=True))
    atoms.get_potential_energy()
    speed = np.sqrt(units.KB * kelvin / atoms.get_masses())[:, None]
    atoms.set_velocities(speed * generator.normal(size=(len(atoms), 3)))
    return atoms


@pytest.mark.slow
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_energy_of_chromium_iodide_does_not_drift(integrator):
    atoms = cri3(3, kelvin=100, tilt=0.2)
    dynamics = SpinLatticeDynamics(atoms, FS, integrator=integrator)
    found = energies(atoms, dynamics, 5, 2000)
    picoseconds = np.arange(len(found)) * 0.005
    assert abs(np.polyfit(picoseconds, found, 1)[0]) < 1e-7  # eV an atom and ps
    assert np.ptp(found) < 3e-6


def angular_momenta(atoms):
    return np.cross(atoms.positions, atoms.get_momenta()).sum(axis=0), -get_moments(atoms).sum(axis=0) / units.GAMMA


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_spin_and_orbital_angular_momentum_of_an_isolated_cluster(integrator):
    # dm/dt = -γ m×B and the torque on the moments is m×B, so they carry the angular momentum -m/γ
    changes = []
    for femtoseconds in (1.0, 0.5):
        atoms = isolated()
        orbital, spin = angular_momenta(atoms)
        found = []
        dynamics = SpinLatticeDynamics(atoms, femtoseconds * FS, integrator=integrator)
        dynamics.attach(lambda found=found, atoms=atoms: found.append(angular_momenta(atoms)), 10)
        dynamics.run(int(60 / femtoseconds))
        assert np.abs([L - orbital for L, _ in found]).max() < 1e-11  # exchange without spin-orbit: each by itself
        changes.append(np.abs([S - spin for _, S in found]).max())
    assert changes[0] < 1e-3 * np.linalg.norm(spin)
    assert changes[1] < 0.35 * changes[0]


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_total_angular_momentum_with_spin_orbit_coupling(integrator):
    atoms = isolated(**SPIN_ORBIT)
    orbital, spin = angular_momenta(atoms)
    SpinLatticeDynamics(atoms, 0.25 * FS, integrator=integrator).run(200)
    L, S = angular_momenta(atoms)
    exchanged = np.linalg.norm(L - orbital)
    assert exchanged > 0.1
    assert np.linalg.norm(S + L - orbital - spin) < 2e-3 * exchanged


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_a_lattice_at_rest_is_that_of_llg(integrator, damping):
    extra = UniaxialAnisotropy(0.01, (1, 1, 1)) + Zeeman((0, 0, 0.01))
    reference, atoms = iron(extra=extra), iron(extra=extra)
    LLGDynamics(reference, 0.05 * FS, damping=damping).run(200)
    atoms.set_constraint(FixAtoms(range(len(atoms))))
    before = atoms.positions.copy()
    SpinLatticeDynamics(atoms, 0.1 * FS, damping=damping, integrator=integrator).run(100)
    assert np.array_equal(atoms.positions, before)
    assert get_moments(atoms) == pytest.approx(get_moments(reference), abs=3e-4)  # order 2: 3e-2 at 1 fs


def test_a_field_of_time_and_pinned_moments():
    def field(t):
        return (0.02 * np.sin(t / FS / 5), 0.0, 0.01)

    reference, atoms = iron(), iron()
    LLGDynamics(reference, 0.05 * FS, damping=0.0, field=field, pinned=[2, 5]).run(200)
    atoms.set_constraint(FixAtoms(range(len(atoms))))
    held = get_moments(atoms)[[2, 5]]
    SpinLatticeDynamics(atoms, 0.1 * FS, field=field, pinned=[2, 5]).run(100)
    assert get_moments(atoms) == pytest.approx(get_moments(reference), abs=3e-4)
    assert np.array_equal(get_moments(atoms)[[2, 5]], held)


def test_fixed_atoms_and_non_magnetic_ones():
    atoms = iron()
    moments = get_moments(atoms)
    moments[3] = 0
    set_moments(atoms, moments)
    atoms.set_constraint(FixAtoms([0, 7]))
    before = atoms.positions.copy()
    dynamics = SpinLatticeDynamics(
        atoms,
        FS,
        lattice_temperature_K=300,
        lattice_friction=0.1 / FS,
        spin_temperature_K=300,
        damping=0.1,
        seed=1,
    )
    dynamics.run(20)
    moved = np.abs(atoms.positions - before).max(axis=1) > 1e-4
    assert np.array_equal(np.flatnonzero(~moved), [0, 7])
    assert np.array_equal(atoms.positions[[0, 7]], before[[0, 7]])
    assert not atoms.get_momenta()[[0, 7]].any()
    atoms.set_momenta(atoms.get_momenta() + 1.0, apply_constraint=False)
    dynamics.run(1)
    assert np.array_equal(atoms.positions[[0, 7]], before[[0, 7]])
    assert not get_moments(atoms)[3].any()
    assert np.linalg.norm(get_moments(atoms)[4]) == pytest.approx(2.2, abs=1e-12)


# Sublattices -----------------------------------------------------------------------------------------------------


def test_colours():
    atoms = bulk("Fe", "bcc", a=2.8665, cubic=True) * (4, 4, 4)
    for cutoff, colours in ((2.6, 2), (3.0, 4)):
        bonds = bonds_within(atoms, cutoff)
        found = colouring(bonds.i, bonds.j, len(atoms))
        assert not (found[bonds.i] == found[bonds.j]).any()
        assert found.max() + 1 == colours


def test_sparse_products_are_the_gradient_of_the_energy():
    atoms = iron(size=3, extra=UniaxialAnisotropy(0.01, (1, 1, 1)))
    bound = atoms.calc.bound(atoms)
    m = bound.moments
    couplings = Couplings.of(bound)
    ends, matrices = couplings.bonds(bound.positions, bound.cell)
    i, j = torch.cat(ends[::2]), torch.cat(ends[1::2])
    twisted = matrices + (i != j)[:, None, None] * 0.01 * torch.tensor(
        np.random.default_rng(1).normal(size=(len(i), 3, 3))
    )
    e = m / m.norm(dim=-1, keepdim=True)
    for M in (matrices, twisted):
        lattice = Sublattices(i, j, M, bound.magnetic)
        lattice.set(M)
        variable = e.clone().requires_grad_()
        between = i != j
        energy = torch.einsum("ba,bac,bc->", variable[i[between]], M[between], variable[j[between]])
        (gradient,) = torch.autograd.grad(energy, variable)
        found = torch.cat([lattice.gradient(colour, e[lattice.order]) for colour in range(len(lattice.rows))])
        assert found[lattice.rank] == pytest.approx(gradient, abs=1e-12)
        assert lattice.onsite(M)[lattice.rank] == pytest.approx(M[~between], abs=1e-14)


def test_small_cell_whose_spins_meet_their_own_images():
    small, large = (iron(size=size, tilt=0.0, kelvin=0.0, extra=UniaxialAnisotropy(0.01, (1, 1, 1))) for size in (1, 2))
    for atoms in (small, large):
        SpinLatticeDynamics(atoms, 0.25 * FS).run(60)
    assert get_moments(large)[:2] == pytest.approx(get_moments(small), abs=2e-4)  # other colours, order 2


# Baths -----------------------------------------------------------------------------------------------------------


def test_lattice_bath_gives_the_momenta_and_displacements_of_its_temperature():
    atoms = iron(size=5, kelvin=0.0, tilt=0.0, exchange=BetheSlater(1e-6, 0.2171, 1.841))
    before = atoms.positions.copy()
    dynamics = SpinLatticeDynamics(atoms, 3 * FS, lattice_temperature_K=200, lattice_friction=0.02 / FS, seed=1)
    start = atoms.get_potential_energy()
    dynamics.run(70)
    kinetic, potential = [], []
    dynamics.attach(lambda: kinetic.append(atoms.get_kinetic_energy()), 5)
    dynamics.attach(lambda: potential.append(atoms.get_potential_energy() - start), 5)
    dynamics.run(400)
    expected = 1.5 * len(atoms) * units.KB * 200
    assert np.mean(kinetic) == pytest.approx(expected, rel=0.03)
    assert np.mean(potential) == pytest.approx(expected, rel=0.06)  # nearly harmonic
    assert not np.allclose(atoms.positions, before)


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_spins_of_different_moment_reach_the_temperature_of_their_bath(integrator):
    atoms = bulk("Fe", "bcc", a=2.8665, cubic=True) * (9, 9, 9)
    lengths = np.where(np.arange(len(atoms)) % 2 == 0, 0.5, 3.0)
    textures.uniform(atoms, length=lengths)
    field, kelvin = 0.02, 0.01 / units.KB
    extra = UniaxialAnisotropy(np.zeros(len(atoms))) + Zeeman((0, 0, field))
    atoms.calc = SpinCalculator(LatticeEnergy({1: 3.0}) + extra)
    dynamics = SpinLatticeDynamics(atoms, 5 * FS, spin_temperature_K=kelvin, damping=0.5, seed=1, integrator=integrator)
    seen = []
    dynamics.attach(lambda: seen.append(get_moments(atoms)[:, 2] / lengths), 10)
    dynamics.run(300)
    cosines = np.mean(seen[len(seen) // 3 :], axis=0)
    for length in (0.5, 3.0):
        x = length * field / 0.01
        assert cosines[lengths == length].mean() == pytest.approx(1 / np.tanh(x) - 1 / x, abs=0.02)


def columns(log):
    return np.array([[float(word) for word in line.split()] for line in log.getvalue().splitlines()[1:]])


def test_two_temperatures():
    log = io.StringIO()
    SpinLatticeDynamics(
        iron(size=4, kelvin=100),
        FS,
        lattice_temperature_K=100,
        lattice_friction=0.05 / FS,
        spin_temperature_K=400,
        damping=0.2,
        seed=1,
        logfile=log,
        loginterval=5,
    ).run(300)
    found = columns(log)[20:]
    assert found[:, 5].mean() == pytest.approx(100, rel=0.15)
    assert found[:, 9].mean() == pytest.approx(400, rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("hot", ["spins", "lattice"])
def test_lattice_and_spins_end_at_one_temperature(hot):
    # exchange that changes quickly with distance, and spin-orbit coupling, without which Σm would not change
    close = Exponential(-0.005, r0=2.4825, decay=0.12)
    atoms = iron(size=3, kelvin=500.0 if hot == "lattice" else 1.0, tilt=0.2 if hot == "lattice" else 5.0)
    atoms.calc = SpinCalculator(
        ExchangeOfDistance(shells={1: [close, PseudoDipolar(Exponential(-0.006, r0=2.4825, decay=0.12))]})
        + LatticeEnergy({1: 3.0, 2: 3.0})
    )
    log = io.StringIO()
    SpinLatticeDynamics(atoms, 2 * FS, logfile=log, loginterval=25).run(6000)  # 12 ps
    found = columns(log)
    lattice, spins = found[:, 5], found[:, 9]
    if hot == "spins":  # random ones: 1/T is nearly zero, of either sign
        assert abs(1 / spins[0]) < 0.1 / lattice[0]
    else:
        assert lattice[0] > 10 * spins[0]
    last = slice(-60, None)  # 3 ps, in which that of 54 spins wanders by some 10 %
    assert lattice[last].mean() == pytest.approx(spins[last].mean(), rel=0.25)
    assert np.ptp(found[:, 4]) < 2e-3 * np.ptp(found[:, 3])


# Log, trajectory, restart ------------------------------------------------------------------------------------------


def test_log_line():
    atoms = iron()
    log = io.StringIO()
    SpinLatticeDynamics(atoms, FS, logfile=log, field=(0, 0, 0.01), loginterval=3).run(4)
    header = log.getvalue().splitlines()[0]
    assert all(word in header for word in ("time/fs", "E_pot/eV", "E_kin/eV", "E_tot/eV", "T_lattice/K", "T_spin/K"))
    start = iron()
    step, t, potential, kinetic, total, lattice, _, _, mz, _ = columns(log)[0]
    assert (step, t) == (0, 0)
    assert kinetic == pytest.approx(start.get_kinetic_energy(), abs=1e-9)
    assert total == pytest.approx(potential + kinetic, abs=1e-9)
    assert potential == pytest.approx(start.get_potential_energy() - 0.01 * get_moments(start)[:, 2].sum(), abs=1e-9)
    assert lattice == pytest.approx(start.get_temperature(), rel=1e-5)
    assert mz == pytest.approx(get_moments(start)[:, 2].mean(), abs=1e-6)
    assert columns(log)[:, 0].tolist() == [0, 3]


@pytest.mark.parametrize("name", ["run.traj", "run.extxyz"])
def test_trajectory(tmp_path, name):
    atoms = iron()
    SpinLatticeDynamics(atoms, FS, trajectory=tmp_path / name, loginterval=2).run(5)
    frames = data.read(tmp_path / name)
    assert [frame.step for frame in frames] == [0, 2, 4]
    assert frames[1].time == pytest.approx(2.0)
    again = frames[2].atoms.copy()
    again.calc = iron().calc
    assert again.get_kinetic_energy() > 0
    assert frames[2].energy == pytest.approx(again.get_potential_energy(), abs=1e-6)  # eight decimals in extxyz
    assert frames[2].forces == pytest.approx(again.get_forces(), abs=1e-6)
    assert frames[2].magnetic_forces == pytest.approx(again.calc.results["magnetic_forces"], abs=1e-6)


def test_observers_find_energies_without_a_new_evaluation_and_may_change_the_state(monkeypatch):
    atoms = iron()
    dynamics = SpinLatticeDynamics(atoms, FS)
    seen = []

    def look():
        assert np.array_equal(atoms.positions, dynamics.positions.numpy())
        assert np.array_equal(get_moments(atoms), dynamics.moments.numpy())
        seen.append((atoms.get_potential_energy(), atoms.get_forces()))

    dynamics.attach(look, 2)
    monkeypatch.setattr(SpinCalculator, "calculate", lambda *_: pytest.fail("evaluated again"))
    dynamics.run(4)
    monkeypatch.undo()
    assert len(seen) == 3
    moments = get_moments(atoms)
    atoms.set_momenta(np.zeros((len(atoms), 3)))
    dynamics.run(0)
    assert not dynamics.velocities.any()
    assert np.array_equal(dynamics.moments.numpy(), moments)
    atoms.positions += 0.01
    dynamics.run(0)
    assert np.array_equal(dynamics.positions.numpy(), atoms.positions)
    set_moments(atoms, -moments)
    dynamics.run(0)
    assert np.array_equal(dynamics.moments.numpy(), -moments)
    atoms.calc.potential = LatticeEnergy({1: 3.0}) + Zeeman((0, 0, 1.0))
    dynamics.run(1)
    assert get_moments(atoms)[:, 2] == pytest.approx(-moments[:, 2])


@pytest.mark.parametrize("integrator", INTEGRATORS)
def test_interrupted_run_continues_to_the_same_bits(tmp_path, integrator):
    def run(folder, stop=None):
        folder.mkdir(exist_ok=True)
        atoms = iron(kelvin=2000)  # neighbour lists change
        dynamics = SpinLatticeDynamics(
            atoms,
            2 * FS,
            lattice_temperature_K=2000,
            lattice_friction=0.01 / FS,
            spin_temperature_K=300,
            damping=0.1,
            integrator=integrator,
            seed=3,
            restart=folder / "run.npz",
            restart_interval=10,
            loginterval=4,
            trajectory=folder / "run.traj",
            logfile=folder / "log",
        )
        if stop is not None:
            dynamics.attach(lambda: 1 / 0, -stop)
        dynamics.run(60)
        dynamics.run(25)
        return atoms

    whole = run(tmp_path / "whole")
    for stop in (17, 56, 72):
        with pytest.raises(ZeroDivisionError):
            run(tmp_path / "broken", stop)
    broken = run(tmp_path / "broken")
    assert np.array_equal(state(whole), state(broken))
    assert (tmp_path / "whole" / "log").read_text() == (tmp_path / "broken" / "log").read_text()
    a, b = (data.read(tmp_path / name / "run.traj") for name in ("whole", "broken"))
    assert [frame.step for frame in a] == [frame.step for frame in b]
    assert all(np.array_equal(state(x.atoms), state(y.atoms)) for x, y in zip(a, b, strict=True))


def test_foreign_restart_files_are_refused(tmp_path):
    path = tmp_path / "run.npz"
    SpinLatticeDynamics(iron(), FS, restart=path).run(2)
    with pytest.raises(KLMError, match="belongs to another run"):
        SpinLatticeDynamics(iron(), 0.5 * FS, restart=path)
    with pytest.raises(KLMError, match="cannot be read as a restart file of LLGDynamics"):
        LLGDynamics(iron(), FS, damping=0, restart=path)
    with pytest.raises(KLMError, match="another Hamiltonian"):
        SpinLatticeDynamics(iron(spring=5.0), FS, restart=path).run(4)


# Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"timestep": 0}, "timestep"),
        ({"lattice_friction": -1}, "lattice_friction"),
        ({"lattice_temperature_K": 100, "seed": 1}, "friction is zero"),
        ({"lattice_temperature_K": 100, "lattice_friction": 0.1}, "needs a seed"),
        ({"lattice_temperature_K": -1, "lattice_friction": 0.1, "seed": 1}, "lattice_temperature_K"),
        ({"spin_temperature_K": 100, "seed": 1}, "damping is zero"),
        ({"spin_temperature_K": 100, "damping": 0.1}, "needs a seed"),
        ({"integrator": "euler"}, "not known"),
        ({"field": (0, 1)}, "field"),
        ({"pinned": [99]}, "pinned"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(KLMError, match=message):
        SpinLatticeDynamics(iron(), **{"timestep": FS} | arguments)


def test_bad_structures():
    with pytest.raises(KLMError, match="is not Atoms"):
        SpinLatticeDynamics([iron(), iron()], FS)
    atoms = iron()
    set_moments(atoms, np.zeros((len(atoms), 3)))
    with pytest.raises(KLMError, match="no atom carries a moment"):
        SpinLatticeDynamics(atoms, FS)
    atoms = iron()
    atoms.set_masses([0.0] + [55.8] * (len(atoms) - 1))
    with pytest.raises(KLMError, match=r"mass 0\.0"):
        SpinLatticeDynamics(atoms, FS)
    atoms = iron()
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(KLMError, match="FixBondLength"):
        SpinLatticeDynamics(atoms, FS)
    atoms = iron()
    atoms.calc = None
    with pytest.raises(KLMError, match="no calculator"):
        SpinLatticeDynamics(atoms, FS)


class MagneticForcesOnly(Calculator):
    implemented_properties = ["energy", "magnetic_forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        self.results = {"energy": 0.0, "magnetic_forces": np.zeros((len(atoms), 3))}


def test_calculator_without_forces():
    atoms = iron()
    atoms.calc = MagneticForcesOnly()
    with pytest.raises(KLMError, match="no atomic forces"):
        SpinLatticeDynamics(atoms, FS)


def test_potentials_that_cannot_be_swept():
    assert SpinLatticeDynamics(iron(), FS).integrator.name == "suzuki-trotter"
    assert SpinLatticeDynamics(iron(**MANY_BODY), FS).integrator.name == "sib"
    with pytest.raises(KLMError, match="cannot turn single spins"):
        SpinLatticeDynamics(iron(**MANY_BODY), FS, integrator="suzuki-trotter")


@pytest.mark.parametrize(("stiffness", "masses"), [(2.0, (10.0, 10.0)), (8.0, (1.0, 40.0))])
def test_fastest_vibration_of_one_spring(stiffness, masses):
    atoms = Atoms("Fe2", positions=[(0, 0, 0), (2.5, 0, 0)], masses=masses)
    bound = LatticeEnergy({1: stiffness}).bind(atoms)
    inverse_mass = 1 / torch.tensor(masses, dtype=torch.float64)[:, None]
    found = fastest_vibration(bound, bound.moments, bound.positions, bound.cell, inverse_mass)
    # ω² = k/μ; differences with steps of 1e-3 Å see the anharmonicity across the bond
    assert found == pytest.approx(np.sqrt(stiffness * float(inverse_mass.sum())), rel=1e-4)


def test_steps_that_are_too_long():
    with pytest.raises(KLMError, match=r"too long for these atoms(.|\n)*timestep=\d"):
        SpinLatticeDynamics(iron(), 50 * FS).run(1)
    with pytest.warns(KLMWarning, match="fastest vibration"):
        SpinLatticeDynamics(iron(exchange=BetheSlater(1e-6, 0.2171, 1.841)), 18 * FS).run(1)
    with pytest.warns(KLMWarning, match="fastest magnon"):
        SpinLatticeDynamics(iron(), 5 * FS).run(1)
    with pytest.warns(KLMWarning, match="thermal noise"):
        SpinLatticeDynamics(
            iron(exchange=BetheSlater(1e-6, 0.2171, 1.841)), 8 * FS, spin_temperature_K=9e3, damping=1.0, seed=1
        ).run(1)


def test_values_that_are_not_finite_stop_the_run():
    atoms = iron()
    dynamics = SpinLatticeDynamics(atoms, FS, logfile=io.StringIO())
    dynamics._state.velocities = dynamics._state.velocities * np.nan
    with pytest.raises(KLMError, match="not finite at step 0"):
        dynamics.run(3)


@pytest.mark.parametrize("make", [iron, lambda: cri3(2, kelvin=100, tilt=0.2)])
def test_forces_alone_are_those_of_an_evaluation_to_the_last_bit(make):
    atoms = make()
    bound = atoms.calc.potential.bind(atoms)
    m, x, cell = bound.moments, bound.positions.clone(), bound.cell.clone()
    alone = bound.forces(m, x, cell)
    assert torch.equal(alone, bound.evaluate(m, x, cell).forces)
    assert torch.equal(alone, atoms.calc.potential.bind(atoms).evaluate(m, x, cell).forces)


def test_what_is_kept_of_the_exchange_follows_every_change():
    """The very same tensors with other numbers in them, other moments, and a batch."""
    atoms = cri3(2, kelvin=100, tilt=0.2)

    def fresh(m, x, cell):
        return atoms.calc.potential.bind(atoms).evaluate(m, x, cell)

    bound = atoms.calc.potential.bind(atoms)
    m, x, cell = bound.moments.clone(), bound.positions.clone(), bound.cell.clone()
    generator = np.random.default_rng(2)

    def check():
        found, expected = bound.evaluate(m, x, cell), fresh(m, x, cell)
        for name in ("energy", "magnetic_forces", "forces", "stress"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-13)

    check()
    x += torch.tensor(0.02 * generator.normal(size=x.shape))
    check()
    cell *= 1.01
    check()
    x.numpy()[:] += 0.02 * generator.normal(size=x.shape)  # which torch does not know of
    check()
    m *= torch.tensor([-1.0, 1.0, 1.0])
    check()
    both = bound.evaluate(torch.stack([m, -m]), x, cell)
    torch.testing.assert_close(both.forces[1], bound.evaluate(m, x, cell).forces, rtol=0, atol=1e-13)


def test_exchange_alone_is_bilinear():
    atoms = iron()
    atoms.calc = ExchangeCalculator({1: -0.01})
    assert SpinLatticeDynamics(atoms, FS).integrator.name == "suzuki-trotter"
