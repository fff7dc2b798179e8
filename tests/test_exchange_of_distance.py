"""Exchange that follows the atoms: functions of distance, matrices by rules of symmetry, neighbours found anew."""

import numpy as np
import pytest
import torch
from ase import Atoms

from ase_klm import (
    ExchangeCalculator,
    KLMError,
    Magnons,
    SpinCalculator,
    get_magnetic_forces,
    get_moments,
    lattices,
    set_moments,
    testing,
    textures,
)
from ase_klm.potentials import (
    AxialExchange,
    BetheSlater,
    DMAcrossBond,
    DMAlongBond,
    DMThroughAtom,
    Exchange,
    ExchangeOfDistance,
    Exponential,
    Kitaev,
    KitaevThroughLigands,
    Table,
    Tapered,
)
from ase_klm.potentials.base import hessian_by_differences

IRON = BetheSlater(0.02726, 0.2171, 1.841)
DECAY = Exponential(-0.02, r0=2.5, decay=0.4)
TABLE = Table([2.0, 2.5, 3.0, 3.5], [0.02, 0.01, -0.004, 0.0])
TURNS = [
    np.array([(np.cos(t), -np.sin(t), 0), (np.sin(t), np.cos(t), 0), (0, 0, 1)]) for t in (0, 2.0943951, 4.1887902)
]
FUNCTIONS = {"BetheSlater": IRON, "Exponential": DECAY, "Table": TABLE, "Tapered": Tapered(IRON, 2.0, 3.2)}


def edge_sharing(seed=1):
    """CrI3: magnetic honeycomb with two ligands between neighbours."""
    atoms = lattices.cri3_monolayer((2, 2))
    length = 3.0 * (atoms.symbols == "Cr")
    textures.random(atoms, seed=seed)
    set_moments(atoms, get_moments(atoms) * length[:, None])
    return atoms


def iron(size=(2, 2, 2)):
    atoms = lattices.body_centred_cubic(size, a=2.87)
    textures.random(atoms, length=2.2, seed=3)
    return atoms


POTENTIALS = {
    "near pairs": (iron, ExchangeOfDistance(function=Tapered(IRON, 2.2, 3.5), cutoff=3.5)),
    "shells": (iron, ExchangeOfDistance({1: [DECAY, TABLE], 2: IRON})),
    "pairs and shells": (iron, ExchangeOfDistance({2: DMAlongBond(DECAY)}, TABLE, 3.5)),
    "D along": (iron, ExchangeOfDistance({1: [DECAY, DMAlongBond(TABLE)]})),
    "D across": (edge_sharing, ExchangeOfDistance({1: DMAcrossBond(DECAY, (0, 0.1, 1))})),
    "D through": (edge_sharing, ExchangeOfDistance({1: DECAY, 2: DMThroughAtom(DECAY, "Cr")})),
    "Kitaev": (edge_sharing, ExchangeOfDistance({1: Kitaev(DECAY, np.eye(3))})),
    "Kitaev through": (edge_sharing, ExchangeOfDistance({1: KitaevThroughLigands(DECAY, "I")})),
    "axial": (edge_sharing, ExchangeOfDistance({1: AxialExchange(DECAY)})),
}
TURN_WITH_THE_LATTICE = ("near pairs", "shells", "pairs and shells", "D along", "D through", "Kitaev through")


def moved(name, amplitude=0.03, seed=5):
    """Displaced from the lattice that the bonds belong to."""
    build, potential = POTENTIALS[name]
    atoms = build()
    atoms.calc = SpinCalculator(potential, lattice=atoms)
    atoms.positions += amplitude * np.random.default_rng(seed).standard_normal((len(atoms), 3))
    return atoms


# Gradients and symmetries


@pytest.mark.parametrize("name", POTENTIALS)
def test_gradients_and_second_derivatives(name):
    atoms = moved(name)
    errors = testing.check(atoms, sites=[0, len(atoms) - 1], tolerance=1e-8)
    assert set(errors) == {"magnetic_forces", "forces", "stress"}
    bound = atoms.calc.bound(atoms)
    bound.move_to(bound.tensor(atoms.positions), bound.cell)
    vector = torch.where(bound.magnetic[:, None], bound.moments.roll(1, 0).flip(1), 0.0)
    product = bound.hessian_vector_product(bound.moments, vector)
    torch.testing.assert_close(product, hessian_by_differences(bound, bound.moments, vector), rtol=0, atol=1e-8)
    blocks = bound.second_derivatives(bound.moments.clone()).at(np.zeros((1, 3)))[0].real
    np.testing.assert_allclose(np.einsum("iajb,jb->ia", blocks, vector), product, atol=1e-12)
    assert testing.time_reversal_error(atoms) < testing.SYMMETRY_TOLERANCE


