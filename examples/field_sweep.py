"""Which state of the triangular Kondo lattice is the lowest in a magnetic field?

Five states are followed through the field: triple-q crystals with two, one and no skyrmions a magnetic cell, the
helix, and the ferromagnet. Each is relaxed at each field, from its relaxed texture at the field before, on the 48-site
magnetic cell with a mesh of k-points (t1 = 1, t3 = -0.85, J = 1, mu = -3.5; Ozawa, Hayami, Motome, Phys. Rev. Lett.
118, 147205). The states are metastable over wide ranges, so the transitions are where the curves Ω(H) cross, not where
one state turns into another by itself. A state whose charge has changed is drawn no further.

Two skyrmions a cell at low fields give way to one at H = 0.005 and to none above 0.0064. The mesh matters as much as
these differences: at H = 0.006 the crystal without skyrmions lies above that with one by 0.01 meV a site with 8 × 8
points, below it by 0.02 with 12 × 12, and above it by 0.02 with 16 × 16 (kT = 0.005), while all of them move by 0.1
meV. The order of the states is stable from about 20 × 20 points on (see `ase-klm demo`): compare meshes before naming a
phase boundary.

Prints a table and the crossings, and writes field_sweep.png. Takes 75 s on one core; --mesh 12 takes 160 s.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms

from ase_klm import KLMWarning, KondoEDCalculator, SpinMinimizer, analysis, lattices, plot, textures


@dataclass(frozen=True)
class State:
    """A texture to start from, its skyrmions a magnetic cell, and where in the range of fields it is at home, 0...1."""

    start: Callable[[Atoms], None]
    n_sk: int
    home: float


def helix(atoms: Atoms) -> None:
    textures.spiral(atoms, textures.triangular_wave_vectors(atoms)[0], cone=80)


def crystal(**parameters: float) -> Callable[[Atoms], None]:
    # the noise lets the texture leave a saddle that symmetry would hold it on
    return lambda atoms: textures.skyrmion_crystal(atoms, **parameters, noise=0.02, seed=1)


STATES = {
    "n_sk = 2": State(crystal(n_sk=2), n_sk=2, home=0.0),
    "n_sk = 1": State(crystal(n_sk=1, magnetisation=0.6), n_sk=1, home=0.5),
    "n_sk = 0": State(crystal(n_sk=2, magnetisation=1.2), n_sk=0, home=1.0),
    "helix": State(helix, n_sk=0, home=0.0),
    "ferromagnet": State(textures.uniform, n_sk=0, home=0.0),
}


def follow(name: str, fields: np.ndarray, mesh: int, kT: float) -> tuple[np.ndarray, Atoms]:
    """Ω/site (eV) at each field, NaN where the state is no longer itself, and its texture at its home field."""
    state = STATES[name]
    energies = np.full(len(fields), np.nan)
    home = round(state.home * (len(fields) - 1))
    atoms = lattices.triangular_magnetic_cell()
    state.start(atoms)
    at_home = None
    for way in (range(home, len(fields)), range(home - 1, -1, -1)):
        if at_home is not None:
            atoms = at_home.copy()
        atoms.calc = KondoEDCalculator(hopping={1: 1.0, 3: -0.85}, J=1.0, mu=-3.5, temperature=kT, kpts=(mesh, mesh, 1))
        for number in way:
            atoms.calc.set(field=(0, 0, fields[number]))
            SpinMinimizer(atoms).run(fmax=1e-5, steps=300)
            charge = round(analysis.topological_charge(atoms), 9) + 0.0  # no -0.00
            m_z = analysis.magnetisation(atoms)[2]
            energy = atoms.get_potential_energy() / len(atoms)
            print(f"{name:12s} {fields[number]:8.4f} {energy:12.6f} {charge:7.2f} {m_z:8.4f}", flush=True)
            if at_home is None:
                at_home = atoms.copy()
            if round(abs(charge)) != state.n_sk:
                print(f"{name:12s} has become another state; it is followed no further")
                break
            energies[number] = energy
    return energies, at_home


def crossings(fields: np.ndarray, curves: dict[str, np.ndarray]) -> list[tuple[float, str, str]]:
    """Fields where the lowest state changes, by linear interpolation."""
    names = list(curves)
    table = np.array([curves[name] for name in names])
    lowest = np.nanargmin(table, axis=0)
    found = []
    for i, (a, b) in enumerate(pairwise(lowest)):
        if a != b:
            before, after = table[b, i] - table[a, i], table[b, i + 1] - table[a, i + 1]
            share = before / (before - after)  # NaN when one of the two does not exist on both sides
            found.append((fields[i] + share * (fields[i + 1] - fields[i]), names[a], names[b]))
    return found


def without_ferromagnet(curves: dict[str, np.ndarray]) -> list[str]:
    """All but the ferromagnet, which lies far above the others."""
    return [name for name in curves if name != "ferromagnet"]


def draw(
    fields: np.ndarray,
    curves: dict[str, np.ndarray],
    seen: dict[str, Atoms],
    found: list[tuple[float, str, str]],
) -> None:
    figure = plt.figure(figsize=(10, 4.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.25, 1))
    ax = left.subplots()
    reference = curves["helix"]
    for name in without_ferromagnet(curves):
        energies = curves[name]
        if np.isnan(energies).all():  # it did not exist with this mesh
            continue
        ax.plot(fields, 1e3 * (energies - reference), "o-", ms=3, label=name)
    ax.margins(y=0.15)
    for field, _, _ in found:
        if np.isfinite(field):
            ax.axvline(field, color="0.6", lw=0.8, ls="--", zorder=0)
            ax.annotate(
                f"{field:.4f}", (field, ax.get_ylim()[1]), (3, -3), textcoords="offset points", va="top", size=8
            )
    ax.set_xlabel("H (eV/μB)")
    ax.set_ylabel("(Ω - Ω$_{\\mathrm{helix}}$)/site (meV)")
    ax.legend()
    panels = right.subplots(2, 2).ravel()
    for panel, name in zip(panels, without_ferromagnet(curves), strict=True):
        plot.texture(seen[name].repeat((3, 3, 1)), ax=panel, wheel=panel is panels[1])  # one for all
        home = round(STATES[name].home * (len(fields) - 1))
        became = "" if np.isfinite(curves[name][home]) else " (has become another state)"
        panel.set_title(f"{name}, H = {fields[home]:.4g}{became}", size=9)
        panel.set_axis_off()
    figure.savefig("field_sweep.png", dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mesh", type=int, default=8, help="k-points a side of the magnetic cell (%(default)s)")
    parser.add_argument("--fields", type=float, nargs=3, default=(0.0, 0.01, 11), metavar=("FIRST", "LAST", "NUMBER"))
    parser.add_argument("--kT", type=float, default=0.001, help="electronic temperature, eV (%(default)s)")
    options = parser.parse_args()
    fields = np.linspace(options.fields[0], options.fields[1], int(options.fields[2]))
    warnings.simplefilter("ignore", KLMWarning)  # the ferromagnet is collinear and without torque, as it should be

    print(f"{'state':12s} {'H':>8s} {'Ω/site (eV)':>12s} {'charge':>7s} {'m_z':>8s}")
    curves, seen = {}, {}
    for name in STATES:
        curves[name], seen[name] = follow(name, fields, options.mesh, options.kT)
    found = crossings(fields, curves)
    print(f"at H = {fields[0]:.4f} the lowest state is {min(curves, key=lambda name: curves[name][0])}")
    for field, before, after in found:
        print(f"{before} → {after} at H = {field:.5f} eV/μB")
    draw(fields, curves, seen, found)
    print("wrote field_sweep.png")


if __name__ == "__main__":
    main()
