"""Magnetic moments on ASE `Atoms`.

The moments live in ``atoms.arrays["initial_magmoms"]``, shape (N, 3), in μB. ASE's calculator cache sees every
change there, and copying, slicing, repeating and writing keep them. A non-magnetic atom has a moment of exactly zero.
"""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.mixing import LinearCombinationCalculator
from numpy.typing import ArrayLike, NDArray

from ase_klm.errors import KLMError
from ase_klm.validate import Array, checked_array, checked_atoms


def set_moments(atoms: Atoms, moments: ArrayLike) -> None:
    """Set the magnetic moment vectors, replacing whatever scalar or vector moments the atoms had.

    Parameters
    ----------
    atoms : Atoms
        Changed in place.
    moments : array_like
        μB, exactly zero on non-magnetic atoms: one vector an atom, shape (N, 3); or, collinear along z as ASE's scalar
        moments are read, one number an atom, shape (N,), or one number for all.

    Raises
    ------
    KLMError
        When the shape is wrong or a value is not finite. Three numbers for three atoms are refused too: they may be
        meant as one vector.
    """
    array = _vectors(moments, len(checked_atoms(atoms)))
    if "initial_magmoms" in atoms.arrays:  # scalar moments of a builder would fix the wrong shape
        del atoms.arrays["initial_magmoms"]
    atoms.set_array("initial_magmoms", array, float, (3,))


def _vectors(moments: ArrayLike, n_atoms: int) -> Array:
    """Moments (N, 3) from vectors, or from numbers along z."""
    try:
        rank = np.ndim(moments)
    except ValueError:
        rank = 2  # ragged: checked_array explains
    if rank == 0:
        moments = np.broadcast_to(moments, (n_atoms,))
    elif rank == 1 and len(np.atleast_1d(moments)) != n_atoms:
        raise KLMError(
            f"moments has shape {np.shape(moments)}",
            f"moments of {n_atoms} atoms are vectors ({n_atoms}, 3), numbers along z ({n_atoms},), or one number",
            f"one vector for all: np.tile(vector, ({n_atoms}, 1))",
        )
    elif rank == 1 and n_atoms == 3:
        raise KLMError(
            "moments has shape (3,), and there are three atoms",
            "these may be three numbers along z, or one vector for all",
            "write np.outer(numbers, (0, 0, 1)), or np.tile(vector, (3, 1))",
        )
    if rank < 2:
        return np.outer(checked_array(moments, (n_atoms,), "moments", "μB"), (0.0, 0.0, 1.0))
    return checked_array(moments, (n_atoms, 3), "moments", "μB")


def get_moments(atoms: Atoms) -> Array:
    """Magnetic moment vectors, shape (N, 3), in μB, as a copy.

    Scalar moments, as ASE's builders leave them, are read as collinear along z; atoms without moments give zeros.
    """
    if "initial_magmoms" not in checked_atoms(atoms).arrays:
        return np.zeros((len(atoms), 3))
    stored, name = atoms.arrays["initial_magmoms"], "atoms.arrays['initial_magmoms']"
    if stored.ndim == 1:
        return np.outer(checked_array(stored, (len(atoms),), name, "μB"), (0.0, 0.0, 1.0))
    return checked_array(stored, (len(atoms), 3), name, "μB")


def directions(moments: ArrayLike) -> Array:
    """Unit vectors e = m/abs(m), shape (..., 3); zero where the moment is zero."""
    m = np.asarray(moments, dtype=np.float64)
    length = np.linalg.norm(m, axis=-1, keepdims=True)
    return np.divide(m, length, out=np.zeros_like(m), where=length > 0)


def is_magnetic(atoms: Atoms) -> NDArray[np.bool_]:
    """Which atoms carry a moment, shape (N,)."""
    return np.any(get_moments(atoms) != 0, axis=1)


def rotate_moments(atoms: Atoms, rotation: ArrayLike) -> None:
    """Rotate all moments, as ``Atoms.rotate`` does not.

    Parameters
    ----------
    rotation : array_like
        Proper rotation matrix, shape (3, 3), acting on column vectors: m → R m.

    Raises
    ------
    KLMError
        When the matrix is not a proper rotation.
    """
    matrix = checked_array(rotation, (3, 3), "rotation")
    if not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-8) or np.linalg.det(matrix) < 0:
        raise KLMError(
            "rotation is not a proper rotation matrix",
            "R Rᵀ must be 1 and det R must be +1",
            "build it with scipy.spatial.transform.Rotation, or negate the moments for time reversal",
        )
    set_moments(atoms, get_moments(atoms) @ matrix.T)


def computes_moments(calculator: Any, atoms: Atoms) -> bool:
    """Whether moments that are not all zero are among a calculator's results, as in density functional theory."""
    offered = getattr(calculator, "implemented_properties", ())
    name = next((name for name in ("magmoms", "magmom") if name in offered), None)
    try:
        return name is not None and bool(np.any(calculator.get_property(name, atoms)))
    except (PropertyNotImplementedError, NotImplementedError):
        return False


def _of_calculator(calculator: Any, atoms: Atoms) -> Any:
    """Its magnetic forces; None without. In a linear combination, parts of the lattice alone have none."""
    try:
        return calculator.get_property("magnetic_forces", atoms)
    except (PropertyNotImplementedError, NotImplementedError):
        pass
    if not isinstance(calculator, LinearCombinationCalculator):
        return None
    mixer = calculator.mixer
    weighted = zip(mixer.calcs, mixer.weights, strict=True)
    parts = [(part, weight, _of_calculator(part, atoms)) for part, weight in weighted]
    for part, _, found in parts:
        if found is None and computes_moments(part, atoms):
            name = type(part).__name__
            raise KLMError(
                f"{name} gives no magnetic forces",
                "it computes moments, so that its energy may depend on them",
                f"if it does not, say so: SpinCalculator(potentials.Foreign({name}(...), magnetic=False))",
            )
    known = [weight * np.asarray(found, dtype=np.float64) for _, weight, found in parts if found is not None]
    return sum(known[1:], start=known[0]) if known else None


def get_magnetic_forces(atoms: Atoms) -> Array:
    """Magnetic forces F = -∂E/∂m, shape (N, 3), in eV/μB, the longitudinal part included.

    Read from the calculator, else from ``atoms.arrays["magnetic_forces"]`` (extxyz), else from
    ``atoms.info["magnetic_forces"]`` (.traj).

    Raises
    ------
    KLMError
        When none of the three has them.
    """
    if checked_atoms(atoms).calc is not None:
        found = _of_calculator(atoms.calc, atoms)
        if found is not None:
            return np.array(found, dtype=np.float64)
    for place in (atoms.arrays, atoms.info):
        if "magnetic_forces" in place:
            return checked_array(place["magnetic_forces"], (len(atoms), 3), "stored magnetic forces", "eV/μB")
    raise KLMError(
        "these atoms have no magnetic forces",
        "neither their calculator nor arrays['magnetic_forces'] nor info['magnetic_forces'] gives them"
        if atoms.calc is not None
        else "no calculator is attached, and neither arrays nor info hold 'magnetic_forces'",
        "attach a calculator that has them, for instance atoms.calc = KondoEDCalculator(...)",
    )
