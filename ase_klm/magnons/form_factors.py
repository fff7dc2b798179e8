"""Magnetic form factors: how neutrons see the spread of a moment over its atom, F(|q|) with F(0) = 1."""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ase_klm.errors import KLMError
from ase_klm.validate import Array, checked_array

FormFactor = str | Callable[[Array], Array]
"""An ion such as "Cr3", or a function of abs(q) in rad/Å."""


def form_factors(given: FormFactor | Mapping[str, FormFactor] | None, symbols: Sequence[str], lengths: Array) -> Array:
    """F of each atom, shape (n_q, n_atoms), at abs(q) = `lengths` in rad/Å.

    Parameters
    ----------
    given : str, callable or mapping, optional
        Of all atoms, or by chemical symbol, ``{"Cr": "Cr3", "Fe": f}``; None is 1.
    symbols : sequence of str
        Of the atoms.

    Raises
    ------
    KLMError
        When an ion is not known, a symbol is missing, or a function returns something else than one number for each q.
    """
    if given is None:
        return np.ones((len(lengths), len(symbols)))
    if not isinstance(given, Mapping):
        return np.repeat(_values(given, lengths)[:, None], len(symbols), axis=1)
    missing = sorted(set(symbols) - set(given))
    if missing:
        raise KLMError(
            f"form_factor has no entry for {', '.join(missing)}",
            f"it has {', '.join(map(str, given)) or 'none'}, and these atoms carry moments",
            'name each of them, for instance {"Cr": "Cr3", "Fe": "Fe3"}',
        )
    known = {symbol: _values(given[symbol], lengths) for symbol in set(symbols)}
    return np.stack([known[symbol] for symbol in symbols], axis=1)


def ion_form_factor(ion: str) -> Callable[[Array], Array]:
    """<j0> of an ion, such as "Cr3" or "Fe2+", from the library `periodictable`.

    Its coefficients are those of P. J. Brown, International Tables for Crystallography C, section 4.4.5. For an orbital
    part, <j0> + (1 - 2/g) <j2>, give a function of your own.
    """
    found = re.fullmatch(r"([A-Z][a-z]?)(\d)\+?", ion)
    if found is None:
        raise KLMError(f"form_factor = {ion!r} names no ion", "a symbol and a charge are read", 'for instance "Cr3"')
    try:
        table: Any = importlib.import_module("periodictable")
    except ImportError:
        raise KLMError(
            f"the form factor of {ion} cannot be looked up",
            "coefficients come from the library periodictable, which is not installed",
            'pip install periodictable (the extra "ase_klm[form-factors]"), or give a function of abs(q) in rad/Å',
        ) from None
    symbol, charge = found[1], int(found[2])
    by_charge = getattr(getattr(table, symbol, None), "magnetic_ff", None) or {}
    with_j0 = {number for number, entry in by_charge.items() if hasattr(entry, "j0")}
    if charge not in with_j0:
        raise KLMError(
            f"no magnetic form factor is known for {ion}",
            f"of {symbol}, periodictable has {', '.join(f'{symbol}{n}' for n in sorted(with_j0)) or 'none'}",
            "take one of these, or give a function of abs(q) in rad/Å",
        )
    entry = by_charge[charge]
    return lambda lengths: np.asarray(entry.j0_Q(lengths))


def _values(given: Any, lengths: Array) -> Array:
    if isinstance(given, str):
        given = ion_form_factor(given)
    if not callable(given):
        raise KLMError(
            f"form_factor = {given!r} cannot be used",
            "it is an ion or a function",
            'give "Cr3", a function of abs(q) in rad/Å, or one of them for each chemical symbol',
        )
    return checked_array(given(lengths.copy()), (len(lengths),), "what form_factor returns for abs(q)")
