"""The one error type of the package, and the one warning: what is wrong, why, and what to do about it."""

import sys
import warnings
from types import FrameType

LIBRARIES = ("ase_klm", "ase", "torch")
"""A warning points at the line of the user, which is outside of these packages."""


def _compose(what: str, why: str, remedy: str) -> str:
    return f"{what}\n  why: {why}\n  what to do: {remedy}"


class KLMError(ValueError):
    """Bad input or an impossible request.

    Parameters
    ----------
    what, why, remedy : str
        What is wrong, why it cannot be accepted, and what would mend it.
    """

    def __init__(self, what: str, why: str, remedy: str) -> None:
        super().__init__(_compose(what, why, remedy))
        self.what, self.why, self.remedy = what, why, remedy

    def __reduce__(self) -> tuple[type["KLMError"], tuple[str, str, str]]:
        return KLMError, (self.what, self.why, self.remedy)


class KLMWarning(UserWarning):
    """The result exists, but a physicist should look twice."""


def warn(what: str, why: str, remedy: str) -> None:
    """Issue a :class:`KLMWarning` in the form of the errors, at the line from which a user called the package."""
    warnings.warn(_compose(what, why, remedy), KLMWarning, stacklevel=_levels_to_user(sys._getframe(1)) + 1)


def _levels_to_user(frame: FrameType | None) -> int:
    """Calls from a frame to the first one outside of our packages, both counted; to the outermost one without any."""
    level = 1
    while frame is not None and frame.f_back is not None:
        if frame.f_globals.get("__name__", "").split(".")[0] not in LIBRARIES:
            break
        frame, level = frame.f_back, level + 1
    return level
