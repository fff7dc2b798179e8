"""Periodic images: the crystal decides which are near, not the cell vectors that describe it.

Searches start from the shortest vectors of the lattice. In units of these, bring a place to within half a vector of the
origin: then its nearest image is one cell away at most, and from there so is the next nearest. The functions take the
`periods`, that is, the periodic cell vectors, Å, shape (n_periodic, 3).
(P. Q. Nguyen, D. Stehlé, ACM Trans. Algorithms 5, 46 (2009).)
"""

from collections.abc import Callable
from itertools import product

import numpy as np
from ase.geometry import complete_cell, minkowski_reduce
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def upright_cell(cell: ArrayLike, pbc: ArrayLike) -> Array:
    """The three vectors of a cell, the open ones without their parts along the periodic ones, Å, shape (3, 3).

    A layer is the same wherever its vacuum vector leans. In units of this cell, coordinates in the layer do not depend
    on that vector, and the reciprocal vectors of the layer lie in it.
    """
    vectors, periodic = np.array(cell, dtype=float), np.asarray(pbc, dtype=bool)
    if periodic.any():
        vectors[~periodic] -= vectors[~periodic] @ np.linalg.pinv(vectors[periodic]) @ vectors[periodic]
    return vectors


def upward(normal: ArrayLike) -> Array:
    """The unit vector along plus or minus `normal` from which planes are looked at, shape (3,).

    Its z component is positive; that of a plane that holds z has a positive y component; the last one is +x.
    """
    unit = np.asarray(normal, dtype=float)
    unit = unit / np.linalg.norm(unit)
    x, y, z = unit.round(9)
    return unit if (z, y, x) > (0, 0, 0) else -unit


def plane_axes(normal: ArrayLike) -> Array:
    """Right-handed orthonormal u, v, n as rows, n upward along the normal; x, y, z for a plane in xy."""
    n = upward(normal)
    helper = np.eye(3)[0 if abs(n[0]) < 0.9 else 1]
    u = helper - (helper @ n) * n
    u /= np.linalg.norm(u)
    return np.array([u, np.cross(n, u), n])


def reduced(periods: ArrayLike) -> tuple[Array, NDArray[np.int64]]:
    """Shortest vectors that span a lattice, shape (n, 3), and the integers H with reduced = H periods, shape (n, n).

    They depend on the lattice only: of equal lengths the one further along x comes first, then y, then z. In a plane
    they form an acute angle, in space they are right-handed.
    """
    vectors = np.asarray(periods, dtype=float).reshape(-1, 3)
    n = len(vectors)
    if n == 0:
        return vectors, np.zeros((0, 0), dtype=np.int64)
    complete = complete_cell(np.concatenate([vectors, np.zeros((3 - n, 3))]))
    short = minkowski_reduce(complete, pbc=np.arange(3) < n)[0][:n]
    found = shortest_independent(steps(n) @ short, n)
    return found, (found @ np.linalg.pinv(vectors)).round().astype(np.int64)


def shortest_independent(vectors: Array, number: int, accept: Callable[[int], bool] | None = None) -> Array:
    """The shortest linearly independent ones of `vectors`, shape (number, 3), chosen as `reduced` says.

    Parameters
    ----------
    accept : callable, optional
        Told the index of a vector, whether it may be taken.
    """
    lengths = np.linalg.norm(vectors, axis=1)
    nonzero = lengths > 1e-7 * lengths.max(initial=0.0)
    scale = lengths[nonzero].min(initial=np.inf)
    keys = (vectors / scale).round(6) + 0.0
    order = np.lexsort((-keys[:, 2], -keys[:, 1], -keys[:, 0], (lengths / scale).round(6)))
    chosen: list[Array] = []
    for index in order[nonzero[order]]:
        if len(chosen) == number:
            break
        trial = np.array([*chosen, vectors[index]])
        if number == 2 and len(chosen) == 1 and trial[0] @ trial[1] < -1e-6 * scale**2:
            continue  # its negative comes next
        independent = np.linalg.svd(trial, compute_uv=False)[-1] > 1e-3 * scale
        if independent and (accept is None or accept(int(index))):
            chosen.append(vectors[index])
    found = np.array(chosen).reshape(-1, 3)
    if len(found) == 3 and np.linalg.det(found) < 0:
        found[2] *= -1
    return found


def images_around(vectors: Array, periods: ArrayLike) -> tuple[NDArray[np.int64], Array]:
    """The nearest image of each vector, all that are as near, and the next nearest, among some more.

    Parameters
    ----------
    vectors : ndarray
        Å, shape (..., 3).

    Returns
    -------
    cells, distances : ndarray
        Integers with image = vector + cells @ periods, shape (..., m, n_periodic), and the lengths of these images, Å,
        shape (..., m). The first is the nearest, and m is 3 to the power of n_periodic.
    """
    cell, operation = reduced(periods)
    nearest = _nearest_numbers(vectors, cell)
    numbers = nearest[..., None, :] + steps(len(cell))
    distances = np.linalg.norm(vectors[..., None, :] + numbers @ cell, axis=-1)
    return numbers @ operation, distances


def nearest_image(vectors: Array, periods: ArrayLike) -> Array:
    """The shortest images of vectors (..., 3), Å; of several at one distance, any."""
    cell, _ = reduced(periods)
    return np.asarray(vectors + _nearest_numbers(vectors, cell) @ cell)


def nearest_numbers(vectors: Array, periods: ArrayLike) -> NDArray[np.int64]:
    """Integers n with vector + n @ periods its shortest image, shape (..., n_periodic)."""
    cell, operation = reduced(periods)
    return np.asarray(_nearest_numbers(vectors, cell) @ operation)


def furthest_image(vectors: Array, periods: ArrayLike) -> Array:
    """Of all nearest images of vectors (..., 3) that along x, then y, then z: the same whatever the cell is, Å."""
    cells, distances = images_around(vectors, periods)
    images = vectors[..., None, :] + cells @ np.asarray(periods, dtype=float).reshape(-1, 3)
    scale = max(float(np.linalg.norm(images[..., 0, :], axis=-1).max(initial=0.0)), 1e-12)
    tied = distances <= distances.min(axis=-1, keepdims=True) + 1e-7 * scale
    for component in range(3):
        values = np.where(tied, images[..., component], -np.inf)
        tied &= values >= values.max(axis=-1, keepdims=True) - 1e-7 * scale
    return np.asarray(np.take_along_axis(images, tied.argmax(axis=-1)[..., None, None], axis=-2)[..., 0, :])


def _nearest_numbers(vectors: Array, cell: Array) -> NDArray[np.int64]:
    """Integers that bring vectors to their nearest images, in units of a reduced cell."""
    home = -(vectors @ np.linalg.pinv(cell)).round().astype(np.int64)
    neighbours = steps(len(cell))
    shifts = neighbours @ cell
    folded = vectors + home @ cell
    best, smallest = np.zeros(vectors.shape[:-1], dtype=np.int64), np.sum(folded**2, axis=-1)
    for number, shift in enumerate(shifts[1:], start=1):
        squares = np.sum((folded + shift) ** 2, axis=-1)
        nearer = squares < smallest
        best[nearer], smallest = number, np.where(nearer, squares, smallest)
    return np.asarray(home + neighbours[best])


def steps(dimension: int) -> NDArray[np.int64]:
    """A cell and its neighbours, itself first, shape (3^dimension, dimension)."""
    return np.array(list(product((0, -1, 1), repeat=dimension)), dtype=np.int64).reshape(3**dimension, dimension)
