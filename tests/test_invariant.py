"""Network of invariants: exact symmetries, gradients, and the same energies on every lattice of the same stars."""

import numpy as np
import pytest
import torch

from ase_klm import KLMError, SpinCalculator, get_moments, lattices, set_moments, testing, textures
from ase_klm.models.invariant import InvariantNetwork
from ase_klm.models.labels import Labels
from ase_klm.nn.invariants import Invariants
from ase_klm.potentials.network import Network

EXACT = 1e-12  # relative rounding of float64 sums of some hundred terms

# builder, matrix of a rotation or reflection, and a fixed point of it in units of the cell vectors
SYMMETRIES = {
    "square, rotation": (lattices.square, np.array([(0, -1), (1, 0)]), (0, 0)),
    "square, mirror": (lattices.square, np.diag([1, -1]), (0, 0)),
    "triangular, rotation": (lattices.triangular, np.array([(0.5, -(0.75**0.5)), (0.75**0.5, 0.5)]), (0, 0)),
    "honeycomb, swapping sublattices": (lattices.honeycomb, -np.eye(2), (1 / 6, 1 / 6)),
    "kagome, cycling sublattices": (
        lattices.kagome,
        np.array([(0.5, -(0.75**0.5)), (0.75**0.5, 0.5)]),
        (0.5, 0.5),
    ),
}


def network(atoms, shells=(1,), seed=0, dtype=torch.float64, **hyperparameters):
    chosen = {"radius": 2, "hidden": (8, 8), **hyperparameters}
    return InvariantNetwork.for_atoms(atoms, shells, seed, **chosen).to(dtype)


def random_lattice(builder, size, seed=1):
    atoms = builder((size, size))
    textures.random(atoms, seed=seed)
    return atoms


def moments_of(atoms, dtype=torch.float64):
    return torch.as_tensor(get_moments(atoms), dtype=dtype)


def energies(model, atoms):
    with torch.no_grad():
        return model.site_energies(moments_of(atoms, model.energy_shift.dtype), model.place(atoms)).double().numpy()


def images(atoms, matrix, fixed, size):
    """Site onto which each site is carried by a symmetry of the torus."""
    cell = atoms.cell.array[:2, :2] / size
    centre = np.array(fixed) @ cell
    moved = (atoms.positions[:, :2] - centre) @ matrix.T + centre
    difference = (moved[:, None] - atoms.positions[:, :2]) @ np.linalg.inv(size * cell)
    distance = np.abs(difference - difference.round()).max(-1)
    assert distance.min(1).max() < 1e-8
    return distance.argmin(1)


@pytest.mark.parametrize("name", SYMMETRIES)
def test_point_group(name):
    builder, matrix, fixed = SYMMETRIES[name]
    atoms = random_lattice(builder, 6)
    model = network(atoms)
    before = energies(model, atoms)
    target = images(atoms, matrix, fixed, 6)
    moments = np.empty((len(atoms), 3))
    moments[target] = get_moments(atoms)
    set_moments(atoms, moments)
    assert np.ptp(before) > 1e-3
    np.testing.assert_allclose(energies(model, atoms)[target], before, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, EXACT), (torch.float32, 1e-6)])
@pytest.mark.parametrize("builder", [lattices.square, lattices.kagome])
def test_rotation_and_reversal_of_spins(builder, dtype, tolerance, rng):
    atoms = random_lattice(builder, 4)
    model = network(atoms, dtype=dtype)
    before = energies(model, atoms)
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    for matrix in (q * np.sign(np.linalg.det(q)), -np.eye(3)):
        turned = atoms.copy()
        set_moments(turned, get_moments(atoms) @ matrix.T)
        np.testing.assert_allclose(energies(model, turned), before, atol=tolerance)


def test_translation():
    atoms = random_lattice(lattices.honeycomb, 5)
    model = network(atoms)
    before = energies(model, atoms)
    set_moments(atoms, np.roll(get_moments(atoms).reshape(5, 5, 2, 3), (2, 1), (0, 1)).reshape(-1, 3))
    after = np.roll(before.reshape(5, 5, 2), (2, 1), (0, 1)).ravel()
    np.testing.assert_allclose(energies(model, atoms), after, atol=EXACT)


def test_batch_is_as_single():
    several = [random_lattice(lattices.kagome, 3, seed) for seed in range(4)]
    model = network(several[0])
    stacked = torch.stack([moments_of(atoms) for atoms in several]).view(2, 2, -1, 3)
    with torch.no_grad():
        found = model.site_energies(stacked, model.place(several[0])).view(4, -1).numpy()
    np.testing.assert_allclose(found, [energies(model, atoms) for atoms in several], atol=EXACT)


