"""Parameters as JSON holds them, and the way back: what ASE's trajectories and databases keep of a calculator.

A potential, or a function in it, is ``{"class": name, parameter: value, ...}``; arrays are lists. Writing never fails:
what cannot be kept is named, ``{"function": "module.name"}`` for instance, and reading that raises an error which says
what to do. Reading looks names up among classes that are there already; it imports and evaluates nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.models.files import load
from ase_klm.models.trained import TrainedNetwork
from ase_klm.potentials.parameters import Parametrised, parameters_of

IMPOSSIBLE = {
    "function": ("a Python function", "a file keeps its name, not what it does"),
    "calculator": ("a calculator of another package", "a file keeps its name and parameters, not its code"),
    "object": ("an object of a kind that cannot be written", "only dataclasses can be rebuilt from their fields"),
}
"""What is named in a file but not kept there, by the key that names it: what it is, and why."""


def written(value: Any) -> Any:
    """A parameter in numbers, texts, lists and dictionaries. Integers stay keys of mappings (JSON makes them texts)."""
    if isinstance(value, np.ndarray | np.generic | Tensor):
        return written(list(value)) if isinstance(value, np.ndarray) and value.dtype == object else value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {_key(key): written(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [written(entry) for entry in value]
    return _written_object(value)


def _written_object(value: Any) -> Any:
    if isinstance(value, Parametrised) and is_dataclass(value):
        return {"class": type(value).__name__} | written(parameters_of(value))
    if isinstance(value, TrainedNetwork):
        name, sha256 = (None, None) if value.origin is None else (value.origin.name, value.origin.sha256)
        return {"network": name, "sha256": sha256, "architecture": type(value).__name__}
    if isinstance(value, Atoms):
        return {"atoms": {name: entry.tolist() for name, entry in _structure(value).items()}}
    if hasattr(value, "get_property"):  # an ASE calculator, whatever its class
        return {"calculator": str(getattr(value, "name", type(value).__name__)), "parameters": written(_todict(value))}
    if isinstance(value, Parametrised) or not callable(value):
        return {"object": _full_name(type(value))}
    return {"function": _full_name(value)}


def _structure(atoms: Atoms) -> dict[str, np.ndarray]:
    """What a lattice of reference consists of."""
    found = {"numbers": atoms.numbers, "positions": atoms.positions, "cell": atoms.cell.array, "pbc": atoms.pbc}
    return found | ({"magmoms": atoms.get_initial_magnetic_moments()} if atoms.has("initial_magmoms") else {})


def _todict(calculator: Any) -> dict[str, Any]:
    return dict(calculator.todict()) if hasattr(calculator, "todict") else {}


def _key(key: Any) -> Any:
    return int(key) if isinstance(key, int | np.integer) else str(key)


def _full_name(named: Any) -> str:
    named = named if hasattr(named, "__qualname__") else type(named)
    return f"{named.__module__}.{named.__qualname__}"


def from_dict(values: Mapping[str, Any]) -> Any:
    """The potential, or function of distance, whose `todict` gave these values; after a way through JSON too.

    Parameters
    ----------
    values : mapping
        ``{"class": "Zeeman", "field": [0, 0, 0.005]}``, for instance.

    Raises
    ------
    KLMError
        When it names a class that is not there, a network whose weights have changed, or something that files name
        but do not keep: a Python function, a calculator of another package, a network made in memory.
    """
    if not isinstance(values, Mapping) or "class" not in values:
        raise KLMError(
            f"{str(values)[:80]!r} is no potential",
            'a potential is written as {"class": its name, and its parameters}',
            "give what todict() of a potential returned; for calculators use calculators.from_dict",
        )
    return read(values, str(values["class"]))


def read(value: Any, name: str) -> Any:
    """What `written` gave, rebuilt; lists come back as tuples, and texts of digits as integer keys."""
    if isinstance(value, np.ndarray):  # ASE reads lists of numbers as arrays
        value = value.tolist()
    if isinstance(value, list | tuple):
        return tuple(read(entry, name) for entry in value)
    if not isinstance(value, Mapping):
        return value
    if "class" in value:
        return _rebuilt(value)
    if value.keys() == {"atoms"}:
        return called(Atoms, {str(key): np.asarray(entry) for key, entry in value["atoms"].items()})
    if value.keys() >= {"network", "sha256"}:
        return _network(value)
    for key, (what, why) in IMPOSSIBLE.items():
        if key in value and value.keys() <= {key, "parameters"}:
            raise KLMError(
                f"{name} is {what}, {value[key]}, and cannot be read again",
                why,
                "build the potential or calculator as the script did that wrote the file; functions of distance can be "
                "read if they are frozen dataclasses derived from potentials.DistanceFunction",
            )
    return {_read_key(key): read(entry, f"{name}[{_read_key(key)!r}]") for key, entry in value.items()}


def _read_key(key: Any) -> Any:
    return int(key) if isinstance(key, str) and key.removeprefix("-").isdecimal() else key


def _rebuilt(values: Mapping[str, Any]) -> Any:
    kind: Any = known_class(values["class"], Parametrised, "potential or function of distance")
    parameters = {
        str(name): read(value, f"{kind.__name__}.{name}") for name, value in values.items() if name != "class"
    }
    return called(kind, parameters)


def called(kind: type[Any], parameters: dict[str, Any]) -> Any:
    """An object of a class from parameters that were read.

    Raises
    ------
    KLMError
        When the class takes others.
    """
    try:
        return kind(**parameters)
    except TypeError as error:
        raise KLMError(
            f"these parameters do not make a {kind.__name__}",
            str(error),
            "the file is damaged, or of a version of ase_klm whose parameters were others",
        ) from None


def known_class(name: Any, base: type[Any], what: str) -> Any:
    """The class of that name among those derived from a base; one of this package before one of somebody else.

    Raises
    ------
    KLMError
        When there is none, or two.
    """
    found = [kind for kind in _derived(base) if kind.__name__ == name]
    own = [kind for kind in found if kind.__module__.startswith("ase_klm.")]
    if len(own) == 1 or len(found) == 1:
        return (own or found)[0]
    names = sorted({kind.__name__ for kind in _derived(base) if not kind.__name__.startswith("_")})
    raise KLMError(
        f"{name!r} is no {what} that is known here" if not found else f"there are {len(found)} classes called {name}",
        f"known are {', '.join(names)}",
        "import the module that defines it before reading" if not found else "give one of them another name",
    )


def _derived(base: type[Any]) -> Iterator[type[Any]]:
    for derived in base.__subclasses__():
        yield derived
        yield from _derived(derived)


def _network(values: Mapping[str, Any]) -> TrainedNetwork:
    if values["network"] is None:
        raise KLMError(
            f"the weights of this {values.get('architecture', 'network')} are not kept",
            "the network was made or changed in memory, and had no name and no file",
            "write it with models.save, and build the calculator from that file",
        )
    network = load(values["network"])
    if network.origin is None or network.origin.sha256 != values["sha256"]:
        raise KLMError(
            f"{values['network']} is not the network that was used",
            "the checksum of its weights is another one: it was trained or packaged anew since",
            f"take the old file of weights, or build the calculator anew from {values['network']}",
        )
    return network
