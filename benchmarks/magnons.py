"""Magnon energies beside magnopy (https://magnopy.org), in one run: speed, and how far they differ.

    pip install magnopy && OMP_NUM_THREADS=1 python benchmarks/magnons.py [--repeats 15]

The model is the honeycomb ferromagnet of `examples/cri3_magnons.py` (three shells, Dzyaloshinskii-Moriya interaction,
anisotropy), and the antiferromagnet with -J. Two cases: 200 wave vectors of the cell with two sites, and some of a cell
with 7 × 7 × 2 = 98 sites. Only energies are timed, from wave vectors on; calls alternate, and times are medians.
magnopy takes the bonds and the onsite matrices of the same potential.

    OMP_NUM_THREADS=1 python benchmarks/magnons.py --hessian 48

shows instead what all second derivatives of the packaged ECNN cost by automatic differentiation, for a cell of 48×48
sites without any periodicity inside.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import magnopy
import numpy as np
import torch
from ase import Atoms

from ase_klm import ECNNCalculator, Magnons, get_moments, lattices, set_moments
from ase_klm.moments import directions
from ase_klm.potentials import UniaxialAnisotropy, potential_of
from ase_klm.potentials.base import terms_of
from ase_klm.potentials.exchange import Exchange
from ase_klm.units import G_ELECTRON

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from cri3_magnons import cri3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="calls of each (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s)")
    parser.add_argument("--hessian", type=int, metavar="SIZE", help="sites a side")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.hessian:
        print_hessian(options.hessian)
        return
    rng = np.random.default_rng(1)
    print(
        f"magnopy {magnopy.__version__ if hasattr(magnopy, '__version__') else ''}, {options.threads} threads of torch"
    )
    print(f"{'case':<34s} {'ase_klm':>12s} {'magnopy':>12s} {'ratio':>7s} {'largest relative difference':>28s}")
    for state in ("ferromagnet", "antiferromagnet"):
        for size, points, unit in (((1, 1), 200, "200 q"), ((7, 7), 4, "a q")):
            atoms = honeycomb(size, state)
            q = np.zeros((points, 3))
            q[:, :2] = rng.uniform(0.05, 0.45, (points, 2))  # away from zero modes
            ours = Magnons(atoms).run()
            theirs = peer(atoms)
            seconds, (energies, reference) = alternately(
                (lambda m=ours, q=q: m.frequencies(q), lambda m=theirs, q=q: np.array([m.omega(k, True) for k in q])),
                options.repeats if points == 200 else max(3, options.repeats // 3),
            )
            reference = np.sort(reference.real, axis=1) * 1e-3
            difference = np.abs(energies - reference).max() / energies.max()
            each = 1 if points == 200 else points
            a, b = (1e3 * s / each for s in seconds)
            print(
                f"{f'{len(atoms)} sites, {state}, {unit}':<34s} {a:9.3f} ms {b:9.2f} ms {b / a:7.0f} {difference:28.1e}"
            )


def print_hessian(size: int) -> None:
    atoms = lattices.square(size=(size, size))
    x, y, _ = atoms.positions.round().astype(int).T
    set_moments(atoms, np.outer((-1.0) ** (x + y), (0, 0, 1)))
    magnons = Magnons(atoms, ECNNCalculator("kondo-square-ecnn", dtype="float64"), supercell=(1, 1, 1))
    start = time.perf_counter()
    magnons.run()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{len(atoms)} sites: {2 * len(atoms)} Hessian-vector products in {seconds:.0f} s, peak {peak:.1f} GiB")


def honeycomb(size: tuple[int, int], state: str) -> Atoms:
    atoms = cri3(lattices.honeycomb(size, a=6.87, symbol="Cr"))
    if state == "antiferromagnet":
        sign = (-1.0) ** np.arange(len(atoms))  # sublattices alternate
        set_moments(atoms, get_moments(atoms) * sign[:, None])
        exchange, anisotropy = terms_of(potential_of(atoms))
        shells = {1: -exchange.shells[1], 2: exchange.shells[2], 3: -exchange.shells[3]}
        atoms.calc.potential = Exchange(shells, exchange.bonds) + anisotropy
    return atoms


def peer(atoms: Atoms) -> "magnopy.LSWT":
    """The same energy, E = Σ e_i·M·e_j - Σ K (e·n)² in eV, in spins S = abs(m)/g and meV."""
    moments = get_moments(atoms)
    spins = np.linalg.norm(moments, axis=1) / G_ELECTRON
    cell = magnopy.SpinHamiltonian(
        cell=atoms.cell.array,
        atoms={
            "names": [f"Cr{n}" for n in range(len(atoms))],
            "positions": atoms.get_scaled_positions(),
            "spins": spins,
            "g_factors": [G_ELECTRON] * len(atoms),
        },
        convention=magnopy.Convention(spin_normalized=False, multiple_counting=False, c21=1, c22=1),
    )
    for term in terms_of(potential_of(atoms)):
        if isinstance(term, UniaxialAnisotropy):
            n = term.axis / np.linalg.norm(term.axis)
            for site, spin in enumerate(spins):
                onsite = -1e3 * float(term.constant) * np.outer(n, n) / spin**2
                cell.add(nus=[(0, 0, 0)], alphas=(site, site), parameter=onsite)
            continue
        merged: dict[tuple[int, ...], np.ndarray] = {}
        for i, j, where, matrix in zip(*term.explicit_bonds(atoms), strict=True):
            key = (int(i), int(j), *where.tolist())
            merged[key] = merged.get(key, 0) + matrix
        for (i, j, *where), matrix in merged.items():
            cell.add(nus=[tuple(where)], alphas=(i, j), parameter=1e3 * matrix / (spins[i] * spins[j]))
    return magnopy.LSWT(spinham=cell, spin_directions=directions(moments))


def alternately(calls: tuple[Callable[[], np.ndarray], ...], repeats: int) -> tuple[list[float], list[np.ndarray]]:
    """Median seconds of each, after a call to warm up, and what they return."""
    found = [call() for call in calls]
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for call, kept in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            kept.append(time.perf_counter() - start)
    return [median(kept) for kept in seconds], found


if __name__ == "__main__":
    main()
