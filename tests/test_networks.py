"""Networks at work: tiles, replicas, precision, the calculator, and the gathers and products underneath."""

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from ase_klm import (
    ECNNCalculator,
    KLMError,
    SpinCalculator,
    get_magnetic_forces,
    get_moments,
    lattices,
    set_moments,
    testing,
    textures,
)
from ase_klm.models import files
from ase_klm.models.chebyshev import ChebyshevNetwork
from ase_klm.models.ecnn import ECNN, norm_activation
from ase_klm.nn.convolution import _Periodic
from ase_klm.nn.gather import Table, neighbour_sum
from ase_klm.nn.grid import wrapped
from ase_klm.nn.harmonics import coupled, coupling, terms
from ase_klm.nn.lattice import LatticeStars
from ase_klm.potentials import Kondo
from ase_klm.potentials.network import Network

KONDO = {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48}
SMALL = {"irreps": "2x0e + 2x1o + 1x2e", "blocks": 1}


def randomised(atoms, seed=1):
    textures.random(atoms, seed=seed)
    return atoms


def shuffled(atoms):
    return atoms[np.random.default_rng(3).permutation(len(atoms))]


def ecnn(atoms, shells=(1,), **options):
    return ECNN.for_atoms(atoms, shells, **(SMALL | options)).double()


def chebyshev(atoms, hamiltonian=KONDO):
    """A small network of Chebyshev moments whose outputs, which begin at zero, depend on everything."""
    options = {"radius": 2, "channels": 6, "vectors": 3, "hidden": 8, "layers": 1}
    model = ChebyshevNetwork.for_atoms(atoms, hamiltonian=hamiltonian, **options).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model


def energy_and_field(network, atoms):
    found = network.bind(atoms).evaluate(*state(network, atoms))
    return float(found.energy), found.magnetic_forces


def state(network, atoms):
    bound = network.bind(atoms)
    return bound.moments, bound.positions, bound.cell


# --- tiles

TILED = {
    "grid": (lattices.square((21, 18)), ecnn, 40),
    "grid, cut along one direction": (lattices.square((30, 6)), ecnn, 60),
    "two shells": (lattices.triangular((30, 24)), lambda atoms: ecnn(atoms, (1, 2)), 100),
    "chain": (lattices.chain(50), ecnn, 7),
    "cubic": (lattices.simple_cubic((14, 3, 12)), ecnn, 50),
    "kagome": (lattices.kagome((14, 13)), ecnn, 60),
    "shuffled": (shuffled(lattices.honeycomb((14, 14))), ecnn, 50),
    "no grid": (lattices.triangular_magnetic_cell((4, 3)), ecnn, 70),
    "moments": (lattices.square((18, 17)), chebyshev, 40),
    "moments, kagome": (lattices.kagome((20, 4)), lambda a: chebyshev(a, KONDO | {"filling": None, "mu": -2.0}), 50),
    "moments, no grid": (lattices.triangular_magnetic_cell((3, 3)), chebyshev, 120),
}


@pytest.mark.parametrize("name", TILED)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-6)])
def test_tiles_give_the_same(name, dtype, tolerance):
    atoms, make, largest = TILED[name]
    atoms = randomised(atoms.copy())
    model = make(atoms)
    energy, field = energy_and_field(Network(model, dtype=dtype), atoms)
    tiled = Network(model, dtype=dtype, largest_tile=largest)
    assert len(tiled.bind(atoms).tiles) > 3
    tiled_energy, tiled_field = energy_and_field(tiled, atoms)
    scale = 1 + float(field.abs().max())
    assert abs(tiled_energy - energy) < tolerance * scale * len(atoms)
    assert (tiled_field - field).abs().max() < 10 * tolerance * scale


def test_tiles_that_look_alike_share_their_tables():
    atoms = randomised(lattices.square((24, 24)))
    bound = Network(ecnn(atoms), largest_tile=36).bind(atoms)
    assert len(bound.tiles) == 16
    assert len({id(tile.placed) for tile in bound.tiles}) == 1
    own = torch.cat([tile.sites[tile.own] for tile in bound.tiles])
    assert torch.equal(own.sort().values, torch.arange(len(atoms)))


# --- bound networks


