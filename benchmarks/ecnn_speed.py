"""Speed and memory of the networks of the square lattice, in float32.

    python benchmarks/ecnn_speed.py [--threads 1] [--largest 1024]
    python benchmarks/ecnn_speed.py --device cuda --largest 1024 2048 4096

Four parts: energy and field of the ECNN of arXiv:2305.03804 at 96×96 beside e3nn's general tensor product with the same
weights, called by turns; time and peak memory against size; a training step beside an evaluation; and a picture, as
figure S1 of the reference, of the time against the number of sites beside exact diagonalisation. Times are medians
after a warm-up. Every line of the table of sizes has a process of its own, so that the peak is its own. The networks
are the packaged ones, or, where these are missing, of the same architecture with random weights.
"""

import argparse
import platform
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from published_square import KONDO

from ase_klm import KondoEDCalculator, get_magnetic_forces, get_moments, lattices, textures
from ase_klm.models import files
from ase_klm.models.base import LatticeNetwork
from ase_klm.models.chebyshev import ChebyshevNetwork
from ase_klm.models.ecnn import ECNN
from ase_klm.models.ecnn_reference import ReferenceECNN
from ase_klm.models.labels import Labels
from ase_klm.potentials.network import Network
from ase_klm.training import Loss, Values
from ase_klm.training.derivatives import derivatives

SIZES = (30, 48, 96, 192, 288, 576)
BLOCK = 3
"""Calls of a function before it is the next one's turn."""

SMALL = (8, 12, 16, 20, 24)  # for the picture
DIAGONALISED = (*SMALL, 30)
PACKAGED = {"ECNN": "kondo-square-ecnn", "ChebyshevNetwork": "kondo-square"}
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "time_against_size.png"


