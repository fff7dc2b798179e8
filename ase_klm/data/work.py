"""How consistent energies are with magnetic forces and forces: the slope of energy on work.

Between two frames of one structure the energy changes by the work done against torques and forces,

    E_a - E_b = -∫ Σ_i (m_i × F_i)·dθ_i - ∫ Σ_i F_i·e_i d|m_i| - ∫ Σ_i f_i·dr_i.

All moments are first turned rigidly together by the rotation that brings them nearest (its work is that of the
total torque, none without spin-orbit coupling), then each on a geodesic by the rest. The trapezoidal rule, with labels
at both ends, is good for small turns only. So a model of exchange and a field is fitted to the torques; its energies
are exact, and the rule integrates what remains of the magnetic forces without it. Where frames are too few for a model
(fewer than five), only near frames are compared.

Labels that belong together have slope one, whatever the model. Energies in another unit than the forces, or moments of
another definition, show as a factor, a wrong sign as -1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from ase_klm.data.exchange_fit import fit_exchange
from ase_klm.images import nearest_image
from ase_klm.moments import directions
from ase_klm.validate import Array

MOST_FRAMES = 300
"""Pairs are formed among as many frames at most, evenly spaced."""
NEAREST = 0.3
"""Share of the pairs that is used, the nearest."""
LARGEST_TURN = 30.0
"""Degrees, root mean square over the moments: without a model, pairs farther apart are not used."""
LEAST_CORRELATION = 0.8
"""Of energies and work; below it their slope says nothing."""

_FEWEST_FRAMES = 5
_MOST_ATOMS = 200_000  # in all frames together, for memory
_FEWEST_PAIRS = 30
_STILL = 1e-3  # Å, rms: without atomic forces, frames that are farther apart have another structure
_NEAR = 0.3  # Å, rms, with atomic forces


@dataclass(frozen=True)
class Slope:
    """A regression through the origin of energy differences on work.

    Attributes
    ----------
    value, error : float
        Slope and its standard error (jackknife over frames).
    correlation : float
        Of energies and work.
    work, energy : ndarray
        The points, eV, shape (pairs,).
    frames : int
        Frames that took part.
    turn : float
        Degrees between the frames of a pair, root mean square over the moments, mean over the pairs.
    explained : float
        Share of the squared torques that the exchange model takes away; 0 without a model.
    """

    value: float
    error: float
    correlation: float
    work: Array = field(repr=False)
    energy: Array = field(repr=False)
    frames: int
    turn: float
    explained: float


def slope(frames: Sequence[Any]) -> tuple[Slope | None, str]:
    """The slope, or None and the reason why there is none.

    Parameters
    ----------
    frames : sequence of Frame
        Those without energy or magnetic forces take no part.
    """
    several = _thinned([frame for frame in frames if frame.energy is not None and frame.magnetic_forces is not None])
    groups = _groups(several)
    found = [pairs for group in groups for i in range(len(group) - 1) if (pairs := _Pairs.of(group, i))]
    if not found:
        return None, "no two frames of one structure have energies and magnetic forces"
    pairs = _Pairs.joined(found)
    turns = np.where(pairs.rigid_counts, np.maximum(pairs.turn, pairs.rigid_turn), pairs.turn)
    near = pairs.modelled | (turns <= LARGEST_TURN)
    if near.sum() < 2:
        return (
            None,
            f"frames are too few for a model and too far apart without: turns of {turns.min():.0f}° rms or more",
        )
    pairs, turns = pairs.chosen(near), turns[near]
    share = max(NEAREST, min(1.0, _FEWEST_PAIRS / len(turns)))
    pairs = pairs.chosen(turns <= np.quantile(turns, share))
    if np.abs(pairs.work).max() <= 1e-10 * np.abs(pairs.energy).max():
        return None, "torques and forces do no work between any two frames"
    before, after = (sum(np.sum(np.cross(group.moments, f) ** 2) for group, f in zip(groups, forces, strict=True))
                     for forces in ([g.magnetic_forces for g in groups], [g.unexplained for g in groups]))  # fmt: skip
    return _regression(pairs, float(1 - after / before) if before > 0 else 0.0), ""


def _regression(pairs: "_Pairs", explained: float) -> Slope:
    """Through the origin; the jackknife leaves out all pairs of a frame in turn."""
    xy, xx, yy = pairs.work * pairs.energy, pairs.work**2, pairs.energy**2
    n = 1 + int(pairs.second.max())
    taken = np.unique([pairs.first, pairs.second])
    out_xy, out_xx = (np.bincount(pairs.first, t, n) + np.bincount(pairs.second, t, n) for t in (xy, xx))
    rest_xy, rest_xx = xy.sum() - out_xy[taken], xx.sum() - out_xx[taken]
    rest = rest_xy[rest_xx > 0] / rest_xx[rest_xx > 0]
    error = np.sqrt((len(rest) - 1) * np.mean((rest - rest.mean()) ** 2)) if len(rest) > 2 else np.nan
    return Slope(
        float(xy.sum() / xx.sum()),
        float(error),
        float(xy.sum() / np.sqrt(max(xx.sum() * yy.sum(), np.finfo(float).tiny))),
        pairs.work,
        pairs.energy,
        len(taken),
        float(pairs.turn.mean()),
        explained,
    )


def _thinned(frames: list[Any]) -> list[Any]:
    most = min(MOST_FRAMES, max(_FEWEST_FRAMES, _MOST_ATOMS // max((len(frame.atoms) for frame in frames), default=1)))
    if len(frames) <= most:
        return frames
    return [frames[i] for i in np.linspace(0, len(frames) - 1, most).round().astype(int)]


@dataclass(frozen=True)
class _Group:
    """Labels of frames of one structure; arrays begin with the frame."""

    atoms: Atoms
    numbers: NDArray[np.int64]
    energy: Array
    moments: Array
    magnetic_forces: Array
    positions: Array
    forces: Array
    has_forces: NDArray[np.bool_]
    model: Array
    unexplained: Array

    def __len__(self) -> int:
        return len(self.energy)


def _groups(frames: list[Any]) -> list[_Group]:
    """Frames of the same species, cell and boundary conditions."""
    found: dict[Any, list[int]] = {}
    for number, frame in enumerate(frames):
        atoms = frame.atoms
        key = (atoms.numbers.tobytes(), atoms.pbc.tobytes(), (np.round(atoms.cell.array, 3) + 0.0).tobytes())
        found.setdefault(key, []).append(number)
    groups = []
    for numbers in found.values():
        several = [frames[i] for i in numbers]
        atoms = several[0].atoms
        moments = np.array([frame.moments for frame in several])
        fields = np.array([frame.magnetic_forces for frame in several])
        transverse = np.array([frame.transverse_only for frame in several])[:, None, None]
        fields = np.where(transverse, _across(fields, moments), fields)
        positions = np.array([frame.atoms.positions for frame in several])
        forces = [frame.forces for frame in several]
        model, explained = np.zeros(len(several)), np.zeros_like(fields)
        if len(several) >= _FEWEST_FRAMES:
            mean, periods = atoms.copy(), atoms.cell.array[atoms.pbc]
            mean.positions += nearest_image(positions - positions[0], periods).mean(axis=0)
            model, explained = fit_exchange(mean, moments, fields)
        groups.append(
            _Group(
                atoms,
                np.array(numbers),
                np.array([frame.energy for frame in several]),
                moments,
                fields,
                positions,
                np.array([np.zeros_like(m) if f is None else f for f, m in zip(forces, moments, strict=True)]),
                np.array([f is not None for f in forces]),
                model,
                fields - np.where(transverse, _across(explained, moments), explained),
            )
        )
    return groups


@dataclass(frozen=True)
class _Pairs:
    """Pairs of frames: arrays of shape (pairs,)."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    work: Array
    energy: Array
    turn: Array
    rigid_turn: Array
    rigid_counts: NDArray[np.bool_]
    modelled: NDArray[np.bool_]

    @classmethod
    def of(cls, group: _Group, i: int) -> "_Pairs | None":
        """Frame i of a group with all that follow it."""
        moved = nearest_image(group.positions[i + 1 :] - group.positions[i], group.atoms.cell.array[group.atoms.pbc])
        distance = np.sqrt(np.mean(np.sum(moved**2, axis=-1), axis=-1))
        with_forces = group.has_forces[i] & group.has_forces[i + 1 :]
        here = np.flatnonzero(distance <= np.where(with_forces, _NEAR, _STILL))
        if not len(here):
            return None
        moved, with_forces, others = moved[here], with_forces[here], here + i + 1
        a, b = group.moments[others], np.broadcast_to(group.moments[i], group.moments[others].shape)
        force_a, force_b = group.unexplained[others], group.unexplained[i]
        together = _nearest_rotation(b, a)  # (pair, xyz, xyz)
        rest, angle = _turn(np.einsum("pxy,piy->pix", together, b), a)
        torque_a, torque_b = np.cross(a, force_a), np.cross(b, force_b)
        rigid_vector = Rotation.from_matrix(together).as_rotvec()
        rigid = np.einsum("px,pix->p", rigid_vector, torque_a + torque_b)
        local = np.einsum("pix,pix->p", rest, torque_a)
        local += np.einsum("pyx,piy,pix->p", together, rest, torque_b)  # the same turns seen from frame b
        length_a, length_b = np.linalg.norm(a, axis=-1), np.linalg.norm(b, axis=-1)
        along = np.sum(force_a * directions(a), axis=-1) + np.sum(force_b * directions(b), axis=-1)
        stretch = np.sum(along * (length_a - length_b), axis=-1)
        atomic = np.sum((group.forces[others] + group.forces[i]) * moved, axis=(-2, -1)) * with_forces
        magnetic = (length_a > 0) & (length_b > 0)
        count = np.maximum(magnetic.sum(axis=-1), 1)
        work = group.model[others] - group.model[i] - (rigid + local + stretch + atomic) / 2
        return cls(
            np.full(len(here), group.numbers[i]),
            group.numbers[others],
            work,
            group.energy[others] - group.energy[i],
            np.degrees(np.sqrt(np.sum(angle**2 * magnetic, axis=-1) / count)),
            np.degrees(np.linalg.norm(rigid_vector, axis=-1)),
            np.abs(rigid) > 0.2 * np.sqrt(np.mean(work**2)),
            np.full(len(here), len(group) >= _FEWEST_FRAMES),
        )

    @classmethod
    def joined(cls, several: list["_Pairs"]) -> "_Pairs":
        return cls(*(np.concatenate([getattr(one, name) for one in several]) for name in cls.__dataclass_fields__))

    def chosen(self, which: NDArray[np.bool_]) -> "_Pairs":
        return _Pairs(*(getattr(self, name)[which] for name in self.__dataclass_fields__))


def _across(vectors: Array, moments: Array) -> Array:
    e = directions(moments)
    return vectors - np.sum(vectors * e, axis=-1, keepdims=True) * e


def _nearest_rotation(start: Array, end: Array) -> Array:
    """Rotations that bring the moments `start` nearest to `end` (Kabsch); a turn that gains nothing is not made."""
    overlap = np.einsum("pix,piy->pxy", start, end)
    overlap = overlap + 1e-3 * np.sum(start**2, axis=(-2, -1))[:, None, None] * np.eye(3)
    u, _, vt = np.linalg.svd(overlap)
    proper = np.ones((len(u), 3))
    proper[:, 2] = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    return np.einsum("pyx,py,pzy->pxz", vt, proper, u)


def _turn(start: Array, end: Array) -> tuple[Array, Array]:
    """Rotation vectors of the geodesics from `start` to `end`, and their angles, in radians."""
    axis = np.cross(start, end)
    sine = np.linalg.norm(axis, axis=-1)
    angle = np.arctan2(sine, np.sum(start * end, axis=-1))
    return np.divide(angle, sine, out=np.zeros_like(sine), where=sine > 0)[..., None] * axis, angle
