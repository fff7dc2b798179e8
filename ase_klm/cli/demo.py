"""Skyrmion crystals of the triangular Kondo lattice, solved exactly, in a magnetic field.

Relaxes three states at three fields on the 48-site magnetic cell (t1 = 1, t3 = -0.85, J = 1, mu = -3.5; Ozawa, Hayami,
Motome, Phys. Rev. Lett. 118, 147205; Miyazaki, arXiv:2305.03804), prints what they became, their energies on a denser
mesh, skyrmion numbers and magnetisations, and writes pictures and trajectories.

Most of the way is gone on a mesh of half as many k-points a side. A relaxed state may be a saddle, or a hollow in the
slope of a lower one: so each is disturbed by noise of 20 % and relaxed again, until that lowers its energy by less than
1 μeV a site.
"""

import argparse
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase_klm  # its rooms are imported when they are used: the command line wants no more than `add_arguments`
from ase_klm.errors import KLMError

if TYPE_CHECKING:
    from ase import Atoms

HAMILTONIAN: dict[str, Any] = {"hopping": {1: 1.0, 3: -0.85}, "J": 1.0, "mu": -3.5, "temperature": 0.003}
FIELDS = (0.0, 0.005, 0.008)
NOISE = 0.05
"""Of the starts."""
DISTURBANCE = 0.2
"""Noise by which relaxed states are disturbed, in search of a way down."""
TORQUE = 2e-5
"""Largest torque of a relaxed state, eV. At 1e-4 eV disturbed states still rest on saddles."""
LOWER = 1e-6
"""A disturbance has found something when it lowers the energy by so much a site, eV."""
ROUNDS = 8
"""Disturbances at most."""
FAST: dict[str, Any] = {"solver": "occupied", "dtype": "float32"}  # the fastest for many small matrices on one thread


def _helix(atoms: "Atoms") -> None:
    wave_vector = ase_klm.textures.triangular_wave_vectors(atoms)[0]
    ase_klm.textures.spiral(atoms, wave_vector, cone=60.0, noise=NOISE, seed=1)


def _ferromagnet(atoms: "Atoms") -> None:
    ase_klm.textures.uniform(atoms)


@dataclass(frozen=True)
class Relaxed:
    """A relaxed state, its Ω/site (eV) on the dense mesh, and how often it was disturbed."""

    atoms: "Atoms"
    energy: float
    rounds: int

    @property
    def skyrmions(self) -> float:
        """Skyrmions a magnetic cell, without the sign, which the model leaves free."""
        return abs(round(ase_klm.analysis.topological_charge(self.atoms, per=48), 9))

    @property
    def waves(self) -> int:
        """Wave vectors ±q ≠ 0 that have more than a tenth of the intensity of the strongest."""
        import numpy as np

        factor = ase_klm.analysis.structure_factor(self.atoms)
        modulated = np.linalg.norm(factor.q_cartesian, axis=1) > 1e-6
        intensity = factor.intensity[modulated]
        return round(np.count_nonzero(intensity > 0.1 * intensity.max()) / 2) if intensity.max() > 1e-6 else 0

    @property
    def became(self) -> str:
        """What it is now, in words."""
        if not self.waves:
            return "ferromagnet"
        if round(self.skyrmions):
            return f"n_sk = {self.skyrmions:.0f}, {self.waves}q"
        return "helix" if self.waves == 1 else f"n_sk = 0, {self.waves}q"


