"""Force calls of combined relaxation beside those of positions alone, of spins alone, and of alternating relaxation.

python benchmarks/spin_lattice_relaxation.py [--seeds 2] [--optimizers BFGS,LBFGS,...]

Together: SpinLatticeFilter, with the two force calls that measure its scale. Positions alone, from the same start with
the spins as they are, and spins alone, where the atoms are, take the same optimizer, as does the alternation of the
two, each stage to convergence; the scale is given to them. Criteria: 0.01 eV/Å and 1e-4 eV/μB. Last, the energy after
combined relaxation minus that after the alternation.
"""

import argparse

import numpy as np
from ase import optimize
from ase.build import bulk

from ase_klm import SpinCalculator, SpinLatticeFilter, lattices, potentials, set_moments, textures
from ase_klm.potentials import ExchangeOfDistance, Exponential, LatticeEnergy, UniaxialAnisotropy

FMAX, MAGNETIC_FMAX = 0.01, 1e-4
STARTS = {"near": (0.02, 0.1), "far": (0.08, 0.4), "random": (0.08, 30.0)}  # displacement in Å, noise of directions


class Counting(SpinCalculator):
    """Counts its evaluations."""

    evaluations = 0

    def calculate(self, *args, **kwargs):
        self.evaluations += 1
        super().calculate(*args, **kwargs)


def prepared(atoms, moments, potential):
    set_moments(atoms, moments)
    atoms.calc = Counting(potential, lattice=atoms)
    return atoms


def cri3():
    atoms = lattices.cri3_monolayer((2, 2))
    return prepared(atoms, np.outer(atoms.symbols == "Cr", (0, 0, 3.0)), potentials.cri3_model())


def nickel_oxide():
    """Antiferromagnetic superexchange over 180° bonds, 19 meV, that decays within 0.4 Å."""
    atoms = bulk("NiO", "rocksalt", a=4.17, cubic=True)
    exchange = ExchangeOfDistance({1: Exponential(-1.4e-3, 2.95, 0.4), 2: Exponential(19e-3, 4.17, 0.4)})
    lattice = LatticeEnergy({1: 6.0, 2: 2.0})
    return prepared(atoms, np.outer(atoms.symbols == "Ni", (0, 0, 1.7)), exchange + lattice + UniaxialAnisotropy(5e-4))


def spiral():
    """Chain with competing neighbours: angles of arccos(1/1.6) = 51° between them, in the easy plane."""
    exchange = ExchangeOfDistance({1: Exponential(-5e-3, 2.5, 0.5), 2: Exponential(2e-3, 5.0, 0.5)})
    lattice = LatticeEnergy({1: 5.0, 2: 2.0})
    atoms = lattices.chain(21, a=2.5)
    angle = 2 * np.pi * np.arange(21) / 7
    moments = 3.0 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    return prepared(atoms, moments, exchange + lattice + UniaxialAnisotropy(-1e-3))


def start(material, displacement, noise, seed):
    atoms = material()
    atoms.positions += displacement * np.random.default_rng(seed).standard_normal((len(atoms), 3))
    if not atoms.pbc[1]:
        atoms.positions[:, 1:] = 0  # the springs of a chain hold it along itself only
    textures.add_noise(atoms, noise, seed=seed)
    atoms.calc.evaluations = 0
    return atoms


def relax(atoms, optimizer, what, scale=None):
    """Force calls of a relaxation of "both", "positions" or "spins", and the scale; infinite where it fails."""
    before = atoms.calc.evaluations
    mask = np.tile((what != "spins", what != "positions"), (len(atoms), 1))
    rows = SpinLatticeFilter(atoms, mask=mask, moment_scale=scale, magnetic_fmax=MAGNETIC_FMAX)
    try:
        converged = optimizer(rows, logfile=None).run(fmax=FMAX, steps=600)
    except RuntimeError:  # of a line search
        converged = False
    return (atoms.calc.evaluations - before if converged else np.inf), rows.moment_scale[0]


def alternate(atoms, optimizer, scale):
    calls = 0
    for _ in range(20):
        calls += relax(atoms, optimizer, "positions", scale)[0] + relax(atoms, optimizer, "spins", scale)[0]
        rows = SpinLatticeFilter(atoms, moment_scale=scale)
        if not np.isfinite(calls) or (rows.largest_force < FMAX and rows.largest_magnetic_force < MAGNETIC_FMAX):
            return calls
    return np.inf


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--optimizers", default="BFGS,LBFGS,BFGSLineSearch,FIRE2")
    options = parser.parse_args()
    columns = ("together", "positions", "spins", "alternating", "/sum", "/larger", "/alternating", "ΔE (meV)")
    print(f"{'':34s}" + "".join(f"{column:>13s}" for column in columns))
    worst = np.zeros(3)
    for material in (cri3, nickel_oxide, spiral):
        for name, disturbance in STARTS.items():
            for optimizer in (getattr(optimize, word) for word in options.optimizers.split(",")):
                for seed in range(options.seeds):
                    begin = [start(material, *disturbance, seed) for _ in range(4)]
                    together, scale = relax(begin[0], optimizer, "both")
                    positions = relax(begin[1], optimizer, "positions", scale)[0]
                    spins = relax(begin[2], optimizer, "spins", scale)[0]
                    alternating = alternate(begin[3], optimizer, scale)
                    ratios = together / np.array([positions + spins, max(positions, spins), alternating])
                    worst = np.fmax(worst, ratios)
                    change = 1e3 * (begin[0].get_potential_energy() - begin[3].get_potential_energy())
                    print(
                        f"{material.__name__:13s} {name:7s}{optimizer.__name__:14s}"
                        + "".join(f"{calls:13.0f}" for calls in (together, positions, spins, alternating))
                        + "".join(f"{ratio:13.2f}" for ratio in ratios)
                        + f"{change:13.3f}",
                        flush=True,
                    )
    print(f"{'largest ratios':86s}" + "".join(f"{ratio:13.2f}" for ratio in worst))


if __name__ == "__main__":
    main()