@pytest.mark.parametrize("make", [ecnn, chebyshev])
@pytest.mark.parametrize("largest", [30, 1000])
def test_replicas_are_what_they_are_alone(make, largest):
    replicas = [randomised(lattices.square((12, 11)), seed) for seed in range(3)]
    network = Network(make(replicas[0]), largest_tile=largest)
    bound = network.bind(replicas)
    together = bound.evaluate(bound.moments, bound.positions, bound.cell)
    assert together.energy.shape == (3,)
    for atoms, energy, field in zip(replicas, together.energy, together.magnetic_forces, strict=True):
        alone, alone_field = energy_and_field(network, atoms)
        assert alone == pytest.approx(float(energy), rel=1e-12)
        assert torch.allclose(alone_field, field, atol=1e-12)


@pytest.mark.parametrize("make", [ecnn, chebyshev])
def test_the_weights_of_the_caller_stay_as_they_are(make):
    atoms = randomised(lattices.square((6, 6)))
    model = make(atoms)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    network = Network(model, dtype="float32")
    first = energy_and_field(network, atoms)[0]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert energy_and_field(network, atoms)[0] == first


@pytest.mark.parametrize("make", [ecnn, chebyshev])
def test_single_precision_is_close_to_double(make):
    atoms = randomised(lattices.square((8, 8)))
    model = make(atoms)
    energy, field = energy_and_field(Network(model), atoms)
    single, single_field = energy_and_field(Network(model, dtype="float32"), atoms)
    assert single_field.dtype == torch.float64
    scale = 1 + float(field.abs().max())
    assert 0 < abs(single - energy) < 1e-5 * scale * len(atoms)
    assert 0 < (single_field - field).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("lattice", [lattices.square, lattices.kagome])
@pytest.mark.parametrize("make", [ecnn, chebyshev])
def test_a_lattice_smaller_than_the_reach_equals_its_repetition(lattice, make):
    model = make(lattice((8, 8)))
    atoms = randomised(lattice((3, 2)))
    energy, field = energy_and_field(Network(model), atoms)
    large, large_field = energy_and_field(Network(model), atoms.repeat((4, 4, 1)))
    assert large / 16 == pytest.approx(energy, rel=1e-12) or make is chebyshev  # the electrons are rounded
    if make is ecnn:
        assert torch.allclose(large_field.view(16, -1, 3), field.expand(16, -1, -1), atol=1e-12)


def test_a_small_lattice_of_moments_equals_its_repetition_at_fixed_mu():
    model = chebyshev(lattices.square((8, 8)))
    network = Network(model, {"mu": -3.0})
    atoms = randomised(lattices.square((3, 2)))
    energy, field = energy_and_field(network, atoms)
    large, large_field = energy_and_field(network, atoms.repeat((4, 4, 1)))
    assert large / 16 == pytest.approx(energy, rel=1e-12)
    assert torch.allclose(large_field.view(16, -1, 3), field.expand(16, -1, -1), atol=1e-12)


@pytest.mark.parametrize("make", [ecnn, chebyshev])
def test_hessian_of_a_bound_network(make):
    atoms = randomised(lattices.square((5, 5)))
    atoms.calc = SpinCalculator(Network(make(atoms)))
    assert testing.hessian_error(atoms) < 1e-6


@pytest.mark.parametrize("make", [ecnn, chebyshev])
def test_wrong_structures(make):
    network = Network(make(lattices.square((6, 6))))
    good = randomised(lattices.square((6, 6)))
    long = good.copy()
    set_moments(long, 1.2 * get_moments(good))
    other = good.copy()
    other.symbols[3] = "Co"
    for wrong, message in (
        (long, "not a unit vector"),
        (other, "species Co|another lattice"),
        (randomised(lattices.square((6, 6), symbol="Co")), "species Co"),
        (randomised(lattices.triangular((6, 6))), "another lattice"),
        (randomised(lattices.honeycomb((6, 6))), "another lattice"),
        (lattices.square((6, 6)), "unit vector|no atom"),
    ):
        with pytest.raises(KLMError, match=message):
            energy_and_field(network, wrong)
    island = good.copy()
    island.pbc = False
    with pytest.raises(KLMError):
        energy_and_field(network, island)
    with pytest.raises(KLMError, match="not a network"):
        Network(Kondo({1: 1.0}, J=1.0, filling=0.4))
    for tile in (0, -1, "a", None):
        with pytest.raises(KLMError):
            Network(network.model, largest_tile=tile)


