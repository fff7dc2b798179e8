"""Potentials in supercells: what names atoms of a cell belongs to all cells, and sums are flat."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.mixing import SumCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_klm import (
    ExchangeCalculator,
    KLMError,
    KLMWarning,
    SpinCalculator,
    get_magnetic_forces,
    get_moments,
    graphs,
    lattices,
    potentials,
    set_moments,
    textures,
)
from ase_klm.magnons import Magnons
from ase_klm.potentials import Exchange, LatticeEnergy, MomentLengths, Sum, UniaxialAnisotropy, Zeeman, potential_of
from ase_klm.potentials.base import BoundPotential, Potential
from ase_klm.potentials.lattice_energy import Spring
from ase_klm.supercells import repetitions_of

METHODS = ["exact", "autograd", "differences"]
M = -1e-3 * np.diag([0.8, 0.9, 1.2])
Z = (0.0, 0.0, 1.0)


def chain(n_sites=1):
    """A chain along x, 3 Å apart, with moments of 2 μB along z."""
    atoms = lattices.chain(n_sites, a=3.0)
    set_moments(atoms, np.tile((0, 0, 2.0), (n_sites, 1)))
    return atoms


def listed():
    return ExchangeCalculator(bonds=[(0, 0, (1, 0, 0), M)])


def shells():
    return ExchangeCalculator({1: M})


def nothing():
    return ExchangeCalculator({1: 0.0})


SUMS = {
    "bonds": listed,
    "shells": shells,
    "flat": lambda: SumCalculator([shells(), nothing()]),
    "nested": lambda: SumCalculator([nothing(), SumCalculator([SumCalculator([listed()]), nothing()])]),
    "sums in potentials": lambda: SpinCalculator(
        Sum((Sum((Exchange(bonds=[(0, 0, (1, 0, 0), M)]), Zeeman((0, 0, 0)))), UniaxialAnisotropy(0.0)))
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("calculator", SUMS.values(), ids=SUMS.keys())
@pytest.mark.parametrize("supercell", [(4, 1, 1), None])
def test_chain(calculator, method, supercell):
    """ħω = 2 sqrt((M_z - M_x cos 2πq)(M_z - M_y cos 2πq)) at S = 1, whatever the bonds are made from."""
    q = np.array([[0.1, 0, 0], [0.5, 0, 0]])
    magnons = Magnons(chain(), calculator(), supercell=supercell, method=method)
    cosine = np.cos(2 * np.pi * q[:, 0])
    expected = 2e-3 * np.sqrt((1.2 - 0.8 * cosine) * (1.2 - 0.9 * cosine))
    np.testing.assert_allclose(expected, [1.02147e-3, 4.09878e-3], atol=1e-8)
    np.testing.assert_allclose(magnons.frequencies(q)[:, 0], expected, rtol=1e-6)


def test_sums_are_flat():
    one, two, three = Exchange({1: -1.0}), Zeeman(Z), UniaxialAnisotropy(0.1)
    assert Sum((Sum((one, two)), three)).terms == (one, two, three)
    assert (one + Sum((two, three))).terms == (one, two, three)
    atoms = chain(3)
    parts = [SpinCalculator(part) for part in (one + two, three)]
    atoms.calc = SumCalculator([SumCalculator(parts), SpinCalculator(Sum((two, Sum((three,)))))])
    assert potential_of(atoms).terms == (one, two, three, two, three)
    with pytest.raises(KLMError, match="no potentials"):
        Sum(())
    with pytest.raises(KLMError, match="no potentials"):
        Sum((one, nothing()))


@pytest.mark.parametrize("method", METHODS)
def test_honeycomb_keeps_its_gap(method):
    """All bonds listed, of the Dzyaloshinskii-Moriya interaction, too: the gap at K is 6√3 D at S = 1."""
    D, atoms = 0.1, lattices.honeycomb()
    set_moments(atoms, [(0, 0, 2.0)] * 2)
    found = graphs.neighbour_shells(atoms, [1, 2])
    bonds = []
    for i, j, cell, vector, shell in zip(found.i, found.j, found.cells, found.vectors, found.shells, strict=True):
        angle = np.degrees(np.arctan2(vector[1], vector[0])).round() % 120  # which way round the hexagon
        sign = (1 if angle == 0 else -1) * (1 if i == 0 else -1)
        matrix = -np.eye(3) if shell == 1 else sign * D * np.array([(0, 1, 0), (-1, 0, 0), (0, 0, 0)])
        bonds.append((int(i), int(j), tuple(int(n) for n in cell), matrix))
    K = [1 / 3, 2 / 3, 0]
    energies = Magnons(atoms, ExchangeCalculator(bonds=bonds), method=method).frequencies([K])[0]
    assert np.diff(energies)[0] == pytest.approx(6 * np.sqrt(3) * D, rel=1e-6)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 3), repetitions=st.tuples(*[st.integers(1, 3)] * 2))
def test_supercells_of_random_bonds(seed, n, repetitions):
    """Differences in a supercell are the exact answer at its wave vectors: ends, cells, matrices, terms of sites."""
    rng = np.random.default_rng(seed)
    atoms = Atoms(["Fe"] * n, cell=np.eye(3) * 4 + rng.uniform(-0.5, 0.5, (3, 3)), pbc=(True, True, False))
    atoms.positions[:] = rng.uniform(0, 4, (n, 3))
    textures.random(atoms, seed=rng, length=1.7)
    bonds = {}
    for _ in range(4):
        i, j, cell = *rng.integers(n, size=2), (*rng.integers(-2, 3, 2), 0)
        if (i, j, *cell) != (j, i, *(-c for c in cell)) and (j, i, *(-c for c in cell)) not in bonds:
            bonds[i, j, *cell] = rng.uniform(-1, 1, (3, 3))
    parameters = {
        "bonds": [(i, j, cell, matrix) for (i, j, *cell), matrix in bonds.items()],
        "onsite": rng.uniform(-1, 1, (n, 3, 3)),
    }
    parameters["onsite"] += parameters["onsite"].transpose(0, 2, 1)
    atoms.calc = ExchangeCalculator(**parameters)
    e = get_moments(atoms) / 1.7
    field = 1.7 * np.array(-get_magnetic_forces(atoms)) + 40 * e  # balances what turns the moments, and holds them
    half = field * rng.uniform(size=(n, 1))
    calc = ExchangeCalculator(**parameters, site_fields=half, field=(field - half) / 1.7)
    q = np.array([(a / repetitions[0], b / repetitions[1], 0) for a in range(3) for b in range(2)])
    supercell = (*repetitions, 1)
    exact = Magnons(atoms, calc, method="exact").frequencies(q)
    for method in ("autograd", "differences"):
        found = Magnons(atoms, calc, supercell=supercell, method=method, delta=1e-3).frequencies(q)
        np.testing.assert_allclose(found, exact, atol=2e-5)  # delta² of what a turned moment does to itself


def test_parameters_of_sites_are_repeated():
    """Every potential with a value for each site, in a cell of two sites that differ."""
    atoms = chain(2)
    terms = {
        "field": Zeeman([(0, 0, 0.01), (0, 0, 0.03)]),
        "anisotropy": UniaxialAnisotropy([0.01, 0.02], [(0, 0, 1.0), (0, 0, -1.0)]),
        "constant": UniaxialAnisotropy([0.01, 0.02]),
        "lengths": MomentLengths([1.9, 2.1], 0.1),
        "exchange": Exchange({1: -0.01}, onsite=np.diag([0, 0, -0.01]) * np.array([1, 2])[:, None, None]),
        "fields": Exchange(site_fields=[(0, 0, 0.01), (0, 0, 0.03)]),
    }
    big = atoms.repeat((3, 1, 1))
    textures.random(big, seed=1, length=2.0)
    for name, term in terms.items():
        repeated = term.repeated(atoms, (3, 1, 1)).bind(big).evaluate()
        cells = [term.repeated(atoms, (1, 1, 1)) for _ in range(3)]
        if name != "exchange":  # sites alone: the sum of the cells
            parts = []
            for number, own in enumerate(cells):
                cell = atoms.copy()
                set_moments(cell, get_moments(big)[2 * number : 2 * number + 2])
                parts.append(own.bind(cell).evaluate())
            assert repeated.energy == pytest.approx(float(sum(part.energy for part in parts)))
            torch.testing.assert_close(repeated.magnetic_forces, torch.cat([part.magnetic_forces for part in parts]))
        stiff = SpinCalculator(Sum((term, Zeeman((0, 0, 0.1)))))
        found = [
            Magnons(atoms, stiff, supercell=(3, 1, 1), method=method, fmax=1.0, delta=1e-3).frequencies([(1 / 3, 0, 0)])
            for method in ("exact", "differences")
        ]
        np.testing.assert_allclose(*found, atol=1e-6)


# Bonds that carry the lattice whose indices they use


def cell_with_bonds(rng, **given):
    cell = lattices.honeycomb()
    set_moments(cell, [(0, 0, 2.0), (0, 0, 2.0)])
    bonds = [(0, 1, (0, 0, 0), M), (0, 1, (-1, 0, 0), 0.01), (1, 1, (1, -1, 0), rng.uniform(-1, 1, (3, 3)))]
    onsite = rng.uniform(-1, 1, (2, 3, 3))
    return cell, {"bonds": bonds, "onsite": onsite, "site_fields": rng.uniform(-1, 1, (2, 3))} | given


def by_hand(cell, repetitions, moments, bonds, onsite, site_fields):
    """E, written as it stands in the documents, with the number of each atom worked out cell by cell."""
    e = moments.reshape(*repetitions, len(cell), 3)
    e = e / np.linalg.norm(e, axis=-1, keepdims=True)
    energy = 0.0
    for home in np.ndindex(*repetitions):
        for i, j, R, matrix in bonds:
            there = tuple(np.mod(np.add(home, R), repetitions))
            energy += e[home][i] @ (matrix * np.eye(3) if np.ndim(matrix) == 0 else matrix) @ e[there][j]
        for i in range(len(cell)):
            energy += e[home][i] @ onsite[i] @ e[home][i] - site_fields[i] @ e[home][i]
    return energy


@pytest.mark.parametrize("repetitions", [(1, 1, 1), (3, 1, 1), (2, 3, 1), (5, 4, 1)])
def test_bonds_carry_their_lattice(rng, repetitions):
    cell, parameters = cell_with_bonds(rng)
    calc = ExchangeCalculator(**parameters, lattice=cell)
    atoms = cell.repeat(repetitions)
    textures.random(atoms, seed=1, length=2.0)
    expected = by_hand(cell, repetitions, get_moments(atoms), **parameters)
    atoms.calc = calc
    assert atoms.get_potential_energy() == pytest.approx(expected)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))), scale_atoms=True)
    atoms.rattle(0.04, seed=2)
    atoms.wrap()
    fresh = ExchangeCalculator(**parameters, lattice=cell)  # which has seen the distorted structure only
    assert fresh.get_potential_energy(atoms) == pytest.approx(expected)


def test_one_calculator_for_a_cell_and_its_supercells(rng):
    cell, parameters = cell_with_bonds(rng)
    cell.calc = ExchangeCalculator(**parameters, lattice=cell)
    alone = cell.get_potential_energy()
    for repetitions in [(2, 1, 1), (3, 2, 1)]:
        big = cell.repeat(repetitions)
        big.calc = cell.calc
        assert big.get_potential_energy() == pytest.approx(np.prod(repetitions) * alone)
    assert cell.get_potential_energy() == alone


def test_the_lattice_is_kept(rng):
    """What happens to the cell later, or to a copy given to `set`, changes nothing."""
    cell, parameters = cell_with_bonds(rng)
    parameters |= {"shells": {1: -1.0}}
    atoms = cell.repeat((2, 2, 1))
    calc = ExchangeCalculator(**parameters, lattice=cell)
    before = calc.get_potential_energy(atoms)
    cell.rattle(0.2, seed=1)
    calc.reset()
    assert calc.get_potential_energy(atoms) == before
    smaller = ExchangeCalculator({1: -1.0}, lattice=atoms)
    smaller.set(**parameters, lattice=atoms[:2])  # with the cell of the large structure, which it does not repeat
    with pytest.raises(KLMError, match="does not repeat"):
        smaller.get_potential_energy(atoms)


def test_shells_are_counted_on_the_lattice(rng):
    """Fixed ones and those that follow the atoms, on a structure so displaced that its own shells are others."""
    cell = lattices.square((1, 1), a=3.0)
    cell.set_pbc((True, True, False))
    atoms = cell.repeat((4, 4, 1))
    textures.random(atoms, seed=1)
    straight = atoms.copy()
    atoms.rattle(0.2, seed=1)
    following = potentials.Exponential(-0.01, r0=3.0, decay=0.5)
    for shells in ({1: -1.0, 2: 0.3}, {1: following}, {1: -1.0, 2: following}):
        warm = ExchangeCalculator(shells, lattice=straight)
        warm.get_potential_energy(straight)
        cold = ExchangeCalculator(shells, lattice=cell)
        assert cold.get_potential_energy(atoms) == pytest.approx(warm.get_potential_energy(atoms))
        np.testing.assert_allclose(cold.get_forces(atoms), warm.get_forces(atoms), atol=1e-12)


def test_a_structure_that_is_no_repetition_is_refused(rng):
    cell, parameters = cell_with_bonds(rng)
    calc = ExchangeCalculator(**parameters, lattice=cell)
    shuffled = cell.repeat((2, 2, 1))[[0, 2, 1, 3, 4, 5, 6, 7]]
    shuffled.positions[1] += 1.0
    stretched = cell.repeat((2, 1, 1))
    stretched.set_cell(1.5 * stretched.cell.array, scale_atoms=True)
    odd = cell.repeat((2, 1, 1))[:3]
    other = lattices.honeycomb(symbol="Co")
    set_moments(other, [(0, 0, 2.0)] * 2)
    open_ended = cell.copy()
    open_ended.pbc = False
    for atoms in (shuffled, stretched, odd, other, open_ended):
        with pytest.raises(KLMError, match=r"does not repeat the lattice(.|\n)*lattice.repeat"):
            calc.get_potential_energy(atoms)
    with pytest.raises(KLMError):
        ExchangeCalculator(**parameters, lattice="honeycomb")
    with pytest.raises(KLMError, match=r"onsite has shape(.|\n)*there are 2 atoms"):
        ExchangeCalculator(onsite=np.zeros((3, 3, 3)), lattice=cell).get_potential_energy(cell.repeat((3, 1, 1)))


def test_bonds_of_the_first_cell_only_are_noticed(rng, recwarn):
    cell, parameters = cell_with_bonds(rng)
    big = cell.repeat((2, 2, 1))
    with pytest.warns(KLMWarning, match=r"repeats its first 2 atoms 4 times(.|\n)*lattice=cell"):
        ExchangeCalculator(bonds=parameters["bonds"]).get_potential_energy(big)
    with pytest.raises(KLMError, match=r"onsite has shape \(2, 3, 3\)(.|\n)*lattice=cell"):
        ExchangeCalculator({1: -1.0}, onsite=parameters["onsite"]).get_potential_energy(big)
    with pytest.raises(KLMError, match="must be repeated"):
        ExchangeCalculator({1: -1.0}, site_fields=parameters["site_fields"]).get_potential_energy(big)
    recwarn.clear()
    ExchangeCalculator(**parameters).get_potential_energy(cell)
    ExchangeCalculator(bonds=parameters["bonds"], lattice=cell).get_potential_energy(big)
    everywhere = [(i, i, (1, 0, 0), -1.0) for i in range(8)]
    ExchangeCalculator(bonds=everywhere).get_potential_energy(big)
    assert not recwarn.list


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), repetitions=st.tuples(*[st.integers(1, 4)] * 3))
def test_repetitions_are_found(seed, repetitions):
    rng = np.random.default_rng(seed)
    cell = Atoms("FeCo", positions=[(0, 0, 0), (1.5, 1.5, 1.5)], cell=3 * np.eye(3), pbc=True)
    cell.set_cell(cell.cell.array + rng.uniform(-0.4, 0.4, (3, 3)), scale_atoms=True)
    atoms = cell.repeat(repetitions)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-0.05, 0.05, (3, 3))), scale_atoms=True)
    atoms.rattle(0.05, rng=rng)
    assert repetitions_of(cell, atoms) == repetitions


# What cannot be repeated says so


@dataclass(frozen=True, eq=False)
class OfSites(Potential):
    """E = Σ a_i z_i, with a number for each site, that does not say so."""

    values: np.ndarray

    def bind(self, atoms, device="cpu"):
        return BoundOfSites(self, atoms, device)


class BoundOfSites(BoundPotential):
    def __init__(self, potential, atoms, device):
        super().__init__(atoms, device)
        self.values = self.tensor(potential.values)

    def energy(self, moments, positions, cell):
        return (self.values * moments[..., 2] ** 2).sum(-1)


class Repeatable(OfSites):
    per_site = {"values": -1}


def test_what_cannot_be_repeated():
    atoms = chain(2)
    springs = LatticeEnergy({1: Spring(1.0, [3.0, 3.0])})
    exchange = Exchange({1: -1.0})
    with pytest.raises(KLMError, match="cannot be repeated"):
        Magnons(atoms, SpinCalculator(exchange + springs), supercell=(2, 1, 1), method="differences").run()
    with pytest.raises(KLMError, match=r"OfSites cannot be evaluated in a supercell(.|\n)*per_site"):
        Magnons(atoms, SpinCalculator(exchange + OfSites(np.array([-0.1, -0.2]))), supercell=(2, 1, 1)).run()
    total = SpinCalculator(exchange + Repeatable(np.array([-0.1, -0.2])))
    found = [Magnons(atoms, total, supercell=(n, 1, 1)).frequencies([0, 0, 0]) for n in (1, 2)]
    np.testing.assert_allclose(*found, rtol=1e-9)
