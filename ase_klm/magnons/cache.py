"""Magnetic forces of displaced configurations, kept on disk so that a run that was cut short goes on."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms

from ase_klm.errors import KLMError
from ase_klm.files import written_atomically
from ase_klm.moments import get_moments
from ase_klm.validate import Array


class Cache:
    """A folder with one file a configuration, or nothing.

    Parameters
    ----------
    folder : Path or None
        None keeps nothing.
    atoms : Atoms
        The undisplaced supercell; a folder of another one is an error.
    delta : float
        Angle of the displacements, rad.
    energy : float
        Of the undisplaced supercell, eV; it tells calculators apart.
    """

    def __init__(self, folder: Path | None, atoms: Atoms, delta: float, energy: float) -> None:
        self.folder = folder
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KLMError(
                f"cache = {folder} cannot be made", f"it is to be a folder: {error.strerror}", "use another name"
            ) from error
        told = {"sites": len(atoms), "delta": delta, "energy": energy, "structure": _digest(atoms)}
        path = folder / "magnons.json"
        if not path.exists():
            with written_atomically(path) as temporary:
                temporary.write_text(json.dumps(told, indent=1))
            return
        stored = json.loads(path.read_text())
        different = [name for name in told if name != "energy" and stored.get(name) != told[name]]
        if not np.isclose(stored.get("energy", np.nan), energy, rtol=1e-6, atol=1e-9):
            different.append("energy, which is another calculator's")
        if different:
            raise KLMError(
                f"{folder} holds displacements of something else",
                f"they differ in {', '.join(different)}",
                "delete the folder, or name another one",
            )

    def get(self, name: str, calculate: Callable[[], Array]) -> Array:
        """The array of that name, from disk where it is there."""
        if self.folder is None:
            return calculate()
        path = self.folder / f"{name}.npy"
        if path.exists():
            try:
                return np.load(path, allow_pickle=False)
            except (ValueError, EOFError, OSError):
                pass  # damaged: made anew
        found = calculate()
        with written_atomically(path) as temporary:
            np.save(temporary, found)
        return found


def _digest(atoms: Atoms) -> str:
    rounded = [np.round(a, 9) + 0.0 for a in (atoms.positions, atoms.cell.array, get_moments(atoms))]
    parts = [atoms.numbers.tobytes(), atoms.pbc.tobytes(), *(array.tobytes() for array in rounded)]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]
