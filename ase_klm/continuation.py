"""Whether a file of an interrupted run belongs to the run that is to continue."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ase_klm.errors import KLMError

LONGEST = 120
"""Characters of a parameter that an error shows."""


def check_same_run(path: Path, run: str, there: Any, here: Mapping[str, Any], remedy: str) -> None:
    """Complain unless the parameters in a file are those of this run, both as JSON holds them.

    Parameters
    ----------
    path : Path
        The file.
    run : str
        What it is, e.g. "training".
    there, here : mapping
        Parameters in the file, and those of the run that is to continue.
    remedy : str
        What to do about a difference.

    Raises
    ------
    KLMError
        When one differs, or is in one of the two only.
    """
    stored, own = there if isinstance(there, Mapping) else {}, json.loads(json.dumps(here))
    for name in own | stored:
        if stored.get(name) != own.get(name):
            raise KLMError(
                f"{path} belongs to another {run}: its {name} differs",
                f"there {short(stored.get(name))}, here {short(own.get(name))}; a {run} is continued to the same bits "
                "only with the same parameters",
                remedy,
            )


def short(value: Any) -> str:
    """A value as JSON, cut where it gets long."""
    text = json.dumps(value)
    return text if len(text) < LONGEST else f"{text[: LONGEST - 3]}..."
