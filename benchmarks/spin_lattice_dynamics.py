"""Spin-lattice dynamics: drift of the energy, order, conservation and reversal on the CrI3 model, and speed of a step.

python benchmarks/spin_lattice_dynamics.py            # about four minutes on one core
python benchmarks/spin_lattice_dynamics.py --speed 1  # steps a second alone, with one thread
"""

import argparse
import time

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from ase_klm import SpinCalculator, SpinLatticeDynamics, get_moments, lattices, potentials, set_moments, units

INTEGRATORS = ("suzuki-trotter", "sib")


def started(atoms: Atoms, length: np.ndarray, tilt: float, kelvin: float, seed: int = 1) -> Atoms:
    """With moments about z, and velocities that a harmonic lattice halves to half the temperature."""
    generator = np.random.default_rng(seed)
    e = np.array([0, 0, 1.0]) + tilt * generator.normal(size=(len(atoms), 3))
    set_moments(atoms, length[:, None] * e / np.linalg.norm(e, axis=1, keepdims=True))
    speed = np.sqrt(units.KB * kelvin / atoms.get_masses())[:, None]
    atoms.set_velocities(speed * generator.normal(size=(len(atoms), 3)))
    return atoms


def chromium_iodide(size: int = 3, kelvin: float = 100.0) -> Atoms:
    atoms = lattices.cri3_monolayer((size, size))
    atoms.calc = SpinCalculator(potentials.cri3_model(), lattice=atoms)
    return started(atoms, np.where(atoms.symbols == "Cr", 3.0, 0.0), tilt=0.2, kelvin=kelvin)


def iron(size: int = 10) -> Atoms:
    atoms = bulk("Fe", "bcc", a=2.8665, cubic=True).repeat(size)
    atoms.calc = SpinCalculator(
        potentials.ExchangeOfDistance(function=potentials.BetheSlater(0.02726, 0.2171, 1.841), cutoff=3.5)
        + potentials.LatticeEnergy(shells={1: 3.0, 2: 3.0}),
        lattice=atoms,
    )
    return started(atoms, np.full(len(atoms), 2.2), tilt=0.3, kelvin=300.0)


def drift(integrator: str, picoseconds: float) -> None:
    atoms = chromium_iodide()
    energies = []
    dynamics = SpinLatticeDynamics(atoms, units.FS, integrator=integrator)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy() / len(atoms)), 5)
    dynamics.run(round(1000 * picoseconds))
    slope = np.polyfit(0.005 * np.arange(len(energies)), energies, 1)[0]
    print(f"{integrator}: drift at 1 fs {slope:.1e} eV/atom/ps, largest excursion {np.ptp(energies):.1e} eV/atom")


def state(atoms: Atoms) -> np.ndarray:
    return np.concatenate([atoms.positions, atoms.get_velocities(), get_moments(atoms)])


def order_and_reversal(integrator: str) -> None:
    ends = {}
    for femtoseconds in (2.0, 1.0, 0.125):
        atoms = chromium_iodide(size=2)
        SpinLatticeDynamics(atoms, femtoseconds * units.FS, integrator=integrator).run(round(100 / femtoseconds))
        ends[femtoseconds] = state(atoms)
    errors = [np.linalg.norm(ends[step] - ends[0.125]) for step in (2.0, 1.0)]
    atoms = chromium_iodide(size=2)
    before = state(atoms)
    SpinLatticeDynamics(atoms, units.FS, integrator=integrator).run(200)
    atoms.set_momenta(-atoms.get_momenta())
    set_moments(atoms, -get_moments(atoms))
    SpinLatticeDynamics(atoms, units.FS, integrator=integrator).run(200)
    before[len(atoms) :] *= -1
    print(
        f"{integrator}: order {np.log2(errors[0] / errors[1]):.2f} between 2 and 1 fs, "
        f"there and back in 200 steps {np.abs(state(atoms) - before).max():.1e}"
    )


def speed(steps: int) -> None:
    for name, make in (("iron, 2000 atoms", iron), ("CrI3, 72 atoms", chromium_iodide)):
        for integrator in INTEGRATORS:
            dynamics = SpinLatticeDynamics(make(), units.FS, integrator=integrator, progress=False)
            dynamics.run(10)
            start = time.process_time()
            dynamics.run(steps)
            print(f"{name}, {integrator}: {steps / (time.process_time() - start):.0f} steps a second of one core")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=int, metavar="THREADS", help="steps a second alone")
    parser.add_argument("--picoseconds", type=float, default=5.0, help="of the drift (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.speed or 1)
    if not options.speed:
        for integrator in INTEGRATORS:
            drift(integrator, options.picoseconds)
            order_and_reversal(integrator)
    speed(steps=200)


if __name__ == "__main__":
    main()
