"""What users give to any tool that moves spins, checked before anything is computed."""

import os
import sys
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from ase_klm.errors import KLMError
from ase_klm.moments import is_magnetic


def checked_replicas(atoms: Any) -> list[Atoms]:
    """The structures to evolve: one, or the replicas of a batch."""
    replicas = [atoms] if isinstance(atoms, Atoms) else list(atoms) if isinstance(atoms, list | tuple) else []
    if not replicas or any(not isinstance(replica, Atoms) for replica in replicas):
        raise KLMError(
            f"{type(atoms).__name__} cannot be evolved",
            "spin dynamics needs Atoms, or a list of Atoms that are replicas of one lattice",
            "LLGDynamics(atoms, ...) or LLGDynamics([atoms1, atoms2], ...)",
        )
    if len({id(replica) for replica in replicas}) < len(replicas):
        raise KLMError("one Atoms object stands for two replicas", "each has moments of its own", "use atoms.copy()")
    for replica in replicas:
        if not is_magnetic(replica).any():
            raise KLMError(
                "no atom carries a moment",
                "there is nothing to evolve",
                "set moments, e.g. textures.random(atoms, seed=1)",
            )
    return replicas


def checked_steps(steps: Any) -> int:
    """A number of steps, zero or more."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 0:
        raise KLMError(
            f"steps = {steps!r} is no number of steps", "it must be an integer >= 0", "for instance run(100)"
        )
    return int(steps)


def pinned_sites(pinned: ArrayLike | None, n_atoms: int) -> NDArray[np.bool_]:
    """Mask of pinned sites, shape (N,), from a mask or a list of indices."""
    given = np.zeros(n_atoms, dtype=bool) if pinned is None else np.asarray(pinned)
    if given.size == 0:
        return np.zeros(n_atoms, dtype=bool)
    if given.dtype == bool and given.shape == (n_atoms,):
        return given.copy()
    mask = np.zeros(n_atoms, dtype=bool)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer) or given.min() < 0 or given.max() >= n_atoms:
        raise KLMError(
            f"pinned of shape {given.shape} and type {given.dtype} does not name sites",
            f"it must be a boolean mask of shape ({n_atoms},) or indices from 0 to {n_atoms - 1}",
            "for instance pinned=atoms.positions[:, 0] < 1.0",
        )
    mask[given] = True
    return mask


def check_folder(path: Any, name: str = "path") -> None:
    """Refuse, before a long run, a file name that cannot be written to."""
    if not isinstance(path, str | Path) or not str(path) or Path(path).is_dir():
        raise KLMError(f"{name} = {path!r} is no file name", "a file is to be written there", f'e.g. {name}="run.dat"')
    if not os.access(Path(path).absolute().parent, os.W_OK):
        raise KLMError(
            f"{path} cannot be written",
            "its folder does not exist or is write-protected",
            "create it, or choose another",
        )


def checked_logfile(logfile: Any) -> None:
    """Refuse what no log can be written to."""
    if logfile is None or (hasattr(logfile, "write") and hasattr(logfile, "flush")):
        return
    if not isinstance(logfile, str) or logfile != "-":
        check_folder(logfile, "logfile")


def open_log(logfile: str | Path | TextIO, mode: str) -> tuple[TextIO, bool]:
    """The text file to write to, and whether it was opened here."""
    if not isinstance(logfile, str | Path):
        return logfile, False
    if logfile == "-":
        return sys.stdout, False
    try:
        return Path(logfile).open(mode), True  # type: ignore[return-value]
    except OSError as error:
        raise KLMError(f"{logfile} cannot be written", str(error), "choose another logfile") from None
