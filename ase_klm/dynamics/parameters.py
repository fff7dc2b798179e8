"""What a user gives to a run of spin dynamics, checked before anything is computed."""

from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ase_klm import units
from ase_klm.errors import KLMError
from ase_klm.plausibility import doubts_about, tell
from ase_klm.validate import checked_array, checked_number

Value = TypeVar("Value")

LARGEST_DESCRIPTION = 12
"""Numbers of a function's value that a restart file keeps one by one."""


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


class OverTime(Generic[Value]):
    """A parameter of a run: constant, or a function of time.

    Parameters
    ----------
    given : object or callable
        A function takes the time in the unit of the time step, and returns what could be given as a constant.
    checked : callable
        What is given → the value that the run uses; raises `KLMError`.

    Raises
    ------
    KLMError
        When the constant, or the value of the function at time zero, is refused.
    """

    def __init__(self, given: Any, checked: Callable[[Any], Value]) -> None:
        self._checked = checked
        self._function: Callable[[float], Any] | None = given if callable(given) else None
        if self._function is None:
            self._constant = checked(given)
        else:
            self.at(0.0)

    @property
    def varies(self) -> bool:
        """Whether it is a function of time."""
        return self._function is not None

    def at(self, time: float) -> Value:
        """The value of that time."""
        if self._function is None:
            return self._constant
        given = self._function(time)
        try:
            return self._checked(given)
        except KLMError as error:
            raise KLMError(f"{error.what}, at the time {time:g}", error.why, error.remedy) from None

    def description(self, times: Iterable[float]) -> Any:
        """What a restart file keeps of it, as JSON: the constant, or of a function its values at some times.

        Values have ten digits, so that another machine's rounding is no other run; of arrays of more than twelve
        numbers one projection stands for all.
        """
        if self._function is None:
            return None if self._constant is None else np.asarray(self._array(self._constant)).tolist()
        return {"function of time": [[float(f"{t:.10g}"), _digits(self._array(self.at(t)))] for t in times]}

    @staticmethod
    def _array(value: Any) -> Any:
        return value.cpu().numpy() if isinstance(value, Tensor) else value


def _digits(value: Any) -> Any:
    if value is None:
        return None
    flat = np.ravel(np.asarray(value, dtype=np.float64))
    if flat.size > LARGEST_DESCRIPTION:
        flat = np.array([flat @ np.cos(np.arange(flat.size))])
    found = [float(f"{x:.10g}") for x in flat]
    return found if np.ndim(value) else found[0]


def thermal_energies_over_time(temperature_K: Any, kT: Any, n_replicas: int) -> OverTime[NDArray[np.float64]]:
    """As `thermal_energies`, where the one that is given may be a function of time."""
    if callable(temperature_K) and kT is None:
        found = OverTime(temperature_K, lambda kelvin: thermal_energies(kelvin, None, n_replicas))
    elif callable(kT) and temperature_K is None:
        found = OverTime(kT, lambda energy: thermal_energies(None, energy, n_replicas))
    else:
        found = OverTime(thermal_energies(temperature_K, kT, n_replicas), lambda constant: constant)
    if temperature_K is None:
        tell(doubts_about("kT of a bath", found.at(0.0), "kT"))
    else:
        tell(doubts_about("temperature of a bath", found.at(0.0) / units.KB, "temperature_K"))
    return found


def thermal_energy_over_time(temperature_K: Any, name: str) -> OverTime[float]:
    """KT in eV of one bath, from a number, a function of time, or None for none."""

    def checked(kelvin: Any) -> float:
        return units.KB * checked_number(kelvin, name, "K", minimum=0)

    found = OverTime(0.0 if temperature_K is None else temperature_K, checked)
    tell(doubts_about("temperature of a bath", found.at(0.0) / units.KB, name))
    return found


def checked_damping(damping: Any) -> OverTime[float]:
    """α, from a number or a function of time."""
    return OverTime(damping, lambda value: checked_number(value, "damping", minimum=0))


def applied_field(
    field: Any, shape: tuple[int, ...], device: torch.device, force_scale: float
) -> OverTime[Tensor | None]:
    """A further Zeeman field on the moments, to be broadcast against them; None without a field.

    Parameters
    ----------
    field : array_like or callable, optional
        eV/μB. One structure: (3,) or (N, 3). Replicas: (3,), (replicas, 3), or (replicas, N, 3). A function takes the
        time in the unit of the time step and returns one of these.
    shape : tuple
        Shape of the moments, (N, 3) or (replicas, N, 3).
    force_scale : float
        Of the model's magnetic forces, eV/μB: a field far beyond it is doubted, as `Zeeman` doubts it.
    """

    def checked(given: Any) -> Tensor | None:
        if given is None:
            return None
        values = checked_array(given, (None,) * np.ndim(given), "field", "eV/μB")
        if values.ndim == 2 and len(shape) == 3 and values.shape == (shape[0], 3):
            values = values[:, None, :]
        if values.shape not in {(3,), shape, (*shape[:-2], 1, 3)}:
            raise KLMError(
                f"field has shape {values.shape}, which does not fit moments of shape {shape}",
                "it acts on the moments of one structure, or of replicas along the first axis",
                "give (3,); (N, 3) for one structure; (replicas, 3) or (replicas, N, 3) for replicas",
            )
        return torch.tensor(values, device=device)

    found = OverTime(field, checked)
    start = found.at(0.0)
    if start is not None:
        tell(doubts_about("field", start.norm(dim=-1).cpu().numpy(), "applied field", limit=3 * (force_scale or 1.0)))
    return found
