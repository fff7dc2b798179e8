"""The command line: ``ase-klm data``, ``demo``, ``magnons``, ``sample``, ``train``.

Each verb is a module with `add_arguments`, `run`, and `interrupted`, which says what a run that was stopped has kept
and how to go on. What is heavy (torch, ASE, Matplotlib) is imported when a verb runs, so that help and errors of
arguments come at once.
"""

import argparse
import os
import shlex
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from ase_klm import __version__, interrupts
from ase_klm.cli import data, demo, magnons, sample, train
from ase_klm.cli.terminal import plain_warnings, written_anywhere
from ase_klm.errors import KLMError

VERBS = {"data": data, "demo": demo, "magnons": magnons, "sample": sample, "train": train}

INTERRUPTED = 130
"""Exit status after Ctrl-C, or after the SIGTERM of a batch system."""

NOBODY_READS = 141
"""Exit status where the reader of the output has left, as in ``ase-klm data check set.npz | head``: 128 + SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    written_anywhere(sys.stdout, sys.stderr)
    parser = argparse.ArgumentParser(prog="ase-klm", description="Spin lattices with itinerant electrons, for ASE.")
    parser.add_argument("--version", action="version", version=f"ase-klm {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in VERBS.items():
        summary = (module.__doc__ or "").split("\n")[0]
        module.add_arguments(verbs.add_parser(name, help=summary, description=module.__doc__))
    options = parser.parse_args(arguments)
    options.command = shlex.join([parser.prog, *(sys.argv[1:] if arguments is None else arguments)])
    verb = VERBS[options.verb]
    with interrupts.noted() as came, warnings.catch_warnings():
        plain_warnings()
        try:
            verb.run(options)
            sys.stdout.flush()
        except BrokenPipeError:
            with suppress(OSError, ValueError):  # what is left of the text is for nobody
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return NOBODY_READS
        except (Exception, KeyboardInterrupt) as error:
            if isinstance(error, KLMError):
                print(f"ase-klm: {error}", file=sys.stderr)
            if came or isinstance(error, KeyboardInterrupt):  # what is interrupted may raise something else
                print(f"\nase-klm: interrupted; {verb.interrupted(options)}", file=sys.stderr, flush=True)
                if arguments is None:
                    _leave()
                return INTERRUPTED
            if isinstance(error, KLMError):
                return 2
            raise
    return 0


def _leave() -> NoReturn:
    """At once. Tearing down torch takes its time, and Python ends with the signal where `exec` was interrupted once."""
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(INTERRUPTED)
