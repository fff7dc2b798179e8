"""A time step for spin dynamics from the fastest precession and the thermal turn of one step."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from ase_klm import units
from ase_klm.dynamics.parameters import thermal_energies
from ase_klm.potentials.base import BoundPotential
from ase_klm.runs.inputs import checked_replicas
from ase_klm.runs.state import SpinState
from ase_klm.validate import checked_number
from ase_klm.vectors import directions, dot, norm, transverse

POWER_ITERATIONS = 10


def suggest_timestep(
    atoms: Any,
    damping: float = 0.1,
    temperature_K: ArrayLike | None = None,
    kT: ArrayLike | None = None,
    gamma: float = units.GAMMA,
    angle: float = 0.1,
) -> float:
    """Time step in which no spin turns by more than `angle`, neither by precession nor by thermal noise.

    The fastest precession at the present moments is γ λ, with λ the largest eigenvalue in magnitude of
    abs(m_i)^½ C_ij abs(m_j)^½ and C = P E'' P + δ_ij (e·F/abs(m)) P the transverse Hessian, found by ten power
    iterations (two field evaluations each, where the potential has no second derivatives of its own). The noise turns a
    spin by sqrt(2 α γ kT Δt/abs(m)) (rms per component).

    Parameters
    ----------
    atoms : Atoms or list of Atoms
        With moments and a calculator; of replicas the first is looked at.
    damping, temperature_K, kT, gamma
        As in `LLGDynamics`.
    angle : float
        rad. With 0.1 the energy of undamped dynamics is conserved to about 1e-4 of its thermal part a picosecond.

    Returns
    -------
    float
        In ASE's unit of time (divide by `units.FS` for fs), or in ħ/eV with ``gamma=1.0``; infinite when nothing turns.
    """
    replicas = checked_replicas(atoms)
    alpha = checked_number(damping, "damping", minimum=0)
    thermal = float(thermal_energies(temperature_K, kT, len(replicas)).max())
    gyromagnetic_ratio = checked_number(gamma, "gamma", "1/(eV/μB) per unit of time", above=0)
    largest = checked_number(angle, "angle", "rad", above=0)
    bound = SpinState(replicas[:1], single=True).bound
    frequency = gyromagnetic_ratio * largest_curvature(bound) / (1 + alpha**2) ** 0.5
    shortest = float(norm(bound.moments)[bound.magnetic].min())
    diffusion = 2 * alpha * gyromagnetic_ratio * thermal / shortest / (1 + alpha**2)
    with np.errstate(divide="ignore"):
        return float(min(np.divide(largest, frequency), np.divide(largest**2, diffusion)))


def largest_curvature(bound: BoundPotential) -> float:
    """Largest abs(eigenvalue) of abs(m)^½ C abs(m)^½, eV/μB."""
    m = bound.moments
    e, length = directions(m), norm(m)
    root = length.sqrt()
    field = bound.evaluate(m, atomic=False).magnetic_forces
    along = torch.where(length > 0, dot(e, field) / length.clamp_min(1e-300), 0.0)

    def apply(v: Tensor) -> Tensor:
        across = root * v
        return root * (transverse(bound.hessian_vector_product(m, across), e) + along * across)

    generator = torch.Generator(device=m.device).manual_seed(0)
    start = torch.randn(m.shape, generator=generator, dtype=m.dtype, device=m.device)
    v = transverse(torch.where(length > 0, start, 0.0), e)
    growth = 0.0
    for _ in range(POWER_ITERATIONS):
        size = float(torch.linalg.vector_norm(v))
        if size == 0:
            return 0.0
        v = apply(v / size)
        growth = float(torch.linalg.vector_norm(v))
    return growth
