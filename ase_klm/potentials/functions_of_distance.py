"""Functions of distance, in eV of r in Å: exchange M(r) of unit vectors, E = Σ M(r) e_i·e_j, every bond once, so that
M > 0 is antiferromagnetic; or pair energies.

They act on torch tensors and are differentiable; any `DistanceFunction` of one's own serves as well.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.potentials.parameters import Parametrised
from ase_klm.validate import Array, checked_array, checked_number


@dataclass(frozen=True)
class DistanceFunction(Parametrised, ABC):
    """A number of eV for each distance."""

    @abstractmethod
    def __call__(self, r: Tensor) -> Tensor:
        """The value at distances r, Å, of any shape."""

    def slope(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """Value and derivative, eV/Å; by automatic differentiation where a function does not say otherwise."""
        r = r.detach().requires_grad_()
        with torch.enable_grad():
            value = self(r)
            (slope,) = torch.autograd.grad(value.sum(), r, allow_unused=True, materialize_grads=True)
        return value.detach(), slope


@dataclass(frozen=True)
class BetheSlater(DistanceFunction):
    """M(r) = -4a (r/d)² [1 - b (r/d)²] exp(-(r/d)²), with the a, b, d of LAMMPS's ``pair_style spin/exchange``.

    LAMMPS writes E = -Σ_ij J(r) s_i·s_j with J > 0 ferromagnetic. Its release of 22 July 2025 counts every bond once in
    energies, forces and fields (54 atoms of bcc iron: equal to 1e-15), so M = -J without a factor of two. It also turns
    spins by ∂E/∂s_i/ħ whatever the moment, as moments of 2 μB do here. The function does not vanish at a cutoff;
    where atoms cross it, use `Tapered`.

    Parameters
    ----------
    a : float
        eV; positive for a ferromagnet.
    b : float
    d : float
        Å.
    """

    a: float
    b: float
    d: float

    def __post_init__(self) -> None:
        checked_number(self.a, "a", "eV")
        checked_number(self.b, "b")
        checked_number(self.d, "d", "Å", above=0)

    def __call__(self, r: Tensor) -> Tensor:
        x = (r / self.d) ** 2
        return -4 * self.a * x * (1 - self.b * x) * torch.exp(-x)

    def slope(self, r: Tensor) -> tuple[Tensor, Tensor]:
        x = (r / self.d) ** 2
        decay = -4 * self.a * torch.exp(-x)
        by_x = decay * (1 - x - self.b * x * (2 - x))
        return decay * x * (1 - self.b * x), by_x * r * (2 / self.d**2)


@dataclass(frozen=True)
class Exponential(DistanceFunction):
    """M(r) = M0 exp(-(r - r0)/decay).

    Parameters
    ----------
    value : float
        M0, eV, at the distance r0.
    r0, decay : float
        Å.
    """

    value: float
    r0: float
    decay: float

    def __post_init__(self) -> None:
        checked_number(self.value, "value", "eV")
        checked_number(self.r0, "r0", "Å")
        checked_number(self.decay, "decay", "Å", above=0)

    def __call__(self, r: Tensor) -> Tensor:
        return self.value * torch.exp((self.r0 - r) / self.decay)

    def slope(self, r: Tensor) -> tuple[Tensor, Tensor]:
        value = self(r)
        return value, value * (-1 / self.decay)


@dataclass(frozen=True, eq=False)
class Table(DistanceFunction):
    """Cubic spline through a table that ends at zero; zero beyond, where value and slope are continuous.

    Below the first distance the spline is continued as it is.

    Parameters
    ----------
    distances : array_like
        Å, increasing, at least three.
    values : array_like
        eV, the last one 0.
    """

    distances: Any
    values: Any
    _coefficients: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        r = checked_array(self.distances, (None,), "distances", "Å")
        values = checked_array(self.values, (len(r),), "values", "eV")
        if len(r) < 3 or not np.all(np.diff(r) > 0):
            raise KLMError(
                f"distances = {r.tolist()} cannot be interpolated",
                "a spline takes at least three increasing distances",
                "sort the table, and drop what stands there twice",
            )
        if values[-1] != 0:
            raise KLMError(
                f"the last of the values is {values[-1]:g} eV",
                f"exchange beyond {r[-1]:g} Å is zero, and would jump there",
                "end the table with a distance at which it has vanished, and the value 0",
            )
        spline = CubicSpline(r, values, bc_type=("not-a-knot" if len(r) > 3 else "natural", (1, 0.0)))
        for name, array in (("distances", r), ("values", values), ("_coefficients", spline.c)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Table)
            and np.array_equal(self.distances, other.distances)
            and np.array_equal(self.values, other.values)
        )

    __hash__ = None  # type: ignore[assignment]

    def __call__(self, r: Tensor) -> Tensor:
        knots, coefficients = (torch.tensor(array).to(r) for array in (self.distances, self._coefficients))
        interval = torch.searchsorted(knots, r.detach().contiguous(), right=True).sub_(1).clamp_(0, len(knots) - 2)
        x = r - knots[interval]
        c3, c2, c1, c0 = coefficients[:, interval]
        return torch.where(r < knots[-1], ((c3 * x + c2) * x + c1) * x + c0, 0.0)


@dataclass(frozen=True)
class Tapered(DistanceFunction):
    """Another function, brought from its full value at `on` to zero at `off` by a quintic switch, smooth at both.

    Parameters
    ----------
    function : DistanceFunction
    on, off : float
        Å.
    """

    function: DistanceFunction
    on: float
    off: float

    def __post_init__(self) -> None:
        checked_distance_function(self.function, "function")
        checked_number(self.on, "on", "Å", minimum=0)
        checked_number(self.off, "off", "Å", above=self.on)

    def __call__(self, r: Tensor) -> Tensor:
        x = ((r - self.on) / (self.off - self.on)).clamp(0, 1)
        return self.function(r) * (1 - x**3 * (10 - 15 * x + 6 * x**2))


def checked_distance_function(function: Any, name: str) -> DistanceFunction:
    """The argument, if it is a function of distance.

    Raises
    ------
    KLMError
        When it is something else.
    """
    if not isinstance(function, DistanceFunction):
        raise KLMError(
            f"{name} = {function!r} is no function of distance",
            "it must be a DistanceFunction: BetheSlater, Exponential, Table, Tapered, or a subclass of one's own",
            "for instance potentials.Exponential(-0.01, r0=2.5, decay=0.4)",
        )
    return function


def check_pair_function(function: Any, cutoff: Any, skin: Any) -> None:
    """A function between all pairs within a cutoff, or neither of the two.

    Raises
    ------
    KLMError
        When one of the two is missing, or one of the three cannot be used.
    """
    if (function is None) != (cutoff is None):
        raise KLMError(
            "function and cutoff are given together or not at all",
            f"function = {function!r} and cutoff = {cutoff!r}",
            "the cutoff (Å) says which pairs the function is for; functions of a shell stand in shells",
        )
    if function is not None:
        checked_distance_function(function, "function")
        checked_number(cutoff, "cutoff", "Å", above=0)
    checked_number(skin, "skin", "Å", minimum=0)
