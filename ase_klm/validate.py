"""Checks of what users give, each with an error that says what is wrong, why, and what to do."""

from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from ase_klm.errors import KLMError

Array = NDArray[np.float64]

LARGEST = 1e100
"""Numbers beyond this are no quantity of physics, and their squares would soon overflow."""


def checked_array(values: ArrayLike, shape: tuple[int | None, ...], name: str, unit: str = "") -> Array:
    """Float64 copy of `values` of the given shape (None: any length), free of NaN and infinity.

    Raises
    ------
    KLMError
        When the values are not numbers, have another shape, or are not finite.
    """
    what = f"{name} must be numbers of shape {_shape_text(shape)}{f' in {unit}' if unit else ''}"
    try:
        given = np.asarray(values)
        if given.dtype.kind not in "biufO":
            raise TypeError(f"they are of type {given.dtype}")
        array = given.astype(np.float64)  # a copy
    except (TypeError, ValueError, OverflowError) as error:
        raise KLMError(f"{name} cannot be read as an array of numbers", str(error), what) from None
    if array.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, array.shape, strict=True)):
        raise KLMError(f"{name} has shape {array.shape}", f"the shape must be {_shape_text(shape)}", what)
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        raise KLMError(
            f"{name} holds NaN or infinity",
            f"{len(bad)} entries are not finite, the first at index {tuple(bad[0].tolist())}",
            "look where these values come from; every entry must be a finite number",
        )
    if np.abs(array).max(initial=0.0) > LARGEST:
        raise KLMError(
            f"{name} holds the number {array.flat[np.abs(array).argmax()]:.3g}", "computing with it overflows", what
        )
    return array


def checked_number(value: Any, name: str, unit: str = "", above: float = -np.inf, minimum: float = -np.inf) -> float:
    """The value as a float, if it is one finite number greater than `above` and not less than `minimum`.

    Raises
    ------
    KLMError
        When it is something else.
    """
    bounds = [f" above {above:g}"] if np.isfinite(above) else []
    bounds += [f" not below {minimum:g}"] if np.isfinite(minimum) else []
    demand = f"it must be one finite number{''.join(bounds)}{f', in {unit}' if unit else ''}"
    good = isinstance(value, int | float | np.number) and not isinstance(value, bool | np.complexfloating)
    if not (good and abs(value) <= LARGEST and value > above and value >= minimum):
        raise KLMError(f"{name} = {value!r} cannot be used", demand, f"check {name}")
    return float(value)


def checked_repeats(values: Any, name: str) -> tuple[int, int, int]:
    """Three positive integers, as of a k-mesh or a supercell.

    Raises
    ------
    KLMError
        When they are something else.
    """
    try:
        sizes = tuple(int(n) for n in values)
        if len(sizes) == 3 and min(sizes) >= 1 and sizes == tuple(values):
            return sizes[0], sizes[1], sizes[2]
    except (TypeError, ValueError):
        pass
    raise KLMError(
        f"{name} = {values!r} cannot be used",
        "it takes three positive integers, one along each vector of the cell",
        f"for instance {name}=(6, 6, 1) for a plane",
    )


def checked_atoms(atoms: Any) -> Atoms:
    """The argument, if it is an `Atoms` object.

    Raises
    ------
    KLMError
        When it is something else.
    """
    if not isinstance(atoms, Atoms):
        raise KLMError(
            f"{type(atoms).__name__} is not Atoms",
            "spin lattices are ase.Atoms with moments",
            "build one with ase_klm.lattices; of a frame of data.read pass frame.atoms",
        )
    return atoms


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if n is None else str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"
