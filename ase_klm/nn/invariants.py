"""Invariants of the spins of a neighbourhood under rotations of the spins, time reversal and the point group.

P. Zhang and G.-W. Chern, Phys. Rev. Lett. 127, 146401 (2021), arXiv:2105.08221; their theory is in P. Zhang, S. Zhang,
G.-W. Chern, arXiv:2201.00798. Within a neighbourhood the spins enter as bond variables and scalar chiralities,

    b_jk = S_j·S_k,    χ_kl = S_0·(S_k × S_l),

bonds between the centre 0 and all its sites and between nearest neighbours, triples of the centre with two of its
nearest neighbours or with the ends of a bond. The reference projects each of their orbits under the point group on
irreducible representations and takes amplitudes and phases relative to a reference. Before normalisation these are
quadratic forms, spanned as well by sums of products over symmetric pairs, which need no table of representations:

    Σ_g b_gx,    Σ_g b_gx b_gy,    Σ_g b_gx b_gy (b_gx + b_gy),    Σ_g χ_gx χ_gy,

x and y in one orbit, or y in the reference orbit (the first of the largest). The cubic sums stand for the bispectrum.
Chiralities, odd under time reversal, enter in pairs only. All are polynomials of the spins; nothing is normalised.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ase_klm.nn.lattice import TOLERANCE
from ase_klm.nn.symmetry import isometries

Pair = tuple[int, int]


class Invariants(nn.Module):
    """Invariants of the spins of one neighbourhood, and their mean and spread.

    Reads and sums are products with matrices of 0, 1 and -1, fast in all derivatives.

    Parameters
    ----------
    places : ndarray
        Sites of the neighbourhood in units of the shortest bond, the centre first, shape (M, 3).
    species : sequence of str
    """

    bond_first: Tensor
    bond_second: Tensor
    orbit: Tensor
    product_first: Tensor
    product_second: Tensor
    product_sum: Tensor
    triple_first: Tensor
    triple_second: Tensor
    chirality_first: Tensor
    chirality_second: Tensor
    chirality_sum: Tensor
    mean: Tensor
    spread: Tensor

    def __init__(self, places: NDArray[np.float64], species: Sequence[str]) -> None:
        super().__init__()
        group = matchings(places, species, places, species)
        joined = abs(np.linalg.norm(places[:, None] - places, axis=-1) - 1) < TOLERANCE  # nearest neighbours
        sites = range(1, len(places))
        edges = [(j, k) for j, k in combinations(sites, 2) if joined[j, k]]
        bonds = [(0, k) for k in sites] + edges
        triples = sorted({*edges, *combinations(np.flatnonzero(joined[0]).tolist(), 2)})
        images, signs = _action(group, bonds, 1)
        self._keep("bond", *_picks(bonds, len(places)))
        orbits = _orbits(images)
        self._matrix("orbit", _sums([dict.fromkeys(orbit, 1) for orbit in orbits], range(len(bonds))))
        self._keep("product", *_pair_sums(images, signs, orbits))
        images, signs = _action(group, triples, -1)
        self._keep("triple", *_picks(triples, len(places)))
        self._keep("chirality", *_pair_sums(images, signs, _orbits(images)))
        count = len(self.orbit) + 2 * len(self.product_sum) + len(self.chirality_sum)
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("spread", torch.ones(count))

    def _matrix(self, name: str, matrix: NDArray[np.float64]) -> None:
        self.register_buffer(name, torch.as_tensor(matrix, dtype=torch.get_default_dtype()), persistent=False)

    def _keep(self, name: str, *matrices: NDArray[np.float64]) -> None:
        for part, matrix in zip(("first", "second", "sum"), matrices, strict=False):
            self._matrix(f"{name}_{part}", matrix)

    def forward(self, spins: Tensor) -> Tensor:
        """Invariants (..., F, n) of spins (3, ..., M, n)."""
        bonds = ((self.bond_first @ spins) * (self.bond_second @ spins)).sum(0)
        b, c = self.product_first @ bonds, self.product_second @ bonds
        pairs = b * c
        (x, y, z), (u, v, w) = self.triple_first @ spins, self.triple_second @ spins
        centre = spins[..., :1, :]
        chiralities = centre[0] * (y * w - z * v) + centre[1] * (z * u - x * w) + centre[2] * (x * v - y * u)
        squares = (self.chirality_first @ chiralities) * (self.chirality_second @ chiralities)
        return torch.cat(
            [
                self.orbit @ bonds,
                self.product_sum @ pairs,
                self.product_sum @ (pairs * (b + c)),
                self.chirality_sum @ squares,
            ],
            -2,
        )

    def calibrate(self, mean: Tensor, mean_square: Tensor) -> None:
        """Set mean and spread, shape (F,); an invariant that does not vary keeps the spread 1."""
        spread = (mean_square - mean**2).clamp_min(0).sqrt()
        self.mean.copy_(mean)
        self.spread.copy_(torch.where(spread > 1e-5 * (1 + mean.abs()), spread, 1.0))

    def normalised(self, values: Tensor) -> Tensor:
        """Invariants (..., F, n) with mean 0 and spread 1 over the training set."""
        return (values - self.mean[:, None]) / self.spread[:, None]


def matchings(
    a: NDArray[np.float64], species_a: Sequence[str], b: NDArray[np.float64], species_b: Sequence[str]
) -> NDArray[np.int64]:
    """Ways to carry a neighbourhood into another by a rotation or reflection, sites onto sites of the same species.

    Returns
    -------
    ndarray
        Number in b of the image of each site of a, shape (isometries, M).
    """
    _, numbers = isometries(a, b)
    return numbers[(np.array(species_b)[numbers] == np.array(species_a)).all(axis=1)] if len(numbers) else numbers


def _action(group: NDArray[np.int64], pairs: list[Pair], swap: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images of pairs of sites and their signs, `swap` where the image is in reverse order; shape (|G|, pairs)."""
    number = {pair: n for n, pair in enumerate(pairs)}
    moved = group[:, np.array(pairs, dtype=np.int64).reshape(-1, 2)]
    images = [[number[min(j, k), max(j, k)] for j, k in row] for row in moved.tolist()]
    return np.array(images, dtype=np.int64), np.where(moved[..., 0] < moved[..., 1], 1, swap)


