"""Train a network on labelled frames, or fine-tune one, as a configuration in TOML says.

A configuration:

    [data]
    files = ["train.npz"]           # beside the configuration; .npz, .traj, .extxyz
    validation = 0.1                # a number of frames, a fraction, or files: ["validation.npz"]

    [model]                         # of spins on a lattice
    architecture = "ECNN"           # or, to fine-tune: start = "kondo-square"
    shells = [1, 2]
    irreps = "8x0e + 8x1o + 8x2e"   # hyperparameters of the architecture; a Hamiltonian is taken from the frames

    [model]                         # or of atoms and moments
    architecture = "MagNet"
    cutoff = 5.0                    # Å; species are taken from the frames
    spin_orbit = false

    [loss]                          # all of it optional: weights of squared errors
    energy = 1.0                    # an atom
    magnetic_forces = 1.0
    transverse = 1.0                # once more for their part across the moment; longitudinal: for that along it
    electrons = 20.0                # their number an atom, for networks of Chebyshev moments
    forces = 1.0                    # on atoms, of networks of atoms and moments
    stress = 0.0
    units = "spreads"               # of the labels, as for atoms by default; or "absolute" (eV), as for spins
    huber = 0.1                     # larger errors, in these units, count linearly; default for spreads
    label_scale = "fit"             # or a number: magnetic forces in units of their labels (1.0)

    [recipe]                        # all of it optional
    name = "modern"                 # "plateau-adam" or "paper"; the other keys override its numbers
    learning_rate = 3e-3

    [run]
    directory = "my-network"        # checkpoint, best.safetensors, curves.csv, curves.png
    minutes = 60                    # or epochs = 100
    seed = 0
    device = "cpu"

A training that was cut short continues when the command is given again.
"""

import argparse
from pathlib import Path

from ase_klm.choices import CHECKPOINT
from ase_klm.cli.configuration import read_toml, section_of
from ase_klm.errors import KLMError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("configuration", type=Path, help="a TOML file")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")


def run(options: argparse.Namespace) -> None:
    """Train, and print the errors on the validation part."""
    from ase_klm.cli.trainings import trainer_from

    trainer = trainer_from(options.configuration, progress=not options.quiet)
    model, counts = trainer.model, (len(trainer.problem.training), len(trainer.problem.validation))
    print(
        f"{type(model).__name__} with {model.n_weights} weights; {counts[0]} frames to train, {counts[1]} to validate",
        flush=True,
    )
    found = trainer.run()
    print(f"errors of {trainer.best_path} on the validation part:")
    print(found.report)


def interrupted(options: argparse.Namespace) -> str:
    """Whether there is a checkpoint, of this run or of one before."""
    path: Path = options.configuration
    try:
        settings = section_of(read_toml(path, ""), "run")
        checkpoint = path.parent / str(settings["directory"]) / CHECKPOINT
    except (KLMError, KeyError):
        return "nothing was kept"
    if checkpoint.exists():
        return f"the same command continues from {checkpoint}"
    return "there is no checkpoint yet; the same command starts anew"
