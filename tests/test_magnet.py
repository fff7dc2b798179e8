"""MagNet: exact symmetries, gradients, smoothness, batches, files, and what it says of structures it has not seen."""

import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from ase_klm import (
    ECNNCalculator,
    KLMError,
    KLMWarning,
    MagNetCalculator,
    Magnons,
    get_magnetic_forces,
    models,
    set_moments,
    testing,
)
from ase_klm.models.labels import Labels
from ase_klm.models.magnet import MagNet
from ase_klm.models.magnet_published import PublishedMagNet
from ase_klm.nn.atomic_graph import AtomicGraph
from ase_klm.nn.radial import BesselBasis, GaussianBasis
from ase_klm.potentials import Atomistic

SMALL = {"cutoff": 3.2, "channels": 6, "sent": 3, "radial": 4}
KINDS = {
    "together": lambda: MagNet.seeded(1, ("Ni", "O"), **SMALL),
    "apart": lambda: MagNet.seeded(1, ("Ni", "O"), spin_orbit=False, **SMALL),
    "with a lattice": lambda: MagNet.seeded(1, ("Ni", "O"), lattice_channels=3, **SMALL),
    "published": lambda: PublishedMagNet.seeded(
        1, ("Ni", "O"), cutoff=3.2, atomic_blocks=1, magnetic_blocks=1, scalars=4, vectors=3, tensors=2, radial=5
    ),
}


@pytest.fixture(params=list(KINDS))
def model(request):
    return KINDS[request.param]().double()


@pytest.fixture
def ours():
    return KINDS["apart"]().double()


def structure(rng, n=5, length=4.2):
    """Atoms in a skewed cell, oxygen without moments."""
    cell = length * np.eye(3) + rng.normal(scale=0.3, size=(3, 3))
    points = np.array([(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 0.5), (0.5, 0, 0)])[:n]
    atoms = Atoms([28, 28, 8, 28, 8, 8][:n], scaled_positions=points, cell=cell, pbc=True)
    atoms.positions += rng.normal(scale=0.15, size=(n, 3))
    moments = rng.normal(size=(n, 3))
    moments *= rng.uniform(0.6, 1.1, (n, 1)) / np.linalg.norm(moments, axis=1, keepdims=True)
    moments[atoms.numbers == 8] = 0.0
    set_moments(atoms, moments)
    return atoms


def arrays(*structures):
    moments = np.concatenate([atoms.arrays["initial_magmoms"] for atoms in structures])
    positions = np.concatenate([atoms.positions for atoms in structures])
    cells = np.stack([atoms.cell.array for atoms in structures])
    return tuple(torch.tensor(values) for values in (moments, positions, cells))


def labels(graph, moments, positions, cells, energies, **others):
    sizes, energies = torch.bincount(graph.structure), torch.tensor(energies, dtype=torch.float64)
    return Labels.of(graph, moments, positions=positions, cells=cells, sizes=sizes, energies=energies, **others)


def evaluated(model, graph, moments, positions, cells):
    """Site energies, forces and magnetic forces."""
    x, m = positions.clone().requires_grad_(), moments.clone().requires_grad_()
    energies = model.site_energies(graph, m, x, cells)
    by_x, by_m = torch.autograd.grad(energies.sum(), (x, m))
    return energies.detach(), -by_x, -by_m


def rotation(rng):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return torch.tensor(q * np.sign(np.linalg.det(q)))


def close(a, b, tolerance=1e-10):
    return all((x - y).abs().max() < tolerance for x, y in zip(a, b, strict=True))


