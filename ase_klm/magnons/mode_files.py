"""A magnon as a film: trajectory, and GIF, of one period of a mode in a supercell that holds its wave.

Magnetic moments precess under dm/dt = -γ m × B, opposite to a quantum spin of the same direction under the same energy.
So the images show m_i + Re[δm_i exp(2πi q·R + iωt)], as `LLGDynamics` without damping does, where `Magnons.modes`
gives δm with exp(-iωt).
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from ase_klm.analysis.planes import magnetic_plane
from ase_klm.data.frames import FrameWriter, checked_frames_path
from ase_klm.errors import KLMError, warn
from ase_klm.moments import get_moments, set_moments
from ase_klm.plot.animation import animate
from ase_klm.units import FS, HBAR
from ase_klm.validate import Array, checked_array, checked_number

if TYPE_CHECKING:
    from ase_klm.magnons.magnons import Magnons

LONGEST = 48
"""Cells along one vector of a supercell that is looked for."""
COMMENSURATE = 1e-3
"""How far a number of waves in a supercell may be from an integer."""
SECONDS = 2.4
"""Time that a GIF takes for one period."""


def mode_images(
    magnons: "Magnons",
    q: ArrayLike,
    mode: int,
    n_images: int = 24,
    amplitude: float = 0.4,
    supercell: Sequence[int] | None = None,
) -> list[Atoms]:
    """Structures with the moments of a mode at equal times over one period; see `Magnons.write_mode`."""
    wave = checked_array(q, (3,), "q")
    if isinstance(n_images, bool) or not isinstance(n_images, int | np.integer) or n_images < 2:
        raise KLMError(f"n_images = {n_images!r} cannot be used", "a motion has two images at least", "for instance 24")
    tilt = checked_number(amplitude, "amplitude", "rad", above=0)
    if tilt >= np.pi / 2:
        raise KLMError(
            f"amplitude = {tilt:g} rad is a quarter of a turn or more", "a mode is a tilt", "for instance 0.4"
        )
    energies, moved = magnons.modes(wave)
    n_modes = energies.shape[1]
    if isinstance(mode, bool) or not isinstance(mode, int | np.integer) or not -n_modes <= mode < n_modes:
        raise KLMError(
            f"mode = {mode!r} does not exist",
            f"there are modes 0 to {n_modes - 1}, in the order of their energies",
            "mode=0 is the lowest, mode=-1 the highest",
        )
    repeats = _supercell(magnons, wave, supercell)
    energy, deviation = float(energies[0, mode]), moved[0, mode]
    moments = get_moments(magnons.atoms)
    lengths = np.linalg.norm(moments, axis=1)
    magnetic = lengths > 0
    widest = _widest(deviation[magnetic] / lengths[magnetic, None])
    deviation = deviation * (np.tan(tilt) / widest)

    cells = np.array(list(np.ndindex(*repeats)))
    phases = np.exp(2j * np.pi * cells @ wave)
    turns = _turns_of_the_spiral(magnons, cells)
    whole: Atoms = magnons.atoms.copy()
    whole = whole.repeat(repeats)
    period = 2 * np.pi * HBAR / energy / FS if energy > 1e-9 else None
    images = []
    for number in range(n_images):
        share = number / n_images
        swing = np.real(deviation * (phases * np.exp(2j * np.pi * share))[:, None, None])  # (cell, N, 3)
        bent = moments + swing
        bent *= lengths[:, None] / np.maximum(np.linalg.norm(bent, axis=-1, keepdims=True), 1e-300)
        image = whole.copy()
        set_moments(image, np.einsum("cxy,cny->cnx", turns, bent).reshape(-1, 3))
        image.info |= {"q": wave, "energy_of_the_mode": energy}
        if period is not None:
            image.info["time"] = share * period
        images.append(image)
    return images


def write_mode(
    magnons: "Magnons",
    q: ArrayLike,
    mode: int,
    path: str | Path,
    n_images: int = 24,
    amplitude: float = 0.4,
    supercell: Sequence[int] | None = None,
    gif: str | Path | None = None,
) -> None:
    """Write the images of a mode; see `Magnons.write_mode`."""
    file = checked_frames_path(path, must_exist=False, endings=(".traj", ".extxyz", ".xyz"))
    images = mode_images(magnons, q, mode, n_images, amplitude, supercell)
    if gif is not None:
        magnetic_plane(images[0])  # what cannot be drawn is refused before anything is written
    with FrameWriter(file) as writer:
        for image in images:
            writer.write(image)
    if gif is not None:
        animate(images, gif, fps=n_images / SECONDS, max_frames=n_images)


def _widest(deviation: np.ndarray) -> float:
    """Largest length of Re[v exp(iφ)] over all sites (n, 3) and phases."""
    squares = np.sum(np.abs(deviation) ** 2, axis=1)
    return float(np.sqrt((squares + np.abs(np.sum(deviation**2, axis=1))) / 2).max())


def _supercell(magnons: "Magnons", q: Array, supercell: Sequence[int] | None) -> tuple[int, int, int]:
    """Repetitions in which q, and the wave vector of a spiral, have whole numbers of waves."""
    waves = [q] if magnons.spiral is None else [q, checked_array(magnons.spiral[0], (3,), "k of the spiral")]
    if supercell is None:
        fitting = [
            next((n for n in range(1, LONGEST + 1) if all(_whole(n * wave[axis]) for wave in waves)), 0)
            for axis in range(3)
        ]
        if min(fitting) == 0:
            near = [float(Fraction(float(x)).limit_denominator(12)) for x in q]
            raise KLMError(
                f"no supercell up to {LONGEST} cells holds q = {q.tolist()}",
                "n times each component must be an integer, as it must be for the wave vector of a spiral",
                f"take a q nearby, e.g. {np.round(near, 6).tolist()}, or give supercell=(n1, n2, n3) and accept a jump",
            )
        return fitting[0], fitting[1], fitting[2]
    repeats = checked_array(supercell, (3,), "supercell")
    if np.any(repeats != repeats.round()) or np.any(repeats < 1) or np.any((repeats > 1) & ~magnons.atoms.pbc):
        raise KLMError(
            f"supercell = {supercell!r} cannot be used",
            "it takes three positive integers, 1 where the structure is not periodic",
            "for instance supercell=(6, 6, 1) for a plane",
        )
    if not all(_whole(x) for wave in waves for x in repeats * wave):
        warn(
            f"the supercell {repeats.astype(int).tolist()} does not hold q = {q.tolist()}",
            "the wave jumps at its border",
            "leave out supercell, or take a multiple that holds whole waves",
        )
    first, second, third = (int(n) for n in repeats)
    return first, second, third


def _whole(x: float) -> bool:
    return abs(x - round(x)) < COMMENSURATE


def _turns_of_the_spiral(magnons: "Magnons", cells: np.ndarray) -> Array:
    """Rotations from the moments of the home cell to those of each cell, shape (n_cells, 3, 3)."""
    if magnons.spiral is None:
        return np.broadcast_to(np.eye(3), (len(cells), 3, 3))
    k, axis = (checked_array(part, (3,), "spiral") for part in magnons.spiral)
    angles = 2 * np.pi * cells @ k
    return np.asarray(Rotation.from_rotvec(angles[:, None] * axis / np.linalg.norm(axis)).as_matrix())
