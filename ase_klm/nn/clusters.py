"""Clusters of the sites that a centre sees, and the tables that find them in a structure."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ase_klm.nn.lattice import LatticeStars, Sites


@dataclass(frozen=True)
class Cluster:
    """Sites within R hops of a centre, ordered by the number of hops; the centre is the first.

    Attributes
    ----------
    sizes : tuple of int
        Number of sites within 0, 1, ... R hops.
    sublattices : tuple of int
        Of each site.
    paths : tuple
        (site of the cluster, displacement in its star) from which each site is reached; None for the centre.
    hops : ndarray
        Hopping amplitudes between the sites, eV, shape (M, M).
    parities : tuple of int or None
        0 or 1, the number of hops modulo 2, where the lattice is bipartite.
    """

    sizes: tuple[int, ...]
    sublattices: tuple[int, ...]
    paths: tuple[tuple[int, int] | None, ...]
    hops: np.ndarray
    parities: tuple[int, ...] | None

    @classmethod
    def around(cls, stars: LatticeStars, sublattice: int, hopping: Mapping[int, float], radius: int) -> "Cluster":
        """The cluster around a site of a sublattice, of an infinite lattice."""
        places, sublattices, sizes = [np.zeros(3)], [sublattice], [1]
        paths: list[tuple[int, int] | None] = [None]
        numbers: dict[tuple[int, ...], int] = {(0, 0, 0): 0}
        elements = []
        for shell in range(radius):
            for site in range(sizes[shell - 1] if shell else 0, sizes[shell]):
                star = stars.stars[sublattices[site]]
                for d, (vector, number) in enumerate(zip(star.displacements, star.shells, strict=True)):
                    if number not in hopping:
                        continue
                    place = places[site] + np.array(vector)
                    key = tuple(int(x) for x in np.round(place * 20 + 0.137))
                    if key not in numbers:
                        numbers[key] = len(places)
                        places.append(place)
                        sublattices.append(star.ends[d])
                        paths.append((site, d))
                    elements.append((numbers[key], site, hopping[number]))
            sizes.append(len(places))
        hops = np.zeros((len(places), len(places)))
        for to, start, t in elements:
            hops[to, start] = hops[start, to] = t
        steps = np.searchsorted(sizes, np.arange(len(places)), side="right")
        bipartite = not (hops != 0)[(steps[:, None] + steps) % 2 == 0].any()
        parities = tuple(int(n) % 2 for n in steps) if bipartite else None
        return cls(tuple(sizes), tuple(sublattices), tuple(paths), hops, parities)

    def table(self, sites: Sites, sublattice: int) -> Tensor:
        """Site numbers of the cluster around each member of the sublattice, shape (M, n)."""
        _, row = sites.rows
        rows = [sites.members[sublattice]]
        for start, d in filter(None, self.paths):
            rows.append(sites.neighbours[self.sublattices[start]][d, row[rows[start]]])
        return torch.stack(rows)
