"""DeePMD-kit's spin sets: a folder with type.raw and set.*/coord.npy, spin.npy, force_mag.npy, ..., or several such.

Units are Å, eV and μB; ``force_mag`` is -∂E/∂spin. ``real_atom_types.npy`` (mixed types) gives species frame by frame.
"""

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_klm.data.about import About
from ase_klm.data.readers import blocks, tables
from ase_klm.errors import KLMError, warn
from ase_klm.validate import checked_array

NAME = "deepmd"
FILES = "folder of a DeePMD-kit spin set (type.raw, set.*)"
ROUNDING = 2e-5
"""Steps between energies, eV an atom, above which their rounding is told of: labels are fitted to 1e-4 and better."""

_LABELS = ("energy", "force", "force_mag", "box", "real_atom_types")


def recognises_folder(path: Path) -> bool:
    """Whether there are systems in a folder, or the text files of one."""
    return bool(_systems(path)) or _is_text(path)


def _is_text(path: Path) -> bool:
    return (path / "type.raw").is_file() and (path / "coord.raw").is_file()


def _systems(path: Path) -> list[Path]:
    return sorted(file.parent for file in path.rglob("type.raw") if any(file.parent.glob("set.*")))


def read(path: Path, _structure: Any = None) -> tuple[list[Atoms], About]:
    """All frames of the systems in a folder, in the order of their names.

    Raises
    ------
    KLMError
        When there is none, an array is missing or damaged, or types have no names.
    """
    systems = _systems(path) if path.is_dir() else []
    if not systems and _is_text(path):
        raise KLMError(
            f"{path} holds DeePMD-kit data as text, coord.raw and others",
            "arrays set.000/coord.npy, set.000/spin.npy... are read here",
            "turn them into arrays: raw_to_set.sh of DeePMD-kit, or numpy.save of numpy.loadtxt for each",
        )
    if not systems:
        raise KLMError(
            f"{path} is no DeePMD-kit data",
            "it is no folder with type.raw and set.000, set.001, ..., nor holds one",
            "give the folder of a system, or one above several",
        )
    frames: list[Atoms] = []
    complete = True
    for system in systems:
        pbc = not (system / "nopbc").exists()
        numbers = _numbers(system)
        for folder in sorted(system.glob("set.*")):
            found, magnetic = _set(folder, numbers, pbc, _names(system))
            complete &= magnetic
            frames += found
    return frames, About(
        NAME,
        str(path),
        "spin.npy, μB; zero on non-magnetic atoms",
        "force_mag.npy = -∂E/∂spin, eV/μB" if complete else "force_mag.npy = -∂E/∂spin, eV/μB; some sets have none",
        "energy.npy, eV",
        {},
        (f"{len(systems)} systems",) if len(systems) > 1 else (),
    )


def _names(system: Path) -> list[int]:
    file = system / "type_map.raw"
    if not file.is_file():
        raise KLMError(
            f"{system} has no type_map.raw",
            "without it nobody knows which elements the types stand for",
            "write the elements there in the order of type_map in input.json, one a line",
        )
    return [blocks.element(name) for name in blocks.read_text(file).split()]


def _numbers(system: Path) -> NDArray[np.int64]:
    names = _names(system)
    try:
        types = tables.numbers_of(blocks.read_text(system / "type.raw"))
    except blocks.Incomplete:
        types = np.array([np.nan])
    if not np.isin(types, np.arange(len(names))).all():
        raise KLMError(
            f"type.raw of {system} holds other types than 0 to {len(names) - 1}",
            f"type_map.raw names {len(names)} elements",
            "complete type_map.raw, or mend type.raw",
        )
    return np.array(names, dtype=np.int64)[types.astype(int)]


def _set(folder: Path, numbers: NDArray[np.int64], pbc: bool, names: list[int]) -> tuple[list[Atoms], bool]:
    """Frames of one ``set.*``, and whether it has magnetic forces."""
    found = {name: _load(folder / f"{name}.npy") for name in ("coord", "spin")}
    found |= {name: _load(file) for name in _LABELS if (file := folder / f"{name}.npy").is_file()}
    if pbc and "box" not in found:
        raise KLMError(f"{folder} has no box.npy", "the system is periodic", "put it there, or a file nopbc beside it")
    n_atoms = len(numbers)
    n = _number_of_frames(found["coord"], 3 * n_atoms)
    shapes = {"box": (n, 9), "energy": (n,), "real_atom_types": (n, n_atoms)}
    for name, values in found.items():
        shape = shapes.get(name, (n, 3 * n_atoms))
        # one frame may come without its axis, an energy as a column, and vectors as (n, N, 3)
        flat = values.reshape(shape) if values.size == np.prod(shape) and _same_frames(values, n) else values
        found[name] = checked_array(flat, shape, f"{name}.npy of {folder}")
        if name == "energy":
            _warn_of_rounding(values, n_atoms, f"{name}.npy of {folder}")
    frames = []
    for i in range(n):
        kinds = found["real_atom_types"][i].astype(int) if "real_atom_types" in found else None
        if kinds is not None and kinds.max(initial=-1) >= len(names):
            raise KLMError(
                f"real_atom_types of {folder} holds type {kinds.max()}", "it has no name", "mend type_map.raw"
            )
        real = np.ones(n_atoms, bool) if kinds is None else kinds >= 0  # -1 pads frames of fewer atoms
        here = numbers if kinds is None else np.array(names)[kinds[real]]
        atom = {name: found[name][i].reshape(-1, 3)[real] for name in ("coord", "spin", "force", "force_mag")
                if name in found}  # fmt: skip
        cell = found["box"][i].reshape(3, 3) if "box" in found and pbc else None
        frames.append(
            blocks.labelled(
                Atoms(here, positions=atom["coord"], cell=cell, pbc=pbc),
                atom["spin"],
                found["energy"][i] if "energy" in found else None,
                atom.get("force"),
                atom.get("force_mag"),
            )
        )
    return frames, "force_mag" in found


def _warn_of_rounding(energies: NDArray[Any], n_atoms: int, name: str) -> None:
    """Single precision holds seven digits: too few for total energies that count core electrons."""
    if not np.issubdtype(energies.dtype, np.floating):
        return
    step = float(np.spacing(np.abs(energies).max(initial=0.0)))
    if step > ROUNDING * n_atoms:
        warn(
            f"{name} is known to {step:.2g} eV only",
            f"it was stored as {energies.dtype}, which has no more digits of {float(energies.ravel()[0]):.8g} eV",
            "write it anew from the calculations, in float64",
        )


def _number_of_frames(coordinates: NDArray[Any], size: int) -> int:
    return 1 if coordinates.size == size else len(coordinates) if coordinates.ndim else 0


def _same_frames(values: NDArray[Any], n: int) -> bool:
    """Whether the first axis counts frames, which a single one may leave out."""
    return n == 1 or (values.ndim > 0 and len(values) == n)


def _load(file: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError, SyntaxError, MemoryError, TypeError) as error:
        raise KLMError(
            f"{file} cannot be read",
            f"{type(error).__name__}: {error}",
            "a spin set needs coord.npy and spin.npy in each set.*; a copy may have been cut short",
        ) from None
