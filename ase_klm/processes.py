"""Work spread over processes, which end with the one that started them, however that ends."""

import ctypes
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import RLock, Thread
from typing import Any, TypeVar

from tqdm import tqdm

from ase_klm.errors import KLMError
from ase_klm.interrupts import STOPS, deferred

Task = TypeVar("Task")
Result = TypeVar("Result")

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


def carried_out(
    work: Callable[[Task], Result], tasks: Sequence[Task], processes: int
) -> Generator[tuple[int, Result], None, None]:
    """Carry out tasks in processes of one core each; yields (number of the task, result) as each is done.

    Use it in `contextlib.closing`. Whatever ends it, an error or Ctrl-C alike, ends the processes at once. They do not
    hear Ctrl-C and SIGTERM themselves, which a terminal or a batch system may send to all.

    Raises
    ------
    KLMError
        When a process dies. What `work` raises is raised here.
    """
    waiting, team = deque(enumerate(tasks)), []
    try:
        for _ in range(min(processes, len(tasks))):
            with deferred(), _one_thread_each(), _deaf():  # none is started and then forgotten
                team.append(_Worker())
        for worker in team:
            worker.give(*waiting.popleft(), work)
        busy: dict[Any, _Worker] = {worker.connection: worker for worker in team}
        while busy:
            for connection in wait(list(busy)):
                number, result = busy[connection].result()
                if waiting:
                    busy[connection].give(*waiting.popleft(), work)
                else:
                    del busy[connection]
                yield number, result
    finally:
        for worker in team:
            worker.process.kill()
        for worker in team:
            worker.process.join()


class _Worker:
    """A process, the way to talk to it, and the number of the task that it has in hand."""

    def __init__(self) -> None:
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(other,), daemon=True)
        self.process.start()
        other.close()
        self.number = -1

    def give(self, number: int, task: Any, work: Callable[[Any], Any]) -> None:
        self.number = number
        try:
            self.connection.send((work, task))
        except OSError:
            raise self._has_died() from None

    def result(self) -> tuple[int, Any]:
        try:
            error, found = self.connection.recv()
        except (EOFError, OSError):
            raise self._has_died() from None
        if error is not None:
            raise error
        return self.number, found

    def _has_died(self) -> KLMError:
        self.process.join()
        return KLMError(
            "a process has died",
            f"its exit status is {self.process.exitcode}: it may have run out of memory, or the script lacks its guard",
            'use fewer processes, or start below `if __name__ == "__main__":`; what is finished is kept',
        )


def _serve(connection: Connection) -> None:
    """What a process does: tasks, one after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where signals cannot be blocked
    _end_with_parent()
    tqdm.set_lock(RLock())  # its own is a semaphore of the system, which a killed process leaves behind
    while True:
        try:
            work, task = connection.recv()
        except EOFError:
            return
        try:
            answer: tuple[Exception | None, Any] = (None, work(task))
        except Exception as error:  # noqa: BLE001, it is raised where the result is wanted
            answer = (error, None)
        connection.send(answer)


def _end_with_parent() -> None:
    """Do not outlive the parent, even one that was killed: at once on Linux, elsewhere when Python comes to it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = parent_process()
    if parent is None or not parent.is_alive():  # it may have ended before the line above
        os._exit(1)

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that start meanwhile do not hear Ctrl-C and SIGTERM; here both wait."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that start meanwhile compute on one core each."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ.update({} if value is None else {name: value})