def test_unknown_parameters_of_the_hamiltonian():
    atoms = lattices.square((6, 6))
    with pytest.raises(KLMError, match="does not know fillling") as error:
        Network(chebyshev(atoms), {"fillling": 0.4, "J": 7.0})
    assert "filling" in error.value.why
    with pytest.raises(KLMError, match="does not know filling"):
        Network(ecnn(atoms), {"filling": 0.4})
    Network(chebyshev(atoms), {"filling": 0.4, "J": 6.5, "kpts": (2, 2, 1), "mu": None, "hopping": {1: 1.0}})


# --- the calculator


def test_calculator_with_a_module_and_a_file(tmp_path):
    atoms = randomised(lattices.square((6, 5)))
    model = ecnn(atoms).float()
    path = tmp_path / "mine.safetensors"
    files.save(path, model)
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode  # others may read it, as the umask says
    energy, field = energy_and_field(Network(model), atoms)
    bias = np.array([0.1, 0.0, -0.2])
    for given in (model, path, str(path)):
        atoms.calc = ECNNCalculator(given, field=bias)
        zeeman = float((get_moments(atoms) @ bias).sum())
        assert atoms.get_potential_energy() == pytest.approx(energy - zeeman, rel=1e-6)
        assert get_magnetic_forces(atoms) == pytest.approx(field.numpy() + bias, abs=1e-6)
        assert get_magnetic_forces(atoms).dtype == np.float64
        atoms.calc.set(field=(0, 0, 0))
        assert atoms.get_potential_energy() == pytest.approx(energy, rel=1e-6)
    atoms.calc = ECNNCalculator(model, dtype="float64")
    testing.check(atoms, sites=[0, 7])


def test_calculator_with_other_parameters():
    atoms = randomised(lattices.square((6, 6)))
    model = chebyshev(atoms)
    for values in ({}, {"J": 6.0}, {"filling": 0.4}, {"mu": -3.0}, {"J": 6.0, "filling": 0.45}):
        atoms.calc = ECNNCalculator(model, dtype="float64", **values)
        expected, field = energy_and_field(Network(model, values or None), atoms)
        assert atoms.get_potential_energy() == pytest.approx(expected, rel=1e-12)
        assert get_magnetic_forces(atoms) == pytest.approx(field.numpy(), abs=1e-12)
    calc = atoms.calc = ECNNCalculator(model, dtype="float64")
    before = atoms.get_potential_energy()
    calc.set(mu=-3.0)
    assert abs(atoms.get_potential_energy() - before) > 1e-4
    calc.set(mu=None, filling=0.48)
    assert atoms.get_potential_energy() == pytest.approx(before, rel=1e-12)


def test_calculator_refuses():
    atoms = randomised(lattices.square((6, 6)))
    trained, moments = ecnn(atoms), chebyshev(atoms)
    for make in (
        lambda: ECNNCalculator("kondo-sqare"),
        lambda: ECNNCalculator("none.safetensors"),
        lambda: ECNNCalculator(None),
        lambda: ECNNCalculator(3),
        lambda: ECNNCalculator(torch.nn.Identity()),
        lambda: ECNNCalculator(trained, dtype="float16"),
        lambda: ECNNCalculator(trained, dtype=None),
        lambda: ECNNCalculator(trained, J=5.0),
        lambda: ECNNCalculator(trained, filling=0.4),
        lambda: ECNNCalculator(trained, field="up"),
        lambda: ECNNCalculator(trained, device="abacus"),
        lambda: ECNNCalculator(moments, J="large"),
        lambda: ECNNCalculator(moments, mu=np.nan),
        lambda: ECNNCalculator(moments).set(hopping=2.0),
    ):
        with pytest.raises(KLMError):
            make()
    for wrong in ({"filling": 1.5}, {"filling": 0.4, "mu": -3.0}, {"field": (0, 1)}, {"field": np.ones((5, 3))}):
        atoms.calc = ECNNCalculator(moments, **wrong)
        with pytest.raises(KLMError):
            atoms.get_potential_energy()


# --- sites


@pytest.mark.parametrize("lattice", [lattices.square((7, 6)), lattices.kagome((4, 5)), lattices.chain(9)])
def test_sites_around_and_restricted(lattice):
    sites = LatticeStars.of(lattice, (1,)).place(lattice)
    near = np.zeros((len(lattice),) * 2, dtype=bool)
    for members, neighbours in zip(sites.members, sites.neighbours, strict=True):
        near[members, neighbours] = True
    chosen = torch.tensor([5, 2])
    for bonds in range(4):
        found = sites.around(chosen, bonds)
        reached = np.linalg.matrix_power(near + np.eye(len(lattice), dtype=int), bonds)[chosen].any(0)
        assert torch.equal(found[:2], chosen)
        assert sorted(found.tolist()) == np.flatnonzero(reached).tolist()
    found = sites.around(chosen, 2)
    local = sites.restricted(found)
    assert len(local) == len(found)
    sublattice, row = sites.rows
    for a, (members, neighbours) in enumerate(zip(local.members, local.neighbours, strict=True)):
        assert bool((sublattice[found[members]] == a).all())
        expected = sites.neighbours[a][:, row[found[members]]]
        inside = torch.isin(expected, found)
        assert torch.equal(found[neighbours][inside], expected[inside])
        assert torch.equal(neighbours[~inside], members.expand_as(neighbours)[~inside])


