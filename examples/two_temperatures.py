"""Hot spins on a cold lattice: how heat flows from one to the other, and how two baths hold them apart.

A bcc crystal, with exchange and Dzyaloshinskii-Moriya interaction of some meV that fall off quickly with distance,
begins with its spins in disorder and its atoms at rest. Without a bath the energy is conserved: it flows from the spins
to the lattice until both have one temperature, that of the spins by the torques in their fields and that of the lattice
by its velocities. Then the same crystal between two baths, spins at one temperature and atoms at another: heat flows
through it for ever. Spins and lattice are coupled more strongly than in iron, so that this takes picoseconds.

Takes about a minute on one core. Writes two_temperatures.png and the logs of both runs.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms, units
from ase.build import bulk

from ase_klm import SpinCalculator, SpinLatticeDynamics, potentials, textures

NAME = "two_temperatures"


def crystal(size: int, noise: float) -> Atoms:
    """Moments of 2.2 μB along z, tilted at random."""
    atoms = bulk("Fe", "bcc", a=2.8665, cubic=True).repeat(size)
    atoms.calc = SpinCalculator(
        potentials.ExchangeOfDistance(
            shells={
                1: [
                    potentials.Exponential(-0.005, r0=2.4825, decay=0.12),
                    potentials.DMAlongBond(potentials.Exponential(0.004, r0=2.4825, decay=0.12)),
                ]
            }
        )
        + potentials.LatticeEnergy(shells={1: 3.0, 2: 3.0}),
        lattice=atoms,
    )
    textures.uniform(atoms, length=2.2, noise=noise, seed=1)
    return atoms


def columns(log: str) -> dict[str, np.ndarray]:
    _, time, potential, kinetic, total, lattice, *moment, spins = np.loadtxt(log).T
    return {"time": time / 1000, "potential": potential, "kinetic": kinetic, "total": total, "lattice": lattice,
            "spins": spins, "moment": np.linalg.norm(moment, axis=0)}  # fmt: skip


def smooth(values: np.ndarray, width: int = 10) -> np.ndarray:
    """Running mean; lattice temperatures of a small crystal oscillate."""
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.full(width, 1 / width), mode="valid")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=3, help="cubic cells a side (%(default)s)")
    parser.add_argument("--picoseconds", type=float, default=10.0, help="length of each run (%(default)s)")
    options = parser.parse_args()
    steps = round(1000 * options.picoseconds / 2)

    atoms = crystal(options.size, noise=5.0)
    with SpinLatticeDynamics(atoms, 2.0 * units.fs, logfile=f"{NAME}-free.log", loginterval=10) as dynamics:
        dynamics.run(steps)
    free = columns(f"{NAME}-free.log")

    atoms = crystal(options.size, noise=1.0)
    with SpinLatticeDynamics(
        atoms,
        2.0 * units.fs,
        lattice_temperature_K=50,
        lattice_friction=0.005 / units.fs,
        spin_temperature_K=200,
        damping=0.02,
        seed=2,
        logfile=f"{NAME}-baths.log",
        loginterval=10,
    ) as dynamics:
        dynamics.run(steps)
    baths = columns(f"{NAME}-baths.log")

    print(f"energy without a bath changes by {np.ptp(free['total']) / len(atoms):.1e} eV an atom")
    for name, run in (("free", free), ("two baths", baths)):
        last = len(run["time"]) // 4
        print(
            f"{name:>10s}: lattice {run['lattice'][-last:].mean():6.1f} K, spins {run['spins'][-last:].mean():6.1f} K"
        )
    assert np.ptp(free["total"]) < 1e-3 * len(atoms)

    figure, axes = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for name, colour in (("potential", "C0"), ("kinetic", "C3"), ("total", "0.2")):
        values = 1000 * (free[name] - free[name][0]) / len(atoms)
        axes[0].plot(free["time"], values, color=colour, lw=1.0, label=name)
    axes[0].set(xlabel="t (ps)", ylabel="change of energy (meV/atom)", title="without a bath", ylim=(-10, 12))
    for ax, run, title in ((axes[1], free, "without a bath"), (axes[2], baths, "baths of 200 K and 50 K")):
        for name, colour in (("spins", "C1"), ("lattice", "C3")):
            ax.plot(run["time"], run[name], color=colour, lw=0.5, alpha=0.4)
            ax.plot(run["time"], smooth(run[name], 30), color=colour, lw=1.8, label=name)
        ax.set(xlabel="t (ps)", ylabel="temperature (K)", title=title, ylim=(0, 250))  # disorder begins far above
    for temperature, colour in ((200, "C1"), (50, "C3")):
        axes[2].axhline(temperature, color=colour, lw=0.8, ls="--")
    for ax, corner in zip(axes, ("upper left", "upper right", "upper right"), strict=True):
        ax.legend(frameon=False, loc=corner)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(f"{NAME}.png", dpi=80)
    print(f"wrote {NAME}.png, {NAME}-free.log, {NAME}-baths.log")


if __name__ == "__main__":
    main()
