"""A skyrmion of the classical exchange model that the spin-dynamics code Spirit is compared with.

Square lattice, nearest neighbours: exchange J = 10 meV, Dzyaloshinskii-Moriya vectors of 3 meV across the bonds, an
easy axis of K = 0.5 meV along z, moments of 2 μB in 5 tesla. A bubble of charge -1 is relaxed by L-BFGS to a Néel
skyrmion: -21.073456 meV a site on 96 × 96 sites, as Spirit finds (G. P. Müller et al., Phys. Rev. B 99, 224414), with
some 50 calls of the calculator.

Takes five seconds. Writes exchange_skyrmion.png: the texture, and the profile of m_z through the centre.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np

from ase_klm import ExchangeCalculator, SpinMinimizer, analysis, lattices, plot, textures, units

J, D, K = 0.010, 0.003, 0.0005  # eV
FIELD = 5 * units.TESLA  # eV/μB
MOMENT = 2.0  # μB


def bond_matrix(vector: np.ndarray) -> np.ndarray:
    """M of e_i·M·e_j = -J e_i·e_j + D·(e_i × e_j), with D perpendicular to the bond in the plane."""
    x, y, z = D * np.cross((0, 0, 1), vector)  # the bonds have length 1
    return -J * np.eye(3) + np.array([(0, z, -y), (-z, 0, x), (y, -x, 0)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=96, help="sites a side (%(default)s)")
    parser.add_argument("--radius", type=float, default=8.0, help="radius of the bubble to start from (%(default)s)")
    options = parser.parse_args()
    L = options.size
    atoms = lattices.square(size=(L, L))
    centre = (L / 2 - 0.3, L / 2 - 0.2, 0)  # not on a site, where symmetry would hold it
    textures.skyrmion(atoms, radius=options.radius, centre=centre, length=MOMENT)

    easy_axis = np.zeros((len(atoms), 3, 3))
    easy_axis[:, 2, 2] = -K
    atoms.calc = ExchangeCalculator(shells={1: bond_matrix}, onsite=easy_axis, field=(0, 0, FIELD))

    relaxation = SpinMinimizer(atoms)
    converged = relaxation.run(fmax=1e-7)
    m_z = atoms.arrays["initial_magmoms"][:, 2].reshape(L, L)[:, L // 2] / MOMENT
    x = np.arange(L)
    radius = np.sqrt((atoms.arrays["initial_magmoms"][:, 2] < 0).sum() / np.pi)
    print(f"{'converged' if converged else 'NOT converged'} in {relaxation.force_calls} force calls")
    print(f"energy: {1e3 * relaxation.energy / len(atoms):.8f} meV a site")
    print(f"topological charge: {analysis.topological_charge(atoms):.6f}")
    print(f"radius: {radius:.2f} lattice constants, from the area where m_z < 0")

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    middle = atoms[abs(atoms.positions[:, :2] - L // 2).max(axis=1) < 11]
    middle.pbc = False
    plot.texture(middle, ax=axes[0])
    axes[0].set_title("the middle of the lattice")
    axes[1].plot(x - L // 2, m_z, "o-", ms=3)
    axes[1].axhline(0, color="0.6", lw=0.8)
    axes[1].set(xlabel="x (lattice constants)", ylabel="$m_z/|m|$", xlim=(-20, 20), title="a cut through the centre")
    figure.savefig("exchange_skyrmion.png", dpi=150)
    print("wrote exchange_skyrmion.png")


if __name__ == "__main__":
    main()
