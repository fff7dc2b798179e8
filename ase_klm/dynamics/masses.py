"""Masses of the atoms that move, and the ones that are held."""

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from numpy.typing import NDArray

from ase_klm.errors import KLMError
from ase_klm.plausibility import doubts_about, tell


def fixed_atoms(atoms: Atoms) -> NDArray[np.bool_]:
    """Which atoms are held by `FixAtoms`, shape (N,).

    Raises
    ------
    KLMError
        When there is another constraint.
    """
    fixed = np.zeros(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise KLMError(
                f"the constraint {type(constraint).__name__} is not obeyed here",
                "of ASE's constraints, spin-lattice dynamics knows FixAtoms only",
                "take it away with atoms.set_constraint(), or use FixAtoms",
            )
        fixed[constraint.get_indices()] = True
    return fixed


def checked_masses(atoms: Atoms, fixed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Masses in u, shape (N,), that every atom that is not fixed can have.

    Raises
    ------
    KLMError
        When one is zero, negative or not finite.
    """
    masses = atoms.get_masses()
    bad = np.flatnonzero(~fixed & ~(np.isfinite(masses) & (masses > 0)))
    if len(bad):
        raise KLMError(
            f"atom {bad[0]} ({atoms.symbols[bad[0]]}) has the mass {masses[bad[0]]}",
            "it has no acceleration F/M",
            "set masses with atoms.set_masses(...), or hold the atom by FixAtoms",
        )
    tell(doubts_about("mass", masses[~fixed]))
    return masses


def inverse_masses(masses: NDArray[np.float64], fixed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """1/M, zero for atoms that are held, shape (N, 1)."""
    return np.divide(1.0, masses, out=np.zeros_like(masses), where=~fixed)[:, None]


def no_atomic_forces(atoms: Atoms) -> KLMError:
    """The error of a calculator whose atoms cannot move."""
    return KLMError(
        f"{type(atoms.calc).__name__} gives no atomic forces",
        "without -∂E/∂x the atoms cannot move",
        "use a calculator with forces, add one by SumCalculator, or evolve the moments alone with LLGDynamics",
    )
