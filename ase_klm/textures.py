"""Spin textures: each function sets the moments of `atoms` in place.

All take ``length``, the moment in μB: a number, or one a site, shape (N,), zero on sites that shall carry none.
Randomness comes from ``seed``, an integer or a `numpy.random.Generator`, never from a global state. ``noise=s``
disturbs the directions, e ← (e + s g)/abs(e + s g), with g standard normal per component.
"""

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from ase_klm import graphs, images
from ase_klm.errors import KLMError
from ase_klm.moments import directions, get_moments, set_moments
from ase_klm.validate import Array, checked_array, checked_atoms, checked_number

Seed = int | np.random.Generator | None
Length = float | Sequence[float] | NDArray[np.float64]


def uniform(
    atoms: Atoms, direction: ArrayLike = (0, 0, 1), length: Length = 1.0, noise: float = 0.0, seed: Seed = None
) -> None:
    """Ferromagnet along `direction`, shape (3,)."""
    axis = _unit(direction, "direction")
    _set(atoms, np.tile(axis, (len(checked_atoms(atoms)), 1)), length, noise, seed)


def random(atoms: Atoms, length: Length = 1.0, *, seed: Seed) -> None:
    """Isotropic random directions, uniform on the sphere."""
    _set(atoms, directions(_generator(seed).standard_normal((len(checked_atoms(atoms)), 3))), length)


def add_noise(atoms: Atoms, noise: float, *, seed: Seed) -> None:
    """Disturb the present directions by `noise`, keeping the lengths."""
    moments = get_moments(atoms)
    _set(atoms, directions(moments), np.linalg.norm(moments, axis=1), noise, seed)


def spiral(
    atoms: Atoms,
    q: ArrayLike,
    axis: ArrayLike = (0, 0, 1),
    cone: float = 90.0,
    phase: float = 0.0,
    length: Length = 1.0,
    noise: float = 0.0,
    seed: Seed = None,
) -> None:
    """Spiral e = sinθ (cos(q·r + φ) u + sin(q·r + φ) v) + cosθ w around the axis w, with u × v = w.

    Parameters
    ----------
    q : array_like
        Wave vector, Cartesian, rad/Å, shape (3,). It fits the cell when q·a is a multiple of 2π for each cell vector.
    axis : array_like
        Rotation axis w, shape (3,). For w = z, u is x and v is y.
    cone : float
        Angle θ to the axis in degrees; 90 is a flat spiral.
    phase : float
        φ in radians.
    """
    wave_vector = checked_array(q, (3,), "q", "rad/Å")
    u, v, w = _frame(_unit(axis, "axis"))
    angle = (checked_atoms(atoms).positions @ wave_vector + checked_number(phase, "phase", "rad"))[:, None]
    theta = np.deg2rad(checked_number(cone, "cone", "degrees"))
    _set(atoms, np.sin(theta) * (np.cos(angle) * u + np.sin(angle) * v) + np.cos(theta) * w, length, noise, seed)


def triangular_wave_vectors(atoms: Atoms, wave_number: float = np.pi / 3) -> Array:
    """Three wave vectors at 120° in the plane along neighbour bonds (Γ-K of a triangular lattice).

    Parameters
    ----------
    wave_number : float
        abs(Q)·d, with d the nearest-neighbour distance.

    Returns
    -------
    ndarray
        Cartesian, rad/Å, shape (3, 3); the first along the nearest-neighbour bond closest to x, of two the one with y.
    """
    bonds = graphs.neighbour_shells(checked_atoms(atoms), [1])
    both = np.concatenate([bonds.vectors, -bonds.vectors])
    distance = np.linalg.norm(both[0])
    x, y, _ = (both / distance).round(6).T
    along = both[np.lexsort((y, x))[-1]]
    first = checked_number(wave_number, "wave_number", "rad") / distance * along / distance
    third_turn = _rotation_about_z(2 * np.pi / 3)
    return np.array([first, third_turn @ first, third_turn @ third_turn @ first])