@pytest.mark.parametrize("name", ["near pairs", "shells"])
def test_isotropic_exchange_does_not_change_when_all_spins_turn(name):
    assert testing.spin_rotation_error(moved(name)) < testing.SYMMETRY_TOLERANCE


@pytest.mark.parametrize("name", TURN_WITH_THE_LATTICE)
def test_turning_lattice_and_spins_together(name):
    atoms = moved(name)
    turned = atoms.copy()
    rotation = testing._random_rotation(2)
    turned.set_cell(atoms.cell.array @ rotation.T, scale_atoms=False)
    turned.positions = atoms.positions @ rotation.T + (0.3, -1.0, 2.0)
    set_moments(turned, get_moments(atoms) @ rotation.T)
    lattice = POTENTIALS[name][0]()  # the one of the other, turned too
    lattice.set_cell(lattice.cell.array @ rotation.T)
    lattice.positions = lattice.positions @ rotation.T + (0.3, -1.0, 2.0)
    turned.calc = SpinCalculator(POTENTIALS[name][1], lattice=lattice)
    assert turned.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
    np.testing.assert_allclose(turned.get_forces() @ rotation, atoms.get_forces(), atol=1e-12)
    np.testing.assert_allclose(get_magnetic_forces(turned) @ rotation, get_magnetic_forces(atoms), atol=1e-12)


@pytest.mark.parametrize("name", POTENTIALS)
def test_forces_sum_to_zero_and_ignore_the_numbering(name):
    atoms = moved(name)
    np.testing.assert_allclose(atoms.get_forces().sum(0), 0, atol=1e-12)
    order = np.random.default_rng(0).permutation(len(atoms))
    build, potential = POTENTIALS[name]
    shuffled = build()[order]
    shuffled.calc = SpinCalculator(potential, lattice=shuffled)
    shuffled.positions = atoms.positions[order]
    np.testing.assert_allclose(shuffled.get_forces(), atoms.get_forces()[order], atol=1e-12)
    np.testing.assert_allclose(get_magnetic_forces(shuffled), get_magnetic_forces(atoms)[order], atol=1e-12)


@pytest.mark.parametrize("name", ["near pairs", "pairs and shells", "Kitaev through"])
def test_a_batch_equals_single_evaluations(name):
    build, potential = POTENTIALS[name]
    replicas = [build() for _ in range(3)]
    for atoms in replicas[1:]:
        set_moments(atoms, get_moments(atoms)[::-1] if name != "Kitaev through" else -get_moments(atoms))
    bound = potential.bind(replicas)
    generator = torch.Generator().manual_seed(0)
    positions = bound.positions + 0.05 * torch.randn(bound.positions.shape, dtype=torch.float64, generator=generator)
    together = bound.evaluate(positions=positions)
    for number, atoms in enumerate(replicas):
        alone = potential.bind(atoms).evaluate(positions=positions[number])
        for quantity in ("energy", "magnetic_forces", "forces", "stress"):
            np.testing.assert_allclose(getattr(together, quantity)[number], getattr(alone, quantity), atol=1e-13)


# Functions


@pytest.mark.parametrize("name", FUNCTIONS)
def test_slopes_are_derivatives(name):
    function = FUNCTIONS[name]
    r = torch.linspace(1.5, 4.0, 57, dtype=torch.float64)
    value, slope = function.slope(r)
    torch.testing.assert_close(value, function(r), rtol=0, atol=1e-15)
    expected = (function(r + 1e-5) - function(r - 1e-5)) / 2e-5
    torch.testing.assert_close(slope, expected, rtol=0, atol=1e-7)  # at the end of the table the curvature jumps


