"""Magnons and phonons that cross and mix: both spectra from one trajectory, beside linear theory.

A bcc ferromagnet along z, with springs, exchange, and pseudo-dipolar exchange -λ(r) (e_i·n)(e_j·n) along the bond n.
Where a bond turns or changes its length, the last one pulls at the spins: to first order in the tilt of spins and the
displacement of atoms, so that magnons and transverse phonons along z, where they meet, repel each other (C. Kittel,
Phys. Rev. 110, 836 (1958)). Isotropic exchange couples them in second order only. Of the two circular polarisations of
the phonon, one turns as the spins do and splits; the other one goes straight through.

The crystal is thermalised at 1 K, where linear theory holds (at 10 K classical spins soften the magnon by 0.5 meV), and
left to itself for one run. Its velocities and its moments show the
same two branches at the crossing, each half magnon and half phonon. The splitting is printed beside that of the
linearised equations of motion.

Takes about a minute on one core. Writes magnon_phonon.png and magnon_phonon.traj (54 MB).
"""

import argparse
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from ase.build import bulk
from scipy.signal import find_peaks
from torch import Tensor, linalg

from ase_klm import (
    SpinCalculator,
    SpinLatticeDynamics,
    analysis,
    get_magnetic_forces,
    potentials,
    set_moments,
    textures,
    units,
)
from ase_klm.plot import spectrum

NAME = "magnon_phonon"
LATTICE_CONSTANT = 2.8665
LENGTH = 2.2
BOND = LATTICE_CONSTANT * 3**0.5 / 2


@dataclass(frozen=True)
class PseudoDipolar(potentials.BondTerm):
    """M = -λ(r) n nᵀ with n along the bond, J. H. Van Vleck, Phys. Rev. 52, 1178 (1937)."""

    function: potentials.DistanceFunction

    def matrices(self, vectors: Tensor) -> Tensor:
        bond = vectors[..., 0, :, :]
        r = linalg.vector_norm(bond, dim=-1)
        n = bond / r[..., None]
        return -self.function(r)[..., None, None] * n[..., :, None] * n[..., None, :]


def crystal(cells: int) -> Atoms:
    """A bcc crystal of 2 × 2 × `cells` cubic cells at rest, with moments along z."""
    atoms = bulk("Fe", "bcc", a=LATTICE_CONSTANT, cubic=True).repeat((2, 2, cells))
    atoms.calc = SpinCalculator(
        potentials.ExchangeOfDistance(
            shells={
                1: [
                    potentials.Exponential(-0.002, r0=BOND, decay=0.5),
                    PseudoDipolar(potentials.Exponential(0.004, r0=BOND, decay=0.2)),
                ]
            }
        )
        + potentials.LatticeEnergy(shells={1: 3.0, 2: 3.0}),
        lattice=atoms,
    )
    textures.uniform(atoms, length=LENGTH)
    return atoms


# linear theory


def second_derivatives(atoms: Atoms, step: float = 1e-3) -> np.ndarray:
    """∂²E of displacement (x, y, z) and tilt (x, y) of each atom and of atom 0, by differences, shape (N, 5, 5)."""
    found = np.zeros((len(atoms), 5, 5))
    for column in range(5):
        for sign in (1, -1):
            moved = atoms.copy()
            moved.calc = atoms.calc
            e = np.tile((0, 0, 1.0), (len(atoms), 1))
            if column < 3:
                moved.positions[0, column] += sign * step
            else:
                e[0, column - 3] += sign * step
                e[0] /= np.linalg.norm(e[0])
            set_moments(moved, LENGTH * e)
            field = LENGTH * get_magnetic_forces(moved)  # -∂E/∂e, and with e_z = sqrt(1 - e_x² - e_y²):
            tilting = field[:, :2] - field[:, 2:] * e[:, :2] / e[:, 2:]
            found[:, :, column] -= sign * np.hstack([moved.get_forces(), tilting]) / (2 * step)
    return found


def hessian_at(atoms: Atoms, derivatives: np.ndarray, q: float) -> np.ndarray:
    """Of waves with the wave vector q (rad/Å) along z, shape (5, 5)."""
    away, length = atoms.positions[:, 2] - atoms.positions[0, 2], atoms.cell.lengths()[2]
    nearest = away - length * np.round(away / length)  # of the periodic images, so that q may lie between its waves
    return np.einsum("j,jab->ab", np.exp(-1j * q * nearest), derivatives)


def uncoupled_modes(hessian: np.ndarray, mass: float) -> np.ndarray:
    """Energies in eV of the three phonons, ascending, and of the magnon."""
    phonons = np.sqrt(np.linalg.eigvalsh(hessian[:3, :3]).clip(0) / mass)
    magnon = units.GAMMA / LENGTH * np.sqrt(np.linalg.det(hessian[3:, 3:]).real.clip(0))
    return units.HBAR * np.append(phonons, magnon)


def coupled_modes(hessian: np.ndarray, mass: float) -> np.ndarray:
    """The same four, ascending, with all couplings: M ü = -∂E/∂u and |m| dε/dt = γ z × ∂E/∂ε for the tilts ε."""
    motion = np.zeros((8, 8), dtype=complex)  # of displacements, velocities, tilts
    own = [0, 1, 2, 6, 7]
    motion[:3, 3:6] = np.eye(3)
    motion[3:6, own] = -hessian[:3] / mass
    motion[6:, own] = units.GAMMA / LENGTH * np.array([(0, -1), (1, 0)]) @ hessian[3:]
    return units.HBAR * np.sort(np.linalg.eigvals(motion).imag)[4:]


