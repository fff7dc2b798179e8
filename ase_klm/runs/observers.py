"""Functions called during a run, with ASE's meaning of the interval."""

from collections.abc import Callable
from typing import Any

from ase_klm.errors import KLMError


class Observers:
    """Functions and the steps at which they are due."""

    def __init__(self) -> None:
        self._attached: list[tuple[Callable[[], Any], int]] = []

    def attach(self, function: Any, interval: int, *args: Any, **kwargs: Any) -> None:
        """Add a callable, or an object with a ``write`` method.

        Parameters
        ----------
        interval : int
            Positive: every so many steps, step 0 included. Negative: once, at that step.
        """
        if not callable(function):
            function = getattr(function, "write", None)
        if not callable(function):
            raise KLMError(
                "what is attached cannot be called",
                "it is neither a function nor has it a write method",
                "attach a function: run.attach(function, interval, *arguments)",
            )
        if isinstance(interval, bool) or not isinstance(interval, int) or interval == 0:
            raise KLMError(
                f"interval = {interval!r} is no number of steps",
                "it must be an integer other than zero",
                "give interval=10 for every tenth step, interval=-10 for step 10 alone",
            )
        self._attached.append((lambda: function(*args, **kwargs), interval))

    def due(self, step: int) -> list[Callable[[], Any]]:
        """What is to be called at this step."""
        return [f for f, interval in self._attached if (step % interval == 0 if interval > 0 else step == -interval)]
