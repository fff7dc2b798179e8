"""The network `cri3-model` beside the model that taught it, `potentials.cri3_model`.

    OMP_NUM_THREADS=1 python benchmarks/cri3_network.py [--model FILE] [--picture docs/images/cri3_network.png]

Magnon bands from both Hessians with the gap at K and Chern numbers; lattice constants of ferromagnetic, Néel and stripe
order after combined relaxation of atoms, moments and cell; phonons at Γ and M with moments frozen and following.
"""

import argparse
from pathlib import Path

import numpy as np
from ase.build import make_supercell
from ase.filters import UnitCellFilter
from ase.optimize import BFGS

from ase_klm import (
    MagNetCalculator,
    Magnons,
    SpinCalculator,
    SpinLatticeFilter,
    SpinMinimizer,
    get_magnetic_forces,
    get_moments,
    lattices,
    plot,
    potentials,
    set_moments,
)
from ase_klm.magnons import chern_numbers
from ase_klm.units import HBAR

LENGTH = 3.0  # μB
POINTS = {"Γ": (0, 0, 0), "M": (0.5, 0, 0), "K": (1 / 3, 2 / 3, 0)}
WAVE_NUMBER = 8065.544  # 1/cm in an eV


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cri3-model", help="a packaged name or a file (%(default)s)")
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    calculators = {
        "model": lambda: SpinCalculator(potentials.cri3_model()),
        "network": lambda: MagNetCalculator(options.model, dtype="float64"),
    }
    magnons = {name: magnons_of(make()) for name, make in calculators.items()}
    for name, found in magnons.items():
        energies = {point: 1e3 * found.frequencies(q)[0] for point, q in POINTS.items()}
        text = "   ".join(f"{point} {low:.3f} {high:.3f}" for point, (low, high) in energies.items())
        print(f"{name:8s} magnons, meV: {text}   gap at K {np.diff(energies['K'])[0]:.3f}", flush=True)
        print(f"{name:8s} Chern numbers: {chern_numbers(found).tolist()}", flush=True)
    for name, make in calculators.items():
        constants = {order: lattice_constants(make(), order) for order in ORDERS}
        text = "   ".join(f"{order} {a:.4f} × {b:.4f}" for order, (a, b) in constants.items())
        print(f"{name:8s} cells, Å: {text}", flush=True)
    frozen = {}
    for name, make in calculators.items():
        frozen[name], following = phonons(make())
        change = np.abs(following - frozen[name])[3:].max()
        low, high = frozen[name][3], frozen[name][-1]
        print(
            f"{name:8s} phonons at Γ and M, 1/cm: {low:.1f} to {high:.1f}; moments that follow: {change:.4f}",
            flush=True,
        )
    away = (frozen["network"] - frozen["model"])[3:]
    print(f"phonons of the network differ by {np.sqrt(np.mean(away**2)):.1f} 1/cm rms, {away.mean():.1f} on average")
    if options.picture:
        bands = [found.get_band_structure("GMKG", 90) for found in magnons.values()]
        ax = plot.magnon_bands(*bands, labels=list(magnons))
        ax.figure.savefig(options.picture, dpi=130)


def ferromagnet(calc, size=(1, 1)):
    """Along the normal, on the relaxed lattice of the calculator."""
    atoms = lattices.cri3_monolayer(size)
    set_moments(atoms, np.outer(atoms.symbols == "Cr", (0.0, 0.0, LENGTH)))
    atoms.calc = calc
    return atoms


def magnons_of(calc):
    """With the lattice as built, moments relaxed."""
    atoms = ferromagnet(calc)
    SpinMinimizer(atoms).run(fmax=1e-6)
    return Magnons(atoms, impose_rotations=False, fmax=1e-4).run()


ORDERS = {"ferromagnet": (1, 1, 1, 1), "Néel": (1, -1, 1, -1), "stripes": (1, 1, -1, -1)}
"""Signs of the chromium moments of a rectangular cell, row by row along y."""


def lattice_constants(calc, order):
    """Of the rectangular cell, Å, after relaxing atoms, moments and cell together."""
    atoms = make_supercell(lattices.cri3_monolayer(), [[1, 0, 0], [-1, 2, 0], [0, 0, 1]])
    rows = np.argsort(np.where(atoms.symbols == "Cr", atoms.positions[:, 1], np.inf))[:4]
    moments = np.zeros((len(atoms), 3))
    moments[rows, 2] = LENGTH * np.array(ORDERS[order])
    set_moments(atoms, moments)
    atoms.calc = calc
    plane = UnitCellFilter(atoms, mask=[True, True, False, False, False, True])
    everything = SpinLatticeFilter(plane, magnitudes="free", magnetic_fmax=1e-5)
    if not BFGS(everything, logfile=None).run(fmax=2e-4, steps=300):
        print(f"  {order}: not converged in 300 steps")
    return atoms.cell.array[0, 0], atoms.cell.array[1, 1]


def phonons(calc, step=5e-3):
    """Frequencies at Γ and the three M, 1/cm, with frozen moments and with moments that follow, of the ferromagnet."""
    atoms = ferromagnet(calc, (2, 2))
    BFGS(SpinLatticeFilter(atoms, magnitudes="free", magnetic_fmax=1e-6), logfile=None).run(fmax=1e-4, steps=300)
    chromium = np.flatnonzero(get_moments(atoms).any(axis=1))
    x, m = atoms.positions.copy(), get_moments(atoms)
    n, spins = 3 * len(atoms), 3 * len(chromium)
    hessian = np.zeros((n + spins, n + spins))
    for k in range(n + spins):
        gradients = []
        for sign in (1, -1):
            positions, moments = x.copy(), m.copy()
            if k < n:
                positions.flat[k] += sign * step
            else:
                moments[chromium[(k - n) // 3], (k - n) % 3] += sign * step
            atoms.positions = positions
            set_moments(atoms, moments)
            gradients.append(np.concatenate([atoms.get_forces().ravel(), get_magnetic_forces(atoms)[chromium].ravel()]))
        hessian[k] = (gradients[1] - gradients[0]) / (2 * step)
    hessian = (hessian + hessian.T) / 2
    own, mixed, magnetic = hessian[:n, :n], hessian[:n, n:], hessian[n:, n:]
    following = own - mixed @ np.linalg.solve(magnetic, mixed.T)
    masses = np.repeat(atoms.get_masses(), 3) ** 0.5
    found = []
    for matrix in (own, following):
        squares = np.linalg.eigvalsh(matrix / np.outer(masses, masses))
        found.append(np.sign(squares) * np.sqrt(np.abs(squares)) * HBAR * WAVE_NUMBER)
    return found


if __name__ == "__main__":
    main()