STARTS: "dict[str, Callable[[Atoms], None]]" = {
    "n_sk = 2": lambda atoms: ase_klm.textures.skyrmion_crystal(atoms, n_sk=2, noise=NOISE, seed=1),
    "n_sk = 1": lambda atoms: ase_klm.textures.skyrmion_crystal(atoms, n_sk=1, magnetisation=1.5, noise=NOISE, seed=1),
    "helix": _helix,
    "ferromagnet": _ferromagnet,
}
FILM = ("n_sk = 2", FIELDS[-1])
"""Start and field of the relaxation that is shown as a film."""
REFERENCE = "ferromagnet"
"""Not relaxed: stationary by symmetry, and a saddle."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--output", type=Path, default=Path("ase-klm-demo"), help="folder to write (%(default)s)")
    parser.add_argument(
        "--mesh",
        type=int,
        default=20,
        help="k-points a side of the magnetic cell; energies take half as many again (%(default)s)",
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (%(default)s)")


def run(options: argparse.Namespace) -> None:
    """Relax, print the table, write the pictures."""
    from tqdm import tqdm

    from ase_klm.processes import carried_out

    if options.mesh < 1 or options.jobs < 1:
        raise KLMError(
            f"--mesh {options.mesh} --jobs {options.jobs} cannot be used", "both count from 1", "leave the defaults"
        )
    folder: Path = options.output
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KLMError(f"{folder} cannot be written", str(error), "choose another --output") from None
    states = [(name, field) for name in STARTS for field in FIELDS]  # the short ones last
    number = f"{len(STARTS) - 1} states at {len(FIELDS)} fields"
    print(f"Relaxing {number}: 48 sites, {options.mesh}×{options.mesh} k-points.")
    relaxed = {}
    work = partial(_relaxed, mesh=options.mesh, folder=folder)
    with closing(carried_out(work, states, options.jobs)) as finished:
        for place, state in tqdm(finished, total=len(states), unit="state"):
            relaxed[states[place]] = state
    print(table(relaxed))
    for path in pictures(relaxed, folder):
        print(f"wrote {path}")


def interrupted(options: argparse.Namespace) -> str:
    """Trajectories are written step by step, and no state goes on from them."""
    return f"what is in {options.output} may be cut short; the same command starts anew"


def _relaxed(state: tuple[str, float], mesh: int, folder: Path) -> Relaxed:
    return relax(*state, mesh, folder)


def relax(name: str, field: float, mesh: int, folder: Path) -> Relaxed:
    """One state at one field, in a process of its own; its steps go into a trajectory."""
    atoms = ase_klm.lattices.triangular_magnetic_cell()
    STARTS[name](atoms)
    atoms.calc = ase_klm.KondoEDCalculator(**HAMILTONIAN, field=(0, 0, field), **FAST)
    rounds = 0
    if name != REFERENCE:
        with ase_klm.SpinMinimizer(atoms, trajectory=_trajectory(folder, name, field)) as minimizer:
            atoms.calc.set(kpts=(max(1, mesh // 2), max(1, mesh // 2), 1))
            minimizer.run(fmax=TORQUE, steps=300)
            atoms.calc.set(kpts=(mesh, mesh, 1))
            rounds = settle(minimizer)
    dense = 3 * mesh // 2
    atoms.calc.set(kpts=(dense, dense, 1))
    energy = atoms.get_potential_energy() / len(atoms)
    atoms.calc = None
    return Relaxed(atoms, energy, rounds)


def settle(minimizer: "ase_klm.SpinMinimizer") -> int:
    """Relax, then disturb and relax until that finds nothing lower. Returns how often the state was disturbed."""
    atoms = minimizer.atoms
    minimizer.run(fmax=5 * TORQUE, steps=300)
    for number in range(1, ROUNDS + 1):
        energy, moments = minimizer.energy, ase_klm.get_moments(atoms)
        ase_klm.textures.add_noise(atoms, DISTURBANCE, seed=number)
        minimizer.run(fmax=TORQUE, steps=300)
        gain = (energy - minimizer.energy) / len(atoms)
        if gain < 0:
            ase_klm.set_moments(atoms, moments)
        if gain < LOWER:
            return number
    return ROUNDS


def lowest(relaxed: dict[tuple[str, float], Relaxed], field: float) -> list[str]:
    """Starts that lead to the lowest state at a field, within what a disturbance resolves."""
    least = min(relaxed[name, field].energy for name in STARTS)
    return [name for name in STARTS if relaxed[name, field].energy < least + LOWER]


def table(relaxed: dict[tuple[str, float], Relaxed]) -> str:
    """What the states became, their energies, skyrmion numbers and magnetisations, as text."""
    lines = ["", f"{'field':>7s}  {'start':11s}  {'became':12s} {'Ω/site (eV)':>12s} {'n_sk':>6s} {'m_z (μB)':>9s}"]
    for field in FIELDS:
        for name in STARTS:
            state = relaxed[name, field]
            m_z = round(ase_klm.analysis.magnetisation(state.atoms)[2], 3) + 0.0  # no -0
            became = "(reference)" if name == REFERENCE else state.became
            mark = "  ← lowest" if name in lowest(relaxed, field) else ""
            lines.append(
                f"{field:7.4f}  {name:11s}  {became:12s} {state.energy:12.6f} {state.skyrmions:6.2f} {m_z:9.3f}{mark}"
            )
        lines.append("")
    for field in FIELDS:
        number = relaxed[lowest(relaxed, field)[0], field].skyrmions
        lines.append(f"at H = {field:.3f} the lowest state has n_sk = {number:.0f}")
    return "\n".join(lines)


def pictures(relaxed: dict[tuple[str, float], Relaxed], folder: Path) -> Iterator[Path]:
    """Textures and structure factors of the lowest states, electron bands, energies, and a film of one relaxation."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    winners = [relaxed[lowest(relaxed, field)[0], field] for field in FIELDS]
    titles = [
        f"H = {field:g} eV/μ$_\\mathrm{{B}}$: $n_\\mathrm{{sk}}$ = {state.skyrmions:.0f}"
        for field, state in zip(FIELDS, winners, strict=True)
    ]
    tiled = [_rectangular(state.atoms).repeat((2, 3, 1)) for state in winners]
    with mpl.rc_context({"font.size": 9}):
        for name in ("textures.png", "structure_factors.png"):
            figure = Figure(figsize=(13, 3.7), layout="constrained")
            axes = figure.subplots(1, len(winners))
            for ax, atoms, title in zip(axes, tiled, titles, strict=True):
                if name == "textures.png":
                    ase_klm.plot.texture(atoms, ax=ax, wheel=ax is axes[-1])
                else:
                    ase_klm.plot.structure_factor(atoms, ax=ax)
                ax.set_title(title)
            figure.savefig(folder / name, dpi=150)
            yield folder / name
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_energies(relaxed, left)
        bands = ase_klm.KondoEDCalculator(**HAMILTONIAN).band_structure(winners[0].atoms, npoints=500)
        ase_klm.plot.bands(bands, ax=right)
        right.set_ylim(HAMILTONIAN["mu"] - 0.6, HAMILTONIAN["mu"] + 0.6)
        right.set_title("electron bands of the magnetic cell, " + titles[0])
        figure.savefig(folder / "energies_and_bands.png", dpi=150)
        yield folder / "energies_and_bands.png"
    name, field = FILM
    frames = ase_klm.data.read(_trajectory(folder, name, field))
    yield ase_klm.plot.animate(
        [_in_film(frame, name, field) for frame in frames], folder / "relaxation.gif", title=lambda a: a.info["title"]
    )