def _orbits(images: NDArray[np.int64]) -> list[list[int]]:
    return [list(orbit) for orbit in dict.fromkeys(tuple(np.unique(column).tolist()) for column in images.T)]


def _pair_sums(
    images: NDArray[np.int64], signs: NDArray[np.int64], orbits: list[list[int]]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Matrices that read the two members of pairs and sum products over equivalent pairs.

    Pairs are of one orbit, or of one with the reference orbit.
    """
    reference = max(orbits, key=len, default=[])
    wanted = [
        (orbit[0], y) for orbit in orbits for y in (orbit if orbit is reference else sorted({*orbit, *reference}))
    ]
    rows: list[dict[Pair, int]] = []
    known: set[Pair] = set()
    for x, y in wanted:
        if (min(x, y), max(x, y)) in known:
            continue
        total: dict[Pair, int] = {}
        for j, k, sign in zip(images[:, x].tolist(), images[:, y].tolist(), signs[:, x] * signs[:, y], strict=True):
            pair = (min(j, k), max(j, k))
            total[pair] = total.get(pair, 0) + int(sign)
        known.update(total)
        if any(total.values()):  # odd products cancel
            rows.append(total)
    pairs = sorted({pair for row in rows for pair in row})
    return (*_picks(pairs, images.shape[1]), _sums(rows, pairs))


def _picks(pairs: list[Pair], width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Matrices that read the first and the second of each pair."""
    index = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return np.eye(width)[index[:, 0]], np.eye(width)[index[:, 1]]


def _sums(rows: list[dict[Any, int]], columns: Iterable[Any]) -> NDArray[np.float64]:
    place = {column: n for n, column in enumerate(columns)}
    matrix = np.zeros((len(rows), len(place)))
    for n, row in enumerate(rows):
        for column, sign in row.items():
            matrix[n, place[column]] = np.sign(sign)
    return matrix
