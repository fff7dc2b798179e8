"""The command line: ``ase-klm data``, ``demo``, ``magnons``, ``sample``, ``train``.

Each verb is a module with `add_arguments` and `run`.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from ase_klm.cli import data, demo, magnons, sample, train
from ase_klm.errors import KLMError

VERBS = {"data": data, "demo": demo, "magnons": magnons, "sample": sample, "train": train}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="ase-klm", description="Spin lattices with itinerant electrons, for ASE.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, module in VERBS.items():
        summary = (module.__doc__ or "").split("\n")[0]
        module.add_arguments(verbs.add_parser(name, help=summary, description=module.__doc__))
    options = parser.parse_args(arguments)
    options.command = shlex.join([parser.prog, *(sys.argv[1:] if arguments is None else arguments)])
    try:
        VERBS[options.verb].run(options)
    except KLMError as error:
        print(f"ase-klm: {error}", file=sys.stderr)
        return 2
    return 0
