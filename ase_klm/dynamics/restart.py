"""Restart files: everything needed to continue to the same bits, as a NumPy archive that holds no pickles.

A file is written under another name, synchronised to disk and renamed (see `files.written_atomically`), so that a crash
at any moment leaves the old one whole.
"""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from ase_klm.continuation import check_same_run
from ase_klm.errors import KLMError
from ase_klm.files import written_atomically
from ase_klm.potentials.serialisation import read


@dataclass(frozen=True)
class RestartState:
    """State of a run between two steps.

    Attributes
    ----------
    step : int
        Steps done.
    moments : ndarray
        μB, shape (..., N, 3).
    length : ndarray
        abs(m) as the run keeps it, μB, shape (..., N, 1).
    energy : ndarray
        eV, shape (...): tells a continued run whether its Hamiltonian is still the same.
    generator : ndarray
        State of the random generator, uint8.
    parameters : dict
        What must be equal in the run that continues; JSON.
    """

    run: ClassVar[str] = "LLGDynamics"
    step: int
    moments: NDArray[np.float64]
    length: NDArray[np.float64]
    energy: NDArray[np.float64]
    generator: NDArray[np.uint8]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class SpinLatticeRestartState(RestartState):
    """State of a run that moves the atoms, too.

    Attributes
    ----------
    positions, velocities : ndarray
        Å, and Å per ASE's unit of time, shape (N, 3).
    """

    run: ClassVar[str] = "SpinLatticeDynamics"
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]


State = TypeVar("State", bound=RestartState)


def save(path: Path, state: RestartState) -> None:
    """Write the file, replacing an older one in one go."""
    found: dict[str, Any] = {entry.name: np.asarray(getattr(state, entry.name)) for entry in fields(state)}
    found["parameters"] = np.array(json.dumps(state.parameters))
    with written_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez(file, format=np.array(_format(type(state))), **found)


def _format(kind: type[RestartState]) -> str:
    return f"ase_klm {kind.run} restart 1"


def load(path: Path, parameters_at: Callable[[int], dict[str, Any]], kind: type[State]) -> State:
    """Read a file that `save` wrote for a run of this kind with these parameters.

    Parameters
    ----------
    parameters_at : callable
        Step of the file → `parameters` of the run that continues.

    Raises
    ------
    KLMError
        When the file is damaged or of another kind, or belongs to another run. The file is left as it is.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
        if str(found["format"]) != _format(kind):
            raise KeyError(f"its format is {found['format']}, not {_format(kind)!r}")
        arrays = {
            entry.name: found[entry.name].astype(np.uint8 if entry.name == "generator" else np.float64, casting="safe")
            for entry in fields(kind)
            if entry.name not in ("step", "parameters")
        }
        state = kind(step=int(found["step"]), parameters=json.loads(str(found["parameters"])), **arrays)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise KLMError(
            f"{path} cannot be read as a restart file of {kind.run}",
            f"{type(error).__name__}: {error}",
            "it is damaged or of another kind: move it away to start anew, or give the right name",
        ) from None
    parameters = parameters_at(state.step)
    _check_species(path, state.parameters.get("species"), parameters["species"])
    check_same_run(
        path, "run", state.parameters, parameters, "give the parameters of that run, or another restart file"
    )
    return state


def lattices_in(path: Path | None) -> list[Atoms]:
    """The lattices on which the run of a restart file finds its bonds; none where it cannot be read, see `load`."""
    if path is None or not path.exists():
        return []
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = json.loads(str(archive["parameters"])).get("lattices") or []
        return [read(lattice, "lattice") for lattice in found]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        return []


def _check_species(path: Path, there: Any, here: list[int]) -> None:
    if not isinstance(there, list) or there == here:
        return
    if len(there) != len(here):
        what = f"{len(here)} atoms, the file has {len(there)}"
    else:
        first = next(i for i, (a, b) in enumerate(zip(there, here, strict=True)) if a != b)
        what = f"atom {first} is {chemical_symbols[here[first]]}, in the file {chemical_symbols[there[first]]}"
    raise KLMError(
        f"{path} belongs to another structure: {what}",
        "a run is continued to the same bits only with the same atoms",
        "give the atoms of that run, or another restart file",
    )