def test_values_of_functions():
    r = torch.tensor([1.841, 2.5, 3.0], dtype=torch.float64)
    np.testing.assert_allclose(IRON(r)[0], -4 * 0.02726 * (1 - 0.2171) / np.e, rtol=1e-14)
    np.testing.assert_allclose(DECAY(r)[1:], [-0.02, -0.02 * np.exp(-0.5 / 0.4)], rtol=1e-14)
    np.testing.assert_allclose(TABLE(r)[1:], [0.01, -0.004], rtol=1e-14)
    assert TABLE(torch.tensor([3.5, 9.0], dtype=torch.float64)).abs().max() == 0
    assert FUNCTIONS["Tapered"](torch.tensor([3.2, 5.0], dtype=torch.float64)).abs().max() == 0
    np.testing.assert_allclose(FUNCTIONS["Tapered"](r)[0], IRON(r)[0])


# Energies with a closed formula


def dimer(r=2.0, e1=(1, 0, 0), e2=(0, 1, 0), axis=0):
    atoms = Atoms("Fe2", positions=[(0, 0, 0), r * np.eye(3)[axis]])
    set_moments(atoms, [e1, e2])
    return atoms


def test_a_dimer_has_every_bond_once():
    """M > 0 is antiferromagnetic; the force is -dM/dr along the bond."""
    atoms = dimer(2.0, (2, 0, 0), (3, 0, 0))
    atoms.calc = ExchangeCalculator(function=Exponential(0.3, 2.0, 0.5), cutoff=3.0)
    assert atoms.get_potential_energy() == pytest.approx(0.3)
    np.testing.assert_allclose(atoms.get_forces(), [(-0.6, 0, 0), (0.6, 0, 0)], atol=1e-15)
    atoms.calc = ExchangeCalculator({1: Exponential(0.3, 2.0, 0.5)})
    assert atoms.get_potential_energy() == pytest.approx(0.3)


def test_signs_of_dzyaloshinskii_moriya_vectors():
    """D·(e_i × e_j): along the bond, and normal × bond, whichever end comes first."""
    one = Exponential(0.7, 2.0, 1e9)
    for e1, e2, term in (
        ((0, 1, 0), (0, 0, 1), DMAlongBond(one)),  # e1 × e2 = x
        ((0, 0, 1), (1, 0, 0), DMAcrossBond(one)),  # e1 × e2 = y = z × x
    ):
        atoms = dimer(2.0, e1, e2)
        atoms.calc = ExchangeCalculator({1: term})
        assert atoms.get_potential_energy() == pytest.approx(0.7)
        back = atoms[::-1]
        back.calc = ExchangeCalculator({1: term})
        assert back.get_potential_energy() == pytest.approx(0.7)


def test_vectors_through_an_atom_are_those_of_haldane():
    """Between second neighbours of a honeycomb: ± z, all positive around a hexagon's sublattice, Σ M·M = 2D² a bond."""
    atoms = lattices.honeycomb((3, 3), a=6.867)
    set_moments(atoms, [(0, 0, 1)] * 18)
    bound = ExchangeOfDistance({2: DMThroughAtom(Exponential(1.0, 6.867, 1.0))}).bind(atoms)
    i, j, M = bound.bond_matrices()
    positions = atoms.positions
    vectors = positions[j] + bound.bond_cells().numpy() @ atoms.cell.array - positions[i]
    assert len(i) == 54
    along_z = M[:, 0, 1].numpy()
    np.testing.assert_allclose(np.abs(along_z), 1, atol=1e-12)
    np.testing.assert_allclose(M.abs().sum(dim=(1, 2)), 2, atol=1e-12)
    legs = positions[1] - positions[0]
    for a, vector, sign in zip(i.numpy() % 2, vectors, along_z, strict=True):
        ways = [(1 - 2 * a) * turn @ legs for turn in TURNS]
        k = min(ways, key=lambda way, vector=vector: np.linalg.norm(way) + np.linalg.norm(vector - way))
        assert np.sign(np.cross(k, vector - k)[2]) == np.sign(sign)


def test_kitaev_axes_of_edge_sharing_octahedra_are_normal_to_their_plaquettes():
    atoms = edge_sharing()
    bound = ExchangeOfDistance({1: KitaevThroughLigands(Exponential(1.0, 4.0, 1e9), "I")}).bind(atoms)
    i, j, M = bound.bond_matrices()
    v = atoms.positions[j] + bound.bond_cells().numpy() @ atoms.cell.array - atoms.positions[i]
    np.testing.assert_allclose(np.einsum("nab,nb->na", M.numpy(), v), 0, atol=1e-12)
    np.testing.assert_allclose(torch.linalg.eigvalsh(M), np.tile([0, 0, 1.0], (len(i), 1)), atol=1e-8)
    assert len(np.unique(M.numpy().round(6), axis=0)) == 3


