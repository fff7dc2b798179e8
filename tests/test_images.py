"""Shortest vectors of lattices and nearest images, against a search over many cells."""

from itertools import product

import numpy as np
import pytest

from ase_klm import images

LATTICES = {
    "chain": [(1.3, 0.2, 0.4)],
    "square": [(1, 0, 0), (0, 1, 0)],
    "triangular": [(1, 0, 0), (0.5, np.sqrt(0.75), 0)],
    "oblique layer out of the plane": [(1, 0, 0), (0.3, 1.7, 0.4)],
    "simple cubic": np.eye(3),
    "fcc": [(0, 1, 1), (1, 0, 1), (1, 1, 0)],
    "bcc": [(-1, 1, 1), (1, -1, 1), (1, 1, -1)],
    "triclinic": [(1, 0, 0), (0.45, 0.9, 0), (0.4, -0.4, 3.0)],
}


def unimodular(n, rng, largest=5):
    """Integers up to `largest` with determinant 1 or -1, shape (n, n)."""
    while True:
        matrix = rng.integers(-largest, largest + 1, (n, n))
        if abs(round(np.linalg.det(matrix))) == 1:
            return matrix


def described(atoms, seed, lean=True):
    """The same crystal in other cell vectors, with atoms in any cells and, if open, the vacuum vector leaning."""
    rng = np.random.default_rng(seed)
    other, cell, periodic = atoms.copy(), atoms.cell.array.copy(), np.flatnonzero(atoms.pbc)
    cell[periodic] = unimodular(len(periodic), rng) @ cell[periodic]
    for axis in np.flatnonzero(~atoms.pbc & cell.any(1)) if lean else ():
        cell[axis] = rng.choice((-1, 1)) * cell[axis] + rng.uniform(-2, 2, len(periodic)) @ cell[periodic]
    other.set_cell(cell)
    other.positions += rng.integers(-2, 3, (len(atoms), len(periodic))) @ cell[periodic]
    return other


def places(periods, rng):
    """Some anywhere, and some that have several nearest images."""
    return np.concatenate([2 * rng.standard_normal((60, 3)), rng.integers(-6, 7, (20, len(periods))) / 2 @ periods])


@pytest.mark.parametrize("name", LATTICES)
def test_nearest_images_are_those_of_a_search_over_many_cells(name, rng):
    periods = np.array(LATTICES[name], dtype=float)
    n = len(periods)
    far = np.array(list(product(range(-3, 4), repeat=n))) @ periods
    for _ in range(4):
        skew = unimodular(n, rng) @ periods
        vectors = places(periods, rng)
        nearest = images.nearest_image(vectors, skew)
        searched = np.sort(np.linalg.norm(nearest[:, None] + far, axis=-1), axis=1)
        np.testing.assert_allclose(np.linalg.norm(nearest, axis=1), searched[:, 0], atol=1e-9)
        cells, distances = images.images_around(vectors, skew)
        np.testing.assert_allclose(np.linalg.norm(vectors[:, None] + cells @ skew, axis=-1), distances, atol=1e-9)
        np.testing.assert_allclose(distances[:, 0], searched[:, 0], atol=1e-9)
        np.testing.assert_allclose(np.sort(distances, axis=1)[:, :2], searched[:, :2], atol=1e-9)
        alike = [(d < d.min(1, keepdims=True) + 1e-7).sum(1) for d in (distances, searched)]
        np.testing.assert_array_equal(*alike)


@pytest.mark.parametrize("name", LATTICES)
def test_shortest_vectors_depend_on_the_lattice_only(name, rng):
    periods = np.array(LATTICES[name], dtype=float)
    expected, _ = images.reduced(periods)
    vectors = places(periods, rng)
    furthest = images.furthest_image(vectors, periods)
    volume = np.sqrt(np.linalg.det(periods @ periods.T))
    assert np.sqrt(np.linalg.det(expected @ expected.T)) == pytest.approx(volume)
    for _ in range(6):
        skew = unimodular(len(periods), rng) @ periods
        found, operation = images.reduced(skew)
        np.testing.assert_allclose(found, expected, atol=1e-9)
        np.testing.assert_allclose(operation @ skew, found, atol=1e-9)
        np.testing.assert_allclose(images.furthest_image(vectors, skew), furthest, atol=1e-9)


def test_without_periods_every_place_is_its_own_image():
    vectors = np.ones((4, 3))
    cells, distances = images.images_around(vectors, np.zeros((0, 3)))
    assert cells.shape == (4, 1, 0)
    np.testing.assert_allclose(distances, np.sqrt(3))
    np.testing.assert_array_equal(images.nearest_image(vectors, np.zeros((0, 3))), vectors)


def test_a_leaning_vacuum_vector_is_put_upright():
    cell = images.upright_cell([(2, 0, 0), (1, 2, 0), (5, -3, 7)], (True, True, False))
    np.testing.assert_allclose(cell, [(2, 0, 0), (1, 2, 0), (0, 0, 7)], atol=1e-12)
    whole = np.array([(2, 0, 0), (1, 2, 0), (5, -3, 7)])
    np.testing.assert_array_equal(images.upright_cell(whole, True), whole)


@pytest.mark.parametrize(
    ("normal", "upward"),
    [
        ((0, 0, -2), (0, 0, 1)),
        ((0, -3, 0), (0, 1, 0)),
        ((-1, 0, 0), (1, 0, 0)),
        ((1, 1, -1), np.array((-1, -1, 1)) / np.sqrt(3)),
        ((1, -1, 0), np.array((-1, 1, 0)) / np.sqrt(2)),
    ],
)
def test_planes_are_seen_from_above(normal, upward):
    np.testing.assert_allclose(images.upward(normal), upward, atol=1e-12)
    axes = images.plane_axes(normal)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(axes[2], upward, atol=1e-12)
    assert np.linalg.det(axes) == pytest.approx(1)
