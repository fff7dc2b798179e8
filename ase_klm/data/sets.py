"""Data sets of labels in one NumPy archive (``.npz``), the compact format for training networks.

===================  ==========  ===================================================================================
key                  shape       meaning
===================  ==========  ===================================================================================
``numbers``          (N,)        atomic numbers, the same in all frames
``cell``             (n, 3, 3)   Å; (3, 3) where all frames share it
``positions``        (n, N, 3)   Å; (N, 3) where all frames share them
``pbc``              (3,)        optional, bool; without it all directions are periodic
``energy``           (n,)        eV
``forces``           (n, N, 3)   optional, eV/Å
``magmoms``          (n, N, 3)   moments, μB
``mag_forces``       (n, N, 3)   -∂E/∂m, eV/μB
``mag_forces_part``  () or (n,)  optional text: "transverse" where the part along the moment is unknown
``hamiltonian``      () or (n,)  optional text: parameters of the Hamiltonian as JSON, for all frames or one a frame
``kind``             (n,)        optional text: how the configuration was made
``mu``               (n,)        optional: chemical potential of the electrons, eV
``source``           () or (n,)  optional text: where labels come from, which moment, which sign
===================  ==========  ===================================================================================

A label that a frame does not have is NaN throughout (an empty text), and None in `Frame`. Nothing is ever unpickled.
Step and time of frames are not kept.
"""

import json
import struct
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from ase_klm.errors import KLMError
from ase_klm.files import written_atomically
from ase_klm.moments import get_moments, set_moments
from ase_klm.validate import checked_array

REQUIRED = ("numbers", "cell", "positions", "energy", "magmoms", "mag_forces")
TEXTS = ("hamiltonian", "kind", "mag_forces_part", "source")

_UNREADABLE = (
    OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, SyntaxError, MemoryError,
    struct.error, zlib.error, zipfile.BadZipFile,
)  # fmt: skip


def load(path: Path) -> list[Atoms]:
    """The frames of a data set, with moments, magnetic forces as an array, and other labels in a calculator.

    Raises
    ------
    KLMError
        When the file is damaged, or a key is missing, of another shape, or not finite.
    """
    found = _arrays(path)
    found = _shared(found)
    positions = checked_array(found["positions"], (None, None, 3), f"positions of {path}", "Å")
    n, n_atoms, _ = positions.shape
    numbers = _numbers(found["numbers"], n_atoms, path)
    pbc = checked_array(found.get("pbc", np.ones(3)), (3,), f"pbc of {path}").astype(bool)
    cell = checked_array(found["cell"], (n, 3, 3), f"cell of {path}", "Å")
    _check_cell(cell, pbc, path)
    moments = checked_array(found["magmoms"], (n, n_atoms, 3), f"magmoms of {path}", "μB")
    energy = _labels(found["energy"], (n,), "energy", path)
    magnetic_forces = _labels(found["mag_forces"], (n, n_atoms, 3), "mag_forces", path)
    forces = _labels(found["forces"], (n, n_atoms, 3), "forces", path) if "forces" in found else [None] * n
    texts = {name: _texts(found[name], n, name, path) for name in TEXTS if name in found}
    mu = _labels(found["mu"], (n,), "mu", path) if "mu" in found else [None] * n
    for text in set(texts.get("hamiltonian", ())):
        parameters(text)
    structures = []
    for i in range(n):
        atoms = Atoms(numbers=numbers, positions=positions[i], cell=cell[i], pbc=pbc)
        set_moments(atoms, moments[i])
        known = {"energy": energy[i], "free_energy": energy[i], "forces": forces[i]}
        results = {name: value for name, value in known.items() if value is not None}
        if magnetic_forces[i] is not None:
            atoms.set_array("magnetic_forces", magnetic_forces[i], float, (3,))
        atoms.info |= {name: text[i] for name, text in texts.items() if text[i]}
        if (potential := mu[i]) is not None:
            atoms.info["chemical_potential"] = float(potential)
        if results:
            atoms.calc = SinglePointCalculator(atoms, **results)
        structures.append(atoms)
    return structures


