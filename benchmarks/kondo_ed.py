"""Time of KondoEDCalculator over that of the bare `torch.linalg.eigh` of the same matrix, measured in one run.

    python benchmarks/kondo_ed.py [--repeat 3] [--device cpu]

Each line times the whole calculator (a change of moments to energy and magnetic forces, through ASE) and the bare
decomposition alternately, and prints the ratio of the medians.
"""

import argparse
import platform
import time

import numpy as np
import torch

from ase_klm import KondoEDCalculator, get_magnetic_forces, lattices, textures

SQUARE = {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48}
TRIANGULAR = {"hopping": {1: 1.0, 3: -0.85}, "J": 1.0, "mu": -3.5}
CASES = [
    ("square 30×30, filling 0.48, T = 0", lattices.square, (30, 30), SQUARE, 1.1),
    ("square 30×30, filling 0.48, complex64", lattices.square, (30, 30), SQUARE | {"dtype": "float32"}, None),
    ("triangular 24×24, mu = -3.5, T = 0", lattices.triangular, (24, 24), TRIANGULAR, None),
    ("triangular 36×36, mu = -3.5, T = 0", lattices.triangular, (36, 36), TRIANGULAR, 0.75),
    ("triangular 36×36, mu = -3.5, kT = 0.005", lattices.triangular, (36, 36), TRIANGULAR | {"temperature": 0.005},
     0.75),
    ("48-site cell, 6×6 mesh, kT = 0.005", lattices.triangular_magnetic_cell, (1, 1),
     TRIANGULAR | {"temperature": 0.005, "kpts": (6, 6, 1)}, None),
]  # fmt: skip


def seconds(function, device):
    start = time.perf_counter()
    function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'case':42s} {'calculator':>11s} {'bare eigh':>11s} {'ratio':>6s} {'asked':>6s}")
    for name, builder, size, parameters, asked in CASES:
        atoms = builder(size)
        textures.random(atoms, seed=1)
        atoms.calc = KondoEDCalculator(**parameters, device=options.device)
        kondo = atoms.calc.bound(atoms).terms[0]
        matrix = kondo.hamiltonian(kondo.moments, kondo.positions, kondo.cell)
        rng = np.random.default_rng(2)

        def calculator(atoms=atoms, rng=rng):
            textures.random(atoms, seed=rng)
            get_magnetic_forces(atoms)

        def bare(matrix=matrix):
            torch.linalg.eigh(matrix)

        calculator()  # bonds are found at the first call
        times = np.array(
            [[seconds(calculator, options.device), seconds(bare, options.device)] for _ in range(options.repeat)]
        )
        ours, theirs = np.median(times, axis=0)
        print(f"{name:42s} {ours:9.3f} s {theirs:9.3f} s {ours / theirs:6.2f} {asked or '':>6}", flush=True)


if __name__ == "__main__":
    main()
