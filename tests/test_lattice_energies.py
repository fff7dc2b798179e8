"""Springs, pair energies and angles, and the lengths of moments: terms that do not turn spins."""

import numpy as np
import pytest
import torch
from ase import Atoms

from ase_klm import KLMError, SpinCalculator, get_magnetic_forces, get_moments, lattices, set_moments, testing, textures
from ase_klm.potentials import Exponential, LatticeEnergy, MomentLengths, Morse, Spring, Tapered
from ase_klm.potentials.base import hessian_by_differences

BOND = Morse(0.4, 2.5, 0.6)
POTENTIALS = {
    "springs": LatticeEnergy({1: 5.0, 2: 2.0}),
    "springs and angles": LatticeEnergy({1: 5.0}, bends={1: 0.7, 2: 0.1}),
    "pairs by shells": LatticeEnergy({1: BOND, 2: Spring(2.0, 2.8)}),
    "near pairs": LatticeEnergy(function=Tapered(BOND, 3.0, 4.0), cutoff=4.0),
    "all": LatticeEnergy({1: 3.0}, {1: 0.5}, Tapered(BOND, 3.0, 4.0), 4.0),
}


def crystal():
    atoms = lattices.body_centred_cubic((2, 2, 2), a=2.87)
    textures.random(atoms, length=2.2, seed=0)
    return atoms


def moved(name, amplitude=0.05):
    atoms = crystal()
    atoms.calc = SpinCalculator(POTENTIALS[name], lattice=atoms)
    atoms.positions += amplitude * np.random.default_rng(1).standard_normal((len(atoms), 3))
    return atoms


@pytest.mark.parametrize("name", POTENTIALS)
def test_gradients(name):
    atoms = moved(name)
    errors = testing.check(atoms, sites=[0, 7], tolerance=1e-8)
    assert set(errors) == {"magnetic_forces", "forces", "stress"}
    assert not get_magnetic_forces(atoms).any()
    assert testing.hessian_error(atoms) == 0
    np.testing.assert_allclose(atoms.get_forces().sum(0), 0, atol=1e-12)


@pytest.mark.parametrize("name", POTENTIALS)
def test_rotations_and_translations(name):
    atoms = moved(name)
    rotation = testing._random_rotation(1)
    turned, reference = atoms.copy(), crystal()
    for structure in (turned, reference):
        structure.set_cell(structure.cell.array @ rotation.T, scale_atoms=False)
        structure.positions = structure.positions @ rotation.T + (0.2, -1.0, 0.7)
    turned.calc = SpinCalculator(POTENTIALS[name], lattice=reference)
    assert turned.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-12)
    np.testing.assert_allclose(turned.get_forces() @ rotation, atoms.get_forces(), atol=1e-12)


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_batch_equals_single_evaluations(name):
    replicas = [crystal() for _ in range(3)]
    bound = POTENTIALS[name].bind(replicas)
    generator = torch.Generator().manual_seed(0)
    positions = bound.positions + 0.05 * torch.randn(bound.positions.shape, dtype=torch.float64, generator=generator)
    together = bound.evaluate(positions=positions)
    for number, atoms in enumerate(replicas):
        alone = POTENTIALS[name].bind(atoms).evaluate(positions=positions[number])
        for quantity in ("energy", "magnetic_forces", "forces", "stress"):
            np.testing.assert_allclose(getattr(together, quantity)[number], getattr(alone, quantity), atol=1e-12)


@pytest.mark.parametrize("name", ["springs", "springs and angles"])
def test_the_reference_structure_is_at_rest(name):
    atoms = crystal()
    atoms.calc = SpinCalculator(POTENTIALS[name])
    assert abs(atoms.get_potential_energy()) < 1e-20
    assert np.abs(atoms.get_forces()).max() < 1e-12
    assert np.abs(atoms.get_stress()).max() < 1e-12


def test_closed_formulas():
    pair = Atoms("Fe2", positions=[(0, 0, 0), (2, 0, 0)])
    pair.calc = SpinCalculator(LatticeEnergy({1: 5.0}), lattice=pair)
    pair.positions[1, 0] = 2.1
    assert pair.get_potential_energy() == pytest.approx(0.5 * 5.0 * 0.1**2)
    np.testing.assert_allclose(pair.get_forces()[:, 0], [0.5, -0.5])
    pair.calc = SpinCalculator(LatticeEnergy(function=Morse(0.4, 2.1, 0.3), cutoff=5.0))
    assert pair.get_potential_energy() == pytest.approx(-0.4)
    assert np.abs(pair.get_forces()).max() < 1e-12
    corner = Atoms("Fe3", positions=[(0, 0, 0), (2, 0, 0), (0, 2, 0)])
    corner.calc = SpinCalculator(LatticeEnergy(bends={1: 0.8}), lattice=corner)
    assert corner.get_potential_energy() == 0
    corner.positions[2] = 2 * np.sin(0.1), 2 * np.cos(0.1), 0
    assert corner.get_potential_energy() == pytest.approx(0.5 * 0.8 * np.sin(0.1) ** 2)


