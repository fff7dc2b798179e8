"""MagNet on constrained non-collinear DFT of NiO (32 atoms, 120 structures to train on, 31 to judge by).

    OMP_NUM_THREADS=1 python benchmarks/magnet_nio.py DATA FOLDER                     # the potential: an hour or less
    OMP_NUM_THREADS=1 python benchmarks/magnet_nio.py DATA FOLDER --steps 1000 --runs all   # every comparison
    OMP_NUM_THREADS=1 python benchmarks/magnet_nio.py DATA FOLDER --steps 1000 --runs "60 frames" published

DATA holds train.npz and valid.npz, those of the spin example of DeePMD-kit in the format of this package. Prints root
mean square errors on valid.npz beside those of the mean of each label over the training part. Weights, curves and
parity.png of each run go to a folder of its name in FOLDER, and magnet_nio.png shows what there is of the comparisons;
a training that was cut short goes on, and one that is done is only judged. Runs that are compared have the same number
of steps, not of passes through their data.

The best weights are chosen by the loss on valid.npz, as in the paper, so that errors are a little too good. Errors of
magnetic forces are those of the labels as they are, whatever their scale.
"""

import argparse
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch

from ase_klm import data, plot
from ase_klm.models.magnet import MagNet
from ase_klm.training import (
    Errors,
    Loss,
    Modern,
    PlateauAdam,
    Trainer,
    Values,
    errors_of,
    predict,
)

