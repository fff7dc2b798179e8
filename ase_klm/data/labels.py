"""Labels of Atoms that are at hand: energy, forces and magnetic forces of their present state, nothing else.

A calculator keeps the results of the last state it was asked about. They are labels of other Atoms, or of the same
ones before they were moved, unless its cache says that nothing has changed since.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from ase_klm.data.readers import aliases
from ase_klm.errors import KLMError, warn
from ase_klm.moments import get_moments

_NAMES = ("energy", "free_energy", "forces", "magnetic_forces")


def at_hand(atoms: Atoms) -> dict[str, Any]:
    """Labels of the present state, by name: ``energy`` (eV), ``forces`` (eV/Å), ``magnetic_forces`` (eV/μB).

    The energy is the free energy where both are there: the forces are its derivative. Magnetic forces that no
    calculator gives may be kept in ``atoms.arrays`` or ``atoms.info``.
    """
    if is_stale(atoms):
        return {}
    results = _results(atoms)
    found = {name: results[name] for name in ("forces", "magnetic_forces") if results.get(name) is not None}
    energy = aliases.free_energy(results)
    if energy is not None:
        found["energy"] = energy
    for place in (atoms.arrays, atoms.info):
        if place.get("magnetic_forces") is not None:
            found.setdefault("magnetic_forces", place["magnetic_forces"])
    return found


def is_stale(atoms: Atoms) -> bool:
    """Whether the calculator holds results of another state than the present one."""
    results = _results(atoms)
    check = getattr(atoms.calc, "check_state", None)
    changes = list(check(atoms)) if results and check is not None else []
    computed: Any = results.get("magmoms")
    if changes == ["initial_magmoms"] and np.shape(computed) in ((len(atoms), 3), (len(atoms),)):
        # moments that were computed, and then set, are those that the other results belong to
        return not aliases.same(aliases.along_z(computed, len(atoms), "magmoms"), get_moments(atoms))
    return bool(changes)


def checked(structures: Sequence[Atoms], what: str) -> list[Atoms]:
    """Copies of the structures, with labels under other names moved to ours and their calculators as they are.

    Parameters
    ----------
    structures : sequence of Atoms
        With or without labels.
    what : str
        What they are, for messages.

    Raises
    ------
    KLMError
        When several share a calculator, which can hold the results of one only; or when labels disagree.
    """
    stale = [number for number, atoms in enumerate(structures) if is_stale(atoms)]
    sharing: dict[int, list[Atoms]] = {}
    for atoms in structures:
        sharing.setdefault(id(atoms.calc), []).append(atoms)
    for number in stale:
        mates = sharing[id(structures[number].calc)]
        if any(atoms is not structures[number] for atoms in mates):
            raise KLMError(
                f"{len(mates)} frames of {what} share one calculator, and it holds no results of frame {number}",
                "a calculator keeps the results of the last structure that it was asked about",
                "give each frame a calculator of its own, or freeze the results of each as they come: "
                "copy = atoms.copy(); copy.calc = SinglePointCalculator(copy, energy=..., forces=...); "
                "copy.info['magnetic_forces'] = ...",
            )
    if stale:
        warn(
            f"the labels of {len(stale)} of {len(structures)} frames of {what} are left out, the first of frame "
            f"{stale[0]}",
            "they are of another state: atoms, cell, moments or parameters were changed after they were computed",
            "compute them again before, e.g. atoms.get_potential_energy()",
        )
    return [_in_our_names(atoms, number, what) for number, atoms in enumerate(structures)]


def _in_our_names(atoms: Atoms, number: int, what: str) -> Atoms:
    if is_stale(atoms):
        bare = atoms.copy()
        bare.info.pop("magnetic_forces", None)
        bare.arrays.pop("magnetic_forces", None)
        return bare
    copy = atoms.copy()
    copy.calc = atoms.calc
    aliases.resolve_frame(copy, number, what)
    return copy


def _results(atoms: Atoms) -> dict[str, Any]:
    results = getattr(atoms.calc, "results", None)
    found = results if isinstance(results, dict) else {}
    return {name: value for name, value in found.items() if value is not None and name in (*_NAMES, "magmoms")}