def test_pairs_are_found_again_when_atoms_move():
    potential = LatticeEnergy(function=Tapered(BOND, 3.0, 4.0), cutoff=4.0)
    atoms = crystal()
    bound = potential.bind(atoms)
    generator, positions = torch.Generator().manual_seed(1), bound.positions.clone()
    for _ in range(8):
        positions = positions + 0.15 * torch.randn(positions.shape, dtype=torch.float64, generator=generator)
        fresh = atoms.copy()
        fresh.positions[:] = positions.numpy()
        found, expected = bound.evaluate(positions=positions), potential.bind(fresh).evaluate()
        torch.testing.assert_close(found.energy, expected.energy, rtol=1e-12, atol=0)
        torch.testing.assert_close(found.forces, expected.forces, rtol=1e-9, atol=1e-12)


def test_lengths_of_moments():
    atoms = lattices.cri3_monolayer((2, 1))
    chromium = atoms.symbols == "Cr"
    textures.random(atoms, seed=0)
    lengths = chromium * np.random.default_rng(0).uniform(2.0, 4.0, len(atoms))
    set_moments(atoms, get_moments(atoms) * lengths[:, None])
    for length in (3.0, np.full(len(atoms), 3.0)):
        atoms.calc = SpinCalculator(MomentLengths(length, stiffness=0.5))
        expected = 0.5 / (8 * 9) * ((lengths**2 - 9) ** 2)[chromium].sum()
        assert atoms.get_potential_energy() == pytest.approx(expected)
        testing.check(atoms, sites=[0, 3, 7], tolerance=1e-8)
        assert testing.spin_rotation_error(atoms) < testing.SYMMETRY_TOLERANCE
        assert testing.time_reversal_error(atoms) < testing.SYMMETRY_TOLERANCE
    bound = atoms.calc.bound(atoms)
    vector = torch.where(bound.magnetic[:, None], bound.moments.roll(1, 1), 0.0)
    product = bound.hessian_vector_product(bound.moments, vector)
    torch.testing.assert_close(product, hessian_by_differences(bound, bound.moments, vector), rtol=0, atol=1e-7)
    blocks = bound.second_derivatives(bound.moments).at(np.zeros((1, 3)))[0].real
    np.testing.assert_allclose(np.einsum("iajb,jb->ia", blocks, vector), product, atol=1e-12)
    at_rest = get_moments(atoms) * (3.0 / np.where(chromium, lengths, 1.0))[:, None]
    curvature = bound.site_hessian(bound.tensor(at_rest))[0].numpy()
    np.testing.assert_allclose(np.linalg.eigvalsh(curvature), [0, 0, 0.5], atol=1e-12)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LatticeEnergy([5.0]), "no mapping"),
        (lambda: LatticeEnergy({1: "stiff"}), "stiffness of shell 1"),
        (lambda: LatticeEnergy(bends={1: np.nan}), "bending stiffness of shell 1"),
        (lambda: LatticeEnergy(function=BOND), "together"),
        (lambda: LatticeEnergy(function=3.0, cutoff=3.0), "no function of distance"),
        (lambda: LatticeEnergy(function=BOND, cutoff=0), "cutoff"),
        (lambda: Spring(-1.0, 2.0), "stiffness"),
        (lambda: Spring(1.0, np.inf), "length"),
        (lambda: Morse(0.4, 2.5, 0.0), "decay"),
        (lambda: MomentLengths(-3.0, 0.5), "positive"),
        (lambda: MomentLengths(3.0, -0.5), "stiffness"),
        (lambda: MomentLengths([3.0, 3.0], 0.5).bind(crystal()), "16 atoms"),
        (lambda: LatticeEnergy({0: 1.0}).bind(crystal()), "shell number"),
        (lambda: LatticeEnergy({1: Exponential}).bind(crystal()), "stiffness of shell 1"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(KLMError, match=words):
        make()
