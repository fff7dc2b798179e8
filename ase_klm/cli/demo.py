"""Skyrmion crystals of the triangular Kondo lattice, solved exactly, in a magnetic field.

Relaxes four states at three fields on the 48-site magnetic cell (t1 = 1, t3 = -0.85, J = 1, mu = -3.5; Ozawa, Hayami,
Motome, Phys. Rev. Lett. 118, 147205; Miyazaki, arXiv:2305.03804), prints their energies on a denser mesh,
skyrmion numbers and magnetisations, and writes pictures and trajectories.
"""

import argparse
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ase_klm  # its rooms are imported when they are used: the command line wants no more than `add_arguments`
from ase_klm.errors import KLMError, KLMWarning

if TYPE_CHECKING:
    from ase import Atoms

HAMILTONIAN: dict[str, Any] = {"hopping": {1: 1.0, 3: -0.85}, "J": 1.0, "mu": -3.5, "temperature": 0.003}
FIELDS = (0.0, 0.005, 0.008)
NOISE = 0.02
TORQUE = 1e-5
FAST: dict[str, Any] = {"solver": "occupied", "dtype": "float32"}  # the fastest for many small matrices on one thread


def _helix(atoms: "Atoms") -> None:
    wave_vector = ase_klm.textures.triangular_wave_vectors(atoms)[0]
    ase_klm.textures.spiral(atoms, wave_vector, cone=60.0, noise=NOISE, seed=1)


def _ferromagnet(atoms: "Atoms") -> None:
    ase_klm.textures.uniform(atoms)  # stationary by symmetry: it stays one


@dataclass(frozen=True)
class Relaxed:
    """A relaxed state and its Ω/site (eV) on the dense mesh."""

    atoms: "Atoms"
    energy: float

    @property
    def skyrmions(self) -> float:
        """Skyrmions a magnetic cell, without the sign, which the model leaves free."""
        return abs(round(ase_klm.analysis.topological_charge(self.atoms, per=48), 9))


STARTS: "dict[str, Callable[[Atoms], None]]" = {
    "n_sk = 2": lambda atoms: ase_klm.textures.skyrmion_crystal(atoms, n_sk=2, noise=NOISE, seed=1),
    "n_sk = 1": lambda atoms: ase_klm.textures.skyrmion_crystal(atoms, n_sk=1, magnetisation=1.5, noise=NOISE, seed=1),
    "helix": _helix,
    "ferromagnet": _ferromagnet,
}


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
    states = [(name, field) for field in FIELDS for name in STARTS]
    print(f"Relaxing {len(STARTS)} states at {len(FIELDS)} fields: 48 sites, {options.mesh}×{options.mesh} k-points.")
    relaxed = {}
    work = partial(_relaxed, mesh=options.mesh, folder=folder)
    with closing(carried_out(work, states, options.jobs)) as finished:
        for number, state in tqdm(finished, total=len(states), unit="state"):
            relaxed[states[number]] = state
    lowest = {field: min(STARTS, key=lambda name: relaxed[name, field].energy) for field in FIELDS}
    print(table(relaxed, lowest))
    for path in pictures(relaxed, lowest, folder):
        print(f"wrote {path}")


def interrupted(options: argparse.Namespace) -> str:
    """Trajectories are written step by step, and no state goes on from them."""
    return f"what is in {options.output} may be cut short; the same command starts anew"


def _relaxed(state: tuple[str, float], mesh: int, folder: Path) -> Relaxed:
    return relax(*state, mesh, folder)


def relax(name: str, field: float, mesh: int, folder: Path) -> Relaxed:
    """One state at one field, in a process of its own; its steps go into a trajectory."""
    warnings.simplefilter("ignore", KLMWarning)  # the ferromagnet is collinear, as it should be
    atoms = ase_klm.lattices.triangular_magnetic_cell()
    STARTS[name](atoms)
    atoms.calc = ase_klm.KondoEDCalculator(**HAMILTONIAN, field=(0, 0, field), kpts=(mesh, mesh, 1), **FAST)
    ase_klm.SpinMinimizer(atoms, trajectory=_trajectory(folder, name, field)).run(fmax=TORQUE, steps=300)
    dense = 3 * mesh // 2
    atoms.calc.set(kpts=(dense, dense, 1), dtype="float64")
    energy = atoms.get_potential_energy() / len(atoms)
    atoms.calc = None
    return Relaxed(atoms, energy)


