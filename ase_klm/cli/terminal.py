"""What the user sees of a command: text that any terminal can show, and warnings without lines of code."""

import codecs
import io
import sys
import warnings
from typing import TextIO

from ase_klm.errors import KLMWarning

PLAIN = {
    "μ": "u",
    "Å": "A",
    "ħ": "hbar",
    "ω": "omega",
    "Ω": "Omega",
    "Γ": "Gamma",
    "π": "pi",
    "σ": "sigma",
    "λ": "lambda",
    "Σ": "Sum",
    "∂": "d",
    "∫": "Int",
    "·": ".",
    "×": "x",
    "±": "+-",
    "²": "^2",
    "³": "^3",
    "°": " deg",
    "←": "<-",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
}
"""In place of signs that an encoding lacks; "?" for all others."""


def written_anywhere(*streams: TextIO) -> None:
    """Let no sign stop a command: under ``LC_ALL=C``, or in a batch job, the output may be ASCII."""
    codecs.register_error("ase_klm.plain", _plain)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="ase_klm.plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(PLAIN.get(sign, "?") for sign in error.object[error.start : error.end]), error.end


def plain_warnings() -> None:
    """Ours are shown as errors are; the line of the user they point at is a file of this package. To be undone by
    `warnings.catch_warnings`.
    """
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, KLMWarning):
            print(f"ase-klm: warning: {message}", file=sys.stderr)
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show
