"""What a user gives to a run of spin dynamics, checked before anything is computed."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ase_klm import units
from ase_klm.errors import KLMError
from ase_klm.plausibility import Doubt, doubts_about, tell
from ase_klm.validate import checked_array


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
    tell(doubts_about("kT of a bath" if temperature_K is None else "temperature of a bath", values, name))
    return np.array(np.broadcast_to(values * (1.0 if temperature_K is None else units.KB), (n_replicas,)))


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

    def doubts(self, force_scale: float) -> Iterator[Doubt]:
        """Whether a constant field is far beyond the magnetic forces of a model, eV/μB, as `Zeeman` judges it."""
        if self._constant is not None:
            size = self._constant.norm(dim=-1).cpu().numpy()
            yield from doubts_about("field", size, "applied field", limit=3 * (force_scale or 1.0))

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
