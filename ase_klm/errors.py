"""The one error type of the package, and the one warning: what is wrong, why, and what to do about it."""

import warnings


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
    """Issue a :class:`KLMWarning` in the form of the errors."""
    warnings.warn(_compose(what, why, remedy), KLMWarning, stacklevel=3)