@dataclass(frozen=True)
class Cost:
    """Of energy and field: seconds, bytes at the peak, and bytes of the process before the lattice was bound."""

    seconds: float
    peak: int
    before: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (%(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="of the table (%(default)s)")
    parser.add_argument("--largest", type=int, nargs="+", default=(), help="further sizes of the ECNN, until none fits")
    parser.add_argument("--seconds", type=float, default=10.0, help="that a median may take (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="show the ratio of the compiled ECNN too")
    parser.add_argument("--parts", default="abcd", help="of the four, which (%(default)s)")
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    threads = f"{options.threads} thread" + "s" * (options.threads > 1)
    print(f"{name}, {threads}, torch {torch.__version__}")
    for which, packaged in PACKAGED.items():
        print(f"{which}: {packaged if packaged in files.available() else 'random weights'}")
    if "a" in options.parts:
        print_ratios(*alone(options, against_reference, options.device, options.seconds, options.compile))
    costs: dict[str, dict[int, Cost]] = {}
    if "b" in options.parts or "d" in options.parts:
        costs = against_size(options)
    if "c" in options.parts:
        print_training(options)
    if "d" in options.parts:
        draw(costs, threads if options.device == "cpu" else name, options.picture)
        print(f"\nwrote {options.picture}")


def alone(options: argparse.Namespace, function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, from a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (options.threads,)) as pool:
        return pool.submit(function, *arguments).result()


def medians(functions: Sequence[Callable[[], Any]], device: str, seconds: float, most: int = 25) -> np.ndarray:
    """Median seconds of functions that are called in turn, a few times each, as a run of dynamics calls one."""

    def once(function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    for function in functions:
        for _ in range(3):  # TorchScript, which e3nn uses, optimises after it has seen two calls
            if once(function) > seconds / 3:
                break
    times: list[list[float]] = []
    while not times or (np.sum(times) < seconds and len(times) < most):
        blocks = [[once(function) for _ in range(BLOCK)] for function in functions]
        times += list(map(list, zip(*blocks, strict=True)))
    return np.median(times, axis=0)


def random_spins(size: int) -> Atoms:
    atoms = lattices.square((size, size))
    textures.random(atoms, seed=1)
    return atoms


def network(name: str, atoms: Atoms) -> LatticeNetwork:
    if PACKAGED[name] in files.available():
        return files.load(PACKAGED[name])
    if name == "ECNN":
        return ECNN.for_atoms(atoms, (1, 2))
    return ChebyshevNetwork.for_atoms(atoms, hamiltonian=KONDO, radius=8, channels=64, hidden=64)


def against_reference(device: str, seconds: float, compiled: bool, size: int = 96) -> tuple[int, np.ndarray, float]:
    """Sites, seconds of the general tensor product and of ours, and the largest deviation over the rms field."""
    atoms = random_spins(size)
    model = ECNN.for_atoms(atoms, (1, 2)).to(device)
    ways = [Network(model, compile=way).bind(atoms, device) for way in ((False, True) if compiled else (False,))]
    reference, placed = ReferenceECNN(model).requires_grad_(False), model.place(atoms)
    moments = ways[0].moments.float()

    def general() -> torch.Tensor:
        m = moments.clone().requires_grad_()
        return -torch.autograd.grad(reference(m, placed).sum(), m)[0]

    fields = ways[0].evaluate(atomic=False).magnetic_forces
    deviation = float((fields - general()).abs().max() / fields.square().mean().sqrt())
    ours = [lambda bound=bound: bound.evaluate(atomic=False) for bound in ways]
    return len(atoms), medians((general, *ours), device, 3 * seconds), deviation


def print_ratios(n_sites: int, times: np.ndarray, deviation: float) -> None:
    print(f"\nenergy and field of {n_sites} sites (asked: 6 μs a site or less, 20 times as fast as e3nn or more)")
    for name, seconds in zip(("general tensor product", "ECNN", "ECNN, compiled"), times, strict=False):
        each = f"{1e6 * seconds / n_sites:8.2f} μs a site"
        print(f"{name:26s} {seconds:8.4f} s {each}, ratio {times[0] / seconds:5.1f}")
    print(f"the fields differ by {deviation:.1e} of their rms at most")


def evaluation(name: str, size: int, device: str, seconds: float) -> Cost:
    """Of a network, bound and evaluated as calculators do it."""
    atoms = random_spins(size)
    model = network(name, atoms)
    before = memory(device)
    bound = Network(model).bind(atoms, device)
    (median,) = medians((lambda: bound.evaluate(atomic=False),), device, seconds)
    return Cost(float(median), memory(device), before)


def memory(device: str) -> int:
    """Peak so far, bytes."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # Linux gives KiB


def diagonalisation(size: int, device: str, seconds: float) -> Cost:
    """Of the exact energy and field, through ASE."""
    atoms = random_spins(size)
    before = memory(device)
    atoms.calc = KondoEDCalculator(**KONDO, device=device)
    generator = np.random.default_rng(2)

    def calculate() -> None:
        textures.random(atoms, seed=generator)
        get_magnetic_forces(atoms)

    (median,) = medians((calculate,), device, seconds)
    return Cost(float(median), memory(device), before)


def against_size(options: argparse.Namespace) -> dict[str, dict[int, Cost]]:
    """The table of costs, printed as it comes."""
    drawn = "d" in options.parts
    small = SMALL if drawn else ()
    sizes = {
        "ECNN": [*small, *options.sizes, *options.largest],
        "ChebyshevNetwork": [*small, *options.sizes],
        "diagonalisation": DIAGONALISED if drawn else (),
    }
    print(f"\n{'energy and field of':18s} {'size':>9s} {'s':>9s} {'μs a site':>10s} {'peak MiB':>9s} {'B a site':>9s}")
    costs: dict[str, dict[int, Cost]] = {name: {} for name in sizes}
    for name, several in sizes.items():
        for size in dict.fromkeys(several):
            arguments = (size, options.device, options.seconds)
            try:
                if name == "diagonalisation":
                    cost = alone(options, diagonalisation, *arguments)
                else:
                    cost = alone(options, evaluation, name, *arguments)
            except (MemoryError, RuntimeError) as error:
                print(f"{name:18s} {size:4d}×{size:<4d} does not fit: {str(error).splitlines()[0]}")
                break
            costs[name][size] = cost
            n = size**2
            print(
                f"{name:18s} {size:4d}×{size:<4d} {cost.seconds:9.4f} {1e6 * cost.seconds / n:10.2f} "
                f"{cost.peak / 2**20:9.0f} {(cost.peak - cost.before) / n:9.0f}",
                flush=True,
            )
        if name == "ECNN" and options.largest:
            print(f"the largest lattice that fits, of those tried: {max(costs[name], default=0)}²")
    return costs


def training(name: str, prepare: bool, device: str, seconds: float, size: int = 30) -> tuple[float, float]:
    """Seconds of an evaluation and of a training step of one configuration."""
    atoms = random_spins(size)
    model = network(name, atoms).to(device)
    placed, weights = model.place(atoms), [p for p in model.parameters() if p.requires_grad]
    moments = torch.as_tensor(get_moments(atoms), dtype=torch.float32, device=device)[None]
    label = torch.randn(moments.shape, generator=torch.Generator().manual_seed(1)).to(device)
    energies = torch.zeros(1, dtype=torch.float64, device=device)
    labels = Labels.of(placed, moments, energies=energies, magnetic_forces=label)
    labels = replace(labels, prepared=[model.prepare(moments[0], placed)] if prepare else None)

    def evaluate() -> Any:
        return derivatives(model, labels)

    def step() -> Any:
        found = derivatives(model, labels, training=True)
        return torch.autograd.grad(Loss()(found, Values.given(labels)), weights, allow_unused=True)

    once, twice = medians((evaluate, step), device, seconds)
    return float(once), float(twice)


def print_training(options: argparse.Namespace) -> None:
    print(f"\n{'one configuration, 30×30':38s} {'evaluation':>12s} {'training step':>14s} {'ratio':>6s} {'asked':>6s}")
    cases = (
        ("ECNN", False, "ECNN"),
        ("ChebyshevNetwork", True, "ChebyshevNetwork, moments prepared"),
        ("ChebyshevNetwork", False, "ChebyshevNetwork, moments propagated"),
    )
    for name, prepare, case in cases:
        once, twice = alone(options, training, name, prepare, options.device, options.seconds)
        print(f"{case:38s} {1e3 * once:9.2f} ms {1e3 * twice:11.2f} ms {twice / once:6.2f} {4:6d}", flush=True)


def draw(costs: dict[str, dict[int, Cost]], machine: str, path: Path) -> None:
    """Seconds against sites, on logarithmic axes."""
    from matplotlib.figure import Figure

    labels = {
        "diagonalisation": "exact diagonalisation",
        "ChebyshevNetwork": "network of Chebyshev moments",
        "ECNN": "equivariant convolutional network",
    }
    figure = Figure(figsize=(5.0, 4.2), layout="constrained")
    ax = figure.subplots()
    for (name, label), marker in zip(labels.items(), "sDo", strict=True):
        sizes = sorted(costs[name])
        n, seconds = np.square(sizes), np.array([costs[name][size].seconds for size in sizes])
        (line,) = ax.plot(n, seconds, f"{marker}-", ms=4, lw=1.2, label=label)
        if sizes:
            power = 3 if name == "diagonalisation" else 1
            more = np.array([n[-1], n[-1] * (4 if power == 3 else 2)])  # how it goes on
            ax.plot(more, seconds[-1] * (more / n[-1]) ** power, ":", color=line.get_color(), lw=1.0)
            note = "$\\propto N^3$" if power == 3 else "$\\propto N$"
            end = (more[-1], seconds[-1] * (more[-1] / n[-1]) ** power)
            ax.annotate(note, end, (2, 2), textcoords="offset points", size="x-small", color=line.get_color())
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("sites $N$")
    ax.set_ylabel("time of energy and magnetic forces (s)")
    ax.set_title(f"square Kondo lattice, {machine}", size="medium")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