def table(relaxed: dict[tuple[str, float], Relaxed], lowest: dict[float, str]) -> str:
    """Energies, skyrmion numbers and magnetisations, as text."""
    lines = ["", f"{'field':>7s}  {'start':12s} {'Ω/site (eV)':>12s} {'n_sk':>6s} {'m_z (μB)':>9s}"]
    for field in FIELDS:
        for name in STARTS:
            state = relaxed[name, field]
            mark = "  ← lowest" if name == lowest[field] else ""
            lines.append(
                f"{field:7.4f}  {name:12s} {state.energy:12.6f} {state.skyrmions:6.2f}"
                f" {ase_klm.analysis.magnetisation(state.atoms)[2]:9.4f}{mark}"
            )
        lines.append("")
    for field in FIELDS:
        number = relaxed[lowest[field], field].skyrmions
        lines.append(f"at H = {field:.3f} the lowest state has n_sk = {number:.0f}")
    return "\n".join(lines)


def pictures(relaxed: dict[tuple[str, float], Relaxed], lowest: dict[float, str], folder: Path) -> Iterator[Path]:
    """Textures and structure factors of the lowest states, electron bands, energies, and a film of one relaxation."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    winners = [relaxed[lowest[field], field] for field in FIELDS]
    titles = [
        f"H = {field:g} eV/μB: $n_{{sk}}$ = {state.skyrmions:.0f}" for field, state in zip(FIELDS, winners, strict=True)
    ]
    with mpl.rc_context({"font.size": 9}):
        for name, draw, tiles in (
            ("textures.png", ase_klm.plot.texture, (2, 3, 1)),
            ("structure_factors.png", ase_klm.plot.structure_factor, (3, 6, 1)),
        ):
            figure = Figure(figsize=(13, 3.7), layout="constrained")
            for ax, state, title in zip(figure.subplots(1, len(winners)), winners, titles, strict=True):
                draw(_rectangular(state.atoms).repeat(tiles), ax=ax)
                ax.set_title(title)
            figure.savefig(folder / name, dpi=150)
            yield folder / name
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name in STARTS:
            if name == "ferromagnet":
                continue
            states = [relaxed[name, field] for field in FIELDS]
            above = [
                1e3 * (state.energy - relaxed[lowest[field], field].energy)
                for state, field in zip(states, FIELDS, strict=True)
            ]
            left.plot(FIELDS, above, "o-", label=f"from {name}")
            for field, height, state in zip(FIELDS, above, states, strict=True):
                left.annotate(f"{state.skyrmions:.0f}", (field, height), (4, 4), textcoords="offset points")
        left.set_xlabel("H (eV/μB)")
        left.set_ylabel("Ω/site above the lowest state (meV)")
        left.set_title("relaxed states, with their number of skyrmions a cell")
        left.legend()
        bands = ase_klm.KondoEDCalculator(**HAMILTONIAN).band_structure(winners[0].atoms, npoints=120)
        ase_klm.plot.bands(bands, ax=right)
        right.set_ylim(HAMILTONIAN["mu"] - 0.6, HAMILTONIAN["mu"] + 0.6)
        right.set_title("electron bands of the magnetic cell, " + titles[0])
        figure.savefig(folder / "energies_and_bands.png", dpi=150)
        yield folder / "energies_and_bands.png"
    film = ase_klm.data.read(_trajectory(folder, "n_sk = 2", FIELDS[-1]))
    yield ase_klm.plot.animate(
        [ase_klm.data.Frame(_rectangular(frame.atoms).repeat((1, 2, 1))) for frame in film], folder / "relaxation.gif"
    )


def _trajectory(folder: Path, name: str, field: float) -> Path:
    return folder / f"{name.replace(' ', '').replace('=', '')}_H{field:g}.traj"


def _rectangular(atoms: "Atoms") -> "Atoms":
    """The magnetic cell doubled to 12 a1 along x, 4√3 a along y."""
    from ase.build import make_supercell

    rectangular = make_supercell(atoms, [[2, -1, 0], [0, 1, 0], [0, 0, 1]])
    rectangular.info |= {"step": atoms.info["step"]} if "step" in atoms.info else {}  # titles of the film
    return rectangular
