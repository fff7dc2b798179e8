"""The equivariant convolutional network: the same numbers as e3nn's general form, and its symmetries."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from ase_klm import SpinCalculator, get_moments, lattices, testing, textures
from ase_klm.models.ecnn import ECNN
from ase_klm.models.ecnn_reference import ReferenceECNN
from ase_klm.nn.harmonics import SolidHarmonics
from ase_klm.potentials.network import Network


def network(atoms, seed=0, dtype=torch.float64, **hyperparameters):
    return ECNN.for_atoms(atoms, (1, 2), seed, **hyperparameters).to(dtype)


def spins(atoms, dtype=torch.float64):
    return torch.tensor(get_moments(atoms), dtype=dtype)


def energy_and_field(model, moments, placed):
    moments = moments.clone().requires_grad_()
    energies = model(moments, placed) if isinstance(model, ReferenceECNN) else model.site_energies(moments, placed)
    (gradient,) = torch.autograd.grad(energies.sum(), moments)
    return energies.detach(), -gradient


def test_solid_harmonics_are_those_of_e3nn():
    from e3nn import o3

    moments = torch.tensor(np.random.default_rng(1).normal(size=(3, 7)))
    for l, found in enumerate(SolidHarmonics(4)(moments)):
        expected = o3.spherical_harmonics(l, moments.T, normalize=False, normalization="component")
        assert torch.allclose(found.T, expected, atol=1e-11)


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, 13_801),
        ({"irreps": "8x0e + 8x1e + 8x2e", "time_reversal": False}, 17_401),  # as in the paper
        ({"irreps": "8x0e + 4x1e + 8x1o + 4x2e", "tied": True}, None),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_equals_the_form_with_general_tensor_products(options, weights, dtype, tolerance):
    atoms = lattices.square(size=(7, 6))
    textures.random(atoms, seed=1)
    model = network(atoms, dtype=dtype, **options)
    assert weights is None or model.n_weights == weights
    placed = model.place(atoms)
    energies, field = energy_and_field(model, spins(atoms, dtype), placed)
    expected, expected_field = energy_and_field(ReferenceECNN(model), spins(atoms, dtype), placed)
    scale = 1 + float(expected_field.abs().max())
    assert (energies - expected).abs().max() < tolerance * scale
    assert (field - expected_field).abs().max() < tolerance * scale


@pytest.mark.parametrize("lattice", [lattices.chain, lattices.square, lattices.triangular, lattices.kagome])
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_and_symmetries_on_any_lattice(lattice, tied):
    atoms = lattice(size=(4, 4) if lattice is not lattices.chain else 9)
    textures.random(atoms, seed=2)
    atoms.calc = SpinCalculator(Network(network(atoms, irreps="3x0e + 3x1o + 2x2e", blocks=2, tied=tied)))
    testing.check(atoms, sites=[0, 1, 5])
    assert testing.time_reversal_error(atoms) < 1e-12
    assert testing.spin_rotation_error(atoms) < 1e-6


def test_translation_and_tiling():
    small = lattices.square(size=(4, 5))
    textures.random(small, seed=3)
    model = network(small)
    energies, field = energy_and_field(model, spins(small), model.place(small))
    tiled = small.repeat((2, 3, 1))
    tiled_energies, tiled_field = energy_and_field(model, spins(tiled), model.place(tiled))
    assert torch.allclose(tiled_energies.view(6, -1), energies.expand(6, -1), atol=1e-12)
    assert torch.allclose(tiled_field.view(6, -1, 3), field.expand(6, -1, -1), atol=1e-12)
    shifted = spins(small).view(4, 5, 3).roll((1, 2), (0, 1)).reshape(-1, 3)
    moved, _ = energy_and_field(model, shifted, model.place(small))
    assert torch.allclose(moved.view(4, 5), energies.view(4, 5).roll((1, 2), (0, 1)), atol=1e-12)


def test_replicas_are_what_they_are_alone():
    atoms = lattices.honeycomb(size=(3, 3))
    model = network(atoms)
    placed = model.place(atoms)
    several = torch.tensor(np.random.default_rng(1).normal(size=(3, len(atoms), 3)))
    together, field = energy_and_field(model, several, placed)
    for moments, energies, own in zip(several, together, field, strict=True):
        alone, alone_field = energy_and_field(model, moments, placed)
        assert torch.allclose(alone, energies, atol=1e-12)
        assert torch.allclose(alone_field, own, atol=1e-12)


def test_tied_shells_have_the_point_group_of_the_lattice():
    atoms = lattices.square(size=(6, 6))
    textures.random(atoms, seed=4)
    turned = spins(atoms).view(6, 6, 3)
    turned = torch.rot90(turned, 1, (0, 1)).reshape(-1, 3)
    difference = {}
    for tied in (True, False):
        model = network(atoms, tied=tied)
        placed = model.place(atoms)
        difference[tied] = float((model(placed, turned) - model(placed, spins(atoms))).abs())
    assert difference[True] < 1e-10
    assert difference[False] > 1e-3


@pytest.mark.parametrize("lattice", [lattices.chain, lattices.triangular, lattices.kagome, lattices.simple_cubic])
def test_grids_and_tables_of_neighbours_give_the_same(lattice):
    atoms = lattice(size={lattices.chain: 9, lattices.simple_cubic: (6, 5, 5)}.get(lattice, (6, 7)))
    textures.random(atoms, seed=6)
    model = network(atoms, irreps="3x0e + 3x1o + 2x2e", blocks=2)
    sites = model.lattice.place(atoms)
    assert sites.grid is not None
    on_grid = energy_and_field(model, spins(atoms), model.tables(sites))
    by_tables = energy_and_field(model, spins(atoms), model.tables(replace(sites, grid=None)))
    for a, b in zip(on_grid, by_tables, strict=True):
        assert torch.allclose(a, b, atol=1e-12)


def test_site_order_does_not_matter():
    atoms = lattices.kagome(size=(3, 3))
    textures.random(atoms, seed=5)
    model = network(atoms)
    order = np.random.default_rng(1).permutation(len(atoms))
    energies = model.site_energies(spins(atoms), model.place(atoms))
    mixed = atoms[order]
    assert torch.allclose(model.site_energies(spins(mixed), model.place(mixed)), energies[order], atol=1e-12)


COMPILED = """
from ase_klm import lattices, textures
from ase_klm.models.ecnn import ECNN
from ase_klm.potentials.network import Network
import numpy as np

atoms = lattices.chain(6)
textures.random(atoms, seed=1)
model = ECNN.for_atoms(atoms, irreps="1x0e + 1x1o + 1x2e", blocks=1)
compiled, plain = (Network(model, compile=way).bind(atoms).evaluate() for way in (True, False))
assert np.allclose(compiled.energy, plain.energy, atol=1e-5)
assert np.allclose(compiled.magnetic_forces, plain.magnetic_forces, atol=1e-5)
"""


@pytest.mark.slow  # half a minute of torch's compiler
def test_compiles_in_a_fresh_process():
    subprocess.run([sys.executable, "-c", COMPILED], check=True)
