"""Magnons of a honeycomb ferromagnet like CrI3: bands, Chern numbers, edge modes of a ribbon, and S(q, ω).

The model is that of L. Chen et al., Phys. Rev. X 8, 041028 (2018), for S = 3/2, every bond once:

    H = -Σ J_ij S_i·S_j - Σ D_ij·(S_i × S_j) - A Σ (S_i^z)²

with J1 = 2.01, J2 = 0.16, J3 = -0.08, abs(D) = 0.31 on second neighbours and A = 0.22 meV. In directions e = S/abs(S)
each J, D and A is multiplied by S². The Dzyaloshinskii-Moriya interaction opens a gap of 6√3 abs(D) S = 4.83 meV at K;
the bands then have Chern numbers, and a ribbon has one mode at each edge that runs across the gap, in opposite
directions.

Takes about 10 s. Writes cri3_bands.png, cri3_ribbon.png, cri3_spectrum.png and cri3_magnons.png (all three). With
--dynamics it also runs spin dynamics of 24 × 24 cells at 2 K, two minutes, and writes cri3_dynamics.png: S(q, ω) of the
trajectory with the linear bands on top.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from ase_klm import LLGDynamics, Magnons, SpinCalculator, analysis, graphs, lattices, plot, textures, units
from ase_klm.magnons import chern_numbers, structure_factor
from ase_klm.potentials import Exchange, UniaxialAnisotropy

J, D, A = {1: 2.01, 2: 0.16, 3: -0.08}, 0.31, 0.22  # meV
S = 3 / 2
UNIT = 1e-3 * S**2  # from meV and spins to eV and directions
WIDTH = 20
"""Cells across the ribbon."""


def cri3(atoms, D=D):
    """Give a honeycomb lattice, or a part of it, moments of g S = 3 μB along z, and the model."""
    textures.uniform(atoms, (0, 0, 1), length=2 * S)
    second = graphs.neighbour_shells(atoms, [2])
    angle = np.arctan2(second.vectors[:, 1], second.vectors[:, 0])
    sign = -np.sign(np.cos(3 * angle)) * (-1.0) ** second.i  # +1 where the way by the common neighbour turns left
    across = -D * UNIT * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])  # D_z (e_i × e_j)_z
    bonds = [
        (i, j, cell, s * across)
        for i, j, cell, s in zip(
            second.i.tolist(), second.j.tolist(), second.cells.tolist(), sign.tolist(), strict=True
        )
    ]
    exchange = Exchange({shell: -value * UNIT for shell, value in J.items()}, bonds)
    atoms.calc = SpinCalculator(exchange + UniaxialAnisotropy(A * UNIT))
    return atoms


def draw_bands(ax):
    crystal = Magnons(cri3(lattices.honeycomb(a=6.87, symbol="Cr")))
    without = Magnons(cri3(lattices.honeycomb(a=6.87, symbol="Cr"), D=0))
    path = {"path": "GMKG", "npoints": 200}
    plot.magnon_bands(
        crystal.get_band_structure(**path), without.get_band_structure(**path), labels=["D = 0.31 meV", "D = 0"], ax=ax
    )
    for number, place in zip(chern_numbers(crystal), (0.42, 0.84), strict=True):
        ax.annotate(f"C = {number:+d}".replace("-", "−"), (0.03, place), xycoords="axes fraction")


def draw_ribbon(ax):
    ribbon = cri3(lattices.honeycomb((1, WIDTH), a=6.87, symbol="Cr"))
    ribbon.pbc = (True, False, False)
    ribbon = cri3(ribbon)  # with the bonds that are left
    k = np.linspace(0, 1, 241)
    energies, moments = Magnons(ribbon).modes([(x, 0, 0) for x in k])
    weights = (np.abs(moments) ** 2).sum(-1)  # (k, mode, site), sites in the order of y
    weights /= weights.sum(-1, keepdims=True)
    outer = 8  # sites, of two cells
    side = weights[..., -outer:].sum(-1) - weights[..., :outer].sum(-1)
    order = np.abs(side).ravel().argsort()  # edge modes on top
    places = np.broadcast_to(k[:, None], energies.shape).ravel()[order]
    dots = ax.scatter(
        places, 1e3 * energies.ravel()[order], c=side.ravel()[order], cmap="coolwarm", s=2, vmin=-1, vmax=1
    )
    ax.set(xlim=(0, 1), ylim=(0, None), xlabel="$k$ along the ribbon ($2\\pi/a$)", ylabel="$\\hbar\\omega$ (meV)")
    bar = ax.figure.colorbar(dots, ax=ax, ticks=[-1, 0, 1], pad=0.02)
    bar.ax.set_yticklabels(["lower\nedge", "inside", "upper\nedge"])


def draw_spectrum(ax):
    crystal = cri3(lattices.honeycomb(a=6.87, symbol="Cr"))
    reach = crystal.cell.bandpath("GMKG", npoints=300, pbc=crystal.pbc)
    energies = np.linspace(0, 20e-3, 300)
    spectrum = structure_factor(Magnons(crystal), reach.kpts, energies, width=0.5e-3)
    along, places, names = reach.get_linear_kpoint_axis()
    labels = zip(places, names, strict=True)
    name = "$S_\\perp(\\mathbf{q}, \\omega)$ (μ$_\\mathrm{B}^2$/eV)"  # what neutrons see
    plot.spectrum(along, energies, spectrum.perpendicular(), labels, ax=ax, label=name)


def draw_dynamics(crystal):
    sheet = cri3(lattices.honeycomb(size=(24, 24), a=6.87, symbol="Cr"))
    thermal = {"damping": 0.01, "temperature_K": 2.0, "seed": 1}
    LLGDynamics(sheet, timestep=10 * units.FS, **thermal).run(2000)  # to equilibrium
    with LLGDynamics(sheet, timestep=10 * units.FS, **thermal, trajectory="cri3.traj", loginterval=8) as dynamics:
        dynamics.run(12_000)
    path = analysis.wave_vector_path(sheet, "GMKG")
    found = analysis.dynamical_structure_factor("cri3.traj", q=path.q, segments=4)
    bands = crystal.frequencies(path.q)
    ax = plot.spectrum(path.along, found.energies, found.perpendicular(), labels=path.labels, bands=bands)
    ax.set_ylim(0, 20)
    return ax


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(), help="where the pictures go (%(default)s)")
    parser.add_argument("--dynamics", action="store_true", help="S(q, ω) from a trajectory, too")
    options = parser.parse_args()
    folder = options.folder
    crystal = Magnons(cri3(lattices.honeycomb(a=6.87, symbol="Cr")))
    K = crystal.atoms.cell.bandpath(pbc=crystal.atoms.pbc).special_points["K"]
    gap = 1e3 * np.diff(crystal.frequencies(K))[0, 0]
    print(f"gap at K {gap:.4f} meV (6√3 D S = {6 * np.sqrt(3) * D * S:.4f})")
    print(f"Chern numbers {chern_numbers(crystal).tolist()}")
    parts = {"bands": draw_bands, "ribbon": draw_ribbon, "spectrum": draw_spectrum}
    for name, draw in parts.items():
        figure, ax = plt.subplots(figsize=(5.0, 4.0), layout="constrained")
        draw(ax)
        figure.savefig(folder / f"cri3_{name}.png", dpi=110)
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.0), layout="constrained")
    for draw, ax in zip(parts.values(), axes, strict=True):
        draw(ax)
    figure.savefig(folder / "cri3_magnons.png", dpi=80)
    print(f"wrote cri3_{{{','.join(parts)},magnons}}.png")
    if options.dynamics:
        draw_dynamics(crystal).figure.savefig(folder / "cri3_dynamics.png", dpi=110)
        print("wrote cri3_dynamics.png")


if __name__ == "__main__":
    main()
