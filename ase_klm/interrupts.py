"""Ctrl-C, and the SIGTERM of batch systems: both stop a run, and neither in the middle of what must be done whole."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM)

AT_ONCE = 2.0
"""Seconds: a signal that comes again within them says the same once more (Ctrl-C of a whole group does)."""


@contextmanager
def noted() -> Iterator[list[float]]:
    """For a command: both signals raise `KeyboardInterrupt`; yields the times at which they came, empty at first."""
    came: list[float] = []

    def stop(_number: int, _frame: Any) -> None:
        now = time.monotonic()
        if not came or now - came[-1] > AT_ONCE:
            came.append(now)
            raise KeyboardInterrupt

    with _handled(stop):
        yield came


@contextmanager
def deferred() -> Iterator[None]:
    """Both signals wait until the block is done."""
    came: list[int] = []
    with _handled(lambda number, _frame: came.append(number)):
        yield
    for number in dict.fromkeys(came):
        signal.raise_signal(number)


@contextmanager
def _handled(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Python's handlers replaced for a while; signals that are ignored, or handled outside of Python, are left."""
    if current_thread() is not main_thread():  # the others hear no signals
        yield
        return
    before: Mapping[signal.Signals, Any] = {number: signal.getsignal(number) for number in STOPS}
    replaced = {number: old for number, old in before.items() if old not in (signal.SIG_IGN, None)}
    try:
        for number in replaced:
            signal.signal(number, handler)
        yield
    finally:
        for number, old in replaced.items():
            signal.signal(number, old)