# the run and its spectra


def record(cells: int, picoseconds: float, temperature: float) -> None:
    """Thermalise the crystal with baths, and write a trajectory without."""
    atoms = crystal(cells)
    spread = np.sqrt(units.KB * temperature / atoms.get_masses()[:, None])
    atoms.set_velocities(spread * np.random.default_rng(1).normal(size=(len(atoms), 3)))
    baths = {"lattice_temperature_K": temperature, "lattice_friction": 0.005 / units.FS}
    baths |= {"spin_temperature_K": temperature, "damping": 0.1}
    SpinLatticeDynamics(atoms, 3.0 * units.FS, **baths, seed=2).run(1500)
    with SpinLatticeDynamics(atoms, 3.0 * units.FS, trajectory=f"{NAME}.traj", loginterval=8) as dynamics:
        dynamics.run(round(1000 * picoseconds / 3))


def peaks(energies: np.ndarray, intensity: np.ndarray, number: int = 2) -> np.ndarray:
    """Energies of the highest maxima, between the points of the grid by a parabola through logarithms."""
    places, _ = find_peaks(intensity)
    highest = places[np.argsort(intensity[places])[-number:]]
    left, top, right = (np.log(intensity[highest + n]) for n in (-1, 0, 1))
    return np.sort(energies[highest] + 0.5 * (left - right) / (left - 2 * top + right) * (energies[1] - energies[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=40, help="cubic cells along z, even (%(default)s)")
    parser.add_argument("--picoseconds", type=float, default=24.0, help="length of the run (%(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="K (%(default)s)")
    options = parser.parse_args()

    at_rest, kT = crystal(options.cells), units.KB * options.temperature
    mass = at_rest.get_masses()[0]
    record(options.cells, options.picoseconds, options.temperature)

    primitive = bulk("Fe", "bcc", a=LATTICE_CONSTANT).cell
    path = analysis.wave_vector_path(at_rest, [(0, 0, 0), (0.5, 0.5, -0.5)], cell=primitive)  # from Γ to H along z
    phonons = analysis.velocity_spectrum(f"{NAME}.traj", q=path.q, cell=primitive, atoms=at_rest)
    magnons = analysis.dynamical_structure_factor(f"{NAME}.traj", q=path.q, cell=primitive)
    energies, spacing = phonons.energies, phonons.energies[1] - phonons.energies[0]
    moving = phonons.transverse() / kT  # two polarisations, each with the integral 1
    turning = (magnons.tensor[..., 0, 0] + magnons.tensor[..., 1, 1]).real
    print(f"velocities: {phonons.intensity.sum(axis=1).mean() * spacing / (3 * kT):.2f} of equipartition")

    derivatives = second_derivatives(at_rest)
    hessians = [hessian_at(at_rest, derivatives, q) for q in path.along]
    uncoupled = np.array([uncoupled_modes(hessian, mass) for hessian in hessians])
    row = 1 + int(np.abs(uncoupled[1:, 3] - uncoupled[1:, 0]).argmin())
    linear = 1e3 * coupled_modes(hessians[row], mass)[[0, 2]]  # between them the other polarisation of the phonon
    print(f"At the crossing, {path.along[row] / path.along[-1]:.3f} of the way from Γ to H, in meV")
    print(f"{'linear theory':>15s}: {linear[0]:.2f} and {linear[1]:.2f}, splitting {np.ptp(linear):.2f}")
    for name, intensity, number in (("moments", turning, 2), ("velocities", moving, 3)):
        found = 1e3 * peaks(energies[energies > 0], intensity[row, energies > 0], number)[[0, -1]]
        print(f"{name:>15s}: {found[0]:.2f} and {found[1]:.2f}, splitting {np.ptp(found):.2f}")
        assert abs(np.ptp(found) - np.ptp(linear)) < 1e3 * spacing

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    near = np.abs(path.along / path.along[row] - 1) < 0.32
    shown = np.abs(energies / uncoupled[row, 0] - 1) < 0.28
    finely = np.linspace(*path.along[near][[0, -1]], 100)
    hessians = [hessian_at(at_rest, derivatives, q) for q in finely]
    crossing = np.array([uncoupled_modes(hessian, mass)[[0, 3]] for hessian in hessians])
    repelling = np.array([coupled_modes(hessian, mass)[:3] for hessian in hessians])
    for ax, intensity, title, label in (
        (axes[0], moving, "velocities across q", r"$S_T(\mathbf{q}, \omega)/k_\mathrm{B}T$ (1/eV)"),
        (axes[1], turning, "moments across z", r"$S_{xx} + S_{yy}$ (μ$_\mathrm{B}^2$/eV)"),
    ):
        part = intensity[np.ix_(near, shown)]
        top = float(np.median(part.max(axis=1)))
        spectrum(path.along[near], energies[shown], part, bands=(finely, crossing), ax=ax, top=top, label=label)
        ax.plot(finely, 1e3 * repelling, color="deepskyblue", lw=0.7)
        ax.set(title=title, xlabel="$q$ from Γ to H (rad/Å)")
    figure.suptitle("Magnon and transverse phonons; linear theory without coupling dashed, with coupling blue")
    figure.savefig(f"{NAME}.png", dpi=120)
    print(f"wrote {NAME}.png, {NAME}.traj")


if __name__ == "__main__":
    main()
