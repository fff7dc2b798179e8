"""Bragg peaks: the strongest local maxima of the structure factor, gathered into stars of equivalent wave vectors."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from ase_klm.analysis.structure_factor import StructureFactor, structure_factor
from ase_klm.errors import KLMError
from ase_klm.images import reduced
from ase_klm.validate import Array


@dataclass(frozen=True)
class BraggPeak:
    """The strongest member of a star, and the star.

    Attributes
    ----------
    q, q_cartesian : ndarray
        Wave vector in units of the reciprocal vectors, and in rad/Å, shape (3,).
    intensity : float
        S(q), μB².
    star : ndarray
        q and its equivalents under the point group of the lattice, as far as they fit the supercell, shape (n, 3).
    star_intensities : ndarray
        S at these, μB², shape (n,): six equal ones for a triple-q state of a triangular lattice, two for a spiral.
    """

    q: Array
    q_cartesian: Array
    intensity: float
    star: Array
    star_intensities: Array


def bragg_peaks(source: Any, number: int = 5) -> list[BraggPeak]:
    """The strongest peaks of S(q), one a star, in order of falling intensity.

    A peak is not exceeded by any neighbouring wave vector of the supercell. Peaks below 1e-6 of the strongest are left
    out.

    Parameters
    ----------
    source : StructureFactor, Atoms or sequence of frames
        The result of :func:`structure_factor`, or what it takes.
    number : int
        At most so many stars.

    Raises
    ------
    KLMError
        As :func:`structure_factor`, and when S is known at scattered wave vectors only.
    """
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise KLMError(f"number = {number!r} is no number of stars", "it must be a positive integer", "e.g. number=5")
    factor = source if isinstance(source, StructureFactor) else structure_factor(source)
    if len(factor.steps) == 0:
        raise KLMError(
            "peaks cannot be found among scattered wave vectors",
            "a local maximum needs the neighbouring wave vectors",
            "use structure_factor(atoms), not structure_factor_at",
        )
    intensity = factor.intensity
    find = _Finder(factor.q)
    highest = np.ones(len(factor.q), dtype=bool)
    for move in _neighbours(factor):
        neighbour = find(factor.q + move)
        present = neighbour >= 0
        highest[present] &= intensity[present] >= intensity[neighbour[present]] * (1 - 1e-9)
    highest &= intensity > 1e-6 * intensity.max()
    candidates = np.flatnonzero(highest)
    strength = (intensity / intensity.max()).round(9)
    lengths = np.linalg.norm(factor.q_cartesian, axis=1)
    largest = max(lengths.max(), 1e-12)
    x, y, z = (factor.q_cartesian / largest).round(6).T + 0.0
    rank = np.argsort(np.lexsort((-z, -y, -x, (lengths / largest).round(6), -strength)))  # whatever the cell vectors
    candidates = candidates[np.argsort(rank[candidates])]
    rotations = _point_group(factor)
    peaks: list[BraggPeak] = []
    seen: set[int] = set()
    for peak in candidates.tolist():
        if len(peaks) == number:
            break
        if peak in seen:
            continue
        members = find(factor.q[peak] @ rotations)
        star = np.unique(members[members >= 0])
        star = star[np.argsort(rank[star])]
        seen.update(star.tolist())
        peaks.append(
            BraggPeak(factor.q[peak], factor.q_cartesian[peak], float(intensity[peak]), factor.q[star], intensity[star])
        )
    return peaks


class _Finder:
    """Looks up the index of a wave vector; -1 where it is absent. One zone is periodic, a larger disc is not."""

    def __init__(self, q: Array) -> None:
        reduced = _wrapped(q)
        self.periodic = len(np.unique(reduced.round(6) % 1.0, axis=0)) == len(q)
        self.tree = cKDTree(reduced, boxsize=1.0) if self.periodic else cKDTree(q)

    def __call__(self, q: Array) -> NDArray[np.int64]:
        distance, index = self.tree.query(_wrapped(q) if self.periodic else q)
        return np.asarray(np.where(distance < 1e-6, index, -1))


def _neighbours(factor: StructureFactor) -> Array:
    """Wave vectors whose cells touch that of Γ, in units of q, shape (n, 3)."""
    _, operation = reduced(factor.steps @ factor.reciprocal)
    numbers = np.array(list(product((-2, -1, 0, 1, 2), repeat=len(factor.steps))))
    q = numbers @ operation @ factor.steps
    vectors = q @ factor.reciprocal
    # no vector of the grid is closer to the middle of a touching one than its ends are
    halves = vectors / 2
    closest = np.linalg.norm(halves[:, None] - vectors, axis=2).min(axis=1)
    own = np.linalg.norm(halves, axis=1)
    return np.asarray(q[(own > 0) & (own <= closest * (1 + 1e-6))])


def _wrapped(q: Array) -> Array:
    return np.asarray(q % 1.0 % 1.0)


def _point_group(factor: StructureFactor) -> Array:
    """Point group of the lattice as matrices acting on q from the right, shape (n, 3, 3)."""
    periodic = factor.steps.any(axis=0)
    block, _ = reduced(factor.cell[periodic])
    metric = block @ block.T
    dimension = len(block)
    trials = np.array(list(product((-1, 0, 1), repeat=dimension**2))).reshape(-1, dimension, dimension)
    images = trials @ metric @ trials.swapaxes(1, 2)
    kept = trials[np.abs(images - metric).max(axis=(1, 2)) < 1e-4 * metric.max()]
    # a lattice vector n·block goes to n·trial·block; in space this is the matrix below
    span = np.linalg.pinv(block)
    outside = np.eye(3) - span @ block
    cartesian = span @ kept @ block + outside
    return factor.reciprocal @ cartesian @ np.linalg.inv(factor.reciprocal)
