"""What a user gives to a run of spin dynamics, checked before anything is computed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ase_klm import units
from ase_klm.errors import KLMError
from ase_klm.moments import checked_array, is_magnetic


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


def checked_number(value: Any, name: str, unit: str, zero: bool = False) -> float:
    """A finite number above zero, or, with `zero`, at zero."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not np.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise KLMError(
            f"{name} = {value!r} cannot be used",
            f"it must be a finite number {'not below' if zero else 'above'} zero{f', in {unit}' if unit else ''}",
            f"for instance {name}=0.1" if name == "damping" else f"check {name} and its unit",
        )
    return number


def thermal_energies(temperature_K: ArrayLike | None, kT: ArrayLike | None, n_replicas: int) -> NDArray[np.float64]:
    """KT in eV from one of the two, shape (n_replicas,); zero when neither is given."""
    if temperature_K is not None and kT is not None:
        raise KLMError(
            "both temperature_K and kT are given", "they say the same thing twice", "keep temperature_K (K) or kT (eV)"
        )
    name, unit = ("kT", "eV") if temperature_K is None else ("temperature_K", "K")
    given = kT if temperature_K is None else temperature_K
    values = checked_array(np.atleast_1d(0.0 if given is None else given), (None,), name, unit)
    if (values < 0).any():
        raise KLMError(f"{name} is negative", "no bath has a negative temperature", f"give {name} >= 0")
    if len(values) not in (1, n_replicas):
        raise KLMError(
            f"{name} has {len(values)} entries for {n_replicas} replicas",
            "each replica needs one",
            f"give one number, or {n_replicas}",
        )
    return np.array(np.broadcast_to(values * (1.0 if temperature_K is None else units.KB), (n_replicas,)))


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


class AppliedField:
    """A further Zeeman field on the moments, constant or a function of time.

    Parameters
    ----------
    field : array_like or callable, optional
        eV/μB. One structure: (3,) or (N, 3). Replicas: (3,), (replicas, 3), or (replicas, N, 3). A function takes the
        time in the unit of the time step and returns one of these.
    shape : tuple
        Shape of the moments, (N, 3) or (replicas, N, 3).
    """

    def __init__(self, field: Any, shape: tuple[int, ...], device: torch.device) -> None:
        self.shape, self.device = shape, device
        self.function: Callable[[float], ArrayLike] | None = field if callable(field) else None
        self._constant = None if field is None or callable(field) else self._tensor(field)
        if self.function is not None:
            self.at(0.0)

    def at(self, time: float) -> Tensor | None:
        """B of that time, to be broadcast against the moments; None without a field."""
        return self._constant if self.function is None else self._tensor(self.function(time))

    @property
    def description(self) -> Any:
        """What a restart file keeps of it."""
        if self.function is not None:
            return "a function of time"
        return None if self._constant is None else self._constant.cpu().tolist()

    def _tensor(self, field: ArrayLike) -> Tensor:
        rank = np.ndim(field)
        values = checked_array(field, (None,) * rank, "field", "eV/μB")
        if rank == 2 and len(self.shape) == 3 and values.shape == (self.shape[0], 3):
            values = values[:, None, :]
        allowed = {(3,), self.shape, (*self.shape[:-2], 1, 3)}
        if values.shape not in allowed:
            raise KLMError(
                f"field has shape {values.shape}, which does not fit moments of shape {self.shape}",
                "it acts on the moments of one structure, or of replicas along the first axis",
                "give (3,); (N, 3) for one structure; (replicas, 3) or (replicas, N, 3) for replicas",
            )
        return torch.tensor(values, device=self.device)
