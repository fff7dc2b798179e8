"""Predicted against exact magnetic forces, as in figure 3 of Y. Miyazaki, arXiv:2305.03804.

A network meets configurations of the square Kondo lattice (t = 1, J = 7, filling 0.48) that it has not seen: spins with
θ uniform, as in its training set, and, with --kind, others for which it was not trained: isotropic spins, noisy
textures, snapshots of a quench. The exact labels are made on the fly, on a 20 × 20 lattice with 2 × 2 k-points, so that
its electrons do not notice its size.

Takes 15 s on one core, nearly all of it diagonalisations; snapshots of quenches take longer. Prints the errors, and
writes parity_plots.png, and the labels as parity_plots-KIND.npz, which are read when the script is run again.
"""

import argparse

from ase_klm import lattices, plot
from ase_klm.choices import KINDS
from ase_klm.data.sampling import sample
from ase_klm.models import files
from ase_klm.training import errors_of, predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="kondo-square", help="a packaged name or a file (%(default)s)")
    parser.add_argument("--kind", default="theta-uniform", choices=KINDS, help="of configurations (%(default)s)")
    parser.add_argument("--count", type=int, default=8, help="configurations (%(default)s)")
    options = parser.parse_args()

    frames = sample(
        lattices.square(size=(20, 20)),
        f"parity_plots-{options.kind}.npz",
        options.count,
        seed=20,
        hopping={1: 1.0},
        J=7.0,
        filling=0.48,
        kpts=(2, 2, 1),
        kinds=options.kind,
    )
    predicted, labels = predict(files.load(options.model), frames)
    print(f"{options.model} on {options.count} configurations of the kind {options.kind}:")
    print(errors_of(predicted, labels))

    panels = plot.parity(predicted.magnetic_forces, labels.magnetic_forces, labels.directions)
    figure = panels[0].figure
    figure.suptitle(f"{options.model}, {options.kind}")
    figure.savefig("parity_plots.png", dpi=150)
    print("wrote parity_plots.png")


if __name__ == "__main__":
    main()
