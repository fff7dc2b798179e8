"""The same numbers on a GPU as on the CPU; run with -m gpu where there is one."""

import numpy as np
import pytest
import torch
from models import chiral_bond

from ase_klm import (
    KLMError,
    KondoEDCalculator,
    LLGDynamics,
    SpinCalculator,
    SpinMinimizer,
    get_magnetic_forces,
    get_moments,
    lattices,
    textures,
)
from ase_klm.potentials import Exchange, ExponentialHopping, UniaxialAnisotropy, Zeeman

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]


def test_kondo_lattice():
    results = {}
    for device in ("cpu", "cuda"):
        atoms = lattices.triangular((6, 6))
        textures.random(atoms, seed=1)
        atoms.calc = KondoEDCalculator(
            hopping=ExponentialHopping(1.0, 1.0, 0.5),
            cutoff=1.9,
            J=1.0,
            filling=0.3,
            temperature=0.01,
            kpts=(2, 2, 1),
            device=device,
        )
        forces = atoms.get_forces()
        results[device] = atoms.get_potential_energy(), get_magnetic_forces(atoms), forces
    assert results["cpu"][0] == pytest.approx(results["cuda"][0], abs=1e-9)
    for cpu, cuda in zip(results["cpu"][1:], results["cuda"][1:], strict=True):
        np.testing.assert_allclose(cuda, cpu, atol=1e-9)


def test_dynamics_and_relaxation():
    final = {}
    for device in ("cpu", "cuda"):
        atoms = lattices.square((8, 8))
        textures.random(atoms, length=2.0, seed=1)
        potential = Exchange({1: chiral_bond}) + UniaxialAnisotropy(0.5e-3) + Zeeman((0, 0, 1e-3))
        atoms.calc = SpinCalculator(potential, device=device)
        LLGDynamics(atoms, timestep=0.1, damping=0.5, gamma=1.0).run(50)
        assert SpinMinimizer(atoms).run(fmax=1e-8, steps=1000)
        final[device] = atoms.get_potential_energy(), get_moments(atoms)
    assert final["cpu"][0] == pytest.approx(final["cuda"][0], abs=1e-9)


def test_what_does_not_fit_is_refused():
    atoms = lattices.square((300, 300))
    textures.random(atoms, seed=1)
    atoms.calc = KondoEDCalculator({1: 1.0}, 7.0, filling=0.48, device="cuda")
    with pytest.raises(KLMError, match="on cuda"):
        atoms.get_potential_energy()
