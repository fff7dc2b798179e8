"""A MagNet of monolayer CrI3, taught by `potentials.cri3_model`: labels, training, and how well it does.

    OMP_NUM_THREADS=1 python benchmarks/magnet_cri3.py FOLDER --minutes 25

The sampling is that of Z. Yuan et al., Quantum Frontiers 3, 8 (2024), 200 structures of 3×3 cells in equilibrium whose
moments are tilted by up to 10° from a ferromagnet, and 400 of 2×2 cells with displaced atoms and random moments; and
300 of 2×2 cells with displaced atoms and ferromagnetic, Néel or stripe order, tilted by up to 30°, without which
nothing says how an ordered magnet vibrates. Of each, 8 of 10 to train. The largest displacement along an axis is drawn
for each structure between 0 and 0.1 Å: with 0.1 Å for all, force constants in equilibrium come out 40 % too small. The
2×2 cells are strained by up to 1.5 % in the plane; without, the lattice constant comes out 0.35 % too large.
Labels are those of the model, not of density functional theory.

Writes tilted.npz, random.npz and ordered.npz (labels), cri3-model.safetensors (which the package holds) and parity.png
to FOLDER, and prints root mean square errors and their ratios to the spread of the labels, of each kind of structures.
A training that was cut short goes on.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase import Atoms

from ase_klm import SpinCalculator, data, lattices, plot, potentials, set_moments
from ase_klm.models import files
from ase_klm.models.magnet import MagNet
from ase_klm.training import Loss, Modern, Trainer, Values, errors_of, predict, split

LABELS = "ase_klm.potentials.cri3_model(), an explicit model of monolayer CrI3; not density functional theory"
LENGTH = 3.0  # μB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=25.0, help="of training (%(default)s)")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--cutoff", type=float, default=8.5, help="Å (%(default)s)")
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--lattice-channels", type=int, default=32)
    parser.add_argument("--initial", type=Path, help="weights to start from; new ones otherwise")
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    kinds = {"tilted": (tilted, 200), "random": (disordered, 400), "ordered": (ordered, 300)}
    kinds = {name: _labelled(options.folder / f"{name}.npz", *kind) for name, kind in kinds.items()}
    parts = {name: split(frames, 0.2, seed=0) for name, frames in kinds.items()}
    training, validation = ([frame for part in parts.values() for frame in part[k]] for k in (0, 1))
    model = MagNet.seeded(
        0,
        ("Cr", "I"),
        cutoff=options.cutoff,
        layers=options.layers,
        channels=options.channels,
        spin_orbit=True,
        lattice_channels=options.lattice_channels,
    )
    recipe = Modern(learning_rate=options.learning_rate, batch=4, ema=0.99)
    loss = Loss()
    length = {"minutes": options.minutes, "device": options.device, "initial": options.initial}
    model = None if options.initial else model
    trainer = Trainer(model, training, validation, options.folder, recipe, loss, **length)
    model = trainer.model
    trainer.run()
    print(f"{model.n_weights} weights, {trainer.progress.step} steps in {trainer.progress.seconds / 60:.1f} min")
    for name, (_, frames) in parts.items():
        predicted, labels = predict(model, frames)
        found, spread = errors_of(predicted, labels), errors_of(_mean(labels), labels)
        print(f"{name}: {found}")
        ratios = {key: value / spread.numbers[key] for key, value in found.numbers.items() if key != "correlation"}
        print("  over the spread of the labels: " + ", ".join(f"{key} {value:.2%}" for key, value in ratios.items()))
    card = files.card(trainer.best_path)
    own = ("architecture", "hyperparameters", "species", "cutoff", "units", "dtype", "version", "sha256")
    card = {"labels": LABELS} | {key: value for key, value in card.items() if key not in own}
    files.save(options.folder / "cri3-model.safetensors", model, card)
    panels = plot.atomic_parity(*predict(model, validation))
    panels[0].figure.savefig(options.folder / "parity.png", dpi=150)


def tilted(rng: np.random.Generator) -> Atoms:
    """3×3 cells in equilibrium, moments within 10° of a common direction."""
    atoms = lattices.cri3_monolayer((3, 3))
    return _with_moments(atoms, _around_axis(rng, np.ones(18), np.radians(10)) * LENGTH)


def disordered(rng: np.random.Generator) -> Atoms:
    """2×2 cells, displaced at random, with random moments of slightly different lengths."""
    e = rng.normal(size=(8, 3))
    return _displaced(rng, e / np.linalg.norm(e, axis=1, keepdims=True))


def ordered(rng: np.random.Generator) -> Atoms:
    """2×2 cells, displaced at random, moments within 30° of a collinear order, of slightly different lengths."""
    signs = rng.choice([(1, 1, 1, 1, 1, 1, 1, 1), (1, -1, 1, -1, 1, -1, 1, -1), (1, 1, -1, -1, 1, 1, -1, -1)])
    return _displaced(rng, _around_axis(rng, signs, np.radians(30)))


def _displaced(rng: np.random.Generator, e: np.ndarray) -> Atoms:
    atoms = lattices.cri3_monolayer((2, 2))
    strain = rng.uniform(-0.015, 0.015, size=(3, 3)) * np.outer((1, 1, 0), (1, 1, 0))
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + (strain + strain.T) / 2), scale_atoms=True)
    atoms.positions += rng.uniform(0, 0.1) * rng.uniform(-1, 1, size=(len(atoms), 3))
    return _with_moments(atoms, e * LENGTH * rng.uniform(0.97, 1.03, size=(len(e), 1)))


def _around_axis(rng: np.random.Generator, signs: np.ndarray, largest: float) -> np.ndarray:
    """Unit vectors within an angle, rad, of ± a random axis."""
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    angles, azimuths = largest * rng.uniform(size=len(signs)), 2 * np.pi * rng.uniform(size=len(signs))
    first = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis))])
    first /= np.linalg.norm(first)
    around = np.outer(np.cos(azimuths), first) + np.outer(np.sin(azimuths), np.cross(axis, first))
    return np.asarray(signs)[:, None] * (np.cos(angles)[:, None] * axis + np.sin(angles)[:, None] * around)


def _with_moments(atoms: Atoms, of_chromium: np.ndarray) -> Atoms:
    moments = np.zeros((len(atoms), 3))
    moments[atoms.symbols == "Cr"] = of_chromium
    set_moments(atoms, moments)
    return atoms


def _labelled(path: Path, make, number: int):
    """Frames with the labels of the model, from a file or made anew."""
    if not path.exists():
        rng, frames = np.random.default_rng(0), []
        for _ in range(number):
            atoms = make(rng)
            atoms.calc = SpinCalculator(potentials.cri3_model())
            atoms.get_potential_energy()
            frames.append(atoms)
        data.write(path, frames)
    return data.read(path)


def _mean(labels: Values) -> Values:
    """The mean energy, and no forces."""
    energies = labels.energy_densities.mean().expand_as(labels.energy_densities)
    return replace(labels.zeros(), energy_densities=energies)


if __name__ == "__main__":
    main()