def test_rotations_inversion_and_translation(model, rng):
    atoms = structure(rng)
    graph, (m, x, cell) = model.place([atoms]), arrays(atoms)
    energies, forces, magnetic = evaluated(model, graph, m, x, cell)
    assert energies.std() > 1e-3
    assert forces.abs().max() > 1e-3
    assert magnetic.abs().max() > 1e-3
    turn = rotation(rng)
    found = evaluated(model, graph, m @ turn.T, x @ turn.T, cell @ turn.T)
    assert close(found, (energies, forces @ turn.T, magnetic @ turn.T))
    assert close(evaluated(model, graph, m, -x, -cell), (energies, -forces, magnetic))  # moments are axial
    assert close(evaluated(model, graph, m, x + 1.3, cell), (energies, forces, magnetic))
    if not model.symmetry.spin_orbit:
        assert close(evaluated(model, graph, m @ turn.T, x, cell), (energies, forces, magnetic @ turn.T))
        assert close(evaluated(model, graph, m, x @ turn.T, cell @ turn.T), (energies, forces @ turn.T, magnetic))
    else:
        assert not close(evaluated(model, graph, m @ turn.T, x, cell), (energies, forces, magnetic), 1e-6)


def test_time_reversal(model, rng):
    atoms = structure(rng)
    graph, (m, x, cell) = model.place([atoms]), arrays(atoms)
    energies, forces, magnetic = evaluated(model, graph, m, x, cell)
    exact = close(evaluated(model, graph, -m, x, cell), (energies, forces, -magnetic))
    assert exact == model.symmetry.time_reversal


def test_published_network_with_time_reversal(rng):
    atoms = structure(rng)
    model = PublishedMagNet.seeded(1, ("Ni", "O"), cutoff=3.2, scalars=4, vectors=3, tensors=2, time_reversal=True)
    model = model.double()
    graph, (m, x, cell) = model.place([atoms]), arrays(atoms)
    energies, forces, magnetic = evaluated(model, graph, m, x, cell)
    assert close(evaluated(model, graph, -m, x, cell), (energies, forces, -magnetic))


def test_order_of_atoms_does_not_matter(model, rng):
    atoms = structure(rng)
    order = rng.permutation(len(atoms))
    mixed = atoms[order]
    found = evaluated(model, model.place([mixed]), *arrays(mixed))
    assert close(found, [values[order] for values in evaluated(model, model.place([atoms]), *arrays(atoms))])


def test_unlike_structures_in_a_batch_are_what_they_are_alone(model, rng):
    several = [structure(rng, n) for n in (5, 2, 4)]
    several.append(Atoms("Ni", positions=[[0, 0, 0]], cell=[9, 9, 9], magmoms=[[0, 0, 1.0]]))
    together = model.place(several)
    energies, forces, magnetic = evaluated(model, together, *arrays(*several))
    totals = model.energies(together, *arrays(*several)).detach()
    joined = AtomicGraph.side_by_side([model.place([atoms]) for atoms in several])
    assert close(evaluated(model, joined, *arrays(*several)), (energies, forces, magnetic), 1e-12)
    for number, atoms in enumerate(several):
        own = together.structure == number
        alone = evaluated(model, model.place([atoms]), *arrays(atoms))
        assert close(alone, (energies[own], forces[own], magnetic[own]))
        assert abs(float(totals[number] - alone[0].sum())) < 1e-10


def test_supercell_is_the_cell_repeated(model, rng):
    atoms = structure(rng, 4)
    energies, forces, magnetic = evaluated(model, model.place([atoms]), *arrays(atoms))
    large = atoms.repeat((2, 1, 2))
    found = evaluated(model, model.place([large]), *arrays(large))
    assert close(found, (energies.repeat(4), forces.repeat(4, 1), magnetic.repeat(4, 1)))


def test_gradients_are_those_of_the_energy(model, rng):
    atoms = structure(rng, 4)
    atoms.calc = MagNetCalculator(model, dtype="float64")
    errors = testing.check(atoms, sites=[1, 2], tolerance=1e-7)
    assert errors.keys() == {"magnetic_forces", "forces", "stress"}
    assert testing.hessian_error(atoms) < 1e-6
    assert not get_magnetic_forces(atoms)[atoms.numbers == 8].any()


def test_second_derivatives_are_symmetric(model, rng):
    atoms = structure(rng, 3)
    graph, (m, x, cell) = model.place([atoms]), arrays(atoms)

    def energy(both):
        return model.energies(graph, both[1], both[0], cell).sum()

    hessian = torch.autograd.functional.hessian(energy, torch.stack([x, m])).reshape(18, 18)
    assert (hessian - hessian.T).abs().max() < 1e-10
    assert hessian.abs().max() > 1e-3


