"""What a lattice looks like from its sites: stars of displacements, and tables of neighbours.

Two sites are of one kind (a *sublattice*) when they carry the same species and see neighbours at the same displacements.
Weights of a lattice network belong to a sublattice and a displacement, so they know every lattice that has the same
stars, whatever its size and the shape of its cell. Displacements are in units of the shortest bond.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.graphs import neighbour_shells

TOLERANCE = 0.02
"""Displacements that agree within this fraction of the shortest bond are the same."""


@dataclass(frozen=True)
class Star:
    """Neighbours of the sites of one sublattice.

    Attributes
    ----------
    species : str
        Chemical symbol of the site.
    displacements : tuple
        D vectors in units of the shortest bond, ordered by shell.
    shells : tuple of int
        Shell of each displacement.
    ends : tuple of int
        Sublattice of each neighbour.
    """

    species: str
    displacements: tuple[tuple[float, float, float], ...]
    shells: tuple[int, ...]
    ends: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.displacements)


@dataclass(frozen=True)
class Sites:
    """Sites of a structure by sublattice, with their neighbours.

    Attributes
    ----------
    members : tuple of Tensor
        Site numbers of each sublattice, shape (n_a,).
    neighbours : tuple of Tensor
        Site numbers at each displacement of the star, shape (D_a, n_a).
    """

    members: tuple[Tensor, ...]
    neighbours: tuple[Tensor, ...]

    def __len__(self) -> int:
        return sum(map(len, self.members))

    def to(self, device: torch.device | str) -> "Sites":
        """Copy on a device."""
        return Sites(tuple(m.to(device) for m in self.members), tuple(n.to(device) for n in self.neighbours))


@dataclass(frozen=True)
class LatticeStars:
    """The stars of all sublattices: what a network knows of its lattice."""

    stars: tuple[Star, ...]

    @property
    def shells(self) -> tuple[int, ...]:
        """Neighbour shells that take part."""
        return tuple(sorted({shell for star in self.stars for shell in star.shells}))

    @cached_property
    def reverse(self) -> tuple[tuple[int, ...], ...]:
        """For each sublattice and displacement d to b, the number of -d in the star of b."""
        return tuple(
            tuple(
                self._number(end, tuple(-x for x in vector))
                for vector, end in zip(star.displacements, star.ends, strict=True)
            )
            for star in self.stars
        )

    def _number(self, sublattice: int, vector: tuple[float, ...]) -> int:
        distances = np.abs(np.array(self.stars[sublattice].displacements) - np.array(vector)).max(1)
        return int(np.argmin(distances))

    @classmethod
    def of(cls, atoms: Atoms, shells: Iterable[int]) -> "LatticeStars":
        """The stars of a structure, by the neighbour shells counted from 1."""
        return _classified(atoms, shells)[0]

    def place(self, atoms: Atoms) -> Sites:
        """Find sublattices and neighbours of a structure.

        Raises
        ------
        KLMError
            When the structure has other species, or sites that see other displacements.
        """
        found, sites = _classified(atoms, self.shells)
        order = [self._matching(star, [star.ends for star in found.stars], found) for star in found.stars]
        members = [
            [sites.members[a] for a, known in enumerate(order) if known == sublattice]
            for sublattice in range(len(self.stars))
        ]
        neighbours = [
            [sites.neighbours[a] for a, known in enumerate(order) if known == sublattice]
            for sublattice in range(len(self.stars))
        ]
        empty = torch.zeros(0, dtype=torch.int64)
        return Sites(
            tuple(m[0] if m else empty for m in members),
            tuple(n[0] if n else empty[None].expand(len(s), 0) for n, s in zip(neighbours, self.stars, strict=True)),
        )

    def _matching(self, star: Star, _: Any, found: "LatticeStars") -> int:
        for number, known in enumerate(self.stars):
            if known.species == star.species and _same_star(known, star):
                return number
        species = sorted({known.species for known in self.stars})
        if star.species not in species:
            raise KLMError(
                f"this network does not know the species {star.species}",
                f"it was trained on sites of {', '.join(species)}",
                f'build the lattice with symbol="{species[0]}", or train a network for yours',
            )
        raise KLMError(
            "this network was trained on another lattice",
            f"a site of {star.species} sees {len(star)} neighbours at {_listed(star)} (in units of the shortest bond),"
            f" and the network knows {' or '.join(_listed(known) for known in self.stars)}",
            "use the lattice of its card, with periodic boundaries, or train a network for yours",
        )


def _same_star(a: Star, b: Star) -> bool:
    return (
        len(a) == len(b)
        and a.shells == b.shells
        and bool(np.abs(np.array(a.displacements) - np.array(b.displacements)).max(initial=0.0) < TOLERANCE)
    )


def _listed(star: Star) -> str:
    vectors = ", ".join("(" + ", ".join(f"{x:.3g}" for x in vector) + ")" for vector in star.displacements[:8])
    return vectors + (", ..." if len(star) > 8 else "")


def _classified(atoms: Atoms, shells: Iterable[int]) -> tuple[LatticeStars, Sites]:
    """Sublattices of a structure, each site's star, and the tables of neighbours."""
    bonds = neighbour_shells(atoms, shells)
    unit = bonds.distances.min() if len(bonds) else 1.0
    start = np.concatenate([bonds.i, bonds.j])
    end = np.concatenate([bonds.j, bonds.i])
    vectors = np.concatenate([bonds.vectors, -bonds.vectors]) / unit
    shell = np.concatenate([bonds.shells, bonds.shells])
    kinds, kind = _distinct(vectors, shell)
    order = np.lexsort((kind, start))
    start, end, kind = start[order], end[order], kind[order]
    seen = np.zeros((len(atoms), len(kinds) + 1), dtype=np.int64)
    seen[:, -1] = atoms.numbers
    np.add.at(seen, (start, kind), 1)
    patterns, sublattice = np.unique(seen, axis=0, return_inverse=True)
    sublattice = sublattice.reshape(-1)
    _, first_seen = np.unique(sublattice, return_index=True)
    rank = np.argsort(np.argsort(first_seen))  # sublattices in the order of their first site
    sublattice = rank[sublattice]
    first = np.searchsorted(start, np.arange(len(atoms)))
    stars, members, neighbours = [], [], []
    for a in range(len(patterns)):
        sites = np.flatnonzero(sublattice == a)
        count = int(seen[sites[0], :-1].sum())
        table = end[first[sites] + np.arange(count)[:, None]]  # (D, n)
        own = kind[first[sites[0]] + np.arange(count)]
        stars.append(
            Star(
                atoms.symbols[sites[0]],
                tuple(tuple(float(x) for x in kinds[k][1:]) for k in own),
                tuple(int(kinds[k][0]) for k in own),
                tuple(int(sublattice[table[d, 0]]) for d in range(count)),
            )
        )
        members.append(torch.as_tensor(sites))
        neighbours.append(torch.as_tensor(table))
    return LatticeStars(tuple(stars)), Sites(tuple(members), tuple(neighbours))


def _distinct(vectors: NDArray[np.float64], shell: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct (shell, displacement), ordered by shell and then by angle-like coordinates, and the number of each."""
    grid = np.column_stack([shell, np.round(vectors / TOLERANCE)]).astype(np.int64)
    _, first, number = np.unique(grid, axis=0, return_index=True, return_inverse=True)
    table = np.column_stack([shell[first], np.round(vectors[first], 9)])
    return table, number.reshape(-1)
