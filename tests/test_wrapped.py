"""Atoms in other periodic images, as `wrap` and `translate` leave them: the same crystal, the same numbers."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.mixing import SumCalculator
from ase.calculators.morse import MorsePotential

from ase_klm import (
    ECNNCalculator,
    ExchangeCalculator,
    KondoEDCalculator,
    LLGDynamics,
    MagNetCalculator,
    Magnons,
    SpinCalculator,
    SpinLatticeDynamics,
    calculators,
    get_magnetic_forces,
    get_moments,
    lattices,
    potentials,
    set_moments,
    textures,
)
from ase_klm.magnons import mode_intensities
from ase_klm.supercells import beside, images_on

CELL = bulk("Fe", cubic=True, a=2.87)
LAW = potentials.Exponential(-0.02, r0=2.5, decay=0.4)


def _iron() -> Atoms:
    atoms = CELL.repeat((2, 2, 3))
    textures.random(atoms, length=2.2, seed=1)
    return atoms


def _cri3() -> Atoms:
    atoms = lattices.cri3_monolayer((2, 2))
    set_moments(atoms, np.outer(atoms.symbols == "Cr", (0.2, 0, 3.0)))
    return atoms


def _square() -> Atoms:
    atoms = lattices.square((8, 8))
    textures.random(atoms, seed=1)
    return atoms


def _chain() -> Atoms:
    atoms = lattices.chain(6)
    textures.random(atoms, seed=1)
    return atoms


def _molecule() -> Atoms:
    atoms = Atoms("Fe3", [(0, 0, 0), (2.1, 0, 0), (0.3, 2.4, 0)])
    textures.random(atoms, length=2.0, seed=1)
    return atoms


CALCULATORS = {
    "shells": (_iron, lambda: ExchangeCalculator({1: LAW, 2: [LAW, potentials.DMAlongBond(LAW)]})),
    "shells of a lattice": (_iron, lambda: ExchangeCalculator({1: LAW}, lattice=CELL)),
    "listed bonds": (_iron, lambda: ExchangeCalculator(bonds=[(0, 1, (1, 0, 0), np.eye(3) - 2)], lattice=CELL)),
    "pairs": (
        _iron,
        lambda: SpinCalculator(
            potentials.ExchangeOfDistance(function=potentials.BetheSlater(0.03, 0.2, 1.8), cutoff=3)
        ),
    ),
    "springs": (_iron, lambda: SpinCalculator(potentials.LatticeEnergy(shells={1: 3.0}, bends={1: 0.5}))),
    "hopping": (
        _chain,
        lambda: KondoEDCalculator(
            potentials.ExponentialHopping(1.0, 1.0, 0.3), J=2.0, filling=0.4, temperature=0.1, cutoff=1.4
        ),
    ),
    "hopping by shells": (_chain, lambda: KondoEDCalculator({1: 1.0, 2: 0.3}, J=2.0, filling=0.4, kpts=(2, 1, 1))),
    "CrI3": (_cri3, lambda: SpinCalculator(potentials.cri3_model())),
    "MagNet": (_cri3, lambda: MagNetCalculator("cri3-model")),
    "ECNN": (_square, lambda: ECNNCalculator("kondo-square-ecnn")),
    "sum": (_iron, lambda: SumCalculator([ExchangeCalculator({1: LAW}), MorsePotential(r0=2.5, rcut1=3, rcut2=4)])),
    "molecule": (_molecule, lambda: ExchangeCalculator({1: LAW, 2: LAW})),
}


def _results(atoms: Atoms) -> list[np.ndarray]:
    found = [np.array(atoms.get_potential_energy()), get_magnetic_forces(atoms), atoms.get_forces()]
    return [*found, atoms.get_stress()] if atoms.cell.rank == 3 else found


@pytest.mark.parametrize("name", CALCULATORS)
def test_calculators_follow_atoms_into_other_images(name):
    """Most atoms stand some cells away, and then the whole crystal has moved and is wrapped."""
    make, calculator = CALCULATORS[name]
    atoms = make()
    rng = np.random.default_rng(len(name))
    atoms.calc = calculators.on_lattice(calculator(), atoms)
    atoms.rattle(0.02, seed=2)
    expected = _results(atoms)
    cells = rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc
    drift = rng.normal(size=3)
    for shift, wrap in ((np.zeros(3), False), (drift, True)):
        other = atoms.copy()
        other.positions += shift + cells @ atoms.cell.array
        if wrap:
            other.wrap()
        other.calc = atoms.calc
        scale = 1e-4 if name in ("MagNet", "ECNN") else 1e-9  # single precision
        for value, right in zip(_results(other), expected, strict=True):
            assert np.allclose(value, right, rtol=0, atol=scale * max(1.0, abs(right).max()))
    assert np.abs(expected[1]).max() > 1e-4 or name == "springs"


@pytest.mark.parametrize("name", ["shells of a lattice", "listed bonds"])
def test_a_lattice_that_is_given_needs_no_earlier_structure(name):
    make, calculator = CALCULATORS[name]
    atoms = make()
    atoms.rattle(0.05, seed=3)
    atoms.calc = calculator()
    expected = _results(atoms)
    atoms.translate((0.4, -0.2, 1.0))
    atoms.wrap()
    atoms.calc = calculator()
    for value, right in zip(_results(atoms), expected, strict=True):
        assert np.allclose(value, right, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_crossings(seed):
    """The cells that were added, up to those of the whole crystal; none of them hides a changed lattice."""
    rng = np.random.default_rng(seed)
    bonded = CELL.repeat((2, 1, 2))
    bonded.set_cell(bonded.cell.array + rng.normal(size=(3, 3)) * 0.05, scale_atoms=True)
    bonded.pbc = rng.random(3) < 0.7
    cells = rng.integers(-3, 4, (len(bonded), 3)) * bonded.pbc
    atoms = bonded.copy()
    atoms.set_cell(atoms.cell.array * 1.05, scale_atoms=True)
    atoms.rattle(0.05, seed=seed)
    atoms.positions += cells @ atoms.cell.array + rng.normal(size=3)
    found = images_on(bonded, atoms)
    assert found is not None
    assert np.array_equal(found - found[0], cells[0] - cells)
    moved = beside(bonded, atoms)
    away = moved.positions - 1.05 * bonded.positions
    assert np.abs(away - away.mean(axis=0)).max() < 0.3  # what was rattled
    assert beside(bonded, bonded) == bonded
    atoms.positions[1] += (0.9, 0.9, 0.9)  # more than half a bond of 2.48 Å
    assert images_on(bonded, atoms) is None


def test_runs_go_on_after_wrapping():
    """The energy is kept when atoms are wrapped between two runs of one `SpinLatticeDynamics`."""
    atoms = _iron()
    model = potentials.ExchangeOfDistance({1: LAW}, lattice=CELL) + potentials.LatticeEnergy(shells={1: 3.0, 2: 3.0})
    atoms.calc = SpinCalculator(model, lattice=atoms)
    atoms.set_momenta(np.random.default_rng(1).normal(size=(len(atoms), 3)))
    dynamics = SpinLatticeDynamics(atoms, 0.5 * units.fs)
    dynamics.run(5)
    before = atoms.get_total_energy()
    places = atoms.positions.copy()
    atoms.wrap()
    assert np.abs(atoms.positions - places).max() > 5
    assert atoms.get_total_energy() == pytest.approx(before, abs=1e-10)
    dynamics.run(5)
    assert atoms.get_total_energy() == pytest.approx(before, abs=1e-3)


def test_replicas_in_different_images_share_their_bonds():
    first = _iron()
    first.calc = ExchangeCalculator({1: LAW}, lattice=CELL)
    first.rattle(0.05, seed=4)
    second = first.copy()
    second.wrap()
    second.calc = ExchangeCalculator({1: LAW}, lattice=CELL)
    assert np.abs(second.positions - first.positions).max() > 5
    second.calc = first.calc
    LLGDynamics([first, second], 0.1 * units.fs, damping=0.1).run(3)
    assert np.allclose(get_moments(first), get_moments(second), atol=1e-12)
    third = first.copy()
    third.wrap()
    potential = potentials.ExchangeOfDistance({1: LAW}, lattice=CELL)
    energies = potential.bind([first, beside(first, third)]).evaluate().energy
    assert torch.allclose(energies[0], energies[1], atol=1e-12)


def test_neutrons_see_the_places_of_wrapped_atoms():
    """S(q, ω) of a honeycomb between Bragg peaks, where the phases of sites matter."""
    atoms = lattices.honeycomb(a=6.87, symbol="Cr")
    textures.uniform(atoms, (0, 0, 1), length=3.0)
    q = [(0.37, 0.21, 0), (1.37, 0.21, 0)]
    found = []
    for bonds in (False, True):
        for shift in ((0, 0, 0), (1, -2, 0)):
            other = atoms.copy()
            other.positions[1] += np.array(shift) @ atoms.cell.array
            listed = [(0, 1, cell, -4e-3) for cell in ((0, 0, 0), (-1, 0, 0), (0, -1, 0))]
            exchange = {"bonds": listed} if bonds else {"shells": {1: -4e-3}}
            magnons = Magnons(other, ExchangeCalculator(lattice=atoms, **exchange))
            found.append(np.trace(mode_intensities(magnons, q).tensor, axis1=-2, axis2=-1).real)
        assert np.allclose(found[-1], found[-2], atol=1e-10)
    assert not np.allclose(found[0][0], found[0][1], rtol=1e-2)


@pytest.mark.parametrize("size", [(1, 1, 1), (2, 1, 1)])
@pytest.mark.parametrize(
    "exchange",
    [
        {"bonds": [(0, 1, cell, -4e-3) for cell in ((0, 0, 0), (-1, 0, 0), (0, -1, 0))]},
        {"shells": {1: -4e-3, 2: potentials.Exponential(-1e-3, r0=6.87, decay=0.5)}},
    ],
    ids=["listed", "shells"],
)
def test_supercells_of_wrapped_repetitions(exchange, size):
    """`Magnons` by differences repeats a structure that itself repeats the lattice, in other images."""
    cell = lattices.honeycomb(a=6.87, symbol="Cr")
    textures.uniform(cell, (0, 0, 1), length=3.0)
    onsite = np.array([np.diag([0, 0, -1e-4]), np.diag([0, 0, -3e-4])])
    atoms = cell.repeat(size)
    atoms.positions[1] += atoms.cell[0] - 2 * atoms.cell[1]
    calculator = ExchangeCalculator(**exchange, onsite=onsite, lattice=cell)
    q = [(0.25, 0.5, 0), (0, 0, 0)]
    exact = Magnons(atoms, calculator, method="exact").frequencies(q)
    found = Magnons(atoms, calculator, method="differences", supercell=(4, 4, 1)).frequencies(q)
    assert np.allclose(found, exact, rtol=0, atol=1e-7)
    assert np.ptp(exact) > 1e-3
