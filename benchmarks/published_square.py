"""The published configurations of the square Kondo lattice as data sets of ours, and fresh ones to test on.

    python benchmarks/published_square.py PUBLISHED.npz FOLDER

PUBLISHED.npz is the training split of Y. Miyazaki, Mach. Learn.: Sci. Technol. 4, 045006 (keys spins, energy, field);
its labels are those of 864 electrons in 1800 states, t = 1, J = 7, T = 0. FOLDER gets train.npz (the first 80),
choose.npz (the last 20, or as many as `--choose` says), and test.npz: 50 new configurations with θ uniform, as in the
published set, labelled here. Energies and fields of the first two are the published ones; the chemical potential, which
was not published, comes from diagonalising the same configurations (some four minutes on two cores for all).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from tqdm import tqdm

from ase_klm import KondoEDCalculator, data, lattices, set_moments
from ase_klm.data.sampling import sample

KONDO = {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("published", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--choose", type=int, default=20, help="configurations kept for choosing (20)")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    atoms = lattices.square(size=(30, 30))
    frames = published(options.published, atoms)
    data.write(options.folder / "train.npz", frames[: len(frames) - options.choose])
    data.write(options.folder / "choose.npz", frames[len(frames) - options.choose :])
    sample(atoms, options.folder / "test.npz", 50, seed=1, kinds="theta-uniform", workers=options.workers, **KONDO)


def published(path: Path, atoms: Atoms) -> list[Atoms]:
    """The published configurations as frames, with their labels, the Hamiltonian, and our chemical potential."""
    calc = KondoEDCalculator(**KONDO)
    frames = []
    with np.load(path) as found:
        labelled = list(zip(found["spins"], found["energy"], found["field"], strict=True))
    for spins, energy, field in tqdm(labelled, desc="chemical potentials"):
        frame = atoms.copy()
        set_moments(frame, spins.reshape(-1, 3).astype(float))
        frame.info["hamiltonian"] = json.dumps(KONDO)
        frame.info["chemical_potential"] = float(calc.get_property("chemical_potential", frame))
        frame.set_array("magnetic_forces", field.reshape(-1, 3).astype(float))
        frame.calc = SinglePointCalculator(frame, energy=float(energy))
        frames.append(frame)
    return frames


if __name__ == "__main__":
    main()
