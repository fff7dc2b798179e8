"""Labels of Atoms under the names in use: extended xyz, trajectories of ASE, results of calculators.

Whatever is found is moved to the place where this package keeps it. Where two names of one quantity disagree, nobody
can know which is meant, and that is an error. Two pairs are no such names:

- ASE's ``initial_magmoms`` are where a calculation started, and ``magmoms`` what it found. Labels belong to the latter.
  Files of this package have moments in ``initial_magmoms`` and no others.
- ``free_energy`` and ``energy`` differ by the entropy of smeared occupations. Forces, of atoms and magnetic, are
  derivatives of the free energy, so that is the label wherever it is there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from ase_klm.errors import KLMError
from ase_klm.moments import set_moments
from ase_klm.validate import Array, checked_array

GUESS = "initial_magmoms"
COMPUTED = ("magmoms", "REF_magmoms", "REF_magmom", "dft_magmoms", "dft_magmom")
MOMENTS = ("spin", "spins", "magnetic_moment", "magnetic_moments", "magmom")
MAGNETIC_FORCES = ("magnetic_forces", "magnetic_force", "REF_magforces", "REF_magforce", "REF_magnetic_forces",
                   "force_mag", "mag_forces", "mag_force", "mforce", "mforces", "spin_forces",
                   "effective_field")  # fmt: skip
ENERGY = ("energy", "REF_energy", "dft_energy", "DFT_energy", "energy_REF", "total_energy")
FREE_ENERGY = ("free_energy", "REF_free_energy", "dft_free_energy")
FORCES = ("forces", "REF_forces", "REF_force", "dft_forces", "DFT_forces", "forces_REF", "force")

_OWN = ("magnetic_forces", "forces", "energy")
_TOTALS = ("magmom", "REF_magmom", "dft_magmom")  # of the cell, unless they hold a number or vector an atom


@dataclass(frozen=True)
class Label:
    """A name, where it stands (arrays, results or info), what is there, and whether this is the package's own place."""

    name: str
    place: dict[str, Any]
    value: Any
    in_place: bool = False


def resolve(atoms: Atoms) -> dict[str, str]:
    """Move labels to their places, and say from which names: quantity → name. Empty where all were in place.

    Raises
    ------
    KLMError
        When two names disagree, or a label has another shape or is not finite.
    """
    results: dict[str, Any] = dict(getattr(atoms.calc, "results", {}))
    places = [atoms.arrays, results, atoms.info]
    found = {
        "moments": _vectors((*COMPUTED, *MOMENTS), places, len(atoms), (), collinear=True),
        "magnetic forces": _vectors(MAGNETIC_FORCES, places, len(atoms), places, collinear=True),
        "forces": _vectors(FORCES, places, len(atoms), [results]),
        "energy": _numbers((*ENERGY, *FREE_ENERGY), [results, atoms.info]),
    }
    chosen = {
        "moments": _moments(atoms, found["moments"]),
        "magnetic forces": _agreed(found["magnetic forces"], "eV/μB"),
        "forces": _agreed(found["forces"], "eV/Å"),
        "energy": _energy(found["energy"]),
    }
    used = {quantity: label.name for quantity, label in chosen.items() if label and label.name not in _OWN}
    everywhere = [label for several in found.values() for label in several]
    misplaced = [label for label in everywhere if not label.in_place and label.place is not results]
    if not used and not misplaced:
        return used
    for label in misplaced:
        label.place.pop(label.name, None)
    kept = {name: results[name] for name in ("energy", "free_energy", "forces", "stress") if name in results}
    if (moments := chosen["moments"]) is not None:
        set_moments(atoms, moments.value)
    if (fields := chosen["magnetic forces"]) is not None:
        for place in (atoms.arrays, atoms.info):
            place.pop("magnetic_forces", None)
        atoms.set_array("magnetic_forces", np.array(fields.value), float, (3,))
    if (forces := chosen["forces"]) is not None:
        kept["forces"] = forces.value
    if (energy := chosen["energy"]) is not None:
        kept["energy"] = kept["free_energy"] = float(energy.value)
    atoms.calc = SinglePointCalculator(atoms, **kept) if kept else None
    return used


def resolve_frame(atoms: Atoms, number: int, path: Any) -> dict[str, str]:
    """The same for a frame of a file, which errors name."""
    try:
        return resolve(atoms)
    except KLMError as error:
        raise KLMError(f"frame {number} of {path}: {error.what}", error.why, error.remedy) from None


def free_energy(results: Mapping[str, Any]) -> Any:
    """The energy that forces are the derivative of: the free energy, else the energy; None where there is neither."""
    values = [results.get(name) for name in ("free_energy", "energy")]
    known = [value for value in values if value is not None]
    return next((value for value in known if not _all_nan(value)), known[0] if known else None)