def save(path: Path, structures: Sequence[Atoms], results: Sequence[Mapping[str, Any]]) -> None:
    """Write structures and their results (`energy`, `forces`, `magnetic_forces`), replacing an older file in one go.

    Raises
    ------
    KLMError
        When there is no frame, species or periodic directions differ, or a label is not finite.
    """
    if not structures:
        raise KLMError("there are no frames to write", "a data set holds at least one", "give one or more structures")
    first = structures[0]
    for atoms in structures:
        if not np.array_equal(atoms.numbers, first.numbers) or not np.array_equal(atoms.pbc, first.pbc):
            raise KLMError(
                f"frames of different species or periodic directions do not fit into {path}",
                "a .npz data set has one list of species and one pbc for all its frames",
                "write one data set for each structure, or a .traj or .extxyz file",
            )
    n, n_atoms = len(structures), len(first)
    arrays = {
        "numbers": first.numbers,
        "pbc": first.pbc,
        "cell": np.array([atoms.cell.array for atoms in structures]),
        "positions": np.array([atoms.positions for atoms in structures]),
        "magmoms": np.array([get_moments(atoms) for atoms in structures]),
    }
    shapes = {"energy": (), "forces": (n_atoms, 3), "magnetic_forces": (n_atoms, 3)}
    for name, shape in shapes.items():
        if name == "forces" and all(result.get(name) is None for result in results):
            continue
        values = np.full((n, *shape), np.nan)
        for i, result in enumerate(results):
            if result.get(name) is not None:
                values[i] = checked_array(result[name], shape, f"{name} of frame {i}")
        arrays["mag_forces" if name == "magnetic_forces" else name] = values
    for name in TEXTS:
        texts = [_text(atoms.info.get(name)) for atoms in structures]
        if any(texts):
            same = name != "kind" and len(set(texts)) == 1
            arrays[name] = np.array(texts[0] if same else texts, dtype=np.str_)
    potentials = [atoms.info.get("chemical_potential", np.nan) for atoms in structures]
    if not np.isnan(potentials).all():
        arrays["mu"] = np.array(potentials, dtype=np.float64)
    with written_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def parameters(hamiltonian: Any) -> dict[str, Any] | None:
    """A Hamiltonian's parameters from the JSON text that frames carry in ``info["hamiltonian"]``; None for no text.

    Raises
    ------
    KLMError
        When it is something else.
    """
    if hamiltonian is None or (isinstance(hamiltonian, str) and not hamiltonian):
        return None
    try:
        found = json.loads(hamiltonian) if isinstance(hamiltonian, str) else hamiltonian
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise KLMError(
            f"{str(hamiltonian)[:60]!r} is no Hamiltonian",
            "its parameters must be one JSON object",
            'for instance {"kind": "kondo", "hopping": {"1": 1.0}, "J": 7.0, "filling": 0.48}',
        )
    return found


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            found = {
                name: archive[name] for name in (*REQUIRED, "pbc", "forces", "mu", *TEXTS) if name in archive.files
            }
    except _UNREADABLE as error:
        raise KLMError(
            f"{path} cannot be read as a data set",
            f"{type(error).__name__}: {error}",
            "check that it is a complete NumPy archive without pickles; a copy may have been cut short",
        ) from None
    missing = [name for name in REQUIRED if name not in found]
    if missing:
        raise KLMError(
            f"{path} is no data set: it has no {' and no '.join(missing)}",
            f"a data set holds {', '.join(REQUIRED)}",
            "write it with data.write, or add what is missing; NaN stands for labels that a frame does not have, and "
            "cell and positions may be given once, shapes (3, 3) and (N, 3)",
        )
    return found


def _shared(found: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Cell and positions frame by frame, where the file has one for all."""
    n = len(found["energy"]) if found["energy"].ndim else 0
    ranks = {"cell": 2, "positions": 2}
    shared = {name: found[name] for name, rank in ranks.items() if found[name].ndim == rank}
    return found | {name: np.broadcast_to(values, (n, *values.shape)) for name, values in shared.items()}


def _check_cell(cell: NDArray[np.float64], pbc: NDArray[np.bool_], path: Path) -> None:
    empty = ~cell.any(axis=2) & pbc  # (n, 3)
    if empty.any():
        frame, vector = np.argwhere(empty)[0].tolist()
        raise KLMError(
            f"cell of {path} has no vector {vector + 1} in frame {frame}",
            "this direction is periodic (without a key pbc all are)",
            "give the lattice vectors as rows of cell, shape (3, 3) or (n, 3, 3), or pbc = [False, False, False]",
        )


def _numbers(values: NDArray[Any], n_atoms: int, path: Path) -> NDArray[np.int64]:
    numbers = checked_array(values, (n_atoms,), f"numbers of {path}")
    if not ((numbers == numbers.round()) & (numbers >= 0) & (numbers <= 118)).all():
        raise KLMError(
            f"numbers of {path} are not atomic numbers", "they must be integers from 0 to 118", "check how it was made"
        )
    return numbers.astype(np.int64)


def _labels(values: NDArray[Any], shape: tuple[int, ...], name: str, path: Path) -> list[Any]:
    """Labels frame by frame, None where they are NaN throughout."""
    if values.shape != shape or values.dtype.kind != "f":
        return list(checked_array(values, shape, f"{name} of {path}"))
    missing = np.isnan(values).all(axis=tuple(range(1, len(shape))))
    known = np.where(missing.reshape(-1, *[1] * (len(shape) - 1)), 0.0, values)
    checked = checked_array(known, shape, f"{name} of {path}")
    return [None if gone else label for gone, label in zip(missing, checked, strict=True)]


def _texts(values: NDArray[Any], n: int, name: str, path: Path) -> list[str]:
    if values.dtype.kind != "U" or values.shape not in ((), (1,), (n,)):
        raise KLMError(
            f"{name} of {path} has shape {values.shape} and type {values.dtype}",
            f"it must be text, one for all frames or one for each of the {n}",
            "np.array(json.dumps(parameters)) makes one for all",
        )
    return [str(text) for text in np.broadcast_to(values.reshape(-1), (n,))]


def _text(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
