"""Local Chebyshev moments against the dense Hamiltonian, and the network made of them: symmetries, thermodynamics."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from ase_klm import KLMError, KLMWarning, SpinCalculator, get_moments, lattices, set_moments, testing, textures
from ase_klm.electrons.hamiltonian import TightBinding
from ase_klm.graphs import neighbour_shells
from ase_klm.models.base import FARTHEST
from ase_klm.models.chebyshev import ChebyshevNetwork
from ase_klm.models.hamiltonian import checked_hamiltonian
from ase_klm.models.labels import Labels
from ase_klm.nn.clusters import Cluster
from ase_klm.nn.lattice import LatticeStars
from ase_klm.nn.local_moments import LocalMoments
from ase_klm.nn.symmetry import site_permutations
from ase_klm.potentials.network import Network
from ase_klm.training.derivatives import derivatives
from ase_klm.training.lattices import prepared

SQUARE = {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48}
FRUSTRATED = {"hopping": {1: 1.0, 2: 0.3}, "J": 2.0, "mu": -1.5}


def randomised(atoms, **moments):
    textures.random(atoms, **({"seed": 1} | moments))
    return atoms


def spins(atoms):
    return torch.tensor(get_moments(atoms), dtype=torch.float64)


def network(atoms, hamiltonian=SQUARE, radius=2, seed=0, **options):
    """A small network in float64 whose outputs, which begin at zero, depend on everything."""
    options = {"channels": 6, "vectors": 3, "hidden": 8, "layers": 2} | options
    model = ChebyshevNetwork.for_atoms(atoms, seed=seed, hamiltonian=hamiltonian, radius=radius, **options).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not bool(parameter.any()) or name.startswith("embedding"):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        model.coupling.fill_(hamiltonian["J"])
        model.chemical_potential.fill_(-1.2)
        model.electrons.fill_(0.9)
    return model.requires_grad_(False)


def energies_and_fields(model, moments, placed, kept=None):
    found = derivatives(model, replace(Labels.of(placed, moments), prepared=kept))
    return found.energy_densities * moments.shape[-2], found.magnetic_forces.view(moments.shape)


def energy_and_field(model, atoms, placed=None):
    energies, fields = energies_and_fields(model, spins(atoms)[None], placed or model.place(atoms))
    return float(energies[0]), fields[0]


# --- moments


def local_moments(atoms, hopping, radius, J, scale):
    stars = LatticeStars.of(atoms, hopping)
    sites = stars.place(atoms)
    for a, members in enumerate(sites.members):
        cluster = Cluster.around(stars, a, hopping, radius)
        local = LocalMoments(cluster, cluster.table(sites, a), len(atoms), J, scale, torch.float64)
        yield members, local


def dense_moments(atoms, hopping, J, scale, number):
    """s_n and w_n of all sites, n = 1 ... number, shapes (number, N) and (number, 3, N), from T_n(H/a)."""
    bonds = neighbour_shells(atoms, hopping)
    i, j, cells = (torch.as_tensor(part) for part in (bonds.i, bonds.j, bonds.cells))
    lattice = TightBinding(len(atoms), i, j, cells, torch.zeros(1, 3, dtype=torch.float64), torch.complex128)
    amplitudes = torch.tensor([hopping[shell] for shell in bonds.shells.tolist()], dtype=torch.float64)
    H = lattice.hamiltonian(lattice.hopping_matrix(amplitudes), spins(atoms), J)[0] / scale
    assert torch.linalg.eigvalsh(H).abs().max() < 1
    older, old = torch.eye(len(H), dtype=H.dtype), H
    s, w = [], []
    for _ in range(number):
        blocks = torch.diagonal(old.view(len(atoms), 2, len(atoms), 2), dim1=0, dim2=2)  # (s, s', site)
        s.append((blocks[0, 0] + blocks[1, 1]).real / 2)
        w.append(torch.stack([blocks[1, 0].real, blocks[1, 0].imag, (blocks[0, 0] - blocks[1, 1]).real / 2]))
        older, old = old, 2 * H @ old - older
    return torch.stack(s), torch.stack(w)


CASES = {
    "square": (lattices.square((12, 12)), {1: 1.0}, 3, True),
    "chain": (lattices.chain(14), {1: 1.0, 3: 0.4}, 2, True),
    "square with diagonals": (lattices.square((10, 10)), {1: 1.0, 2: -0.5}, 2, False),
    "triangular": (lattices.triangular((10, 10)), {1: 1.0, 2: 0.3}, 2, False),
    "honeycomb": (lattices.honeycomb((7, 7)), {1: 1.0}, 3, True),
    "honeycomb, two shells": (lattices.honeycomb((7, 7)), {1: 1.0, 2: 0.2}, 2, False),
    "kagome": (lattices.kagome((6, 6)), {1: 1.0, 2: 0.4}, 2, False),
    "cubic": (lattices.simple_cubic((6, 6, 6)), {1: 1.0}, 2, True),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("J", [3.0, -1.0])
def test_moments_are_those_of_the_dense_hamiltonian(name, J):
    atoms, hopping, radius, bipartite = CASES[name]
    atoms = randomised(atoms.copy())
    s, w = dense_moments(atoms, hopping, J, scale=12.0, number=2 * radius)
    if bipartite:
        assert s[0::2].abs().max() < 1e-14
        assert w[1::2].abs().max() < 1e-14
        s, w = s[1::2], w[0::2]
    for members, local in local_moments(atoms, hopping, radius, J, 12.0):
        assert local.bipartite == bipartite
        found_s, found_w = local(spins(atoms).mT)
        assert torch.allclose(found_s, s[:, members], rtol=0, atol=1e-13)
        assert torch.allclose(found_w, w[..., members], rtol=0, atol=1e-13)
        rows = local.rows(spins(atoms).mT)
        assert torch.allclose(rows, torch.cat([found_s, found_w.flatten(0, 1)]).mT, rtol=0, atol=1e-15)


@pytest.mark.parametrize("lattice", [lattices.square((6, 6)), lattices.triangular((5, 5))])
def test_derivatives_of_the_moments(lattice):
    ((_, local),) = local_moments(lattice, {1: 1.0}, 2, 2.0, 8.0)
    m = spins(randomised(lattice.copy())).mT.clone().requires_grad_()
    with torch.random.fork_rng(devices=[]):
        assert torch.autograd.gradcheck(lambda x: local.rows(x)[:3], m, fast_mode=True)
        assert torch.autograd.gradgradcheck(lambda x: local.rows(x)[:3], m, fast_mode=True)
    rows, jacobian = local.rows_and_jacobian(m)
    assert torch.equal(rows, local.rows(m.detach()))
    weights = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(local.rows(m), m, weights)
    by_spin = torch.einsum("nk,nkx->xn", weights, jacobian).unflatten(0, (3, -1))
    assert torch.allclose(local.table.sum(by_spin), gradient, atol=1e-13)


def test_moments_in_blocks_and_with_leading_axes(monkeypatch):
    atoms = randomised(lattices.square((8, 8)))
    ((_, local),) = local_moments(atoms, {1: 1.0}, 2, 2.0, 8.0)
    m = spins(atoms).mT.clone().requires_grad_()
    rows = local.rows(m)
    (gradient,) = torch.autograd.grad(rows.square().sum(), m)
    monkeypatch.setattr("ase_klm.nn.local_moments.CENTRES", 10)
    again = local.rows(m)
    assert torch.allclose(again, rows, atol=1e-14)
    assert torch.allclose(torch.autograd.grad(again.square().sum(), m)[0], gradient, atol=1e-13)
    s, w = local(m)
    several_s, several_w = local(torch.stack([m, -m], 1))
    assert torch.allclose(several_s, torch.stack([s, s], 1), atol=1e-15)
    assert torch.allclose(several_w, torch.stack([w, -w], 2), atol=1e-15)


# --- the network

LATTICES = {
    "square": (lattices.square((4, 4)), SQUARE),
    "triangular": (lattices.triangular((4, 4)), FRUSTRATED),
    "honeycomb": (lattices.honeycomb((3, 3)), SQUARE | {"J": -2.0}),
    "kagome": (lattices.kagome((3, 3)), FRUSTRATED),
    "chain": (lattices.chain(8), SQUARE),
}


@pytest.mark.parametrize("name", LATTICES)
def test_gradients_and_symmetries(name):
    atoms, hamiltonian = LATTICES[name]
    atoms = randomised(atoms.copy(), seed=2)
    model = network(atoms, hamiltonian)
    atoms.calc = SpinCalculator(Network(model))
    testing.check(atoms, sites=[0, 1, 5])
    assert testing.hessian_error(atoms) < 1e-6
    assert testing.time_reversal_error(atoms) < 1e-12
    assert testing.spin_rotation_error(atoms) < 1e-12
    placed = model.place(atoms)
    energy, field = energy_and_field(model, atoms, placed)
    assert field.abs().max() > 1e-3
    for permutation in site_permutations(atoms):
        moved = atoms.copy()
        set_moments(moved, get_moments(atoms)[permutation])
        moved_energy, moved_field = energy_and_field(model, moved, placed)
        assert moved_energy == pytest.approx(energy, abs=1e-11)
        assert torch.allclose(moved_field, field[permutation], atol=1e-11)


def test_translations():
    atoms = randomised(lattices.square((5, 6)))
    model = network(atoms)
    _, field = energy_and_field(model, atoms)
    shifted = atoms.copy()
    set_moments(shifted, np.roll(get_moments(atoms).reshape(5, 6, 3), (1, 2), (0, 1)).reshape(-1, 3))
    _, moved = energy_and_field(model, shifted)
    assert torch.allclose(moved.view(5, 6, 3), field.view(5, 6, 3).roll((1, 2), (0, 1)), atol=1e-13)


@pytest.mark.parametrize("hamiltonian", [SQUARE | {"filling": 0.4}, {"hopping": {1: 1.0}, "J": 7.0, "mu": -3.0}])
def test_repeated_structure_has_the_same_energy_density(hamiltonian):
    atoms = randomised(lattices.square((5, 4)))
    model = network(atoms, hamiltonian)
    energy, field = energy_and_field(model, atoms)
    large, large_field = energy_and_field(model, atoms.repeat((2, 3, 1)))
    assert large / 6 == pytest.approx(energy, rel=1e-12)
    assert torch.allclose(large_field.view(6, -1, 3), field.expand(6, -1, -1), atol=1e-12)


def test_a_mesh_counts_the_electrons_of_its_supercell():
    atoms = randomised(lattices.square((3, 3)))
    model = network(atoms, SQUARE | {"filling": 0.47})  # 8.46 electrons
    supercell = atoms.repeat((5, 5, 1))
    whole = model.energies(model.place(supercell), spins(supercell))
    meshed = model.energies(model.place(atoms, {"kpts": [5, 5, 1]}), spins(atoms))
    bare = model.energies(model.place(atoms), spins(atoms))
    assert float(25 * meshed) == pytest.approx(float(whole), rel=1e-12)
    assert abs(float(25 * bare - whole)) > 1e-3


def test_batches_are_what_they_are_alone():
    atoms = lattices.kagome((3, 3))
    model = network(atoms, FRUSTRATED)
    placed = model.place(atoms)
    several = torch.stack([spins(randomised(atoms, seed=seed)) for seed in range(4)])
    together, fields = energies_and_fields(model, several, placed)
    for moments, energy, field in zip(several, together, fields, strict=True):
        (alone,), (own,) = energies_and_fields(model, moments[None], placed)
        assert float(alone) == pytest.approx(float(energy), rel=1e-13)
        assert torch.allclose(own, field, atol=1e-13)
    grid = model.local_terms(several.view(2, 2, *several.shape[1:]), placed)
    assert torch.equal(grid.flatten(1, 2), model.local_terms(several, placed))


@pytest.mark.parametrize("name", ["square", "kagome"])
def test_prepared_configurations_give_the_same(name):
    atoms, hamiltonian = LATTICES[name]
    model = network(atoms, hamiltonian)
    placed = model.place(atoms)
    moments = torch.stack([spins(randomised(atoms.copy(), seed=seed)) for seed in range(3)])
    kept = prepared(model, Labels.of(placed, moments))
    expected = energies_and_fields(model, moments, placed)
    for found in (
        energies_and_fields(model, moments, placed, kept),
        [torch.cat(parts) for parts in zip(*_one_by_one(model, moments, placed, kept), strict=True)],
    ):
        assert torch.allclose(found[0], expected[0], rtol=1e-13)
        assert torch.allclose(found[1], expected[1], atol=1e-12)


def _one_by_one(model, moments, placed, kept):
    return [energies_and_fields(model, moments[[k]], placed, [kept[k]]) for k in range(len(moments))]


def test_fixed_filling_and_fixed_mu_are_legendre_transforms():
    atoms = randomised(lattices.square((6, 6)))
    model = network(atoms)
    moments, at_filling = spins(atoms), model.place(atoms)
    _, n, chi, _ = model.local_terms(moments, at_filling).double().sum(-1)
    mu = model.chemical_potential + (at_filling.electrons - n) / chi  # where N(μ) is the number of electrons
    at_mu = model.place(atoms, {"mu": float(mu)})
    assert at_mu.electrons is None
    energy, field = energy_and_field(model, atoms, at_filling)
    grand, field_at_mu = energy_and_field(model, atoms, at_mu)
    assert energy == pytest.approx(grand + float(mu) * at_filling.electrons, rel=1e-12)
    assert torch.allclose(field, field_at_mu, atol=1e-11)
    potential = mu.clone().requires_grad_()
    by_hand = model.grand_potentials(moments, potential, at_filling)
    (slope,) = torch.autograd.grad(by_hand, potential)
    assert by_hand.item() == pytest.approx(grand, rel=1e-12)
    assert float(-slope) == pytest.approx(at_filling.electrons, rel=1e-12)
    # dE/dN = μ
    more = model.place(atoms, {"filling": (at_filling.electrons + 1) / 72})
    less = model.place(atoms, {"filling": (at_filling.electrons - 1) / 72})
    change = energy_and_field(model, atoms, more)[0] - energy_and_field(model, atoms, less)[0]
    assert change / 2 == pytest.approx(float(mu), rel=1e-9)


def test_other_values_of_the_parameters():
    atoms = randomised(lattices.square((4, 4)))
    model = network(atoms)
    moments = spins(atoms)

    def energy(**values):
        return float(model.energies(model.place(atoms, values), moments))

    plain = energy()
    assert energy(J=7.0, filling=0.48, mu=None, temperature=0.1, hopping={"1": 1.0}) == plain
    for changed in ({"J": 6.0}, {"filling": 0.4}, {"mu": -3.0}):
        assert abs(energy(**changed) - plain) > 1e-4
    for wrong in (
        {"hopping": {1: 0.9}},
        {"hopping": {1: 1.0, 2: 0.1}},
        {"filling": 0.4, "mu": -3.0},
        {"filling": 1.2},
        {"filling": -0.1},
        {"filling": "half"},
        {"mu": np.nan},
        {"J": None},
        {"J": "7"},
        {"filling": None},
    ):
        with pytest.raises(KLMError):
            energy(**wrong)


def test_calibration():
    atoms = lattices.square((6, 6))
    model = network(atoms)
    placed = model.place(atoms)
    moments = torch.stack([spins(randomised(atoms, seed=seed)) for seed in range(12)])
    # labels within reach of the linear model: the fields of E = Σ s_2
    m = moments.clone().requires_grad_()
    s2 = torch.stack([model.features(one.mT, placed)[:, 0].sum() for one in m])
    (gradient,) = torch.autograd.grad(s2.sum(), m)
    fresh = ChebyshevNetwork.for_atoms(atoms, hamiltonian=SQUARE, radius=2).double()
    potentials = torch.full((12,), -2.5, dtype=torch.float64)
    known = {"magnetic_forces": -gradient, "energies": s2.detach(), "chemical_potentials": potentials}
    fresh.calibrate([Labels.of(placed, moments, **known)])
    assert float(fresh.chemical_potential) == -2.5
    assert float(fresh.electrons) == pytest.approx(round(72 * 0.48) / 36)
    _, fields = energies_and_fields(fresh, moments, fresh.place(atoms, {"mu": -2.5}))
    assert (fields + gradient).square().mean().sqrt() < 1e-3 * gradient.square().mean().sqrt()


# --- how far spins are from the training set


def calibrated(atoms, count=12):
    """A network that has seen random spins, and these spins."""
    model = network(atoms, radius=3)
    moments = torch.stack([spins(randomised(atoms.copy(), seed=seed)) for seed in range(count)])
    energies = torch.zeros(count, dtype=torch.float64)
    model.calibrate([Labels.of(model.place(atoms), moments, magnetic_forces=moments, energies=energies)])
    return model, moments


def distance(model, moments, placed):
    return model.distance(model.local_terms(moments, placed).double().sum(-1), placed)


@pytest.mark.parametrize("name", ["square", "kagome"])
def test_distance_from_the_training_set(name):
    atoms = LATTICES[name][0].repeat((2, 2, 1))
    model, moments = calibrated(atoms)
    placed = model.place(atoms)
    found = distance(model, moments, placed)
    assert found.shape == (12,)
    assert float(found.square().mean()) == pytest.approx(1.0)
    fresh = torch.stack([spins(randomised(atoms, seed=seed)) for seed in range(50, 62)])
    assert float(distance(model, fresh, placed).max()) < FARTHEST
    textures.uniform(atoms)
    assert float(distance(model, spins(atoms), placed)) > FARTHEST


def test_distance_leaves_energies_and_gradients_alone():
    atoms = randomised(lattices.square((4, 4)))
    model, _ = calibrated(atoms)
    energy, field = energy_and_field(model, atoms)
    assert model.range_mixing.any()
    model.range_mixing.zero_()
    unaware, other = energy_and_field(model, atoms)
    assert unaware == energy
    assert torch.equal(field, other)


def test_a_state_without_a_range_is_compared_with_random_spins():
    atoms = lattices.square((6, 6))
    model, moments = calibrated(atoms)
    state = model.state_dict()
    del state["range_mixing"]
    older = network(atoms, radius=3)
    older.load_state_dict(state)
    placed = model.place(atoms)
    # the same spread, but for what a finite sample leaves open
    assert torch.allclose(distance(older, moments, placed), distance(model, moments, placed), rtol=0.2)
    again = network(atoms, radius=3)
    again.load_state_dict(older.state_dict())
    assert torch.equal(again.range_mixing, older.range_mixing)
    with pytest.raises(RuntimeError, match="vector_mixing"):
        older.load_state_dict({name: value for name, value in state.items() if name != "vector_mixing"})


@pytest.mark.parametrize("largest", [20, 1000])
def test_a_warning_for_each_potential(largest):
    atoms = randomised(lattices.square((12, 12)))
    model, _ = calibrated(atoms)
    bound = Network(model, largest_tile=largest).bind([atoms, atoms])
    textures.uniform(atoms)
    ferromagnet = spins(atoms)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound.evaluate()
    several = torch.stack([bound.moments[0], ferromagnet])
    with pytest.warns(KLMWarning, match="far from those .* trained on") as found:
        bound.evaluate(several)
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound.evaluate(several)  # once is enough
        Network(network(atoms)).bind(atoms).evaluate()  # a network that was never trained has no range


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        3,
        {},
        {"J": 7.0, "filling": 0.48},
        {"hopping": {1: 1.0}, "filling": 0.48},
        {"hopping": {1: 1.0}, "J": 7.0},
        SQUARE | {"mu": -3.0},
        SQUARE | {"filling": 1.5},
        SQUARE | {"filling": "a"},
        SQUARE | {"J": np.inf},
        SQUARE | {"hopping": 1.0},
        SQUARE | {"hopping": {"a": 1.0}},
        SQUARE | {"hopping": {0: 1.0}},
        SQUARE | {"hopping": {1: "x"}},
        SQUARE | {"hopping": {1: np.nan}},
    ],
)
def test_wrong_hamiltonians(wrong):
    with pytest.raises(KLMError):
        checked_hamiltonian(wrong)
    with pytest.raises(KLMError):
        ChebyshevNetwork.for_atoms(lattices.square((4, 4)), hamiltonian=wrong)


def test_hopping_over_shells_that_the_stars_lack():
    stars = LatticeStars.of(lattices.square((6, 6)), (1,))
    with pytest.raises(KLMError, match="no shell 2"):
        ChebyshevNetwork(stars, SQUARE | {"hopping": {1: 1.0, 2: 0.1}})
