"""MagNet gives the same numbers as the same network written with e3nn's general layers."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from ase_klm import KLMError, set_moments
from ase_klm.models.labels import Labels
from ase_klm.models.magnet import MagNet
from ase_klm.models.magnet_reference import ReferenceMagNet
from ase_klm.potentials import Atomistic

SMALL = {"cutoff": 3.2, "channels": 6, "sent": 3, "radial": 4}
ENERGIES = torch.tensor([-9.0, -4.0, -5.0])


def structures(rng):
    """Two distorted crystals, oxygen without moments, and an atom that nobody is near."""
    found = []
    for repeat in ((2, 2, 1), (1, 1, 2)):
        atoms = bulk("NiO", "rocksalt", a=4.17).repeat(repeat)
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        set_moments(atoms, rng.normal(scale=0.8, size=(len(atoms), 3)) * (atoms.numbers == 28)[:, None])
        found.append(atoms)
    return [*found, Atoms("Ni", cell=[9, 9, 9], pbc=True, magmoms=[[0.3, 0.2, 1.0]])]


def evaluated(model, several):
    """Terms of the energies without shifts, forces, magnetic forces, and a second derivative of the energy."""
    x, m = (
        torch.tensor(np.concatenate(parts), requires_grad=True)
        for parts in zip(*((atoms.positions, atoms.arrays["initial_magmoms"]) for atoms in several), strict=True)
    )
    cells = torch.tensor(np.stack([atoms.cell.array for atoms in several]))
    terms = model.terms(model.place(several), m, x, cells)
    by_x, by_m = torch.autograd.grad(model.energy_scale * terms.sum(), (x, m), create_graph=True)
    second = torch.autograd.grad((by_m * m.detach().roll(1, 0)).sum(), x)[0]
    return [values.detach() for values in (terms, -by_x, -by_m, second)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"time_reversal": False},
        {"correlation": 1},
        {"layers": 3, "degree": 1, "message_degree": 2},
        {"layers": 1, "degree": 1, "spin_degree": 3, "correlation": 4},
        {"layers": 1, "degree": 3, "spin_degree": 3, "correlation": 2},
    ],
    ids=str,
)
def test_same_numbers_as_e3nn(options, rng):
    several = structures(rng)
    model = MagNet.seeded(1, ("O", "Ni"), **SMALL | options).double()
    positions, moments = (
        torch.tensor(np.concatenate([atoms.arrays[name] for atoms in several]))
        for name in ("positions", "initial_magmoms")
    )
    cells = torch.tensor(np.stack([atoms.cell.array for atoms in several]))
    known = {"energies": ENERGIES, "forces": torch.full_like(moments, 0.3)}
    sizes = torch.tensor([len(atoms) for atoms in several])
    labels = Labels.of(model.place(several), moments, positions=positions, cells=cells, sizes=sizes, **known)
    model.calibrate([labels])
    reference = ReferenceMagNet(model)
    # two ways of summing the same products in float64
    for ours, general in zip(evaluated(model, several), evaluated(reference, several), strict=True):
        assert ours.abs().max() > 1e-3
        assert (ours - general).abs().max() < 1e-11 * ours.abs().max()


def test_same_numbers_as_e3nn_in_single_precision_through_the_potential(rng):
    atoms = structures(rng)[0]
    model = MagNet.seeded(1, ("O", "Ni"), **SMALL)
    reference = ReferenceMagNet(model)
    assert reference.dtype == torch.float32
    found, expected = (Atomistic(network).bind(atoms).evaluate() for network in (model, reference))
    for name in ("energy", "forces", "stress", "magnetic_forces"):
        ours, general = getattr(found, name), getattr(expected, name)
        assert (ours - general).abs().max() < 1e-5 * general.abs().max(), name
    found, expected = (Atomistic(network, dtype="float64").bind(atoms).evaluate() for network in (model, reference))
    # weights of single precision, of which the reference holds products, in double precision
    assert (found.forces - expected.forces).abs().max() < 1e-5 * expected.forces.abs().max()


def test_default_precision_and_random_numbers_stay():
    model = MagNet.seeded(1, ("O", "Ni"), **SMALL)
    state = torch.get_rng_state()
    ReferenceMagNet(model)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), state)


def test_spins_that_rotate_apart_are_refused():
    with pytest.raises(KLMError, match="cannot be written with e3nn"):
        ReferenceMagNet(MagNet.seeded(1, ("O", "Ni"), spin_orbit=False, **SMALL))
