"""Checks of a calculator against the properties that every potential must have.

For our tests and for users' own calculators. Each function takes atoms with a calculator that gives
`magnetic_forces`, leaves them as they were, and returns the largest error found; `check` runs those that apply.
"""

from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from ase_klm.errors import KLMError
from ase_klm.moments import get_magnetic_forces, get_moments, rotate_moments, set_moments
from ase_klm.potentials.base import hessian_by_differences
from ase_klm.potentials.foreign import potential_of
from ase_klm.validate import Array

SMOOTH_TOLERANCE = 1e-6
"""eV/μB, eV/Å: central differences of float64 energies of order 10 eV."""

SYMMETRY_TOLERANCE = 1e-8
"""eV and eV/μB: exact symmetries, in float64."""


def numerical_magnetic_forces(atoms: Atoms, delta: float = 1e-4, sites: list[int] | None = None) -> Array:
    """-∂E/∂m by central differences of the energy, eV/μB, shape (N, 3), or (len(sites), 3).

    Parameters
    ----------
    delta : float
        Displacement of each component, μB.
    sites : list of int, optional
        Only these atoms; default all that carry a moment (the others are zero).
    """
    moments = get_moments(atoms)
    chosen = np.arange(len(atoms)) if sites is None else np.asarray(sites)
    forces = np.zeros((len(chosen), 3))
    work = _working_copy(atoms)
    for row, site in enumerate(chosen):
        if not moments[site].any():
            continue
        for axis in range(3):

            def energy(step: float, site: int = site, axis: int = axis) -> float:
                displaced = moments.copy()
                displaced[site, axis] += step
                set_moments(work, displaced)
                return work.get_potential_energy()

            forces[row, axis] = -_slope(energy, delta)
    return forces


def magnetic_force_error(atoms: Atoms, sites: list[int] | None = None, delta: float = 1e-4) -> float:
    """Largest deviation of magnetic forces from central differences of the energy, eV/μB."""
    expected = numerical_magnetic_forces(atoms, delta, sites)
    found = get_magnetic_forces(atoms)
    return float(np.abs((found if sites is None else found[sites]) - expected).max())


def force_error(atoms: Atoms, sites: list[int] | None = None, delta: float = 1e-4) -> float:
    """Largest deviation of forces from central differences of the energy, eV/Å."""
    work = _working_copy(atoms)
    worst = 0.0
    for site in range(len(atoms)) if sites is None else sites:
        for axis in range(3):

            def energy(step: float, site: int = site, axis: int = axis) -> float:
                work.positions[:] = atoms.positions
                work.positions[site, axis] += step
                return work.get_potential_energy()

            worst = max(worst, abs(-_slope(energy, delta) - atoms.get_forces()[site, axis]))
    return worst


def stress_error(atoms: Atoms, delta: float = 1e-5) -> float:
    """Largest deviation of the stress from central differences of the energy by strain, eV/Å³."""
    stress = voigt_6_to_full_3x3_stress(atoms.get_stress())
    worst = 0.0
    work = _working_copy(atoms)
    for a in range(3):
        for b in range(a + 1):

            def energy(step: float, a: int = a, b: int = b) -> float:
                strain = np.zeros((3, 3))
                strain[a, b] += step / 2
                strain[b, a] += step / 2
                work.set_cell(atoms.cell.array, scale_atoms=False)
                work.positions[:] = atoms.positions
                work.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
                return work.get_potential_energy()

            worst = max(worst, abs(_slope(energy, delta) / atoms.get_volume() - stress[a, b]))
    return worst


def hessian_error(atoms: Atoms, seed: int = 0) -> float:
    """Largest deviation of a Hessian-vector product from differences of magnetic forces, eV/μB², unit vector."""
    bound = potential_of(atoms).bind(atoms)
    vector = np.random.default_rng(seed).standard_normal((len(atoms), 3))
    direction = bound.tensor(vector / np.linalg.norm(vector)) * bound.magnetic[:, None]
    found = bound.hessian_vector_product(bound.moments, direction)
    expected = hessian_by_differences(bound, bound.moments, direction)
    return float((found - expected).abs().max())


def spin_rotation_error(atoms: Atoms, seed: int = 0) -> float:
    """Largest change of energy a site (eV) and of rotated-back magnetic forces (eV/μB) when all moments turn.

    Zero for energies without spin-orbit coupling, in zero field.
    """
    rotation = _random_rotation(seed)
    work = _working_copy(atoms)
    rotate_moments(work, rotation)
    turned_back = get_magnetic_forces(work) @ rotation
    return max(_energy_change(atoms, work), float(np.abs(turned_back - get_magnetic_forces(atoms)).max()))


def time_reversal_error(atoms: Atoms) -> float:
    """Largest change of energy a site (eV), and of minus the magnetic forces (eV/μB), when all moments reverse.

    Zero in zero field.
    """
    work = _working_copy(atoms)
    set_moments(work, -get_moments(atoms))
    return max(_energy_change(atoms, work), float(np.abs(get_magnetic_forces(work) + get_magnetic_forces(atoms)).max()))


def check(atoms: Atoms, tolerance: float = SMOOTH_TOLERANCE, sites: list[int] | None = None) -> dict[str, float]:
    """Compare magnetic forces, forces and stress with differences of the energy, and report each error.

    Raises
    ------
    KLMError
        When one of them exceeds the tolerance.
    """
    errors = {"magnetic_forces": magnetic_force_error(atoms, sites)}
    available = atoms.calc.results
    if "forces" in available:
        errors["forces"] = force_error(atoms, sites)
    if "stress" in available:
        errors["stress"] = stress_error(atoms)
    for name, error in errors.items():
        if not error <= tolerance:
            raise KLMError(
                f"{name} are not the gradient of the energy",
                f"they differ from central differences by {error:.2e}, more than {tolerance:.0e}",
                "check units, signs and the smoothness of the energy (a degenerate Fermi level has kinks); for a "
                "network in single precision give tolerance=1e-4",
            )
    return errors


def _working_copy(atoms: Atoms) -> Atoms:
    if atoms.calc is None:
        raise KLMError("these atoms have no calculator", "there is nothing to check", "attach one: atoms.calc = ...")
    get_magnetic_forces(atoms)  # binds the calculator to the undisturbed structure
    work = atoms.copy()
    work.calc = atoms.calc
    return work


def _slope(energy: Callable[[float], float], delta: float) -> float:
    """Fourth-order central difference at zero."""
    near = energy(delta) - energy(-delta)
    far = energy(2 * delta) - energy(-2 * delta)
    return (8 * near - far) / (12 * delta)


def _energy_change(atoms: Atoms, other: Atoms) -> float:
    return abs(other.get_potential_energy() - atoms.get_potential_energy()) / len(atoms)


def _random_rotation(seed: int) -> Array:
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((3, 3)))
    return q * np.sign(np.linalg.det(q))