@pytest.mark.parametrize("basis", [BesselBasis(3.2, 5), GaussianBasis(3.2, 5)])
def test_functions_of_distance_vanish_at_the_cutoff_with_two_derivatives(basis):
    r = torch.tensor([3.2 - 1e-6, 3.2 + 1e-6], dtype=torch.float64, requires_grad=True)
    values = basis.double()(r)
    for allowed in (1e-14, 1e-9, 1e-3):
        assert values.abs().max() < allowed
        (values,) = torch.autograd.grad(values.sum(), r, create_graph=True)


def test_smooth_where_an_atom_crosses_the_cutoff(model):
    atoms = Atoms(
        "NiONi", positions=[[0, 0, 0], [1.9, 0.3, 0], [0, 0, 0]], magmoms=[[0, 0.3, 1], [0, 0, 0], [1, 0, 0.5]]
    )
    found = []
    for step in np.array([-2, -1, 1, 2]) * 1e-4:
        atoms.positions[2] = [0, 0, model.cutoff + step]
        found.append(evaluated(model, model.place([atoms]), *arrays(atoms)))
    for a, b in pairwise(found):
        assert close(a, b, 1e-5)
    assert len(model.place([atoms]).i) == 2  # the last is out of sight


def test_smooth_through_a_moment_of_zero(model, rng):
    atoms = structure(rng)
    graph, (m, x, cell) = model.place([atoms]), arrays(atoms)

    def at(length):
        moments = m.clone()
        moments[2] = length * torch.tensor([0.3, -0.2, 0.9])  # an oxygen
        return evaluated(model, graph, moments, x, cell)

    energies, _, magnetic = at(0.0)
    assert magnetic.isfinite().all()
    left, right = at(-1e-4), at(1e-4)
    second = (left[0].sum() + right[0].sum() - 2 * energies.sum()) / 1e-8
    further = (at(-2e-4)[0].sum() + at(2e-4)[0].sum() - 2 * energies.sum()) / 4e-8
    assert abs(float(second - further)) < 1e-3 * (1 + abs(float(second)))
    assert ((left[2] + right[2]) / 2 - magnetic).abs().max() < 1e-6
    apart = x.clone()
    apart[2] += 0.05
    assert (evaluated(model, graph, m, apart, cell)[0].sum() - energies.sum()).abs() > 1e-5  # it is there as an atom


