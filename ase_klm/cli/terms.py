"""Terms of an energy from the sections of a TOML file; `ase_klm.cli.models` shows them."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ase_klm.cli.configuration import check_keys
from ase_klm.errors import KLMError
from ase_klm.models import files
from ase_klm.potentials import Exchange, Kondo, Potential, UniaxialAnisotropy, Zeeman, network_potential


def term(found: dict[str, Any], key: str, path: Path) -> Potential:
    """The potential of one section of a file."""
    build = TERMS[key]
    where = f"[{key}] of {path}"
    parameters = inspect.signature(build).parameters
    check_keys(found, (name for name in parameters if name != "folder"), where)
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in found and name != "folder":
            raise KLMError(f"{where} has no {name}", "there is no default for it", f"it takes {', '.join(parameters)}")
    if "folder" in parameters:
        found["folder"] = path.parent
    try:
        return build(**found)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        if isinstance(error, KLMError):
            raise KLMError(f"{where}: {error.what}", error.why, error.remedy) from None
        raise KLMError(f"{where} cannot be used", str(error), "`ase-klm magnons -h` shows its format") from None


def _exchange(shells: Any = None, bonds: Any = None, onsite: Any = None, site_fields: Any = None) -> Potential:
    listed = None if bonds is None else [_bond(bond) for bond in bonds]
    return Exchange(None if shells is None else _by_shell(shells), listed, onsite, site_fields)


def _bond(bond: Any) -> tuple[Any, ...]:
    """(i, j, cell, M) with the antisymmetric part of D added: M_ab = Σ_c ε_abc D_c."""
    if not isinstance(bond, list) or len(bond) not in (4, 5):
        raise KLMError(
            f"{bond!r} is not a bond",
            "it has an atom, another one, the cell of that, M in eV, and optionally a vector D",
            "for instance [0, 1, [0, 0, 0], -0.0045]",
        )
    matrix = bond[3]
    if len(bond) == 5:
        x, y, z = np.array(bond[4], dtype=np.float64)
        matrix = np.array(matrix if isinstance(matrix, list) else matrix * np.eye(3), dtype=np.float64)
        matrix = matrix + np.array([[0, z, -y], [-z, 0, x], [y, -x, 0]])
    return (*bond[:3], matrix)


def _by_shell(values: Any) -> Any:
    """TOML has texts as keys, which here must be numbers of shells."""
    if not isinstance(values, dict) or not all(key.isdecimal() for key in values):
        raise KLMError(
            f"{values!r} is not given by shells", "it is a table of shell numbers", "for instance {1 = -0.0045}"
        )
    return {int(key): value for key, value in values.items()}


def _kondo(
    hopping: Any,
    J: float,
    filling: float | None = None,
    mu: float | None = None,
    temperature: float = 0.0,
    kpts: Any = (1, 1, 1),
) -> Potential:
    return Kondo(_by_shell(hopping), J, filling=filling, mu=mu, temperature=temperature, kpts=kpts)


def network(folder: Path, model: str) -> Potential:
    """A network of spins, or of atoms and moments, in double precision: packaged, or a file of weights in a folder."""
    weights = folder / model if isinstance(model, str) and model.endswith(files.SUFFIX) else model
    return network_potential(weights, dtype="float64")


TERMS: dict[str, Callable[..., Potential]] = {
    "exchange": _exchange,
    "anisotropy": UniaxialAnisotropy,
    "zeeman": Zeeman,
    "kondo": _kondo,
    "network": network,
}