def skyrmion_crystal(
    atoms: Atoms,
    n_sk: int = 2,
    wave_vectors: ArrayLike | None = None,
    amplitudes: ArrayLike = (1.0, 1.0, 1.0),
    phases: ArrayLike = (0.0, 0.0, 0.0),
    magnetisation: float | None = None,
    length: Length = 1.0,
    noise: float = 0.0,
    seed: Seed = None,
) -> None:
    """Triple-q crystal with `n_sk` = 2 or 1 skyrmions a magnetic cell, by superposition of three waves.

    n_sk = 2: e ∝ (a₁ cos φ₁, a₂ cos φ₂, a₃ cos φ₃) + M z.
    n_sk = 1: e ∝ Σ_k a_k (cos(2πk/3) sin φ_k, sin(2πk/3) sin φ_k, -cos φ_k) + M z, k = 0, 1, 2.
    Here φ_k = Q_k·r + phase_k. (Ozawa, Hayami, Motome, Phys. Rev. Lett. 118, 147205.)

    Parameters
    ----------
    wave_vectors : array_like, optional
        The Q_k, Cartesian, rad/Å, shape (3, 3). Default: :func:`triangular_wave_vectors`.
    amplitudes, phases : array_like
        a_k and phase_k (radians), shape (3,).
    magnetisation : float, optional
        M; default 0 for n_sk = 2 and 0.3 for n_sk = 1.

    Raises
    ------
    KLMError
        When n_sk is neither 1 nor 2, or the waves cancel on a site.
    """
    if not isinstance(n_sk, int | np.integer) or n_sk not in (1, 2):
        raise KLMError(
            f"n_sk = {n_sk!r} is not a crystal known here",
            "the triple-q superpositions give one or two skyrmions a magnetic cell",
            "use n_sk=1 or n_sk=2; spiral and uniform make the other states",
        )
    waves = triangular_wave_vectors(atoms) if wave_vectors is None else wave_vectors
    waves = checked_array(waves, (3, 3), "wave_vectors", "rad/Å")
    amplitude = checked_array(amplitudes, (3,), "amplitudes")
    angles = checked_atoms(atoms).positions @ waves.T + checked_array(phases, (3,), "phases", "rad")  # (site, k)
    if n_sk == 2:
        spins = amplitude * np.cos(angles)
    else:
        turn = 2 * np.pi / 3 * np.arange(3)
        spins = np.stack(
            [
                np.sin(angles) @ (amplitude * np.cos(turn)),
                np.sin(angles) @ (amplitude * np.sin(turn)),
                -np.cos(angles) @ amplitude,
            ],
            axis=1,
        )
    default = 0.3 if n_sk == 1 else 0.0
    spins[:, 2] += default if magnetisation is None else checked_number(magnetisation, "magnetisation")
    if np.linalg.norm(spins, axis=1).min(initial=1.0) < 1e-8:
        raise KLMError(
            "the waves cancel on a site, so that its spin has no direction",
            "the sum of the three waves is zero there",
            "change phases or magnetisation slightly",
        )
    _set(atoms, directions(spins), length, noise, seed)


def skyrmion(
    atoms: Atoms,
    radius: float,
    centre: ArrayLike | None = None,
    helicity: float = 0.0,
    vorticity: int = 1,
    width: float | None = None,
    length: Length = 1.0,
    noise: float = 0.0,
    seed: Seed = None,
) -> None:
    """Single skyrmion pointing along -z in a +z background, of topological charge -`vorticity`.

    e = (sinΘ cos Φ, sinΘ sin Φ, cosΘ), Φ = vorticity·φ + helicity, and the profile of two facing domain walls
    Θ(r) = 2 arctan(sinh(radius/width)/sinh(r/width)) (Braun, Phys. Rev. B 50, 16485; Wang, Yuan, Wang,
    Commun. Phys. 1, 31).

    Parameters
    ----------
    radius : float
        Å, where e_z = 0.
    centre : array_like, optional
        Å, shape (3,); default the centre of the cell, that is, of its first two vectors, or of the periodic ones of a
        layer. Distances are periodic.
    helicity : float
        Degrees: 0 is a Néel skyrmion pointing outwards, 90 a Bloch one.
    width : float, optional
        Width of the wall, Å; default radius/2.
    """
    checked_number(radius, "radius", "Å", above=0)
    checked_number(helicity, "helicity", "degrees")
    if isinstance(vorticity, bool) or not isinstance(vorticity, int | np.integer) or abs(vorticity) > 1000:
        raise KLMError(
            f"vorticity = {vorticity!r} is no winding number", "it is the integer that the charge is minus of", "use 1"
        )
    spanning = checked_atoms(atoms).pbc if atoms.pbc.sum() == 2 else [True, True, False]
    middle = (
        atoms.cell.array[spanning].sum(axis=0) / 2 if centre is None else checked_array(centre, (3,), "centre", "Å")
    )
    periods = graphs.with_complete_cell(atoms).cell.array[atoms.pbc]
    separation = images.nearest_image(atoms.positions - middle, periods)
    r = np.hypot(separation[:, 0], separation[:, 1])
    wall = radius / 2 if width is None else checked_number(width, "width", "Å", above=radius / 500)
    theta = 2 * np.arctan2(np.sinh(radius / wall), np.sinh(np.minimum(r / wall, 700.0)))
    phi = vorticity * np.arctan2(separation[:, 1], separation[:, 0]) + np.deg2rad(helicity)
    spins = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=1)
    _set(atoms, spins, length, noise, seed)


