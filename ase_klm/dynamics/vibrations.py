"""The fastest vibration of a structure, which bounds the time step of its atoms."""

import torch
from ase import Atoms
from torch import Tensor

from ase_klm.dynamics.masses import checked_masses, fixed_atoms, inverse_masses, no_atomic_forces
from ase_klm.potentials.base import BoundPotential

POWER_ITERATIONS = 8
DISPLACEMENT = 1e-3
"""Largest displacement of the differences, Å."""


def fastest_vibration(
    bound: BoundPotential, moments: Tensor, positions: Tensor, cell: Tensor, inverse_mass: Tensor
) -> float:
    """Angular frequency per ASE's unit of time, at fixed moments.

    The square root of the largest eigenvalue in magnitude of M^-½ (∂²E/∂x²) M^-½, by power iteration on differences of
    the forces: nine evaluations.
    """
    root = inverse_mass.sqrt()

    def forces(x: Tensor) -> Tensor:
        return bound.evaluate(moments, x, cell).forces  # type: ignore[return-value]  # checked when the run is made

    rest = forces(positions)
    generator = torch.Generator(device=positions.device).manual_seed(0)
    v = torch.randn(positions.shape, generator=generator, dtype=positions.dtype, device=positions.device)
    v = torch.where(inverse_mass > 0, v, 0.0)
    growth = 0.0
    for _ in range(POWER_ITERATIONS):
        size = float(torch.linalg.vector_norm(v))
        if size == 0:
            return 0.0
        v = v / size
        step = DISPLACEMENT / float((root * v).abs().max())
        v = root * (rest - forces(positions + step * root * v)) / step
        growth = float(torch.linalg.vector_norm(v))
    return growth**0.5


def vibration_of(atoms: Atoms, bound: BoundPotential) -> float:
    """That of a structure with the potential bound to it, as it is.

    Raises
    ------
    KLMError
        When its atoms cannot move.
    """
    fixed = fixed_atoms(atoms)
    inverse_mass = bound.tensor(inverse_masses(checked_masses(atoms, fixed), fixed))
    if bound.forces(bound.moments, bound.positions, bound.cell) is None:
        raise no_atomic_forces(atoms)
    return fastest_vibration(bound, bound.moments, bound.positions, bound.cell, inverse_mass)