@pytest.mark.parametrize("shells", [(1,), (1, 2)])
@pytest.mark.parametrize("builder", [lattices.square, lattices.honeycomb])
def test_small_lattice_is_as_tiled(builder, shells):
    atoms = random_lattice(builder, 3)
    model = network(atoms, shells)
    tiled = atoms.repeat((2, 2, 1))
    np.testing.assert_allclose(energies(model, tiled), np.tile(energies(model, atoms), 4), atol=EXACT)


@pytest.mark.parametrize("builder", [lattices.square, lattices.triangular, lattices.honeycomb])
def test_forces_are_the_gradient(builder):
    atoms = random_lattice(builder, 3)
    atoms.calc = SpinCalculator(Network(network(atoms)))
    testing.check(atoms, sites=[0, 4])
    assert testing.hessian_error(atoms) < testing.SMOOTH_TOLERANCE
    assert testing.spin_rotation_error(atoms) < testing.SYMMETRY_TOLERANCE
    assert testing.time_reversal_error(atoms) < testing.SYMMETRY_TOLERANCE


def test_any_length_of_moments():
    atoms = random_lattice(lattices.square, 4)
    model = network(atoms)
    moments = (moments_of(atoms) * torch.linspace(0, 2, len(atoms))[:, None]).requires_grad_()
    placed = model.place(atoms)
    assert torch.autograd.gradcheck(lambda m: model(placed, m), moments)


def test_amplitudes_of_representations_are_among_the_invariants(rng):
    """Four bonds around a site of the square lattice: A1, B1 and E, by hand."""
    places = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)], dtype=float)
    invariants = Invariants(places, ["Fe"] * 5).double()
    spins = torch.as_tensor(rng.standard_normal((3, 5, 20)))
    b = (spins[:, :1] * spins[:, 1:]).sum(0).numpy()
    amplitudes = np.stack([b.sum(0) ** 2, (b[0] - b[1] + b[2] - b[3]) ** 2, (b[0] - b[2]) ** 2 + (b[1] - b[3]) ** 2], 1)
    quadratic = invariants(spins).numpy()[1:4].T  # after the one linear sum
    _, residue, rank, _ = np.linalg.lstsq(quadratic, amplitudes, rcond=None)
    assert rank == 3
    assert residue.max() < 1e-20
    np.testing.assert_allclose(invariants(spins)[0], b.sum(0), atol=EXACT)


def test_chirality_is_seen(rng):
    """Unlike bonds alone, products of two chiralities tell a pair of triangles of equal hand from one of opposite."""
    atoms = random_lattice(lattices.square, 4)
    invariants = network(atoms).invariants[0]
    spins = torch.as_tensor(rng.standard_normal((3, 13, 1)))
    even = invariants(spins)[..., -len(invariants.chirality_sum) :, :]
    flat = invariants(spins * torch.tensor([1.0, 1.0, 0.0])[:, None, None])[..., -len(invariants.chirality_sum) :, :]
    assert even.abs().min() > 0
    assert not flat.any()


def test_calibration_normalises():
    several = [random_lattice(lattices.square, 6, seed) for seed in range(3)]
    model = network(several[0], radius=1)
    moments = torch.stack([moments_of(atoms) for atoms in several])
    placed = model.place(several[0])
    known = {"magnetic_forces": 2 * moments, "energies": torch.tensor([36.0, 72.0, 108.0])}
    model.calibrate([Labels.of(placed, moments, **known)])
    (values,) = model._values(moments, placed)
    normalised = model.invariants[0].normalised(values).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normalised.mean(1), torch.zeros(len(normalised)).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(normalised.square().mean(1), torch.ones(len(normalised)).double())
    assert float(model.energy_shift) == pytest.approx(2.0)


def test_rebuilt_from_hyperparameters():
    atoms = random_lattice(lattices.kagome, 3)
    model = network(atoms)
    moments = moments_of(atoms)[None]
    model.calibrate([Labels.of(model.place(atoms), moments, magnetic_forces=moments, energies=torch.ones(1))])
    with torch.random.fork_rng():
        other = InvariantNetwork(model.lattice, **model.hyperparameters).double()
    other.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(energies(other, atoms), energies(model, atoms))
    assert model.reach == 2


@pytest.mark.parametrize("wrong", [{"radius": 0}, {"hidden": (8, 0)}])
def test_bad_hyperparameters(wrong):
    with pytest.raises(KLMError, match="no network of invariants"):
        network(lattices.square((3, 3)), **wrong)