# Agreement with constant exchange


def test_on_the_lattice_it_is_constant_exchange():
    """Same energy, magnetic forces, blocks and magnons; mixed shells in one calculator."""
    atoms = lattices.honeycomb((1, 1), a=6.867, symbol="Cr")
    set_moments(atoms, [(0, 0, 3.0)] * 2)
    J1, J2, D = -0.009, -0.0007, 0.0014
    d1, d2 = 6.867 / np.sqrt(3), 6.867
    easy = np.tile(np.diag([0, 0, -5e-4]), (2, 1, 1))
    shells = {1: Exponential(J1, d1, 0.5), 2: [Exponential(J2, d2, 0.5), DMThroughAtom(Exponential(D, d2, 0.5))]}
    atoms.calc = ExchangeCalculator(shells, onsite=easy)
    dirac = Magnons(atoms).run().frequencies(np.array([(2 / 3, 1 / 3, 0), (0, 0, 0)]))
    # a gap of 2·3√3 (D/S²) S = 6√3 D/S at K with S = 3/2
    assert dirac[0, 1] - dirac[0, 0] == pytest.approx(6 * np.sqrt(3) * D / 1.5, rel=1e-9)
    fixed = atoms.copy()
    bound = ExchangeOfDistance(shells).bind(atoms)
    i, j, M = (values.numpy() for values in bound.bond_matrices())
    cells = bound.bond_cells().numpy().astype(int)
    merged = {}
    for a, b, R, matrix in zip(i.tolist(), j.tolist(), cells.tolist(), M, strict=True):
        merged[a, b, tuple(R)] = merged.get((a, b, tuple(R)), 0) + matrix
    fixed.calc = ExchangeCalculator(bonds=[(*bond, matrix) for bond, matrix in merged.items()], onsite=easy)
    q = np.random.default_rng(0).uniform(size=(5, 3)) * (1, 1, 0)
    np.testing.assert_allclose(Magnons(fixed).run().frequencies(q), Magnons(atoms).run().frequencies(q), atol=1e-12)
    canted = bound.tensor([(1.0, 2.0, 0.5), (0.3, -1.0, 1.5)])
    constant = Exchange(bonds=[(*bond, matrix) for bond, matrix in merged.items()]).bind(fixed)
    vector = bound.tensor([(0.1, 0.2, -0.5), (1.0, 0.0, 0.3)])
    for function in ("hessian_vector_product", "site_hessian"):
        arguments = (canted, vector)[: 2 if function == "hessian_vector_product" else 1]
        torch.testing.assert_close(getattr(bound, function)(*arguments), getattr(constant, function)(*arguments))


def test_the_bonds_give_the_energy_and_fields_of_single_spins():
    """What a sweep over single spins needs: Σ e_i·M·e_j and Σ_j M e_j."""
    for name in ("near pairs", "Kitaev through"):
        build, potential = POTENTIALS[name]
        atoms = build()
        bound = potential.bind(atoms)
        i, j, M = bound.bond_matrices()
        e = bound.moments / bound.moments.norm(dim=-1, keepdim=True).clamp_min(1e-300)
        products = torch.einsum("na,nab,nb->n", e[i], M, e[j])
        assert float(products.sum()) == pytest.approx(float(bound.evaluate().energy), abs=1e-12)
        strengths = bound.bond_strengths()
        if name == "near pairs":
            torch.testing.assert_close(strengths[2][:, None, None] * torch.eye(3), M)
        else:
            assert strengths is None


# Neighbours


def test_pairs_are_found_again_when_atoms_move():
    """A long walk with one bound potential gives what a fresh one gives, also under strain and in a batch."""
    _, potential = POTENTIALS["near pairs"]
    atoms = iron()
    bound = potential.bind(atoms)
    generator = torch.Generator().manual_seed(1)
    positions, cell = bound.positions.clone(), bound.cell.clone()
    for _ in range(12):
        positions = positions + 0.1 * torch.randn(positions.shape, dtype=torch.float64, generator=generator)
        cell, positions = cell * 1.01, positions * 1.01
        fresh = atoms.copy()
        fresh.set_cell(cell.numpy())
        fresh.positions[:] = positions.numpy()
        expected = potential.bind(fresh).evaluate()
        found = bound.evaluate(positions=positions, cell=cell)
        torch.testing.assert_close(found.energy, expected.energy, rtol=0, atol=1e-13)
        torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-13)


