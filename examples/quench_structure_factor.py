"""Quench of the square Kondo lattice from random spins, and its structure factor S(q) as order grows.

With t = 1, J = 7 and 0.48 electrons a state the double exchange of nearly half a band favours antiferromagnetism. Two
random starts are evolved as one batch by overdamped dynamics without noise, and S(q) is averaged over them. Out of a
flat S(q) grows a spot at M, (π, π), that sharpens as the domains do; it cannot exceed the number of sites.

Takes about 50 s on one core. Writes quench_structure_factor.png, S(q) at four times and S(π, π) against time,
quench_structure_factor.gif, the film of the first run, and the trajectories.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np

from ase_klm import KondoEDCalculator, LLGDynamics, analysis, data, lattices, plot, textures

NAME = "quench_structure_factor"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16, help="sites a side (%(default)s)")
    parser.add_argument("--runs", type=int, default=2, help="random starts (%(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="steps of 0.5 ħ/eV (%(default)s)")
    options = parser.parse_args()

    replicas = []
    for seed in range(options.runs):
        atoms = lattices.square(size=(options.size, options.size))
        textures.random(atoms, seed=seed)
        # single precision: errors of 1e-5 are nothing to a quench, and it takes half the time
        atoms.calc = KondoEDCalculator(hopping={1: 1.0}, J=7.0, filling=0.48, dtype="float32")
        replicas.append(atoms)
    with LLGDynamics(
        replicas, timestep=0.5, damping=1.0, gamma=1.0, trajectory=f"{NAME}.traj", loginterval=4
    ) as dynamics:
        dynamics.run(options.steps)

    runs = [data.read(f"{NAME}-{number}.traj") for number in range(options.runs)]
    frames_at = list(zip(*runs, strict=True))  # frames of all runs at each time
    times = np.array([frames[0].time for frames in frames_at])
    staggered = np.array([analysis.structure_factor_at(frames, [(0.5, 0.5, 0)]).intensity[0] for frames in frames_at])
    shown = [np.abs(times - share * times[-1]).argmin() for share in (0, 0.1, 0.3, 1)]
    print(f"{'time (ħ/eV)':>12s} {'E/site (eV)':>12s} {'S(π, π) (μB²)':>14s}")
    for number in shown:
        energy = np.mean([frame.energy for frame in frames_at[number]]) / options.size**2
        print(f"{times[number]:12.1f} {energy:12.5f} {staggered[number]:14.2f}")

    figure, axes = plt.subplots(1, 5, figsize=(19, 3.6), layout="constrained")
    for ax, number in zip(axes, shown, strict=False):
        plot.structure_factor(frames_at[number], ax=ax)
        ax.set_title(f"t = {times[number]:.0f} ħ/eV")
    axes[4].plot(times, staggered)
    axes[4].set(xlabel="t (ħ/eV)", ylabel="S(π, π) (μ$_\\mathrm{B}^2$)", title=f"mean of {options.runs} runs")
    figure.savefig(f"{NAME}.png", dpi=120)
    plot.animate(runs[0], f"{NAME}.gif", fps=8)
    print(f"wrote {NAME}.png, {NAME}.gif, and trajectories of {options.runs} runs")


if __name__ == "__main__":
    main()