def test_configurations():
    paper = PublishedMagNet.seeded(0, ("Cr", "I"))
    assert (paper.cutoff, paper.reach, len(paper.blocks), len(paper.magnetic_blocks)) == (6.0, 6, 4, 2)
    a, b = (MagNet.seeded(3, ("Cr", "I"), **SMALL) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert MagNet.seeded(0, **a.hyperparameters).n_weights == a.n_weights
    with torch.random.fork_rng():
        assert MagNet.paper(("Cr", "I")).hyperparameters == paper.hyperparameters


def test_replicas(ours, rng):
    several = [structure(np.random.default_rng(3), 4) for _ in range(3)]
    for atoms in several:
        atoms.rattle(0.1, rng=rng)
        set_moments(atoms, rng.normal(size=(4, 3)) * (atoms.numbers == 28)[:, None])
    potential = Atomistic(ours)
    together = potential.bind(several).evaluate()
    for number, atoms in enumerate(several):
        alone = potential.bind(atoms).evaluate()
        for name in ("energy", "forces", "stress", "magnetic_forces"):
            assert (getattr(alone, name) - getattr(together, name)[number]).abs().max() < 1e-10, name


def test_neighbours_are_found_again_when_atoms_move(ours, rng):
    atoms = structure(rng, 4)
    atoms.calc = MagNetCalculator(ours, dtype="float64")
    atoms.get_potential_energy()
    for _ in range(4):
        atoms.positions += rng.normal(scale=0.12, size=(4, 3))
        fresh = Atomistic(ours).bind(atoms).evaluate()
        assert abs(atoms.get_potential_energy() - float(fresh.energy)) < 1e-10


def test_calibration(ours, rng):
    several = [structure(rng, n) for n in (5, 2, 4, 3)]
    m, x, cells = arrays(*several)
    graph = ours.place(several)
    counts = np.array([[np.sum(atoms.numbers == z) for z in (28, 8)] for atoms in several])
    forces = torch.tensor(rng.normal(size=x.shape))
    forces[:5] = torch.nan
    ours.calibrate([labels(graph, 2 * m, x, cells, counts @ [-5.0, -3.0], forces=forces)])
    assert np.allclose(ours.energy_shifts, [-5, -3])
    assert float(ours.energy_scale) == pytest.approx(float(forces[5:].square().mean().sqrt()))
    nickel = graph.species == 0
    assert float(ours.moment_scales[0]) == pytest.approx(2 * float(m[nickel].square().sum(-1).mean().sqrt()))
    assert ours.longest_moments.tolist() == [pytest.approx(2 * float(m.norm(dim=-1).max())), 0]
    shortest = float(graph.vectors(x, cells).norm(dim=-1).min())
    assert float(ours.nearest.min()) == pytest.approx(shortest)


def test_moments_are_measured_species_by_species():
    atoms = Atoms("FeNiFe", positions=[(0, 0, 0), (2, 0, 0), (0, 2.2, 0)], cell=[9, 9, 9], pbc=True)
    set_moments(atoms, [(0, 0, 3.0), (0.5, 0, 0), (0, 4.0, 0)])
    m, x, cells = arrays(atoms)
    model = models.MagNet.seeded(0, species=("Fe", "Ni"), cutoff=3.2).double()
    model.calibrate([labels(model.place([atoms]), m, x, cells, [-20.0])])
    assert model.moment_scales.tolist() == pytest.approx([12.5**0.5, 0.5])
    assert model.longest_moments.tolist() == pytest.approx([4.0, 0.5])
    assert model.moment_spreads.tolist() == pytest.approx([3.5 / 12.5, 0.05])  # std of 9 and 16 over 12.5; the least


def test_files(model, rng, tmp_path):
    several = [structure(rng, n) for n in (5, 2)]
    m, x, cells = arrays(*several)
    model.calibrate([labels(model.place(several), m, x, cells, [-20.0, -9.0])])
    models.save(tmp_path / "mine.safetensors", model, {"training": "none"})
    card = models.card(tmp_path / "mine.safetensors")
    assert card["species"] == ["Ni", "O"]
    assert card["cutoff"] == 3.2
    assert card["units"]["forces"] == "eV/Å"
    again = models.load(tmp_path / "mine.safetensors")
    assert again.dtype == torch.float64
    assert again.hyperparameters == model.hyperparameters
    graph = model.place(several)
    assert torch.equal(again.energies(graph, m, x, cells), model.energies(graph, m, x, cells))
    several[0].calc = MagNetCalculator(tmp_path / "mine.safetensors", dtype="float64")
    with torch.no_grad():
        energies = model.energies(graph, m, x, cells)
    assert abs(several[0].get_potential_energy() - float(energies[0])) < 1e-10
    with pytest.raises(KLMError, match="not a network of spins"):
        ECNNCalculator(tmp_path / "mine.safetensors")


def test_single_precision_is_close(ours, rng):
    atoms = structure(rng)
    energies = []
    for dtype in ("float32", "float64"):
        atoms.calc = MagNetCalculator(ours, dtype=dtype)
        energies.append(atoms.get_potential_energy())
    assert abs(energies[0] - energies[1]) < 1e-4


def test_unknown_species_short_distances_long_and_missing_moments(ours, rng):
    atoms = structure(rng, 4)
    m, x, cells = arrays(atoms)
    ours.calibrate([labels(ours.place([atoms]), m, x, cells, [-20.0])])
    atoms.calc = MagNetCalculator(ours, dtype="float64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        atoms.get_potential_energy()
    iron = bulk("Fe")
    iron.calc = MagNetCalculator(ours)
    with pytest.raises(KLMError, match="does not know Fe"):
        iron.get_potential_energy()
    set_moments(atoms, 3 * m.numpy())
    with pytest.warns(KLMWarning, match="longer than any in training"):
        atoms.get_potential_energy()
    set_moments(atoms, m.numpy())
    atoms.positions[2] = atoms.positions[3] + [0.4, 0, 0]
    with pytest.warns(KLMWarning, match="closer than any"):
        atoms.get_potential_energy()
    atoms.positions[:] = x
    set_moments(atoms, np.zeros((4, 3)))
    with pytest.warns(KLMWarning, match="no Ni atom has a moment"):
        atoms.get_potential_energy()
    for wrong in ({"species": ("Ni", "Xx")}, {"species": ()}, {"cutoff": -1.0}, {"layers": 0}):
        with pytest.raises(KLMError):
            MagNet(**({"species": ("Ni", "O")} | wrong))
    with pytest.raises(KLMError, match="dtype"):
        MagNetCalculator(ours, dtype="float16")


def test_wrong_compilation_is_left_out(ours, rng, monkeypatch):
    atoms = structure(rng, 4)
    monkeypatch.setattr(torch, "compile", lambda function: lambda *arguments: 2 * function(*arguments))
    with pytest.warns(KLMWarning, match="compiled network is left out"):
        bound = Atomistic(ours, compile=True).bind(atoms)
    assert torch.equal(bound.evaluate().forces, Atomistic(ours).bind(atoms).evaluate().forces)


@pytest.mark.slow  # a minute of torch's compiler
def test_compiled_network_gives_the_same(rng):
    model = MagNet.seeded(2, ("Ni", "O"), layers=1, correlation=2, spin_orbit=False, **SMALL).double()
    atoms = structure(rng, 4)
    plain, compiled = (Atomistic(model, compile=way).bind(atoms) for way in (False, True))
    a, b = plain.evaluate(), compiled.evaluate()
    for name in ("energy", "forces", "stress", "magnetic_forces"):
        assert (getattr(a, name) - getattr(b, name)).abs().max() < 1e-10, name
    vectors = torch.tensor(rng.normal(size=(4, 3)))
    found, expected = (bound.hessian_vector_product(plain.moments, vectors) for bound in (compiled, plain))
    assert (found - expected).abs().max() < 1e-5


def test_magnons_run():
    model = MagNet.seeded(2, ("Fe",), layers=1, spin_orbit=False, **SMALL | {"cutoff": 3.0}).double()
    atoms = bulk("Fe", cubic=False)
    set_moments(atoms, [[0, 0, 2.2]])
    magnons = Magnons(atoms, MagNetCalculator(model, dtype="float64"), supercell=(5, 5, 5))
    magnons.run()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frequencies = magnons.frequencies([[0, 0, 0], [0.5, 0, 0]])
    assert frequencies.shape == (2, 1)
    assert abs(frequencies[0, 0]) < 1e-6  # Goldstone


def test_lattice_network_knows_no_moments(rng):
    """Its part of the energy is that of any moments; the other has its own scale."""
    model = KINDS["with a lattice"]().double()
    atoms = structure(rng)
    graph, (m, x, cells) = model.place([atoms]), arrays(atoms)
    whole = model.terms(graph, m, x, cells)
    model.magnetic_scale.fill_(0.0)
    lattice = model.terms(graph, m, x, cells)
    assert torch.equal(lattice, model.terms(graph, -2 * m[[1, 0, 2, 3, 4]], x, cells))
    model.magnetic_scale.fill_(2.0)
    assert model.terms(graph, m, x, cells).detach() == pytest.approx((2 * whole - lattice).detach(), abs=1e-12)
    forces, fields = torch.full((5, 3), 0.5).double(), torch.full((5, 3), 0.01).double()
    fields[m.norm(dim=-1) == 0] = torch.nan
    model.calibrate([labels(graph, m, x, cells, [0.0], forces=forces, magnetic_forces=fields)])
    expected = 0.01 * float(model.moment_scales[0]) / float(model.energy_scale)
    assert float(model.magnetic_scale) == pytest.approx(expected)