def test_the_energy_is_smooth_where_a_pair_crosses_the_cutoff():
    atoms = dimer(3.0, (0, 0, 1), (0, 0, 1))
    smooth = SpinCalculator(ExchangeOfDistance(function=Tapered(IRON, 2.5, 3.0), cutoff=3.0))
    sharp = SpinCalculator(ExchangeOfDistance(function=IRON, cutoff=3.0))
    energies = []
    for calc in (smooth, sharp):
        atoms.calc = calc
        for r in (3 - 1e-7, 3 + 1e-7):
            atoms.positions[1, 0] = r
            energies.append(atoms.get_potential_energy())
    assert abs(energies[1] - energies[0]) < 1e-12
    assert abs(energies[3] - energies[2]) > 1e-3


def test_non_magnetic_atoms_take_no_part():
    atoms = edge_sharing()
    atoms.calc = ExchangeCalculator(function=DECAY, cutoff=4.0)
    ligands = atoms.symbols == "I"
    assert not get_magnetic_forces(atoms)[ligands].any()
    assert not atoms.get_forces()[ligands].any()
    through = moved("Kitaev through")
    assert not get_magnetic_forces(through)[ligands].any()
    assert np.abs(through.get_forces()[ligands]).max() > 1e-4


# Bad input


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BetheSlater(0.1, 0.2, 0.0), "d = 0.0"),
        (lambda: Exponential(np.nan, 2.0, 0.4), "value"),
        (lambda: Exponential(0.1, 2.0, -0.4), "decay"),
        (lambda: Table([1, 2, 3], [0.1, 0.2, 0.3]), "last of the values"),
        (lambda: Table([1, 3, 2], [0.1, 0.2, 0]), "increasing"),
        (lambda: Table([1, 2], [0.1, 0]), "three"),
        (lambda: Table([1, 2, 3], [0.1, 0.2]), "values has shape"),
        (lambda: Tapered(IRON, 3.0, 2.0), "off"),
        (lambda: Tapered(lambda r: r, 2.0, 3.0), "no function of distance"),
        (lambda: DMAlongBond(0.1), "no function of distance"),
        (lambda: DMAcrossBond(IRON, (0, 0, 0)), "normal"),
        (lambda: Kitaev(IRON, (0, 0, 1)), "axes has shape"),
        (lambda: ExchangeOfDistance({1: 0.1}), "potentials.Exchange"),
        (lambda: ExchangeOfDistance([IRON]), "no mapping"),
        (lambda: ExchangeOfDistance(function=IRON), "together"),
        (lambda: ExchangeOfDistance(cutoff=3.0), "together"),
        (lambda: ExchangeOfDistance(function=lambda r: r, cutoff=3.0), "no function of distance"),
        (lambda: ExchangeOfDistance(function=IRON, cutoff=-1.0), "cutoff"),
        (lambda: ExchangeOfDistance(function=IRON, cutoff=3.0, skin=-1.0), "skin"),
        (lambda: Exchange({1: IRON}), "ExchangeOfDistance"),
    ],
)
def test_bad_parameters(make, words):
    with pytest.raises(KLMError, match=words):
        make()


@pytest.mark.parametrize(
    ("potential", "words"),
    [
        (ExchangeOfDistance({2: DMThroughAtom(IRON, "O")}), "too few atoms O"),
        (ExchangeOfDistance({1: KitaevThroughLigands(IRON, "Cr")}), "too few atoms Cr"),
        (ExchangeOfDistance({1: DMThroughAtom(IRON, "I")}), "too many atoms I"),
    ],
)
def test_rules_that_find_no_atoms(potential, words):
    with pytest.raises(KLMError, match=words):
        potential.bind(edge_sharing())


def test_atoms_without_moments():
    atoms = edge_sharing()
    set_moments(atoms, np.zeros((len(atoms), 3)))
    with pytest.raises(KLMError, match="no atom carries a moment"):
        ExchangeOfDistance(function=IRON, cutoff=3.0).bind(atoms)