def same(first: Any, second: Any) -> bool:
    """Whether two labels of a quantity are the same but for rounding: five decimals, single precision."""
    return np.shape(first) == np.shape(second) and bool(np.allclose(first, second, atol=1e-5, rtol=1e-7))


def along_z(values: Any, n_atoms: int, name: str) -> Array:
    """Vectors, shape (N, 3); one number an atom is along z."""
    if np.ndim(values) == 1:
        return np.outer(checked_array(values, (n_atoms,), name), (0.0, 0.0, 1.0))
    return checked_array(values, (n_atoms, 3), name)


def _vectors(
    names: Sequence[str], places: Sequence[dict[str, Any]], n_atoms: int, own: Sequence[Any], collinear: bool = False
) -> list[Label]:
    """Labels with a vector an atom; what ``info`` holds in another shape is something else."""
    found = []
    for name in names:
        for place in places:
            values = place.get(name)
            shape = np.shape(values) if values is not None else ()
            total = not shape or (name in _TOTALS and shape == (3,) and place is not places[0])
            if total or (place is places[-1] and shape not in ((n_atoms, 3), (n_atoms,) if collinear else ())):
                continue
            in_place = name in _OWN and len(shape) == 2 and any(place is one for one in own)
            found.append(Label(name, place, values, in_place))
    if all(label.in_place for label in found):
        return found  # their numbers are looked at with those of all our files
    read = along_z if collinear else _as_vectors
    return [
        label if _all_nan(label.value) else replace(label, value=read(label.value, n_atoms, label.name))
        for label in found
    ]


def _as_vectors(values: Any, n_atoms: int, name: str) -> Array:
    return checked_array(values, (n_atoms, 3), name)


def _numbers(names: Sequence[str], places: Sequence[dict[str, Any]]) -> list[Label]:
    found = [Label(name, place, place[name], place is places[0]) for name in names for place in places
             if place.get(name) is not None]  # fmt: skip
    if all(label.in_place for label in found):
        return found
    return [
        label if _all_nan(label.value) else replace(label, value=checked_array(label.value, (), label.name, "eV"))
        for label in found
    ]


def _moments(atoms: Atoms, found: list[Label]) -> Label | None:
    """The moments that labels belong to, where these are others than those in place."""
    label = _agreed(found, "μB")
    guess = atoms.arrays.get(GUESS)
    if label is None or guess is None or not np.any(guess):
        return label
    given = Label(GUESS, atoms.arrays, along_z(guess, len(atoms), GUESS))
    if same(given.value, label.value):
        return None
    if label.name not in COMPUTED:
        raise _disagreement(given, label, "μB")
    if np.ndim(label.place[label.name]) == 1 and np.any(given.value[:, :2]):
        raise KLMError(
            f"{label.name} holds one number an atom, and {GUESS} vectors that are not along z",
            "nobody knows along which axes the computed moments are",
            f"give {label.name} as vectors, or leave out the one that is not meant",
        )
    return replace(label, name=f"{label.name} ({GUESS}, the guess, is not read)")


def _energy(found: list[Label]) -> Label | None:
    """The free energy where it is there; other names must hold the same, or the energy that is beside it."""
    others = [label for label in found if label.name in ENERGY]
    free = _agreed([label for label in found if label.name in FREE_ENERGY], "eV")
    if free is None:
        return _agreed(others, "eV")
    same_as_free = [label for label in others if same(label.value, free.value)]
    rest = [label for label in others if not same(label.value, free.value) and not _all_nan(label.value)]
    _agreed(rest, "eV")
    if rest and all(label.name != "energy" for label in rest):
        raise _disagreement((same_as_free or [free])[0], rest[0], "eV")
    return same_as_free[0] if same_as_free and not rest else free


def _agreed(found: list[Label], unit: str) -> Label | None:
    """The first label that is known; all others must be the same."""
    known = [label for label in found if not _all_nan(label.value)]
    for label in known[1:]:
        if not same(known[0].value, label.value):
            raise _disagreement(known[0], label, unit)
    return known[0] if known else None


def _disagreement(first: Label, second: Label, unit: str) -> KLMError:
    a, b = np.asarray(first.value), np.asarray(second.value)
    where = ""
    if a.ndim:
        atom = int(np.abs(a - b).max(axis=1).argmax())
        a, b, where = a[atom], b[atom], f" on atom {atom}"
    return KLMError(
        f"{first.name} and {second.name} are both there, and differ",
        f"they are names of one quantity, and hold {a.tolist()} and {b.tolist()} {unit}{where}",
        "rename the one that is not meant, or leave it out",
    )


def _all_nan(values: Any) -> bool:
    array = np.asarray(values)
    return array.dtype.kind == "f" and bool(np.isnan(array).all())
