"""Systematic error of the thermostat against the time step, beside Metropolis Monte Carlo of the same energy.

Bulk iron, 3×3×3 cubic cells (54 atoms), shells {1: -0.0216, 2: -0.0124} eV, 2.2 μB, damping 0.5. The temperature of the
spins is that of the log (from their torques); M is the mean of abs(Σ m). 24 replicas run in one batch. The fastest
magnon turns a spin by 0.43 rad in 1 fs.

    OMP_NUM_THREADS=1 python benchmarks/thermostat.py            # about two minutes on one core
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from torch import Tensor

from ase_klm import LLGDynamics, SpinLatticeDynamics, potentials, textures, units
from ase_klm.calculators import SpinCalculator
from ase_klm.dynamics.measures import spin_temperature
from ase_klm.errors import KLMWarning
from ase_klm.graphs import neighbour_shells

SHELLS = {1: -0.0216, 2: -0.0124}
LENGTH, DAMPING = 2.2, 0.5
REPLICAS = 24
SETTLING, INTERVAL = 1.5, 0.1  # ps


def iron(springs: bool = False) -> Atoms:
    atoms = bulk("Fe", cubic=True) * (3, 3, 3)
    textures.uniform(atoms, length=LENGTH)
    exchange = potentials.Exchange(SHELLS)
    atoms.calc = SpinCalculator(exchange + potentials.LatticeEnergy({1: 1.0}) if springs else exchange, lattice=atoms)
    return atoms


def observed(samples: list[Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Spin temperature in K and abs(M)/M0 from samples of moments (replica, N, 3), one a replica.

    The temperature is that of `measures.spin_temperature`, mean torque over mean curvature: taken sample by sample, it
    would be 4 % too high with 54 atoms.
    """
    bound = iron().calc.potential.bind(iron())
    m = torch.stack(samples)  # (sample, replica, N, 3)
    together = m.transpose(0, 1).flatten(1, 2)  # (replica, sample N, 3)
    field = bound.evaluate(m, atomic=False).magnetic_forces.transpose(0, 1).flatten(1, 2)
    blocks = bound.site_hessian(m).transpose(0, 1).flatten(1, 2)
    everywhere = torch.ones(together.shape[-2], 1, dtype=torch.bool)
    kelvin = spin_temperature(_Known(blocks), together, field, everywhere) / units.KB  # type: ignore[arg-type]
    return kelvin.numpy(), (m.mean(dim=-2).norm(dim=-1) / LENGTH).mean(dim=0).numpy()


@dataclass(frozen=True)
class _Known:
    blocks: Tensor

    def site_hessian(self, moments: Tensor) -> Tensor:
        return self.blocks


def metropolis(kelvin: float, sweeps: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The same by Monte Carlo: random directions for one spin after the other, in all replicas at once."""
    atoms = iron()
    n, generator = len(atoms), np.random.default_rng(seed)
    K = np.zeros((n, n))
    bonds = neighbour_shells(atoms, SHELLS)
    strengths = np.array([SHELLS[int(shell)] for shell in bonds.shells])
    np.add.at(K, (bonds.i, bonds.j), strengths)
    np.add.at(K, (bonds.j, bonds.i), strengths)
    e = np.tile([0.0, 0.0, 1.0], (n, REPLICAS, 1))  # (site, replica, 3)
    samples = []
    for sweep in range(sweeps):
        trials = generator.normal(size=e.shape)
        trials /= np.linalg.norm(trials, axis=-1, keepdims=True)
        chances = generator.random((n, REPLICAS))
        for i in range(n):
            gradient = np.tensordot(K[i], e, axes=1)
            change = np.sum(gradient * (trials[i] - e[i]), axis=-1)
            taken = chances[i] < np.exp(np.minimum(0.0, -change / (units.KB * kelvin)))
            e[i] = np.where(taken[:, None], trials[i], e[i])
        if sweep > sweeps // 5 and sweep % 5 == 0:
            samples.append(torch.tensor(LENGTH * e.transpose(1, 0, 2)))
    return observed(samples)


def llg(kelvin: float, femtoseconds: float, integrator: str, picoseconds: float) -> tuple[np.ndarray, np.ndarray]:
    replicas = [iron() for _ in range(REPLICAS)]
    dynamics = LLGDynamics(
        replicas,
        femtoseconds * units.FS,
        damping=DAMPING,
        temperature_K=kelvin,
        integrator=integrator,
        seed=1,
        progress=False,
    )
    return sampled(dynamics, femtoseconds, picoseconds)


def spin_lattice(
    kelvin: float, femtoseconds: float, integrator: str, picoseconds: float
) -> tuple[np.ndarray, np.ndarray]:
    """Spins of a lattice at rest; one structure, three times as long."""
    atoms = iron(springs=True)
    atoms.set_constraint(FixAtoms(range(len(atoms))))
    dynamics = SpinLatticeDynamics(
        atoms,
        femtoseconds * units.FS,
        spin_temperature_K=kelvin,
        damping=DAMPING,
        integrator=integrator,
        seed=1,
        progress=False,
    )
    return sampled(dynamics, femtoseconds, picoseconds)


def sampled(dynamics: Any, femtoseconds: float, picoseconds: float) -> tuple[np.ndarray, np.ndarray]:
    samples = []
    dynamics.run(round(1000 * SETTLING / femtoseconds))
    every = round(1000 * INTERVAL / femtoseconds)
    for _ in range(round(picoseconds / INTERVAL)):
        dynamics.run(every)
        samples.append(dynamics.moments.reshape(-1, *dynamics.moments.shape[-2:]).clone())
    return observed(samples)


def told(name: str, kelvin: float, found: tuple[np.ndarray, np.ndarray], seconds: float) -> None:
    (temperature, error), (order, spread) = (
        (values.mean(), values.std() / max(values.size - 1, 1) ** 0.5) for values in map(np.asarray, found)
    )
    print(
        f"{kelvin:5.0f} K  {name:34s} T_spin {temperature:7.1f} ± {error:4.1f} K "
        f"({100 * (temperature / kelvin - 1):+6.2f} %)   M/M0 {order:.4f} ± {spread:.4f}   {seconds:5.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kelvin", type=float, nargs="+", default=[700.0, 800.0])
    parser.add_argument("--steps", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0], help="fs")
    parser.add_argument("--ps", type=float, default=3.0, help="picoseconds of each run after equilibration")
    parser.add_argument("--coupled", action="store_true", help="SpinLatticeDynamics, too: slow, having no replicas")
    options = parser.parse_args()
    warnings.simplefilter("ignore", KLMWarning)

    def measure(name: str, kelvin: float, run: Callable[..., Any], *arguments: Any) -> None:
        start = time.perf_counter()
        found = run(kelvin, *arguments)
        told(name, kelvin, found, time.perf_counter() - start)

    for kelvin in options.kelvin:
        measure("Monte Carlo", kelvin, metropolis, 3000)
        for integrator in ("sib", "heun"):
            for femtoseconds in options.steps:
                measure(f"{integrator}, {femtoseconds:g} fs", kelvin, llg, femtoseconds, integrator, options.ps)
        for femtoseconds in options.steps if options.coupled else ():
            name = f"SpinLatticeDynamics, {femtoseconds:g} fs"
            measure(name, kelvin, spin_lattice, femtoseconds, "suzuki-trotter", 3 * options.ps)


if __name__ == "__main__":
    main()
