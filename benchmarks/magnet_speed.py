"""Speed and memory of MagNet on NiO, beside the same network written with e3nn's general layers, in float32.

    OMP_NUM_THREADS=1 python benchmarks/magnet_speed.py [--sizes 32 256 2048] [--largest-general 2048]

Energy, forces and magnetic forces as calculators ask for them (the stress comes with them), of antiferromagnetic NiO
whose atoms and moments are slightly out of place; the network has the default size, random weights, and spins that
rotate with the lattice, since e3nn has no tensors for spins apart. Both networks have the same weights and are called
by turns; times are the best of several after warming up. Then a training step, and peak memory: every line of that
table has a process of its own, warmed up on a cell of 16 atoms, so that what is counted grows with the atoms.
"""

import argparse
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ecnn_speed import alone

from ase_klm import set_moments
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.models.magnet import MagNet
from ase_klm.models.magnet_reference import ReferenceMagNet
from ase_klm.potentials import Atomistic

SPECIES = ("O", "Ni")
LATTICE, MOMENT = 4.17, 1.27  # Å, μB
CELLS = {16: (2, 2, 2), 32: (2, 2, 4), 256: (4, 4, 8), 2048: (8, 8, 16), 16384: (16, 16, 32)}
"""Atoms → primitive cells; even numbers of them, since moments alternate along every primitive vector."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=(32, 256, 2048), choices=CELLS, help="atoms")
    parser.add_argument("--largest-general", type=int, default=2048, help="atoms, with e3nn's layers (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="that timing a size may take (%(default)s)")
    parser.add_argument("--parts", default="tsm", help="times, training step, memory (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{platform.processor() or platform.machine()}, {options.threads} thread(s), torch {torch.__version__}")
    ours, general = networks()
    print(f"MagNet with {ours.n_weights} weights, with e3nn's layers {general.n_weights}")
    if "t" in options.parts:
        print_times(ours, general, options)
    if "s" in options.parts:
        print_training_step(ours, general, options.seconds)
    if "m" in options.parts:
        print_memory(options)


def networks() -> tuple[MagNet, ReferenceMagNet]:
    ours = MagNet.seeded(0, SPECIES, spin_orbit=True)
    return ours, ReferenceMagNet(ours)


def nickel_oxide(n_atoms: int) -> Atoms:
    """Antiferromagnetic of type II, tilts of some 0.1 rad and displacements of 0.05 Å from a seed."""
    atoms = bulk("NiO", "rocksalt", a=LATTICE)
    planes = np.rint(atoms.repeat(CELLS[n_atoms]).positions.sum(1) / LATTICE).astype(int)  # (111), of nickel
    atoms = atoms.repeat(CELLS[n_atoms])
    generator = np.random.default_rng(1)
    moments = np.zeros((len(atoms), 3))
    moments[:, 2] = 1 - 2 * (planes % 2)
    moments += generator.normal(scale=0.1, size=moments.shape)
    moments *= MOMENT / np.linalg.norm(moments, axis=1, keepdims=True)
    moments[atoms.numbers == 8] = 0
    atoms.positions += generator.normal(scale=0.05, size=moments.shape)
    set_moments(atoms, moments)
    return atoms


def best(functions: Sequence[Callable[[], Any]], seconds: float, most: int = 20) -> list[float]:
    """Shortest times, s, of functions that are called by turns."""

    def once(function: Callable[[], Any]) -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    for function in functions:
        for _ in range(3):  # TorchScript, which e3nn uses, optimises after it has seen two calls
            if once(function) > seconds:
                break
    times: list[list[float]] = []
    while len(times) < 2 or (np.sum(times) < seconds and len(times) < most):
        times.append([once(function) for function in functions])
    return np.min(times, axis=0).tolist()


def print_times(ours: MagNet, general: ReferenceMagNet, options: argparse.Namespace) -> None:
    print(
        "\nenergy, forces and magnetic forces (asked: 4 times as fast as e3nn or more, linear in the number of atoms)"
    )
    print(f"{'atoms':>6s} {'MagNet ms':>10s} {'μs an atom':>11s} {'e3nn ms':>9s} {'μs an atom':>11s} {'ratio':>6s}")
    for n in options.sizes:
        atoms = nickel_oxide(n)
        models: list[AtomicNetwork] = [ours, general] if n <= options.largest_general else [ours]
        bound = [Atomistic(model).bind(atoms) for model in models]
        times = best([one.evaluate for one in bound], options.seconds)
        line = f"{n:6d} {1e3 * times[0]:10.1f} {1e6 * times[0] / n:11.0f}"
        if len(times) > 1:
            a, b = (one.evaluate() for one in bound)
            pairs = [(a.forces, b.forces), (a.magnetic_forces, b.magnetic_forces)]
            deviation = max(float((x - y).abs().max() / y.square().mean().sqrt()) for x, y in pairs)
            line += f" {1e3 * times[1]:9.1f} {1e6 * times[1] / n:11.0f} {times[1] / times[0]:6.1f}"
            line += f"   largest difference {deviation:.1e} of the rms force"
        print(line, flush=True)


def training_step(model: AtomicNetwork, atoms: Atoms) -> Callable[[], Any]:
    """Gradient by the weights of a sum of squares of energies, forces and magnetic forces."""
    graph, cells = model.place(atoms), torch.tensor(atoms.cell.array)[None]
    x, m = (torch.tensor(atoms.arrays[name], requires_grad=True) for name in ("positions", "initial_magmoms"))
    weights = [p for p in model.parameters() if p.requires_grad]

    def step() -> Any:
        energies = model.energies(graph, m, x, cells)
        forces = torch.autograd.grad(energies.sum(), (x, m), create_graph=True)
        loss = energies.square().sum() + sum(values.square().sum() for values in forces)
        return torch.autograd.grad(loss, weights, allow_unused=True)

    return step


def print_training_step(ours: MagNet, general: ReferenceMagNet, seconds: float, n: int = 32) -> None:
    atoms = nickel_oxide(n)
    first, second = best([training_step(model, atoms) for model in (ours, general)], seconds)
    (once,) = best([Atomistic(ours).bind(atoms).evaluate], seconds)
    print(f"\ntraining step, {n} atoms: {1e3 * first:.1f} ms, e3nn {1e3 * second:.1f} ms, ratio {second / first:.1f}")
    print(f"training step over evaluation: {first / once:.1f}")


def added_memory(which: int, n: int) -> float:
    """Bytes an atom that evaluating adds to the process."""
    potential = Atomistic(networks()[which])
    small = potential.bind(nickel_oxide(16))
    for _ in range(3):
        small.evaluate()
    atoms, before = nickel_oxide(n), peak_memory()
    bound = potential.bind(atoms)
    for _ in range(2):
        bound.evaluate()
    return (peak_memory() - before) / n


def peak_memory() -> int:
    """Bytes, of this process so far; that of getrusage starts at the peak of the process which started this one."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def print_memory(options: argparse.Namespace) -> None:
    print(f"\npeak memory, kB an atom\n{'atoms':>6s} {'MagNet':>8s} {'e3nn':>8s}")
    for n in options.sizes:
        figures = [
            alone(options, added_memory, which, n) for which in (0, 1) if not which or n <= options.largest_general
        ]
        print(f"{n:6d} " + " ".join(f"{figure / 1e3:8.0f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
