"""Files that a command is to write: whether it can, and whether one is there already, asked before it computes."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ase_klm.errors import KLMError

PICTURES = (".png", ".pdf", ".svg")


def check_outputs(
    files: Mapping[str, str | Path | None],
    endings: Mapping[str, Sequence[str]],
    overwrite: bool,
    inputs: Sequence[str | Path] = (),
) -> None:
    """Look at the files that options name; None where an option was not given.

    None of them may be one of the inputs, whatever the user says. On a terminal the user is asked whether a file that
    is there may be overwritten.

    Raises
    ------
    KLMError
        When a name has another ending or is that of two outputs or of an input, its folder does not exist, the
        place cannot be written, or a file is there and may not be overwritten.
    """
    given = {option: Path(name) for option, name in files.items() if name is not None}
    for option, file in given.items():
        _check_place(option, file, endings[option])
    places = [file.resolve() for file in given.values()]
    for (option, file), place in zip(given.items(), places, strict=True):
        if places.count(place) > 1:
            raise KLMError(f"{option} {file} is named twice", "one output would overwrite the other", "use two names")
        if place in [Path(name).resolve() for name in inputs]:
            raise KLMError(f"{option} {file} is an input", "the result would take its place", "use another name")
        if file.exists() and not overwrite and not _allowed(file):
            raise KLMError(
                f"{option} {file} is there already", "it would be overwritten", "use another name, or add --overwrite"
            )


def _check_place(option: str, file: Path, endings: Sequence[str]) -> None:
    folder = file.absolute().parent
    if file.suffix not in endings or not folder.is_dir():
        raise KLMError(
            f"{option} {file} cannot be written",
            f"it names a file {', '.join(endings)} in a folder that exists",
            f"for instance {option} {Path(file.stem or 'result').name}{endings[0]}",
        )
    if file.is_dir() or not os.access(file if file.exists() else folder, os.W_OK):
        why = "it is a folder" if file.is_dir() else "you may not write there"
        raise KLMError(f"{option} {file} cannot be written", why, "use another name or folder")


def _allowed(file: Path) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"{file} is there already. Overwrite it? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
