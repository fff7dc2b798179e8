"""Magnons of a trained network beside exact ones: the Néel state of the half-filled square Kondo lattice.

    OMP_NUM_THREADS=1 python benchmarks/kondo_magnons.py FOLDER [--minutes 5]

t = 1, J = 7, filling 1/2: a gap, and an antiferromagnet. Exact diagonalisation labels 12×12 lattices with 2×2 k-points,
Néel states with noise of 0.05 to 1 and random spins by turns; two networks are trained on them, each for so many
minutes. Their magnon energies, by automatic differentiation, are compared with those of linear response of the exact
electrons on a 24×24 mesh of the magnetic cell.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms

from ase_klm import ECNNCalculator, KondoEDCalculator, data, get_magnetic_forces, lattices, set_moments
from ase_klm.data.frames import Frame
from ase_klm.magnons import Magnons
from ase_klm.models.base import LatticeNetwork
from ase_klm.models.chebyshev import ChebyshevNetwork
from ase_klm.models.ecnn import ECNN
from ase_klm.textures import add_noise, random
from ase_klm.training import Modern, Trainer

KONDO = {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.5}
PATH = np.array([[0.125, 0, 0], [0.25, 0, 0], [0.375, 0, 0], [0.5, 0, 0], [0.25, 0.25, 0], [0.125, 0.125, 0]])
"""Wave vectors of the 2×2 cell."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=5.0, help="of each training (%(default)s)")
    parser.add_argument("--count", type=int, default=80, help="configurations, a fifth kept for choosing (%(default)s)")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    frames = labelled(options.folder / "neel.npz", options.count)
    n_train = len(frames) * 4 // 5
    cell = neel(2)
    cell.calc = KondoEDCalculator(**KONDO, kpts=(24, 24, 1))
    exact = Magnons(cell).frequencies(PATH)[:, ::2]  # pairs
    report("exact", exact, exact)
    for name, model in networks(frames[0].atoms).items():
        trainer = Trainer(
            model,
            frames[:n_train],
            frames[n_train:],
            options.folder / f"{name}-{options.minutes:g}min",
            recipe=Modern(learning_rate=6e-3, batch=2),
            minutes=options.minutes,
            progress=False,
        )
        found = trainer.run()
        cell.calc = ECNNCalculator(trainer.best_path, dtype="float64")
        magnons = Magnons(cell)
        report(f"{name}, transverse error {found.transverse:.4f} eV/μB", magnons.frequencies(PATH)[:, ::2], exact)


def neel(size: int) -> Atoms:
    atoms = lattices.square(size=(size, size))
    x, y, _ = atoms.positions.round().astype(int).T
    set_moments(atoms, np.outer((-1.0) ** (x + y), (0, 0, 1)))
    return atoms


def labelled(path: Path, count: int) -> list[Frame]:
    """Frames with exact labels, made if they are not there."""
    if not path.exists():
        generator, frames = np.random.default_rng(1), []
        for number in range(count):
            atoms = neel(12)
            if number % 2:
                random(atoms, seed=generator)
            else:
                add_noise(atoms, 0.05 * 20 ** generator.random(), seed=generator)
            atoms.calc = KondoEDCalculator(**KONDO, kpts=(2, 2, 1))
            atoms.get_potential_energy()
            get_magnetic_forces(atoms)
            frames.append(atoms)
        data.write(path, frames)
    return list(data.read(path))


def networks(atoms: Atoms) -> dict[str, LatticeNetwork]:
    return {
        "ecnn": ECNN.for_atoms(atoms, (1, 2)),
        "chebyshev": ChebyshevNetwork.for_atoms(atoms, hamiltonian=KONDO, radius=6, channels=32, hidden=32),
    }


def report(name: str, energies: np.ndarray, exact: np.ndarray) -> None:
    error = np.sqrt(np.mean((energies - exact) ** 2)) / exact.max()
    print(f"{name}: rms deviation {100 * error:.2f} % of the band width; energies (meV) of both branches")
    for branch in energies.T:
        print("   ", " ".join(f"{1e3 * w:7.1f}" for w in branch))


if __name__ == "__main__":
    main()