def _in_film(frame: "ase_klm.data.Frame", name: str, field: float) -> "Atoms":
    """What the film shows of a frame, with its title."""
    atoms = _rectangular(frame.atoms).repeat((1, 2, 1))
    energy = float("nan") if frame.energy is None else frame.energy / len(frame.atoms)
    number = abs(ase_klm.analysis.topological_charge(frame.atoms, per=48))
    atoms.info["title"] = (
        f"from {name}, H = {field:g} eV/μ$_\\mathrm{{B}}$, step {frame.step}\n"
        f"Ω/site = {energy:.5f} eV, $n_\\mathrm{{sk}}$ = {number:.2f}"
    )
    return atoms


def draw_energies(relaxed: dict[tuple[str, float], Relaxed], ax: Any) -> None:
    """Energies above the lowest state of each field, with their numbers of skyrmions; nothing lies between fields."""
    names = [name for name in STARTS if name != REFERENCE]
    beside = 0.06 * (FIELDS[-1] - FIELDS[0])  # states that coincide stand beside each other
    for place, (name, marker) in enumerate(zip(names, "os^", strict=True)):
        states = [relaxed[name, field] for field in FIELDS]
        least = [min(relaxed[other, field].energy for other in STARTS) for field in FIELDS]
        above = [1e3 * (state.energy - low) for state, low in zip(states, least, strict=True)]
        where = [field + (place - (len(names) - 1) / 2) * beside for field in FIELDS]
        ax.plot(where, above, marker, ls="none", label=f"from {name}")
        for x, y, state in zip(where, above, states, strict=True):
            ax.annotate(f"{state.skyrmions:.0f}", (x, y), (0, 6), textcoords="offset points", ha="center")
    for left, right in itertools.pairwise(FIELDS):
        ax.axvline((left + right) / 2, color="0.85", lw=0.8)
    ax.margins(x=0.1, y=0.12)
    ax.set_xticks(FIELDS, [f"{field:g}" for field in FIELDS])
    ax.set_xlabel("H (eV/μ$_\\mathrm{B}$)")
    ax.set_ylabel("Ω/site above the lowest state (meV)")
    ax.set_title("relaxed states, with their number of skyrmions a cell")
    ax.legend()


def _trajectory(folder: Path, name: str, field: float) -> Path:
    return folder / f"{name.replace(' ', '').replace('=', '')}_H{field:g}.traj"


def _rectangular(atoms: "Atoms") -> "Atoms":
    """The magnetic cell doubled to 12 a1 along x, 4√3 a along y."""
    from ase.build import make_supercell

    return make_supercell(atoms, [[2, -1, 0], [0, 1, 0], [0, 0, 1]])
