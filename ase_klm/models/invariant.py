"""Fully connected network of rotation-invariant products of the spins around a site: the baseline of local models.

P. Zhang and G.-W. Chern, Phys. Rev. Lett. 127, 146401 (2021), arXiv:2105.08221; the theory of its descriptors is in
P. Zhang, S. Zhang, G.-W. Chern, arXiv:2201.00798. Within a neighbourhood the spins enter as bond variables and scalar
chiralities,

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
from dataclasses import dataclass
from itertools import combinations, pairwise, product
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ase_klm.errors import KLMError
from ase_klm.models.base import Labels, LocalNetwork
from ase_klm.nn.gather import Table
from ase_klm.nn.lattice import TOLERANCE, LatticeStars, Sites
from ase_klm.nn.local_moments import Cluster

Pair = tuple[int, int]


@dataclass(frozen=True)
class Neighbourhoods:
    """Sites around the centres of each class, shape (M, n), and the place of each site among all centres."""

    around: tuple[Table, ...]
    order: Table


class InvariantNetwork(LocalNetwork):
    """Site energies from invariants of the spins within some bonds.

    Sublattices whose neighbourhoods are images of each other by a rotation or reflection share one network, so that the
    energy has the full symmetry of the lattice.

    Parameters
    ----------
    lattice : LatticeStars
        Its bonds, of all shells, count the distance from the centre.
    radius : int
        Bonds between the centre and the farthest sites of its neighbourhood.
    hidden : sequence of int
        Hidden widths of the fully connected network.
    """

    def __init__(self, lattice: LatticeStars, radius: int = 3, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__(lattice)
        if radius < 1 or any(width < 1 for width in hidden) or not all(map(len, lattice.stars)):
            raise KLMError(
                f"no network of invariants with radius={radius}, hidden={tuple(hidden)} on this lattice",
                "every site needs neighbours within a radius of 1 or more bonds, and layers a positive width",
                "for instance radius=3, hidden=(64, 64), and shells that join all sites",
            )
        self.radius, self.hidden = radius, tuple(hidden)
        self.clusters = [
            Cluster.around(lattice, a, dict.fromkeys(lattice.shells, 1.0), radius) for a in range(len(lattice.stars))
        ]
        # classes of equivalent sublattices: (sublattice, its sites in the order of the first of the class)
        self.classes: list[list[tuple[int, NDArray[np.int64]]]] = []
        self.invariants, self.perceptrons = nn.ModuleList(), nn.ModuleList()
        for a, cluster in enumerate(self.clusters):
            for members in self.classes:
                images = isometries(*self._sites(members[0][0]), *self._sites(a))
                if len(images):
                    members.append((a, images[0]))
                    break
            else:
                self.classes.append([(a, np.arange(cluster.sizes[-1]))])
                invariants = Invariants(*self._sites(a))
                self.invariants.append(invariants)
                self.perceptrons.append(_perceptron([len(invariants.mean), *hidden, 1]))

    @property
    def _by_class(self) -> "list[Invariants]":
        return cast("list[Invariants]", list(self.invariants))

    def _sites(self, sublattice: int) -> tuple[NDArray[np.float64], list[str]]:
        """Places and species of the sites around one of a sublattice."""
        cluster, stars = self.clusters[sublattice], self.lattice.stars
        places = [np.zeros(3)]
        for start, d in filter(None, cluster.paths):
            places.append(places[start] + stars[cluster.sublattices[start]].displacements[d])
        return np.array(places), [stars[a].species for a in cluster.sublattices]

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {"radius": self.radius, "hidden": list(self.hidden)}

    @property
    def reach(self) -> int:
        return self.radius

    def tables(self, sites: Sites, hamiltonian: Any = None) -> Neighbourhoods:
        device = self.energy_shift.device
        tables = [
            torch.cat([self.clusters[a].table(sites, a)[torch.as_tensor(images)] for a, images in members], 1)
            for members in self.classes
        ]
        order = torch.argsort(torch.cat([table[0] for table in tables]))
        return Neighbourhoods(
            tuple(Table(table.to(device), len(sites)) for table in tables), Table(order.to(device), len(sites))
        )

    def site_terms(self, moments: Tensor, placed: Neighbourhoods) -> Tensor:
        energies = [
            perceptron(invariants.normalised(values).mT)[..., 0]
            for invariants, perceptron, values in zip(
                self._by_class, self.perceptrons, self._values(moments, placed), strict=True
            )
        ]
        return placed.order.gather(torch.cat(energies, -1)).view(moments.shape[:-1])

    def calibrate(self, sets: Sequence[tuple[Labels, Neighbourhoods]]) -> None:
        """As in the base class; and mean and spread of the invariants over the training set."""
        super().calibrate(sets)
        device = self.energy_shift.device
        with torch.no_grad():
            sums = [torch.zeros(2, len(i.mean), dtype=torch.float64, device=device) for i in self._by_class]
            counts = [0] * len(sums)
            for labels, placed in sets:
                for configuration in labels.moments:
                    for number, values in enumerate(self._values(configuration, placed)):
                        sums[number] += torch.stack([values, values**2]).double().sum((1, -1))
                        counts[number] += values.shape[-1]
            for invariants, count, (first, second) in zip(self._by_class, counts, sums, strict=True):
                if count:
                    invariants.calibrate(first / count, second / count)

    def _values(self, moments: Tensor, placed: Neighbourhoods) -> list[Tensor]:
        """Invariants of each class, shape (batch, F, n)."""
        spins = moments.reshape(-1, *moments.shape[-2:]).movedim(-1, 0)  # (3, batch, N)
        return [
            invariants(table.gather(spins)) for invariants, table in zip(self._by_class, placed.around, strict=True)
        ]


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
        group = isometries(places, species, places, species)
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


def isometries(
    a: NDArray[np.float64], species_a: Sequence[str], b: NDArray[np.float64], species_b: Sequence[str]
) -> NDArray[np.int64]:
    """Rotations and reflections about the origin that carry sites a into sites b of the same species.

    Parameters
    ----------
    a, b : ndarray
        Shape (M, 3).
    species_a, species_b : sequence of str

    Returns
    -------
    ndarray
        Number in b of the image of each site of a, shape (isometries, M).
    """
    if len(a) != len(b):
        return np.zeros((0, len(a)), dtype=np.int64)
    basis: list[int] = []
    for site in range(len(a)):
        if np.linalg.matrix_rank(a[[*basis, site]], tol=TOLERANCE) > len(basis):
            basis.append(site)
    gram = a[basis] @ a[basis].T
    lengths = (b**2).sum(1)
    candidates = [np.flatnonzero(abs(lengths - gram[i, i]) < TOLERANCE) for i in range(len(basis))]
    kinds_a, kinds_b = np.array(species_a), np.array(species_b)
    coordinates = a @ np.linalg.pinv(a[basis])
    found = []
    for images in map(list, product(*candidates)):
        if np.abs(b[images] @ b[images].T - gram).max() > TOLERANCE:
            continue
        distances = np.linalg.norm((coordinates @ b[images])[:, None] - b, axis=-1)
        numbers = distances.argmin(1)
        if distances.min(1).max() < TOLERANCE and (kinds_b[numbers] == kinds_a).all():
            found.append(numbers)
    return np.array(found, dtype=np.int64).reshape(-1, len(a))


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


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.SiLU(), nn.Linear(width, following)]
    return nn.Sequential(*layers[1:])
