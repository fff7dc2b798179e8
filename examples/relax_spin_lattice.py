"""Atoms and spins of a CrI3 monolayer relax together, from displaced atoms and tilted spins; then with the cell, too.

The model is `potentials.cri3_model`. An optimizer of ASE sees positions, spin directions, lengths of moments and cell
as one set of coordinates. Takes about ten seconds; writes relax_cri3.traj, which opens in ASE and OVITO.
"""

import numpy as np
from ase.optimize import BFGS

from ase_klm import SpinCalculator, SpinLatticeFilter, get_moments, lattices, potentials, set_moments, textures


def describe(when, atoms):
    moments = get_moments(atoms)[atoms.symbols == "Cr"]
    tilt = np.degrees(np.arccos(np.clip(moments[:, 2] / np.linalg.norm(moments, axis=1), -1, 1)))
    bonds = atoms.get_all_distances(mic=True)[np.ix_(atoms.symbols == "Cr", atoms.symbols == "I")]
    bonds = np.sort(bonds, axis=1)[:, :6]  # the six nearest iodine atoms of each chromium atom
    print(
        f"{when:16s} E = {1e3 * atoms.get_potential_energy() / len(moments):9.4f} meV per Cr, "
        f"Cr-I {bonds.min():.4f} to {bonds.max():.4f} Å, a = {atoms.cell.lengths()[0] / 2:.4f} Å, "
        f"abs(m) = {np.linalg.norm(moments, axis=1).mean():.4f} μB, largest tilt {tilt.max():.2f}°"
    )


def main():
    atoms = lattices.cri3_monolayer((2, 2))
    set_moments(atoms, np.outer(atoms.symbols == "Cr", (0, 0, 2.9)))
    atoms.calc = SpinCalculator(potentials.cri3_model(), lattice=atoms)
    atoms.rattle(0.05, seed=1)
    textures.add_noise(atoms, 0.4, seed=1)
    describe("start", atoms)

    spins_and_atoms = SpinLatticeFilter(atoms, magnitudes="free", logfile="-")
    assert BFGS(spins_and_atoms, logfile=None, trajectory="relax_cri3.traj").run(fmax=0.005, steps=300)
    describe("relaxed", atoms)

    with_cell = SpinLatticeFilter(atoms, cell=True, magnitudes="free", magnetic_fmax=1e-5)
    assert BFGS(with_cell, logfile=None).run(fmax=0.002, steps=300)
    describe("with the cell", atoms)


if __name__ == "__main__":
    main()
