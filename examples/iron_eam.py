"""Bcc iron from two calculators: an embedded-atom lattice of ASE, and Bethe-Slater exchange of its moments.

The lattice is the N-body potential of M. W. Finnis and J. E. Sinclair, Philos. Mag. A 50, 45 (1984), with the iron of
their erratum, Philos. Mag. A 53, 161 (1986):

    E = Σ_i [½ Σ_j V(r_ij) - A sqrt(Σ_j φ(r_ij))],   V = (r - c)² (c0 + c1 r + c2 r²) for r < c,
    φ = (r - d)² + β (r - d)³/d for r < d.

It was fitted to the ferromagnet, so the energy of parallel moments is taken off its pairs: the ferromagnet then has the
lattice constant, cohesive energy and bulk modulus of the publication, and turned moments pay for their exchange. That
is the example of LAMMPS's SPIN package for iron (a, b, d), tapered so that it vanishes smoothly at its cutoff.

Writes Fe.eam.alloy, which LAMMPS reads too, iron.traj and iron.log; takes about half a minute.
"""

import numpy as np
import torch
from ase import units
from ase.build import bulk
from ase.calculators.eam import EAM
from ase.calculators.mixing import SumCalculator
from ase.eos import EquationOfState
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.optimize import BFGS

from ase_klm import (
    ExchangeCalculator,
    SpinLatticeDynamics,
    SpinLatticeFilter,
    get_moments,
    potentials,
    set_moments,
    textures,
)

A, BETA = 1.828905, 1.8  # eV, 1
D, C = 3.569745, 3.40  # Å
C0, C1, C2 = 1.2371147, -0.3592185, -0.0385607  # eV/Å², eV/Å³, eV/Å⁴
LATTICE_CONSTANT, COHESION, BULK_MODULUS = 2.8665, 4.28, 173.1  # Å, eV, GPa, to which it was fitted
MOMENT = 2.2  # μB

EXCHANGE = potentials.Tapered(potentials.BetheSlater(a=0.02726, b=0.2171, d=1.841), on=2.9, off=3.5)


def write_table(path, exchange=EXCHANGE, number=4000):
    """The lattice as a setfl table; ½ Σ_ij M(r_ij), the energy of parallel moments, is taken off its pairs."""

    def density(r):
        return np.where(r < D, (r - D) ** 2 + BETA * (r - D) ** 3 / D, 0.0)

    def pairs(r):
        of_moments = exchange(torch.as_tensor(r, dtype=torch.float64)).numpy()
        return np.where(r < C, (r - C) ** 2 * (C0 + C1 * r + C2 * r**2), 0.0) - of_moments

    table = EAM(
        form="alloy",
        elements=["Fe"],
        embedded_energy=np.array([lambda rho: -A * np.sqrt(rho)]),
        electron_density=np.array([density]),
        phi=np.array([[pairs]]),
        cutoff=D,
        Z=[26],
        mass=[55.845],
        a=[LATTICE_CONSTANT],
        lattice=["bcc"],
        header=["Finnis and Sinclair (1984), Fe, without the exchange of parallel moments\n", "\n", "\n"],
        nrho=number,
        drho=60 / number,
        nr=number,
        dr=4.0 / number,
    )
    table.Nelements = 1  # ASE sets it for tables that were read only
    table.write_potential(path)
    return path


def calculator(table):
    exchange = ExchangeCalculator(function=EXCHANGE, cutoff=3.5)
    return SumCalculator([exchange, EAM(potential=table)])


def iron(table, size=1, tilt=0.0, seed=1):
    atoms = bulk("Fe", "bcc", a=LATTICE_CONSTANT, cubic=True).repeat(size)
    set_moments(atoms, np.tile((0, 0, MOMENT), (len(atoms), 1)))
    if tilt:
        textures.add_noise(atoms, tilt, seed=seed)
    atoms.calc = calculator(table)
    return atoms


def equation_of_state(table):
    """Lattice constant (Å), cohesive energy (eV) and bulk modulus (GPa) of the ferromagnet."""
    volumes, energies = [], []
    for strain in np.linspace(-0.01, 0.01, 7):
        atoms = iron(table)
        atoms.set_cell(atoms.cell * (1 + strain), scale_atoms=True)
        volumes.append(atoms.get_volume() / len(atoms))
        energies.append(atoms.get_potential_energy() / len(atoms))
    volume, energy, modulus = EquationOfState(volumes, energies, "birchmurnaghan").fit()
    return (2 * volume) ** (1 / 3), -energy, modulus / units.GPa


def magnetisation(atoms):
    return np.linalg.norm(get_moments(atoms).mean(axis=0)) / MOMENT


def main():
    table = write_table("Fe.eam.alloy")
    found = equation_of_state(table)
    for name, value, published in zip(
        ("lattice constant (Å)", "cohesive energy (eV)", "bulk modulus (GPa)"),
        found,
        (LATTICE_CONSTANT, COHESION, BULK_MODULUS),
        strict=True,
    ):
        print(f"{name}: {value:.4f}, published {published}")

    atoms = iron(table, size=3, tilt=0.3)
    atoms.rattle(0.05, seed=1)
    everything = SpinLatticeFilter(atoms, cell=True)
    assert BFGS(everything, logfile=None).run(fmax=0.005, steps=200)
    a = atoms.cell.lengths().mean() / 3
    energy = atoms.get_potential_energy() / len(atoms)
    print(f"relaxed: a = {a:.4f} Å, m = {magnetisation(atoms):.4f}, {energy:.4f} eV an atom")

    atoms = iron(table, size=3, tilt=0.3)
    MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=np.random.default_rng(1))
    with SpinLatticeDynamics(
        atoms, 1.0 * units.fs, trajectory="iron.traj", logfile="iron.log", loginterval=10
    ) as dynamics:
        before = atoms.get_total_energy()
        dynamics.run(100)
    drift = 1e3 * (atoms.get_total_energy() - before) / len(atoms)
    print(
        f"100 fs without baths: total energy changed by {drift:.4f} meV an atom, m = {magnetisation(atoms):.4f}, "
        f"lattice at {atoms.get_temperature():.0f} K"
    )


if __name__ == "__main__":
    main()
