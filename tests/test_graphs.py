"""Neighbour shells against the literature's coordination numbers; primitive lattices of supercells."""

import warnings

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ase_klm import graphs, lattices
from ase_klm.errors import KLMError, KLMWarning

ROOT3 = np.sqrt(3)
# lattice, size, distances and coordination numbers of the first shells
SHELLS = {
    "chain": (lattices.chain, 12, [1, 2, 3], [2, 2, 2]),
    "square": (lattices.square, (6, 6), [1, np.sqrt(2), 2], [4, 4, 4]),
    "triangular": (lattices.triangular, (6, 6), [1, ROOT3, 2], [6, 6, 6]),
    "magnetic cell": (lattices.triangular_magnetic_cell, (1, 1), [1, ROOT3, 2], [6, 6, 6]),
    "honeycomb": (lattices.honeycomb, (5, 5), [1 / ROOT3, 1, 2 / ROOT3], [3, 6, 3]),
    "kagome": (lattices.kagome, (4, 4), [0.5, ROOT3 / 2, 1], [4, 4, 6]),
    "simple cubic": (lattices.simple_cubic, (4, 4, 4), [1, np.sqrt(2), ROOT3], [6, 12, 8]),
    "bcc": (lattices.body_centred_cubic, (3, 3, 3), [ROOT3 / 2, 1, np.sqrt(2)], [8, 6, 12]),
    "fcc": (lattices.face_centred_cubic, (3, 3, 3), [1 / np.sqrt(2), 1, np.sqrt(1.5)], [12, 6, 24]),
}


def coordination(bonds, n_atoms, shell):
    ends = np.concatenate([bonds.i[bonds.shells == shell], bonds.j[bonds.shells == shell]])
    return np.bincount(ends, minlength=n_atoms)


@pytest.mark.parametrize("name", SHELLS)
def test_shells_of_lattices(name):
    build, size, distances, numbers = SHELLS[name]
    atoms = build(size)
    bonds = graphs.neighbour_shells(atoms, [1, 2, 3])
    for shell, (distance, number) in enumerate(zip(distances, numbers, strict=True), start=1):
        np.testing.assert_allclose(bonds.distances[bonds.shells == shell], distance, atol=1e-10)
        assert (coordination(bonds, len(atoms), shell) == number).all()


@pytest.mark.parametrize("name", SHELLS)
def test_smallest_cell_wraps_onto_itself_with_the_same_coordination(name):
    build, size, _, numbers = SHELLS[name]
    one = build(1 if name == "chain" else tuple(1 for _ in size))
    bonds = graphs.neighbour_shells(one, [1, 2, 3])
    for shell, number in enumerate(numbers, start=1):
        # a bond (i, i, R) has both its ends on i
        assert (coordination(bonds, len(one), shell) == number).all()


@pytest.mark.parametrize("build", [lattices.triangular, lattices.kagome])
def test_each_bond_once_and_vectors_belong_to_cells(build):
    atoms = build((2, 2))
    bonds = graphs.neighbour_shells(atoms, [1, 2, 3, 4])
    named = {(i, j, *cell) for i, j, cell in zip(bonds.i, bonds.j, bonds.cells.tolist(), strict=True)}
    reversed_ = {(j, i, *(-bonds.cells[n]).tolist()) for n, (i, j) in enumerate(zip(bonds.i, bonds.j, strict=True))}
    assert len(named) == len(bonds)
    assert not named & reversed_
    rebuilt = atoms.positions[bonds.j] + bonds.cells @ atoms.cell.array - atoms.positions[bonds.i]
    np.testing.assert_allclose(bonds.vectors, rebuilt, atol=1e-12)


def test_shells_do_not_depend_on_wrapping_or_cell():
    atoms = lattices.honeycomb((4, 4))
    expected = graphs.neighbour_shells(atoms, [1, 3])
    moved = atoms.copy()
    moved.positions += np.random.default_rng(1).integers(-2, 3, (len(atoms), 2)) @ atoms.cell.array[:2]
    found = graphs.neighbour_shells(moved, [1, 3])
    assert (found.shells == 1).sum() == (expected.shells == 1).sum()
    np.testing.assert_allclose(np.sort(found.distances), np.sort(expected.distances), atol=1e-10)


def test_shells_among_chosen_atoms_only():
    atoms = lattices.kagome((3, 3))
    chosen = np.arange(len(atoms)) % 3 == 0  # one of three sites: a triangular lattice of twice the distance
    bonds = graphs.neighbour_shells(atoms, [1], among=chosen)
    assert set(bonds.i) | set(bonds.j) <= set(np.flatnonzero(chosen))
    np.testing.assert_allclose(bonds.distances, 1.0)
    assert (coordination(bonds, len(atoms), 1)[chosen] == 6).all()


def test_cluster_without_cell_and_mixed_periodicity():
    cluster = Atoms("Fe4", positions=[(0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0)])
    bonds = graphs.neighbour_shells(cluster, [1, 2])
    assert (bonds.shells == 1).sum() == 4
    assert (bonds.shells == 2).sum() == 2
    ribbon = lattices.square((5, 3))
    ribbon.pbc = (True, False, False)
    assert len(graphs.neighbour_shells(ribbon, [1])) == 15 + 10  # along, across


