"""ASE's databases, SQLite (``.db``) and JSON, which ASE 3.29 writes with vector moments and cannot always read.

ASE's SQLite tables hold (N, 3) moments as 3N numbers and forget the shape: ``row.toatoms()`` then raises "wrong
length". They are put into shape here. `save` keeps moments and magnetic forces in ``row.data``, so that ASE reads the
file too.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.db.row import AtomsRow
from ase.io.jsonio import encode

from ase_klm.data.about import About
from ase_klm.errors import KLMError
from ase_klm.files import written_atomically
from ase_klm.moments import get_moments, set_moments

NAME = "ase-db"
FILES = "database of ASE (.db, .json)"
_HEAD = "SQLite format 3"
_UNREADABLE = (OSError, sqlite3.Error, ValueError, KeyError, TypeError, AttributeError, AssertionError, ImportError)


def recognises(text: str) -> bool:
    """Whether it is an SQLite file, or JSON that ends like ASE's."""
    return text.startswith(_HEAD) or (text.startswith("{") and '"nextid":' in text[-1000:])


def read(path: Path, _structure: Any = None) -> tuple[list[Atoms], About]:
    """All rows, in the order in which they were written.

    Raises
    ------
    KLMError
        When it is no database, or damaged.
    """
    try:
        with path.open("rb") as file:
            kind = "db" if file.read(len(_HEAD)) == _HEAD.encode() else "json"
        with connect(path, type=kind, use_lock_file=False) as database:
            frames = [_frame(row) for row in database.select()]
    except _UNREADABLE as error:
        raise KLMError(
            f"{path} cannot be read as a database of ASE",
            f"{type(error).__name__}: {error}",
            "check that it is one, and complete; a copy may have been cut short",
        ) from None
    return frames, About(NAME, str(path), 'initial_magmoms, or data["moments"] where it is there, μB')


def _frame(row: AtomsRow) -> Atoms:
    data = row.data
    for name in ("initial_magmoms", "magmoms"):
        values = row.get(name)
        if values is not None and np.shape(values) == (3 * row.natoms,):
            row[name] = np.reshape(values, (-1, 3))
    atoms = row.toatoms()
    atoms.info |= row.key_value_pairs | dict(data.get("info", {}))
    if "moments" in data:
        set_moments(atoms, data["moments"])
        if atoms.calc is not None:  # made for the atoms without moments
            atoms.calc.atoms = atoms.copy()
    if "magnetic_forces" in data:
        atoms.set_array("magnetic_forces", np.asarray(data["magnetic_forces"]), float, (3,))
    if atoms.calc is not None:
        atoms.calc.parameters.update(row.get("calculator_parameters", {}))
    return atoms


def save(path: Path, structures: Sequence[Atoms], results: Sequence[Mapping[str, Any]]) -> None:
    """Write structures and their results (`energy`, `forces`, `magnetic_forces`), replacing an older file in one go.

    Moments go into ``row.data["moments"]``, μB, shape (N, 3); atoms that ASE itself reads from the file have none.

    Raises
    ------
    KLMError
        When the file cannot be written.
    """
    try:
        with (
            written_atomically(path) as temporary,
            connect(temporary, type="db", append=False, use_lock_file=False) as database,
        ):
            for atoms, found in zip(structures, results, strict=True):
                bare = atoms.copy()
                bare.arrays.pop("initial_magmoms", None)
                energy, forces = found.get("energy"), found.get("forces")
                bare.calc = SinglePointCalculator(bare, energy=energy, free_energy=energy, forces=forces)
                if atoms.calc is not None:
                    bare.calc.name, bare.calc.parameters = atoms.calc.name, atoms.calc.todict()
                data = {"moments": get_moments(atoms), "info": _plain(atoms.info)}
                if found.get("magnetic_forces") is not None:
                    data["magnetic_forces"] = np.asarray(found["magnetic_forces"])
                database.write(bare, data=data)
    except sqlite3.Error as error:
        raise KLMError(f"{path} cannot be written", str(error), "choose another name, or make room") from None


def _plain(info: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold of ``atoms.info``."""
    kept = {}
    for name, value in info.items():
        try:
            encode(value)
        except (TypeError, ValueError):
            continue
        if name != "magnetic_forces":
            kept[str(name)] = value
    return kept
