"""Extended xyz of others (and ASE trajectories with ``magmoms``): labels under the names in use.

Whatever is found is moved to the place where this package keeps it. Its own names go first. Where two names of one
quantity disagree, nobody can know which is meant, and that is an error.
"""

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ase_klm.errors import KLMError
from ase_klm.moments import set_moments
from ase_klm.validate import checked_array

MOMENTS = ("magmoms", "REF_magmom", "REF_magmoms", "dft_magmom", "dft_magmoms", "spin", "spins",
           "magnetic_moment", "magnetic_moments", "magmom")  # fmt: skip
MAGNETIC_FORCES = ("magnetic_force", "REF_magforces", "REF_magforce", "REF_magnetic_forces", "force_mag",
                   "mag_forces", "mag_force", "mforce", "mforces", "spin_forces", "effective_field")  # fmt: skip
ENERGY = ("REF_energy", "dft_energy", "DFT_energy", "energy_REF", "total_energy")
FORCES = ("REF_forces", "REF_force", "dft_forces", "DFT_forces", "forces_REF", "force")


def resolve(atoms: Atoms) -> dict[str, str]:
    """Move labels to their places, and say from which names: quantity → name. Empty where all were in place.

    Raises
    ------
    KLMError
        When two names disagree, or a label has another shape or is not finite.
    """
    used: dict[str, str] = {}
    results: dict[str, Any] = {} if atoms.calc is None else dict(atoms.calc.results)
    places = [atoms.arrays, results]
    vector = (len(atoms), 3)
    if "initial_magmoms" not in atoms.arrays and (found := _first(MOMENTS, places, vector)):
        set_moments(atoms, found[1])
        used["moments"] = found[0]
    known = "magnetic_forces" in atoms.arrays or "magnetic_forces" in atoms.info or "magnetic_forces" in results
    if not known and (found := _first(MAGNETIC_FORCES, places, vector)):
        atoms.set_array("magnetic_forces", found[1], float, (3,))
        used["magnetic forces"] = found[0]
    if results.get("energy") is None and (found := _first(ENERGY, [atoms.info], ())):
        results["energy"] = results["free_energy"] = float(found[1])
        used["energy"] = found[0]
    if results.get("forces") is None and (found := _first(FORCES, [atoms.arrays], vector)):
        results["forces"] = found[1]
        used["forces"] = found[0]
    if not used:
        return used
    for name in (*MOMENTS, *MAGNETIC_FORCES, *FORCES):
        if name in atoms.arrays:
            del atoms.arrays[name]
    for name in ENERGY:
        atoms.info.pop(name, None)
    kept = {name: results[name] for name in ("energy", "free_energy", "forces", "stress") if name in results}
    atoms.calc = SinglePointCalculator(atoms, **kept) if kept else None
    return used


def _first(names: tuple[str, ...], places: list[dict[str, Any]], shape: tuple[int, ...]) -> tuple[str, Any] | None:
    """Name and values of the first alias that is there; a label that is NaN throughout is not."""
    found: tuple[str, Any] | None = None
    for name in names:
        values = next((place[name] for place in places if place.get(name) is not None), None)
        if values is None or _all_nan(values):
            continue
        if len(shape) == 2 and np.ndim(values) == 1:  # collinear
            values = np.outer(checked_array(values, shape[:1], name), (0.0, 0.0, 1.0))
        values = checked_array(values, shape, name)
        if found is not None and not np.allclose(found[1], values, atol=1e-6):
            raise KLMError(
                f"{found[0]} and {name} are both there, and differ",
                "they are names of one quantity",
                "rename the one that is not meant, or leave it out",
            )
        found = found or (name, values)
    return found


def _all_nan(values: Any) -> bool:
    array = np.asarray(values)
    return array.dtype.kind == "f" and bool(np.isnan(array).all())
