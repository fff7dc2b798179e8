"""What training needs: configurations, symmetries, a recipe, a start; and what a network of invariants reaches.

    OMP_NUM_THREADS=1 python benchmarks/training_curves.py FOLDER --minutes 20 [--only i iv]

FOLDER is that of published_square.py. Each training has these minutes; there are fourteen, one after the other:

    i    the ECNN of arXiv:2305.03804 on 10, 30 and 80 configurations
    ii   on 30: one weight a displacement, with and without random symmetries of the lattice, or one a shell
    iii  on 80: the reference's recipe (AdaGrad) beside ours
    iv   J = 5, and filling 0.42, with 10 configurations each: from the packaged network's weights, and afresh
    v    on 80: invariants of neighbourhoods, radius 3; its weights go to FOLDER/baseline.safetensors
    vi   the network of Chebyshev moments, as kondo-square-published, on 10, 30 and 80 configurations

Errors are those of the best weights on the validation part, by which they were chosen: choose.npz, or, in iv, five
further configurations. Finished trainings are kept in FOLDER/curves, and one that was cut short goes on.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from published_square import KONDO

from ase_klm import data, lattices
from ase_klm.data.frames import Frame
from ase_klm.data.sampling import sample
from ase_klm.errors import KLMError
from ase_klm.models import files
from ase_klm.models.base import LatticeNetwork
from ase_klm.models.chebyshev import ChebyshevNetwork
from ase_klm.models.ecnn import ECNN
from ase_klm.models.invariant import InvariantNetwork
from ase_klm.training import Errors, Loss, Modern, Paper, Recipe, Trainer, evaluate

PARTS = ("i", "ii", "iii", "iv", "v", "vi")
START = "kondo-square-ecnn"
MODERN = Modern(learning_rate=6e-3, batch=2, clip=0.3, ema=0.998, weight_decay=1e-4)
MOMENTS = Modern(learning_rate=2e-3, batch=2, clip=1.0, ema=0.999, weight_decay=0.1)
OTHERS = {"J = 5": KONDO | {"J": 5.0}, "filling 0.42": KONDO | {"filling": 0.42}}
N_TRAINING, N_VALIDATION = 10, 5  # of the other Hamiltonians


@dataclass(frozen=True)
class Case:
    """A training, with the name of its directory; cases of one name are one training."""

    part: str
    label: str
    name: str
    training: list[Frame]
    validation: list[Frame]
    model: Callable[[], LatticeNetwork] | None
    recipe: Recipe = MODERN
    loss: Loss | None = None
    initial: str | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, required=True, help="of each training")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--start", default=START, help="weights that iv starts from, a name or a file (%(default)s)")
    parser.add_argument("--fine-rate", type=float, default=2e-3, help="learning rate of that (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that label (%(default)s)")
    options = parser.parse_args()
    print(f"{options.minutes:g} minutes each, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(
        f"\n{'part':4s} {'training':50s} {'set':>3s} {'weights':>7s} {'steps':>7s} {'energy':>9s} {'field':>7s} "
        f"{'torque':>7s} {'correlation':>11s}\n{'':74s} {'eV/site':>9s} {'eV/μB':>7s} {'eV/μB':>7s}"
    )
    for case in cases(options):
        if case.model is None and case.initial is not None:
            start = files.load(case.initial)
            print_row(case, start, "-", evaluate(start, case.validation), f"{case.label}, not trained")
        trainer, found = trained(case, options)
        print_row(case, trainer.model, str(trainer.progress.step), found, case.label)
        if case.part == "v":
            files.save(options.folder / "baseline.safetensors", trainer.model, files.card(trainer.best_path))


def print_row(case: Case, model: LatticeNetwork, steps: str, found: Errors, label: str) -> None:
    print(
        f"{case.part:4s} {label:50s} {len(case.training):3d} {model.n_weights:7d} {steps:>7s} {found.energy:9.2e} "
        f"{found.magnetic_forces:7.4f} {found.transverse:7.4f} {found.correlation:11.4f}",
        flush=True,
    )


def trained(case: Case, options: argparse.Namespace) -> tuple[Trainer, Errors]:
    """The training, at its end, and its errors."""
    trainer = Trainer(
        None if case.model is None else case.model(),
        case.training,
        case.validation,
        options.folder / "curves" / f"{case.name}-{options.minutes:g}min",
        recipe=case.recipe,
        loss=case.loss,
        minutes=options.minutes,
        initial=case.initial,
        progress=False,
    )
    return trainer, trainer.run()


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """All that were asked for, in turn; the labels of iv are made when they are needed."""
    frames, choose = data.read(options.folder / "train.npz"), data.read(options.folder / "choose.npz")
    atoms, plain = frames[0].atoms, replace(MODERN, lattice_symmetries=False)

    def ecnn(**hyperparameters: object) -> Callable[[], LatticeNetwork]:
        return lambda: ECNN.for_atoms(atoms, (1, 2), **hyperparameters)

    def modern(part: str, label: str, count: int) -> Case:
        return Case(part, label, f"ecnn-{count}", frames[:count], choose, ecnn())

    if "i" in options.only:
        for count in (10, 30, 80):
            yield modern("i", "ECNN", count)
    if "ii" in options.only:
        thirty = frames[:30]
        yield modern("ii", "a weight a displacement, random symmetries", 30)
        yield Case("ii", "a weight a displacement, as they are", "plain-30", thirty, choose, ecnn(), plain)
        yield Case("ii", "a weight a shell", "tied-30", thirty, choose, ecnn(tied=True), plain)
    if "iii" in options.only:
        yield Case("iii", "the reference's recipe", "paper-80", frames[:80], choose, ecnn(), Paper())
        yield modern("iii", "our recipe", 80)
    if "iv" in options.only:
        yield from other_hamiltonians(options)
    if "v" in options.only:
        yield Case(
            "v",
            "InvariantNetwork, radius 3",
            "invariants-80",
            frames[:80],
            choose,
            lambda: InvariantNetwork.for_atoms(atoms, (1,), radius=3),
        )
    if "vi" in options.only:
        for count in (10, 30, 80):
            yield Case(
                "vi",
                "ChebyshevNetwork",
                f"moments-{count}",
                frames[:count],
                choose,
                lambda: ChebyshevNetwork.for_atoms(atoms, hamiltonian=KONDO, radius=9, channels=64, hidden=64),
                MOMENTS,
                Loss(electrons=2.0),
            )


def other_hamiltonians(options: argparse.Namespace) -> Iterator[Case]:
    try:
        start = files.load(options.start)
    except KLMError as error:
        print(f"iv   left out: {error}")
        return
    for label, hamiltonian in OTHERS.items():
        name = label.replace(" = ", "-").replace(" ", "-")
        frames = sample(
            lattices.square((30, 30)),
            options.folder / f"{name}.npz",
            N_TRAINING + N_VALIDATION,
            seed=3,
            kinds="theta-uniform",
            workers=options.workers,
            **hamiltonian,
        )
        several = frames[:N_TRAINING], frames[N_TRAINING:]
        fine = replace(MODERN, learning_rate=options.fine_rate)
        yield Case(
            "iv", f"{label}, from {Path(options.start).stem}", f"fine-{name}", *several, None, fine, None, options.start
        )
        yield Case("iv", f"{label}, afresh", f"fresh-{name}", *several, lambda: afresh(start))


def afresh(model: LatticeNetwork) -> LatticeNetwork:
    """A network of the same architecture with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return type(model)(model.lattice, **model.hyperparameters)


if __name__ == "__main__":
    main()
