"""Parameters of a Kondo lattice, as networks that know them, cards and data sets hold them."""

from collections.abc import Mapping
from typing import Any

from ase_klm.errors import KLMError
from ase_klm.validate import checked_number


def checked_hamiltonian(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a Kondo lattice, in the form that cards and data sets hold.

    Raises
    ------
    KLMError
        When hopping or J is missing or no number, or not exactly one of filling and mu is given.
    """
    known = dict(values) if isinstance(values, Mapping) else {}
    if not known.get("hopping") or known.get("J") is None:
        raise KLMError(
            f"hamiltonian = {values!r} is not that of a Kondo lattice",
            "the moments are those of a Hamiltonian with hopping and J",
            'for instance {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48}',
        )
    if (known.get("filling") is None) == (known.get("mu") is None):
        raise KLMError(
            f"hamiltonian = {values!r} does not say how many electrons there are",
            "exactly one of filling and mu is needed",
            'for instance {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48}',
        )
    checked_number(known["J"], "J", "eV")
    if known.get("mu") is not None:
        checked_number(known["mu"], "mu", "eV")
    elif checked_number(known["filling"], "filling", minimum=0.0) > 1:
        raise KLMError(
            f"filling = {known['filling']} is outside 0 to 1",
            "it counts electrons per state, and a site has two states",
            "divide the electrons per site by two",
        )
    return known | {"hopping": _checked_hopping(known["hopping"])}


def _checked_hopping(hopping: Any) -> dict[str, float]:
    shells = [str(shell) for shell in hopping] if isinstance(hopping, Mapping) else []
    if not shells or not all(shell.isdecimal() and int(shell) >= 1 for shell in shells):
        raise KLMError(
            f"hopping = {hopping!r} is not given by neighbour shell",
            "the moments are those of a lattice with hopping amplitudes in eV by shell, counted from 1",
            "for instance {1: 1.0, 3: -0.85}",
        )
    return {str(shell): float(checked_number(t, f"hopping[{shell}]", "eV")) for shell, t in hopping.items()}