def test_errors_of_shells():
    atoms = lattices.square((3, 3))
    for wrong in (0, -1, 1.5, True, "a"):
        with pytest.raises(KLMError, match="shell number"):
            graphs.neighbour_shells(atoms, [wrong])
    pair = Atoms("Fe2", positions=[(0, 0, 0), (1, 0, 0)])
    with pytest.raises(KLMError, match="shell 2 does not exist"):
        graphs.neighbour_shells(pair, [2])
    with pytest.raises(KLMError, match="shell 1 does not exist"):
        graphs.neighbour_shells(pair[:1], [1])
    with pytest.raises(KLMError, match="zero vector along a periodic"):
        graphs.neighbour_shells(Atoms("Fe", pbc=True), [1])
    with pytest.raises(KLMError, match="empty"):
        graphs.bonds_within(Atoms(), 1.0)
    for cutoff in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(KLMError, match="cutoff"):
            graphs.bonds_within(atoms, cutoff)


@pytest.mark.parametrize(
    ("atoms", "size"),
    [
        (lattices.chain(7), 1.0),
        (lattices.square((4, 6)), 1.0),
        (lattices.triangular((12, 12)), ROOT3 / 2),
        (lattices.triangular_magnetic_cell((2, 1)), ROOT3 / 2),
        (lattices.honeycomb((3, 5)), ROOT3 / 2),
        (lattices.kagome((4, 2)), ROOT3 / 2),
        (lattices.simple_cubic((2, 3, 4)), 1.0),
        (lattices.body_centred_cubic((2, 2, 3)), 0.5),
        (lattices.face_centred_cubic((2, 2, 3)), 0.25),
        (bulk("NaCl", "rocksalt", a=5.6, cubic=True).repeat((2, 1, 1)), 5.6**3 / 4),
        (bulk("CsCl", "cesiumchloride", a=4.1).repeat((2, 3, 2)), 4.1**3),
    ],
)
def test_primitive_vectors_span_the_primitive_cell(atoms, size):
    vectors = graphs.primitive_vectors(atoms)
    assert vectors.shape == (atoms.pbc.sum(), 3)
    volume = np.sqrt(np.linalg.det(vectors @ vectors.T))
    assert volume == pytest.approx(size, rel=1e-9)
    # the supercell consists of whole primitive cells
    multiples = atoms.cell.array[atoms.pbc] @ np.linalg.pinv(vectors)
    np.testing.assert_allclose(multiples, multiples.round(), atol=1e-6)


def test_primitive_vectors_are_those_that_the_supercell_was_built_from():
    for build in (lattices.square, lattices.triangular, lattices.honeycomb, lattices.kagome):
        np.testing.assert_allclose(graphs.primitive_cell(build((6, 4)))[:2], build().cell.array[:2], atol=1e-9)
    # of the 48-site cell none is a fraction; the shortest ones are a1 and a2
    np.testing.assert_allclose(
        graphs.primitive_vectors(lattices.triangular_magnetic_cell()), lattices.triangular().cell.array[:2], atol=1e-9
    )


def test_primitive_vectors_of_a_skew_cell_and_of_species():
    skew = lattices.square((2, 2))
    skew.set_cell(np.array([(2, 0, 0), (10, 2, 0), (0, 0, 10)]))  # the same lattice
    volume = np.linalg.norm(np.cross(*graphs.primitive_vectors(skew)))
    assert volume == pytest.approx(1.0)
    board = lattices.square((4, 4))
    board.symbols = ["Fe" if (n // 4 + n % 4) % 2 else "Ni" for n in range(16)]
    assert np.linalg.norm(np.cross(*graphs.primitive_vectors(board))) == pytest.approx(2.0)
    upright = lattices.square((4, 4))
    upright.rotate(90, "x", rotate_cell=True)
    assert np.linalg.norm(np.cross(*graphs.primitive_vectors(upright))) == pytest.approx(1.0)


def test_a_distorted_supercell_is_its_own_primitive_cell():
    atoms = lattices.triangular((20, 20))
    atoms.rattle(0.05, seed=1)
    np.testing.assert_allclose(graphs.primitive_cell(atoms), atoms.cell.array, atol=1e-9)
    assert graphs.primitive_vectors(Atoms("Fe")).shape == (0, 3)


def test_shells_split_by_displacements_are_reported():
    atoms = lattices.square((4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        graphs.neighbour_shells(atoms, [1, 2, 3, 4, 5])
    atoms.rattle(0.03, seed=1)
    with pytest.warns(KLMWarning, match="displaced"):
        graphs.neighbour_shells(atoms, [1])


def test_primitive_vectors_of_a_large_lattice():
    atoms = lattices.chain(size=150_000)  # neighbours are 7e-6 of the cell apart
    np.testing.assert_allclose(graphs.primitive_vectors(atoms), [[1.0, 0.0, 0.0]])
