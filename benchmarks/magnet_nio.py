"""MagNet on constrained non-collinear DFT of NiO (32 atoms, 120 structures to train on, 31 to judge by).

    OMP_NUM_THREADS=1 python benchmarks/magnet_nio.py DATA FOLDER --minutes 60

DATA holds train.npz and valid.npz, those of the spin example of DeePMD-kit in the format of this package. Prints root
mean square errors on valid.npz beside those of the mean of each label over the training part. The weights, curves and
parity.png go to FOLDER; a training that was cut short goes on. Options make the tables of the README:

    --energy 10                  the trade-off over λ: energies and torques of this set disagree by a factor of 1.2
    --label-scale fit            magnetic forces of the potential are the labels times this factor
    --frames 30                  learning curves
    --without-magnetic-forces    what these labels are worth
    --no-time-reversal           what exact time reversal is worth
    --spin-orbit                 spins that rotate with the lattice; the labels are without spin-orbit coupling
    --published                  the network of the paper, and its recipe: Adam, 1e-3, halved on plateaus

The best weights are chosen by the loss on valid.npz, as in the paper, so that errors are a little too good. Errors of
magnetic forces are those of the labels as they are, whatever their scale.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ase_klm import data, plot
from ase_klm.models.magnet import MagNet
from ase_klm.training import AtomicLoss, AtomicValues, Modern, PlateauAdam, Trainer, atomic_measures, predict

SPECIES = ("O", "Ni")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of train.npz and valid.npz")
    parser.add_argument("folder", type=Path, help="for weights and curves")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training (%(default)s)")
    for name in ("energy", "forces", "magnetic-forces", "transverse"):
        parser.add_argument(f"--{name}", type=float, default=1.0, help="weight λ in the loss (%(default)s)")
    parser.add_argument(
        "--label-scale", default="1", help='a number, or "fit": the slope of energy on work (%(default)s)'
    )
    parser.add_argument("--huber", type=float, default=0.3, help="larger errors count linearly (%(default)s)")
    parser.add_argument("--without-magnetic-forces", action="store_true", help="energies and forces only")
    parser.add_argument("--frames", type=int, help="train on this many, chosen by the seed (all)")
    parser.add_argument("--spin-orbit", action="store_true", help="spins rotate with the lattice")
    parser.add_argument("--no-time-reversal", action="store_true", help="E(-m) may differ from E(m)")
    parser.add_argument("--published", action="store_true", help="network and recipe of the paper")
    parser.add_argument("--cutoff", type=float, default=5.0, help="Å (%(default)s)")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="(%(default)s)")
    parser.add_argument("--batch", type=int, default=4, help="structures a step (%(default)s)")
    parser.add_argument("--clip", type=float, default=0.3, help="longest gradient (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    training, validation = (data.read(options.data / f"{part}.npz") for part in ("train", "valid"))
    if options.frames is not None:
        chosen = np.random.default_rng(options.seed).permutation(len(training))[: options.frames]
        training = [training[i] for i in sorted(chosen)]
    magnetic, transverse = options.magnetic_forces, options.transverse
    if options.without_magnetic_forces:
        magnetic = transverse = 0.0
    scale = options.label_scale if options.label_scale == "fit" else float(options.label_scale)
    loss = AtomicLoss(options.energy, options.forces, magnetic, transverse, options.huber, scale)
    if options.published:
        model = MagNet.paper(SPECIES)
        recipe = PlateauAdam()
    else:
        model = MagNet.seeded(
            options.seed,
            SPECIES,
            cutoff=options.cutoff,
            spin_orbit=options.spin_orbit,
            time_reversal=not options.no_time_reversal,
        )
        recipe = Modern(learning_rate=options.learning_rate, batch=options.batch, clip=options.clip, ema=0.99)
    length = {"minutes": options.minutes, "seed": options.seed, "device": options.device}
    trainer = Trainer(model, training, validation, options.folder, recipe, loss, **length)
    print(f"{type(model).__name__} with {model.n_weights} weights, {len(training)} structures, {loss}")
    trainer.run()

    predicted, labels = predict(model, validation)
    predicted = predicted.as_labelled(trainer.problem.label_scale)
    minutes, scale = trainer.progress.seconds / 60, trainer.problem.label_scale
    print(f"{trainer.progress.step} steps in {minutes:.1f} min, label scale {scale:.3f}; errors on valid.npz:")
    print("  network         ", atomic_measures(predicted, labels))
    print("  mean predictor  ", atomic_measures(mean_of(predict(model, training)[1], labels), labels))
    known = labels.magnetic_forces.isfinite().all(-1)
    vectors = (values[known] for values in (predicted.magnetic_forces, labels.magnetic_forces, labels.directions))
    panels = plot.parity(*(values.cpu() for values in vectors))
    panels[0].figure.savefig(options.folder / "parity.png", dpi=150)


def mean_of(training: AtomicValues, labels: AtomicValues) -> AtomicValues:
    """The mean of each label over the training part, for every structure of the validation part; all are alike."""
    counts = [len(values.energy_densities) for values in (training, labels)]

    def mean(values: torch.Tensor) -> torch.Tensor:
        return values.view(counts[0], -1, 3).mean(0).repeat(counts[1], 1)

    energies = training.energy_densities.mean().expand(counts[1])
    vectors = mean(training.forces), mean(training.magnetic_forces)
    return AtomicValues(energies, *vectors, labels.directions, labels.transverse_only)


if __name__ == "__main__":
    main()
