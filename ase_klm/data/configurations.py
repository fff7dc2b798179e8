"""Spin configurations for data sets: what a model should have seen before it is trusted.

===============  ====================================================================================================
"random"         isotropic directions
"theta-uniform"  polar angle uniform in [0, π], azimuth uniform, so that <cos²θ> = 1/2 instead of 1/3: the distribution
                 of the published set of the square Kondo lattice (Y. Miyazaki, Mach. Learn.: Sci. Technol. 4, 045006)
"textures"       with equal chances a ferromagnet, a spiral or cone of random wave vector, a stripe or Néel
                 antiferromagnet where it fits the cell, and a triple-q crystal where the lattice has threefold wave
                 vectors (triangular, honeycomb, kagome); each with noise of log-uniform strength 0.02 to 1, and
                 rotated at random as a whole
"quench"         snapshots of damped dynamics from isotropic spins, see `Quench`
===============  ====================================================================================================

Wave vectors fit the cell, and each that does is equally likely.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from scipy.spatial.transform import Rotation

from ase_klm import graphs, textures
from ase_klm.choices import DAMPING, KINDS, SNAPSHOTS, SPACING
from ase_klm.errors import KLMError
from ase_klm.images import reduced, upright_cell
from ase_klm.moments import get_moments, is_magnetic, rotate_moments, set_moments
from ase_klm.validate import Array, checked_number


@dataclass(frozen=True)
class Quench:
    """Damped Landau-Lifshitz-Gilbert dynamics without noise, from isotropic spins.

    Parameters
    ----------
    snapshots : int
        Configurations taken from one run.
    spacing : int
        Steps before the first, and from one to the next; each step costs two diagonalisations.
    timestep : float, optional
        ħ/eV. Default: the fastest spin turns by about a quarter of a radian in the first step.
    damping : float
        Gilbert damping α.
    """

    snapshots: int = SNAPSHOTS
    spacing: int = SPACING
    timestep: float | None = None
    damping: float = DAMPING

    def __post_init__(self) -> None:
        for name in ("snapshots", "spacing"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise KLMError(f"{name} = {value!r} cannot be used", "it counts from 1", f"for instance {name}=5")
        if self.timestep is not None:
            checked_number(self.timestep, "timestep", "ħ/eV", above=0)
        checked_number(self.damping, "damping", minimum=0)


def configure(atoms: Atoms, kind: str, generator: np.random.Generator) -> None:
    """Give the atoms a configuration of one of the kinds but "quench"; moments keep their length, or get 1 μB.

    Raises
    ------
    KLMError
        When the kind is not known.
    """
    length = np.linalg.norm(get_moments(atoms), axis=1) if is_magnetic(atoms).any() else np.ones(len(atoms))
    if kind == "random":
        textures.random(atoms, length, seed=generator)
    elif kind == "theta-uniform":
        theta, phi = np.pi * generator.random(len(atoms)), 2 * np.pi * generator.random(len(atoms))
        spins = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=1)
        set_moments(atoms, length[:, None] * spins)
    elif kind == "textures":
        textures_here = [_ferromagnet, _spiral]
        textures_here += [_antiferromagnet] if len(_halves(atoms)) else []
        textures_here += [_crystal] if _threefold(atoms) else []
        textures_here[generator.integers(len(textures_here))](atoms, length, generator)
        rotate_moments(atoms, Rotation.random(random_state=generator).as_matrix())
        textures.add_noise(atoms, 0.02 * 50 ** generator.random(), seed=generator)
    else:
        raise unknown_kind(kind)


def unknown_kind(kinds: Any) -> KLMError:
    """The error for configurations that nobody knows how to make."""
    return KLMError(
        f"{kinds!r} is no kind of configuration",
        f"known are {', '.join(KINDS)}; a quench needs a calculator",
        'for instance kinds=("theta-uniform", "textures")',
    )


def quench(atoms: Atoms, calc: Calculator, plan: Quench, generator: np.random.Generator) -> Iterator[Atoms]:
    """Run a quench with a calculator and yield the same atoms at each snapshot, results at hand."""
    from ase_klm.dynamics import LLGDynamics  # a tool, upstairs; it writes frames, so it knows this room

    configure(atoms, "random", generator)
    atoms.calc = calc
    timestep = plan.timestep
    if timestep is None:
        torque = np.cross(get_moments(atoms), calc.get_property("magnetic_forces", atoms))
        fastest = np.linalg.norm(torque, axis=1).max() / (1 + plan.damping**2) ** 0.5
        timestep = float(0.25 / fastest) if fastest > 1e-6 else 1.0
    dynamics = LLGDynamics(atoms, timestep=timestep, damping=plan.damping, gamma=1.0, progress=False)
    for _ in range(plan.snapshots):
        dynamics.run(plan.spacing)
        yield atoms


def _ferromagnet(atoms: Atoms, length: Array, _generator: np.random.Generator) -> None:
    textures.uniform(atoms, length=length)


def _spiral(atoms: Atoms, length: Array, generator: np.random.Generator) -> None:
    cone = np.rad2deg(np.arccos(generator.random()))
    phase = 2 * np.pi * generator.random()
    textures.spiral(atoms, _wave_vector(atoms, generator), cone=cone, phase=phase, length=length)


def _antiferromagnet(atoms: Atoms, length: Array, generator: np.random.Generator) -> None:
    textures.spiral(atoms, generator.choice(_halves(atoms)), length=length)


def _crystal(atoms: Atoms, length: Array, generator: np.random.Generator) -> None:
    turn = Rotation.from_rotvec([0, 0, 2 * np.pi / 3])
    waves = [_wave_vector(atoms, generator)]
    waves += [turn.apply(waves[0]), turn.inv().apply(waves[0])]
    n_sk = int(generator.integers(1, 3))
    phases, magnetisation = 2 * np.pi * generator.random(3), generator.uniform(-1, 1)
    textures.skyrmion_crystal(atoms, n_sk, waves, phases=phases, magnetisation=magnetisation, length=length)


def _reciprocal(atoms: Atoms) -> Array:
    """Reciprocal vectors of the cell along its periodic directions, with the factor 2π, rad/Å, shape (periodic, 3)."""
    cell = upright_cell(graphs.with_complete_cell(atoms).cell, atoms.pbc)
    return 2 * np.pi * np.linalg.inv(cell).T[atoms.pbc]


def _wave_vector(atoms: Atoms, generator: np.random.Generator) -> Array:
    """A wave vector that fits the cell, rad/Å, shape (3,).

    The number of atoms is a multiple of the number of primitive cells, so these multiples of the reciprocal vectors
    fall on each wave vector of the primitive zone equally often.
    """
    reciprocal = _reciprocal(atoms)
    return generator.integers(len(atoms), size=len(reciprocal)) @ reciprocal


def _halves(atoms: Atoms) -> Array:
    """Halves of the primitive reciprocal vectors and their sums that fit the cell, rad/Å, shape (any, 3)."""
    primitive, _ = reduced(2 * np.pi * np.linalg.inv(graphs.primitive_cell(atoms)).T[atoms.pbc])
    which = list(product((0.0, 0.5), repeat=len(primitive)))[1:]  # all but zero
    halves = np.array([np.zeros(3), *(half @ primitive for half in map(np.array, which))])[1:]
    return halves[_fits(halves, atoms)]


def _threefold(atoms: Atoms) -> bool:
    """Whether a wave vector that fits the cell still fits after a turn by 120° about z."""
    reciprocal = _reciprocal(atoms)
    turned = Rotation.from_rotvec([0, 0, 2 * np.pi / 3]).apply(reciprocal) if len(reciprocal) else reciprocal
    return len(reciprocal) == 2 and bool(_fits(turned, atoms).all())


def _fits(waves: Array, atoms: Atoms) -> np.ndarray:
    turns = waves @ atoms.cell.array[atoms.pbc].T / (2 * np.pi)
    return np.abs(turns - turns.round()).max(axis=1, initial=0.0) < 1e-6
