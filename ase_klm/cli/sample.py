"""Data set of exact energies and magnetic forces of a Kondo lattice, for training networks.

ase-klm sample square.npz --lattice square --size 30 30 --hopping 1:1.0 --J 7 --filling 0.48 --kind theta-uniform
--count 50 --seed 1 --workers 2

A sampling that was killed goes on when the same line is typed again.
"""

import argparse
from pathlib import Path
from typing import Any

from ase_klm.choices import DAMPING, KINDS, SNAPSHOTS, SPACING
from ase_klm.errors import KLMError

LATTICES = (
    "chain",
    "square",
    "triangular",
    "triangular-magnetic-cell",
    "honeycomb",
    "kagome",
    "simple-cubic",
    "body-centred-cubic",
    "face-centred-cubic",
)
"""Functions of `ase_klm.lattices`, with a hyphen for an underscore."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("output", type=Path, metavar="OUT", help="data set to write: .npz, .traj or .extxyz")
    lattice = parser.add_argument_group("lattice")
    lattice.add_argument("--lattice", required=True, help=", ".join(LATTICES))
    lattice.add_argument("--size", type=int, nargs="+", required=True, help="cells along each lattice vector")
    model = parser.add_argument_group("Hamiltonian, in eV")
    model.add_argument("--hopping", nargs="+", required=True, metavar="SHELL:T", help="for instance 1:1.0 3:-0.85")
    model.add_argument("--J", type=float, required=True, help="Kondo coupling of H = ... - (J/2) Σ m·σ")
    model.add_argument("--filling", type=float, help="electrons per state, 0 to 1; this or --mu")
    model.add_argument("--mu", type=float, help="chemical potential")
    model.add_argument("--temperature", type=float, default=0.0, help="kT of the electrons (%(default)s)")
    model.add_argument("--kpts", type=int, nargs=3, default=(1, 1, 1), help="Γ-centred mesh (1 1 1)")
    chosen = parser.add_argument_group("configurations")
    chosen.add_argument("--kind", nargs="+", default=["random"], help=f"taken in turn: {', '.join(KINDS)} (random)")
    chosen.add_argument("--count", type=int, required=True, help="number of configurations")
    chosen.add_argument("--seed", type=int, required=True, help="of their random numbers")
    chosen.add_argument("--snapshots", type=int, default=SNAPSHOTS, help="of one quench (%(default)s)")
    chosen.add_argument("--spacing", type=int, default=SPACING, help="steps between snapshots (%(default)s)")
    chosen.add_argument("--timestep", type=float, help="of a quench, ħ/eV; default from its first torques")
    chosen.add_argument("--damping", type=float, default=DAMPING, help="of a quench (%(default)s)")
    work = parser.add_argument_group("work")
    work.add_argument("--workers", type=int, default=1, help="processes, one core each (%(default)s)")
    work.add_argument("--dtype", default="float64", help="float64, or float32 for half the time (%(default)s)")
    work.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")


def run(options: argparse.Namespace) -> None:
    """Sample, label, write, and say what was written."""
    from ase_klm import lattices
    from ase_klm.data.configurations import Quench
    from ase_klm.data.sampling import sample

    if options.lattice not in LATTICES:
        raise KLMError(
            f"--lattice {options.lattice} is not known",
            f"there are {', '.join(LATTICES)}",
            "choose one of them; any other structure goes through ase_klm.data.sampling.sample in a script",
        )
    size: Any = options.size[0] if options.lattice == "chain" and len(options.size) == 1 else tuple(options.size)
    frames = sample(
        getattr(lattices, options.lattice.replace("-", "_"))(size),
        options.output,
        options.count,
        seed=options.seed,
        hopping=_hopping(options.hopping),
        J=options.J,
        filling=options.filling,
        mu=options.mu,
        temperature=options.temperature,
        kpts=tuple(options.kpts),
        kinds=options.kind,
        quench_plan=Quench(options.snapshots, options.spacing, options.timestep, options.damping),
        dtype=options.dtype,
        device=options.device,
        workers=options.workers,
    )
    print(f"{options.output}: {len(frames)} configurations of {len(frames[0].atoms)} sites")


def interrupted(options: argparse.Namespace) -> str:
    """Whether labels are kept: each is written when it is finished."""
    parts: Path = options.output.with_name(f"{options.output.name}.parts")
    if any(parts.glob("[!.]*.npz")):
        return f"the labels so far are kept in {parts}; the same command goes on from them"
    if options.output.exists():
        return f"{options.output} is complete"
    return "no label was finished; the same command starts anew"


def _hopping(words: list[str]) -> dict[int, float]:
    try:
        pairs = [(int(shell), float(t)) for shell, t in (word.split(":") for word in words)]
    except ValueError:
        pairs = []
    if len(dict(pairs)) != len(words):
        raise KLMError(
            f"--hopping {' '.join(words)} cannot be read",
            "it must be pairs of a neighbour shell and an energy, each shell once",
            "for instance --hopping 1:1.0 3:-0.85",
        )
    return dict(pairs)
