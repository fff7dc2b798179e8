"""Accuracy of networks of the square Kondo lattice on configurations held apart, and against the size of the lattice.

    python benchmarks/kondo_networks.py FOLDER [--baseline FOLDER/baseline.safetensors] [FURTHER.safetensors ...]

FOLDER is that of published_square.py; the errors are those on its test.npz. It gets size_16.npz and so on: fresh
configurations with θ uniform, labelled here in a few minutes; a labelling that was cut short goes on. The picture of
the packaged networks is figure 3 of Y. Miyazaki, Mach. Learn.: Sci. Technol. 4, 045006, arXiv:2305.03804.
"""

import argparse
from pathlib import Path

from published_square import KONDO

from ase_klm import data, lattices, plot
from ase_klm.data.frames import Frame
from ase_klm.data.sampling import sample
from ase_klm.models import files
from ase_klm.models.base import LatticeNetwork
from ase_klm.training import evaluate, predict

PACKAGED = ("kondo-square", "kondo-square-ecnn")
PUBLISHED = {"field": 0.0481, "torque": 0.0231}  # the published network, quoted, on 50 other configurations
SIZES = (16, 20, 24, 30, 36, 40, 48)
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "parity_square.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("files", nargs="*", help="of further networks")
    parser.add_argument("--baseline", help="file of an InvariantNetwork")
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="of the second table (%(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that label (%(default)s)")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    networks = {}
    for name in PACKAGED:
        if name in files.available():
            networks[name] = files.load(name)
        else:
            print(f"{name} is not there and left out")
    pictured = dict(networks)
    networks |= {name: files.load(name) for name in (options.baseline, *options.files) if name}
    frames = data.read(options.folder / "test.npz")
    print_accuracy(networks, frames)
    if options.sizes:
        print_sizes(networks, options)
    if pictured:
        draw(pictured, frames, options.picture)
        print(f"\nwrote {options.picture}")


def print_accuracy(networks: dict[str, LatticeNetwork], frames: list[Frame]) -> None:
    width = max(map(len, (*networks, "published (quoted)")))
    print(f"\nroot mean square errors on {len(frames)} configurations of {len(frames[0].atoms)} sites")
    print(
        f"{'network':{width}s} {'kind':17s} {'weights':>8s} {'energy':>10s} {'field':>8s} {'torque':>8s} "
        f"{'correlation':>11s}\n{'':{width + 26}s} {'eV/site':>11s} {'eV/μB':>8s} {'eV/μB':>8s}"
    )
    for name, model in networks.items():
        found = evaluate(model, frames)
        print(
            f"{name:{width}s} {type(model).__name__:17s} {model.n_weights:8d} {found.energy:10.2e} "
            f"{found.magnetic_forces:8.4f} {found.transverse:8.4f} {found.correlation:11.4f}",
            flush=True,
        )
    quoted = f"{PUBLISHED['field']:8.4f} {PUBLISHED['torque']:8.4f}"
    print(f"{'published (quoted)':{width}s} {'ECNN':17s} {17401:8d} {'':10s} {quoted}")


def configurations(size: int) -> int:
    """How many are labelled of a size."""
    return 8 if size <= 24 else 4 if size < 48 else 1


def print_sizes(networks: dict[str, LatticeNetwork], options: argparse.Namespace) -> None:
    """Errors of the field and of the torque; labels are made where they are missing."""
    print("\nagainst size: energy (meV/site), field and torque (eV/μB), root mean square errors")
    print(f"{'size':>7s} {'labels':>6s} " + " ".join(f"{_short(name):>26s}" for name in networks))
    for size in options.sizes:
        frames = sample(
            lattices.square((size, size)),
            options.folder / f"size_{size}.npz",
            configurations(size),
            seed=1000 + size,
            kinds="theta-uniform",
            workers=options.workers,
            **KONDO,
        )
        found = [evaluate(model, frames) for model in networks.values()]
        columns = (f"{1e3 * one.energy:9.3f} {one.magnetic_forces:8.4f} {one.transverse:7.4f}" for one in found)
        print(f"{f'{size}×{size}':>7s} {len(frames):6d} " + " ".join(columns), flush=True)


def _short(name: str) -> str:
    """The end of a long path."""
    return name if len(name) <= 26 else f"...{name[-23:]}"


def draw(networks: dict[str, LatticeNetwork], frames: list[Frame], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.2 * len(networks)), layout="constrained")
    rows = figure.subfigures(len(networks), 1, squeeze=False)[:, 0]
    for row, (name, model) in zip(rows, networks.items(), strict=True):
        predicted, labels = predict(model, frames)
        plot.parity(
            predicted.magnetic_forces.numpy(),
            labels.magnetic_forces.numpy(),
            labels.directions.numpy(),
            ax=row.subplots(1, 2),
        )
        row.suptitle(name)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
