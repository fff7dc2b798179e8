"""A network for the square Kondo lattice, from nothing: labels, training, errors, pictures.

Exact diagonalisation labels random configurations of a 16 × 16 lattice (t = 1, J = 7, filling 0.48). With 2 × 2
k-points the labels are those of a periodic 32 × 32 lattice, so that the electrons do not notice how small it is.
Miyazaki's equivariant network (arXiv:2305.03804; here with exact time reversal) is then trained for three minutes. It
takes four minutes in all on two cores; the packaged "kondo-square-ecnn", of the same architecture, had more of both.

Prints the errors on configurations held apart. Writes the folder train_in_five_minutes/: the labels square.npz, and
network/ with best.safetensors, which ECNNCalculator and `ase-klm train` load, curves.csv, curves.png and parity.png.
When the script is run again, labels and a training that was cut short are taken up where they are.

The same with the command line: `ase-klm sample` as train_ecnn.toml says, then `ase-klm train train_ecnn.toml`.
"""

import argparse
from pathlib import Path

import torch

from ase_klm import ECNNCalculator, get_magnetic_forces, lattices, plot, textures
from ase_klm.data.sampling import sample
from ase_klm.models.ecnn import ECNN
from ase_klm.training import Modern, Trainer, predict, split

KONDO = {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="of training (%(default)s)")
    parser.add_argument(
        "--count", type=int, default=100, help="configurations, a tenth of them held apart (%(default)s)"
    )
    parser.add_argument("--size", type=int, default=16, help="sites a side (%(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("train_in_five_minutes"))
    options = parser.parse_args()
    options.folder.mkdir(exist_ok=True)

    atoms = lattices.square(size=(options.size, options.size))
    frames = sample(
        atoms,
        options.folder / "square.npz",
        options.count,
        seed=1,
        kinds="theta-uniform",
        kpts=(2, 2, 1),
        workers=2,
        **KONDO,
    )
    training, validation = split(frames, 0.1)

    torch.set_num_threads(1)  # the tensors are small: more threads gain little
    model = ECNN.for_atoms(atoms, shells=(1, 2), seed=0)
    print(f"{model.n_weights} weights; {len(training)} configurations to train, {len(validation)} held apart")
    directory = options.folder / "network"
    recipe = Modern(learning_rate=6e-3, batch=2)
    found = Trainer(model, training, validation, directory, recipe=recipe, minutes=options.minutes).run()
    print(f"energy       {found.energy:.2e} eV/site")
    print(f"magnetic forces {found.magnetic_forces:.2e} eV/μB")
    print(f"transverse      {found.transverse:.2e} eV/μB")
    print(f"correlation  {found.correlation:.4f}")

    predicted, labels = predict(model, validation)
    panels = plot.parity(predicted.magnetic_forces, labels.magnetic_forces, labels.directions)
    panels[0].figure.savefig(directory / "parity.png", dpi=150)

    # from here on it is a calculator like any other, for a lattice of any size
    large = lattices.square(size=(64, 64))
    textures.random(large, seed=2)
    large.calc = ECNNCalculator(directory / "best.safetensors")
    energy, fields = large.get_potential_energy() / len(large), get_magnetic_forces(large)
    print(f"64 × 64 random spins: {energy:.4f} eV a site, largest magnetic force {abs(fields).max():.3f} eV/μB")
    print(f"wrote {options.folder}/")


if __name__ == "__main__":
    main()
