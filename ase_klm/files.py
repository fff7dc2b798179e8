"""Files that are written whole or not at all, and several outputs of one tool that must not be one file."""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ase_klm.errors import KLMError


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what is there at the end, synchronised to disk, takes the place of `path`.

    A crash or an error at any moment leaves an older file whole, and an error leaves no temporary file behind.

    Raises
    ------
    KLMError
        When the file cannot be written: a full disk, a folder that has vanished.
    """
    temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise not_written(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(file: Any) -> Iterator[None]:
    """Name the file, a path or an open file, when what stands in the block cannot write to it."""
    try:
        yield
    except OSError as error:
        raise not_written(getattr(file, "name", file), error) from error


def check_still_there(path: Path) -> None:
    """Refuse to go on writing to an open file whose folder has been removed: nobody would find what it holds.

    Parameters
    ----------
    path : Path
        Absolute.
    """
    if not path.parent.is_dir():
        raise not_written(path, FileNotFoundError(errno.ENOENT, "its folder has vanished"))


def not_written(path: Any, error: OSError) -> KLMError:
    """The error of a file that cannot be written."""
    return KLMError(
        f"{path} cannot be written",
        f"{error.strerror or error}",
        "make room, or mend its folder; what was written before is as it was",
    )


def check_apart(outputs: Mapping[str, Any]) -> None:
    """Refuse two outputs in one file, however its name is spelled, before anything is written.

    Parameters
    ----------
    outputs : mapping
        What is written by the name of its keyword: path, open file, "-" (the terminal), or None.

    Raises
    ------
    KLMError
        When two of them are the same file.
    """
    places = {name: place for name, given in outputs.items() if (place := _place(given)) is not None}
    names = list(places)
    for number, second in enumerate(names):
        for first in names[:number]:
            if _same(places[first], places[second]):
                raise KLMError(
                    f"{first} and {second} are one file, {outputs[second]}",
                    "each would overwrite what the other wrote",
                    "give each a name of its own",
                )


def _place(given: Any) -> Path | None:
    name = given if isinstance(given, str | Path) else getattr(given, "name", None)
    return None if not isinstance(name, str | Path) or name == "-" or "\0" in str(name) else Path(name).resolve()


def _same(first: Path, second: Path) -> bool:
    if first == second:
        return first.is_file() or not first.exists()  # not the terminal, nor /dev/null
    try:
        return first.is_file() and first.samefile(second)
    except OSError:
        return False