def domain_wall(
    atoms: Atoms,
    width: float,
    position: float | None = None,
    normal: ArrayLike = (1, 0, 0),
    kind: str = "bloch",
    length: Length = 1.0,
    noise: float = 0.0,
    seed: Seed = None,
) -> None:
    """180° wall from +z to -z: cosΘ = -tanh((r·n - position)/width).

    Parameters
    ----------
    width, position : float
        Å; the default position is the middle of the structure along the normal n.
    kind : str
        "bloch" turns the spins in the plane of the wall, "neel" through its normal.
    """
    n = _unit(normal, "normal")
    if not isinstance(kind, str) or kind not in ("bloch", "neel"):
        raise KLMError(f"kind = {kind!r} is not a wall", "a wall is of Bloch or Néel type", 'use "bloch" or "neel"')
    checked_number(width, "width", "Å", above=0)
    x = checked_atoms(atoms).positions @ n
    ends = x.min(initial=np.inf), x.max(initial=-np.inf)
    x = x - (np.mean(ends) if position is None else checked_number(position, "position", "Å"))
    z = np.array((0.0, 0.0, 1.0))
    across = n if kind == "neel" else np.cross(z, n)
    if np.linalg.norm(across - (across @ z) * z) < 1e-8:
        raise KLMError("the wall's normal is along z", "the spins turn from +z to -z", "choose a normal in the plane")
    steps = np.clip(x / width, -700.0, 700.0)[:, None]
    spins = -np.tanh(steps) * z + across / np.cosh(steps)
    _set(atoms, directions(spins), length, noise, seed)


def _set(atoms: Atoms, unit_vectors: Array, length: Length, noise: float = 0.0, seed: Seed = None) -> None:
    if checked_number(noise, "noise", minimum=0):
        disturbance = _generator(seed).standard_normal(unit_vectors.shape)
        unit_vectors = directions(unit_vectors + noise * disturbance)
    if isinstance(length, int | float | np.number):
        length = np.full(len(atoms), checked_number(length, "length", "μB"))
    lengths = checked_array(length, (len(atoms),), "length", "μB")
    if (lengths < 0).any():
        raise KLMError(
            "length is negative", "a moment's length cannot be", "turn the direction round instead, or use zero"
        )
    set_moments(atoms, unit_vectors * lengths[:, None])


def _generator(seed: Seed) -> np.random.Generator:
    if seed is None:
        raise KLMError(
            "random numbers were asked for without a seed",
            "every result of this package can be repeated, so randomness always comes from a seed",
            "give seed=1, or a numpy.random.Generator",
        )
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise KLMError(f"seed = {seed!r} cannot seed a generator", str(error), "give a non-negative integer") from None


def _unit(vector: ArrayLike, name: str) -> Array:
    array = checked_array(vector, (3,), name)
    norm = np.linalg.norm(array)
    if norm == 0:
        raise KLMError(f"{name} is the zero vector", "it must point somewhere", f"for instance {name}=(0, 0, 1)")
    return array / norm


def _frame(w: Array) -> tuple[Array, Array, Array]:
    """Right-handed orthonormal frame with the given third axis; x, y, z for w = z."""
    helper = np.array((1.0, 0.0, 0.0)) if abs(w[0]) < 0.9 else np.array((0.0, 1.0, 0.0))
    u = helper - (helper @ w) * w
    u /= np.linalg.norm(u)
    return u, np.cross(w, u), w


def _rotation_about_z(angle: float) -> Array:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
