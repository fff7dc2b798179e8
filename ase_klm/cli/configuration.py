"""TOML files: reading, and errors that say which key of which section is wrong."""

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ase_klm.errors import KLMError


def read_toml(path: Path, remedy: str) -> dict[str, Any]:
    """The tables of a file.

    Raises
    ------
    KLMError
        When there is no such file, or it is no TOML.
    """
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError) as error:
        raise KLMError(f"{path} cannot be read", str(error), remedy) from None


def section_of(table: dict[str, Any], name: str) -> dict[str, Any]:
    """A copy of the section of that name; empty where there is none."""
    found = table.get(name, {})
    if not isinstance(found, dict):
        raise KLMError(f"{name} = {found!r} is no section", "its keys follow a line with its name", f"write [{name}]")
    return dict(found)


def check_keys(found: dict[str, Any], known: Iterable[str], where: str) -> None:
    """Raise a `KLMError` at the first key that is not known."""
    known = list(known)
    for key in found:
        if key not in known:
            raise KLMError(
                f"{key} is unknown in {where}", f"there are {', '.join(sorted(known))}", did_you_mean(key, known)
            )


def did_you_mean(key: Any, known: Iterable[str]) -> str:
    """A remedy for a misspelt key."""
    close = difflib.get_close_matches(str(key), list(known), 1, cutoff=0.4)
    return f"did you mean {close[0]}?" if close else "take it out, or use one of these"