SPECIES = ("O", "Ni")
BASE: Mapping[str, Any] = MappingProxyType({"loss": {"label_scale": "fit"}, "model": {"spin_orbit": False}})
ENERGY_WEIGHTS = (0.1, 1.0, 10.0, 100.0)
FRAMES = (10, 30, 60)
RUNS: dict[str, dict[str, Any]] = (
    {"potential": {}}
    | {f"energy {weight:g}": {"loss": {"energy": weight}} for weight in ENERGY_WEIGHTS if weight != 1}
    | {f"energy {weight:g}, as labelled": {"loss": {"energy": weight, "label_scale": 1.0}} for weight in ENERGY_WEIGHTS}
    | {f"{number} frames": {"frames": number} for number in FRAMES}
    | {
        "without magnetic forces": {"loss": {"magnetic_forces": 0.0, "transverse": 0.0, "label_scale": 1.0}},
        "without time reversal": {"model": {"time_reversal": False}},
        "spin-orbit": {"model": {"spin_orbit": True}},
        "one layer": {"model": {"layers": 1}},
        "no products": {"model": {"correlation": 1}},
        "two factors": {"model": {"correlation": 2}},
        "squares": {"loss": {"huber": math.inf}},
        "published": {"published": True},
    }
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of train.npz and valid.npz")
    parser.add_argument("folder", type=Path, help="for weights and curves")
    parser.add_argument("--runs", nargs="+", default=["potential"], help=f"all, or of: {', '.join(RUNS)} (%(default)s)")
    parser.add_argument("--steps", type=int, default=15000, help="of 4 structures (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    training, validation = (data.read(options.data / f"{part}.npz") for part in ("train", "valid"))
    names = list(RUNS) if options.runs == ["all"] else options.runs
    found = {}
    for name in names:
        found[name] = _run(name, training, validation, options)
    labels = (predict(MagNet.seeded(0, SPECIES, layers=1), frames)[1] for frames in (training, validation))
    mean = mean_of(*labels)
    print(f"{'':28s} energy    forces   magnetic   transverse     {options.steps} steps; meV/atom, meV/Å, meV/μB")
    for name, measures in found.items():
        print(_row(name, measures))
    print(_row("mean of the labels", mean))
    if len(found) > 1:
        _picture(found).savefig(options.folder / "magnet_nio.png", dpi=150)


def _run(name: str, training: Any, validation: Any, options: argparse.Namespace) -> Errors:
    changed = RUNS[name]
    if "frames" in changed:
        chosen = np.random.default_rng(options.seed).permutation(len(training))[: changed["frames"]]
        training = [training[i] for i in sorted(chosen)]
    model: Any = MagNet.seeded(options.seed, SPECIES, **dict(BASE["model"]) | changed.get("model", {}))
    if "published" in changed:
        model = MagNet.paper(SPECIES)
        recipe: Any = PlateauAdam(batch=4)
    else:
        recipe = Modern(learning_rate=5e-3, batch=4, ema=0.99)
    loss = Loss(**dict(BASE["loss"]) | changed.get("loss", {}))
    folder = options.folder / name.replace(" ", "_").replace(",", "")
    length = {"epochs": math.ceil(options.steps / math.ceil(len(training) / 4)), "seed": options.seed}
    trainer = Trainer(model, training, validation, folder, recipe, loss, device=options.device, **length)
    trainer.run()
    predicted, labels = predict(model, validation)
    predicted = predicted.as_labelled(trainer.problem.label_scale)
    plot.atomic_parity(predicted, labels)[0].figure.savefig(folder / "parity.png", dpi=100)
    minutes = trainer.progress.seconds / 60
    print(f"{name}: {model.n_weights} weights, {trainer.progress.step} steps in {minutes:.1f} min", flush=True)
    return errors_of(predicted, labels)


def mean_of(training: Values, labels: Values) -> Errors:
    """Errors of the mean of each label over the training part; all structures are alike."""
    counts = [len(values.energy_densities) for values in (training, labels)]

    def mean(values: torch.Tensor) -> torch.Tensor:
        return values.view(counts[0], -1, 3).mean(0).repeat(counts[1], 1)

    energies = training.energy_densities.mean().expand(counts[1])
    forces, magnetic_forces = mean(training.forces), mean(training.magnetic_forces)
    return errors_of(replace(labels, energy_densities=energies, forces=forces, magnetic_forces=magnetic_forces), labels)


def _numbers(measures: Errors) -> list[float]:
    return [1e3 * e for e in (measures.energy, measures.forces, measures.magnetic_forces, measures.transverse)]


def _row(name: str, measures: Errors) -> str:
    return f"{name:28s}" + "".join(f"{value:9.4f} " for value in _numbers(measures))


def _picture(found: dict[str, Errors]) -> Any:
    """The trade-off between energies and torques, and errors against the number of structures."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 4.0), layout="constrained")
    for label, suffix in (("label scale fitted", ""), ("as labelled", ", as labelled")):
        names = {w: "potential" if (w, suffix) == (1.0, "") else f"energy {w:g}{suffix}" for w in ENERGY_WEIGHTS}
        points = {w: _numbers(found[name]) for w, name in names.items() if name in found}
        if points:
            energy, _, _, transverse = np.transpose(list(points.values()))
            left.loglog(energy, transverse, "o-", label=label)
            for weight, x, y in zip(points, energy, transverse, strict=True):
                left.annotate(f"{weight:g}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize="small")
    left.axvline(0.03, color="0.8", lw=0.8, zorder=0)
    left.axhline(0.2, color="0.8", lw=0.8, zorder=0)
    left.set(xlabel="energy (meV/atom)", ylabel="magnetic force across the moment (meV/μ$_\\mathrm{B}$)")
    left.set(xlim=(0.009, 0.13), ylim=(0.09, 4.5))
    for axis, ticks in ((left.xaxis, (0.01, 0.03, 0.1)), (left.yaxis, (0.1, 0.2, 0.5, 1.0, 2.0))):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    left.minorticks_off()
    left.set_title("trade-off; numbers: weight of energies", fontsize="medium")
    left.legend(frameon=False)
    names = {n: f"{n} frames" for n in FRAMES} | {120: "potential"}
    points = {n: _numbers(found[name]) for n, name in names.items() if name in found}
    if points:
        labels = "energy (meV/atom)", "forces (meV/Å)", "magnetic (meV/μ$_\\mathrm{B}$)", "across the moment"
        for values, label in zip(np.transpose(list(points.values())), labels, strict=True):
            right.loglog(list(points), values, "o-", label=label)
        right.set_xticks(list(points), [str(n) for n in points], minor=False)
        right.minorticks_off()
        right.legend(frameon=False, fontsize="small")
    right.set(xlabel="structures in training", ylabel="root mean square error", ylim=(0.01, 1.0))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
