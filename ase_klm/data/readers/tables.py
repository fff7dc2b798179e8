"""Tables of numbers in the text of an output file: whole, or `Incomplete`.

Fortran writes a number that is too long for its column as ``****``, and leaves no blank between numbers that fill
theirs. Numbers that touch are told apart where there is one way only: before a sign, or after the decimals that the
format is known to write. Everything else is no number, and then the table is not complete.
"""

import re

import numpy as np

from ase_klm.data.readers.blocks import CUT_SHORT, UNREADABLE, Incomplete
from ase_klm.validate import LARGEST, Array

_NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[EDed][-+]?\d+)?")
_NO_NUMBER = re.compile(r"\*+|[-+]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_STARS = re.compile(r"\*+")
_BEFORE_A_SIGN = re.compile(r"(?<=[\d.])(?=[-+])")


def number(word: str) -> float:
    """A finite number; Fortran's D is an E.

    Raises
    ------
    Incomplete
        When it is none.
    """
    found = float(re.sub("[Dd]", "E", word)) if _NUMBER.fullmatch(word) else np.nan
    if not abs(found) <= LARGEST:
        raise Incomplete(UNREADABLE)
    return found


def words_of(line: str, decimals: int | None = None) -> list[str]:
    """The numbers of a line as words, apart where they touch; ``****`` and NaN are words as well.

    Parameters
    ----------
    line : str
        Numbers only.
    decimals : int, optional
        How many digits the format writes after the point.

    Raises
    ------
    Incomplete
        When a word is none of these.
    """
    words: list[str] = []
    for word in _STARS.sub(r" \g<0> ", line).split():
        pieces = _BEFORE_A_SIGN.split(word)  # not before the sign of an exponent, which follows a letter
        for piece in pieces:
            if len(pieces) > 1 and "." not in piece:  # 0.12-101 is one number, whose exponent has no room for an E
                raise Incomplete(UNREADABLE)
            if _NUMBER.fullmatch(piece) or _NO_NUMBER.fullmatch(piece):
                words.append(piece)
                continue
            exact = [] if decimals is None else re.findall(rf"[-+]?\d*\.\d{{{decimals}}}", piece)
            if "".join(exact) != piece:
                raise Incomplete(UNREADABLE)
            words += exact
    return words


def numbers_of(line: str, decimals: int | None = None) -> Array:
    """All numbers of a line.

    Raises
    ------
    Incomplete
        When one is missing or none.
    """
    return np.array([number(word) for word in words_of(line, decimals)])


def after(text: str, header: str) -> str:
    """What follows a header, a regular expression that matches once.

    Raises
    ------
    Incomplete
        When it is not there; or twice, so that nobody knows which frame it belongs to.
    """
    found = list(re.finditer(header, text, re.MULTILINE))
    if len(found) != 1:
        raise Incomplete(CUT_SHORT)
    return text[found[0].end() :]


def rows(
    text: str, count: int | None, columns: slice, sizes: tuple[int, ...], labels: int = 0, decimals: int | None = None
) -> tuple[list[list[str]], Array]:
    """The rows that a text begins with.

    Parameters
    ----------
    text : str
        From the first row on.
    count : int, optional
        How many rows there must be, no more and no less. Default: as many as there are up to an empty line, a rule, or
        a line that begins with a word where rows begin with a number.
    columns : slice
        Which numbers of a row to take. The others may be ``****``.
    sizes : tuple of int
        How many numbers a row may have, the same in all rows.
    labels : int
        Words before the numbers.
    decimals : int, optional
        See `words_of`.

    Returns
    -------
    labels : list of list of str
        Of each row.
    numbers : array
        Shape (rows, columns taken).

    Raises
    ------
    Incomplete
        When rows are missing, torn, of unequal length, or hold something else than numbers.
    """
    names: list[list[str]] = []
    found: list[list[float]] = []
    lengths: set[int] = set()
    for line in text.splitlines(keepends=True):
        words = line.split(maxsplit=labels)
        if not words or re.fullmatch(r"[-=]{4,}", line.strip()):
            break
        complete = len(found) == count if count is not None else bool(found)
        if complete and not (_is_row(words, names[-1]) if count is not None else _are_alike(words, names[-1])):
            break
        if len(words) <= labels or not line.endswith("\n"):
            raise Incomplete(CUT_SHORT)
        numbers = words_of(words[labels], decimals)
        lengths.add(len(numbers))
        if len(lengths) > 1 or len(numbers) not in sizes:
            raise Incomplete(UNREADABLE)
        names.append(words[:labels])
        found.append([number(word) for word in numbers[columns]])
    if not found or len(found) != (len(found) if count is None else count):
        raise Incomplete(CUT_SHORT)
    return names, np.array(found)


def _are_alike(words: list[str], labels: list[str]) -> bool:
    """Whether a line begins with a number where a row does."""
    return not labels or words[0].isdigit() == labels[0].isdigit()


def _is_row(words: list[str], labels: list[str]) -> bool:
    """Whether a line that follows a complete table looks like one more row of it."""
    numbers = words[-1].split() if len(words) > len(labels) else []
    return _are_alike(words, labels) and bool(numbers) and all(_NUMBER.match(word) for word in numbers)


def numbered(names: list[list[str]], n_atoms: int) -> list[int]:
    """Indices from 0 of rows that begin with the numbers of atoms, which rise.

    Raises
    ------
    Incomplete
        When they are none, or do not rise, or are beyond the number of atoms.
    """
    if not all(re.fullmatch(r"\d{1,9}", name[0]) for name in names):
        raise Incomplete(UNREADABLE)
    found = [int(name[0]) - 1 for name in names]
    if found != sorted(set(found)) or not 0 <= found[0] <= found[-1] < n_atoms:
        raise Incomplete(CUT_SHORT)
    return found
