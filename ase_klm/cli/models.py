"""Models by name: a network, or a TOML file with the terms of an energy, which add up.

A file with all terms that there are:

    [exchange]                            # E = Σ e_i·M·e_j + Σ e_i·A_i·e_i - Σ f_i·e_i, every bond once, eV
    shells = {1 = -0.0045, 2 = -0.0004}   # by neighbour shell: a number, or a symmetric matrix of three rows
    bonds = [[0, 0, [1, 0, 0], 0.0, [0, 0, 0.0007]]]  # [i, j, cell of j, M], and D of D·(e_i × e_j) if there is one
    onsite = [[[0, 0, 0], [0, 0, 0], [0, 0, -0.0005]]]  # A, one matrix a site
    site_fields = [[0, 0, 0.001]]         # f

    [anisotropy]                          # E = -Σ K (e·n)², eV
    constant = 0.0005
    axis = [0, 0, 1]

    [zeeman]                              # E = -B·Σ m, eV/μB
    field = [0, 0, 1e-4]

    [kondo]                               # itinerant electrons, eV; keywords of KondoEDCalculator
    hopping = {1 = 1.0, 3 = -0.85}
    J = 1.0
    mu = -3.5                             # or filling
    temperature = 0.005
    kpts = [12, 12, 1]

    [network]
    model = "kondo-square"                # a packaged name, or a file of weights beside this one
"""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase.calculators.calculator import Calculator

from ase_klm.calculators import ECNNCalculator, SpinCalculator
from ase_klm.cli.configuration import check_keys, read_toml, section_of
from ase_klm.errors import KLMError
from ase_klm.models import files
from ase_klm.potentials import Exchange, Kondo, Network, Potential, UniaxialAnisotropy, Zeeman


def calculator_from(name: str, device: str = "cpu") -> tuple[Calculator, dict[str, Any]]:
    """The calculator, in double precision, and what JSON keeps of it.

    Parameters
    ----------
    name : str
        A file of terms, ``.toml``; a packaged network; or a file of weights, ``.safetensors``.

    Raises
    ------
    KLMError
        When there is no such file or network, a key is unknown, or a value cannot be used.
    """
    if not name.endswith(".toml"):
        return ECNNCalculator(name, dtype="float64", device=device), {"network": name}
    path = Path(name)
    table = read_toml(path, "give a TOML file of terms; `ase-klm magnons -h` shows one")
    check_keys(table, TERMS, f"the sections of {path}")
    if not table:
        raise KLMError(f"{path} is empty", "a model has one term at least", "`ase-klm magnons -h` shows them all")
    terms = [_term(section_of(table, key), key, path) for key in table]
    return SpinCalculator(sum(terms[1:], start=terms[0]), device), table


def _term(found: dict[str, Any], key: str, path: Path) -> Potential:
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


def _network(folder: Path, model: str) -> Potential:
    weights = folder / model if isinstance(model, str) and model.endswith(files.SUFFIX) else model
    return Network(files.load(weights), dtype="float64")


TERMS: dict[str, Callable[..., Potential]] = {
    "exchange": _exchange,
    "anisotropy": UniaxialAnisotropy,
    "zeeman": Zeeman,
    "kondo": _kondo,
    "network": _network,
}