# --- gathers, folds and products: adjoints and derivatives to second order


def numbers(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def differentiable(function, *inputs):
    with torch.random.fork_rng(devices=[]):
        return all(check(function, inputs, fast_mode=True) for check in (gradcheck, gradgradcheck))


@pytest.mark.parametrize("index", [[[0, 1, 2, 3], [1, 2, 3, 0]], [[0, 0, 2], [0, 3, 2]], [[3]]])
def test_a_table_and_its_adjoint(index):
    table = Table(torch.tensor(index), 4)
    x, y = numbers(2, 4), numbers(2, *table.index.shape, seed=1)
    assert torch.equal(table.gather(x), x[:, table.index])
    assert torch.allclose((table.gather(x) * y).sum(), (x * table.sum(y)).sum())
    assert differentiable(table.gather, x)
    assert differentiable(table.sum, y)


def test_sums_over_neighbours():
    ring = torch.tensor([[1, 2, 3, 0], [3, 0, 1, 2]])
    line = torch.tensor([[1, 2, 3, 2], [4, 0, 1, 4]])  # ends have one neighbour
    for neighbours in (ring, line):
        x = numbers(4, 3)
        padded = torch.cat([x, torch.zeros(1, 3)])
        assert torch.allclose(neighbour_sum(x, neighbours), padded[neighbours].sum(0))
        assert differentiable(lambda values, table=neighbours: neighbour_sum(values, table), x)


@pytest.mark.parametrize(
    ("shape", "widths"), [((5,), (2,)), ((4, 3), (1, 1)), ((4, 3), (1, 0)), ((3, 4, 3), (1, 1, 0))]
)
def test_periodic_images(shape, widths):
    x = numbers(2, *shape)
    pads = [(0, 0), *((w, w) for w in widths)]
    assert np.array_equal(wrapped(x, widths).detach(), np.pad(x.detach(), pads, mode="wrap"))
    assert differentiable(lambda values: wrapped(values, widths), x)
    kernel = numbers(2, 2, *(2 * w + 1 for w in widths), seed=1)
    assert differentiable(lambda values, weights: _Periodic.apply(values, weights, widths), x[None], kernel)


@pytest.mark.parametrize("degrees", [(1, 1, 0), (1, 1, 1), (2, 1, 1), (0, 1, 1), (2, 1, 2)])
def test_couplings(degrees):
    l1, l2, l3 = degrees
    values, spin, plain = numbers(2 * l1 + 1, 2, 3), numbers(2 * l2 + 1, 3, seed=1), numbers(2 * l3 + 1, 2, 3, seed=2)
    table = terms(*degrees)
    expected = torch.einsum("acn,bn,abo->ocn", values, spin, coupling(*degrees))
    assert torch.allclose(coupled([values], [spin], [table], l3), expected)

    def twice(first, second, scalar, vector):
        return coupled([first, scalar, second], [vector, None, vector], [table, (), table], l3)

    other = numbers(2 * l1 + 1, 2, 3, seed=3)
    total = expected + plain + torch.einsum("acn,bn,abo->ocn", other, spin, coupling(*degrees))
    assert torch.allclose(twice(values, other, plain, spin), total)
    assert differentiable(twice, values, other, plain, spin)


def test_norm_activation():
    x, y = numbers(3, 2, 4), numbers(3, 2, 4, seed=1)
    norm = x.square().sum(0).add(1e-6).sqrt()
    assert torch.allclose(norm_activation(x, y), x * torch.sigmoid(norm) + y)
    assert differentiable(norm_activation, x, y)
    assert differentiable(norm_activation, x)


def test_tensors_that_no_coupling_makes():
    with pytest.raises(KLMError, match="made by no coupling"):
        ecnn(lattices.square((6, 6)), irreps="2x0e + 2x1o + 2x0o")
