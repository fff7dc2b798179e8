"""Accuracy of the LLG integrators beside Spirit 2.2.0 (its figures are quoted), and speed of a step.

    python benchmarks/llg_accuracy.py            # about two minutes on one core
    python benchmarks/llg_accuracy.py --speed 2  # steps a second at 96 x 96 with two threads

Cases: a damped spin against its closed form; free spins at a temperature against the Langevin function; drift of the
energy without damping on a square lattice, J = 10 meV, D = 3 meV, K = 0.5 meV, B = 5 T, 2 μB (start: z + 0.5 normal).
"""

import argparse
import time

import numpy as np
import torch

from ase_klm import lattices, set_moments, textures, units
from ase_klm.calculators import SpinCalculator
from ase_klm.dynamics import LLGDynamics
from ase_klm.potentials import Exchange, UniaxialAnisotropy, Zeeman

TESLA = 0.057883817555e-3  # eV/μB, Spirit's value
GAMMA = 0.1760859644 / TESLA / (1000 * units.FS)  # Spirit's 0.1760859644 rad/(ps T) per eV/μB and ASE unit of time
SPIRIT = {
    "single": {"sib": 1.17e-6, "heun": 3.9e-7},
    "thermal": {("sib", 10): 0.4059, ("sib", 40): 0.1158, ("heun", 10): 0.4095, ("heun", 40): 0.114},
    "drift": {
        ("sib", 0.1): -2.9e-6, ("sib", 1): -0.00215, ("sib", 5): -0.258, ("sib", 10): -1.86,
        ("heun", 0.1): 5.2e-5, ("heun", 1): 0.0434, ("heun", 5): 4.73, ("heun", 10): 15.8,
    },
}  # fmt: skip


def chiral_bond(r):
    """-10 meV e_i·e_j + D·(e_i × e_j), D = 3 meV z × r/abs(r)."""
    x, y, z = 3e-3 * np.cross((0, 0, 1), r / np.linalg.norm(r))
    return -10e-3 * np.eye(3) + np.array([(0, z, -y), (-z, 0, x), (y, -x, 0)])


def chiral_magnet(size):
    """Square lattice with J = 10, D = 3, K = 0.5 meV and B = 5 T; moments of 2 μB follow."""
    atoms = lattices.square((size, size))
    atoms.calc = SpinCalculator(Exchange({1: chiral_bond}) + UniaxialAnisotropy(0.5e-3) + Zeeman((0, 0, 5 * TESLA)))
    return atoms


def square_magnet(size, seed=0):
    """The chiral magnet at e ∝ z + 0.5 g."""
    atoms = chiral_magnet(size)
    textures.uniform(atoms, length=2.0, noise=0.5, seed=seed)
    return atoms


def single_spin_error(integrator, timestep_fs=1.0):
    """Largest error of a component of e after 5 ps."""
    atoms = lattices.chain(1)
    set_moments(atoms, [(2.0, 0.0, 0.0)])
    atoms.calc = SpinCalculator(Zeeman((0, 0, 10 * TESLA)))
    dynamics = LLGDynamics(atoms, timestep_fs * units.FS, damping=0.1, gamma=GAMMA, integrator=integrator)
    dynamics.run(round(5000 / timestep_fs))
    angle = 0.1760859644 * 10 * 5 / (1 + 0.1**2)
    theta = 2 * np.arctan(np.exp(-0.1 * angle))
    exact = np.array([np.sin(theta) * np.cos(angle), np.sin(theta) * np.sin(angle), np.cos(theta)])
    return float(np.abs(dynamics.moments.numpy()[0] / 2 - exact).max())


def thermal_magnetisation(integrator, kelvin, sites=64, timestep_fs=5.0, steps=4000):
    """Mean e_z of free spins of 2 μB at 10 T, alpha = 0.5, and its statistical error."""
    atoms = lattices.square((sites, sites))
    textures.uniform(atoms, length=2.0)
    atoms.calc = SpinCalculator(Zeeman((0, 0, 10 * TESLA)))
    step = timestep_fs * units.FS
    dynamics = LLGDynamics(
        atoms, step, damping=0.5, temperature_K=kelvin, gamma=GAMMA, integrator=integrator, seed=1, progress=False
    )
    seen = []
    dynamics.run(steps // 2)  # relaxation: 1.4 ps
    dynamics.attach(lambda: seen.append(dynamics.moments[:, 2].mean().item() / 2), 40)
    dynamics.run(steps // 2)
    blocks = np.array(seen)[: len(seen) // 10 * 10].reshape(10, -1).mean(axis=1)
    return float(np.mean(seen)), float(blocks.std(ddof=1) / np.sqrt(10))


def energy_drift(atoms, integrator, timestep_fs, picoseconds=2.0):
    """Change of the energy in meV a site."""
    start = atoms.get_potential_energy()
    LLGDynamics(atoms, timestep_fs * units.FS, damping=0.0, gamma=GAMMA, integrator=integrator, progress=False).run(
        round(picoseconds * 1000 / timestep_fs)
    )
    return (atoms.get_potential_energy() - start) / len(atoms) * 1e3


def accuracy():
    print(f"{'case':34} {'integrator':10} {'ase_klm':>12} {'Spirit':>12} {'ratio':>8}")

    def row(case, integrator, ours, theirs, note=""):
        print(f"{case:34} {integrator:10} {ours:12.3g} {theirs:12.3g} {abs(ours / theirs):8.3f} {note}", flush=True)

    for integrator, theirs in SPIRIT["single"].items():
        row("single spin, largest error", integrator, single_spin_error(integrator), theirs)
    for (integrator, kelvin), theirs in SPIRIT["thermal"].items():
        x = 2 * 10 * TESLA / (kelvin * units.KB)
        langevin = 1 / np.tanh(x) - 1 / x
        found, uncertain = thermal_magnetisation(integrator, kelvin)
        row(
            f"<e_z> - Langevin, {kelvin} K, 5 fs", integrator, found - langevin, theirs - langevin, f"± {uncertain:.1g}"
        )
    for (integrator, step), theirs in SPIRIT["drift"].items():
        row(
            f"drift in 2 ps, {step} fs, meV/site", integrator, energy_drift(square_magnet(32), integrator, step), theirs
        )


def speed(threads, steps=300):
    torch.set_num_threads(threads)
    atoms = square_magnet(96)
    for integrator in ("sib", "heun"):
        for kelvin in (None, 10.0):
            dynamics = LLGDynamics(atoms, units.FS, temperature_K=kelvin, seed=1, integrator=integrator, progress=False)
            dynamics.run(20)
            begin = time.perf_counter()
            dynamics.run(steps)
            each = (time.perf_counter() - begin) / steps
            begin = time.perf_counter()
            for _ in range(steps):
                dynamics._state.bound.evaluate(dynamics.moments, atomic=False)
            field = (time.perf_counter() - begin) / steps
            print(
                f"{integrator:5} T = {kelvin or 0:4} K, {threads} threads: {1 / each:7.1f} steps/s, "
                f"{each * 1e3:.2f} ms a step, of which two fields {2 * field * 1e3:.2f} ms"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", type=int, metavar="THREADS", help="measure the speed with so many threads instead")
    arguments = parser.parse_args()
    if arguments.speed:
        speed(arguments.speed)
    else:
        accuracy()
