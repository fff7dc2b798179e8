"""What a lattice looks like from its sites: stars of displacements, and tables of neighbours.

Two sites are of one kind (a *sublattice*) when they carry the same species and see neighbours at the same
displacements. Weights of a lattice network belong to a sublattice and a displacement, so they know every lattice that
has the same stars, whatever its size and the shape of its cell. Displacements are in units of the shortest bond.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.graphs import neighbour_shells
from ase_klm.nn.grid import Grid, cells_in_order, grid_offsets

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
        Site numbers of each sublattice, shape (n_a,); in the order of the grid where there is one, not in that of the
        structure.
    neighbours : tuple of Tensor
        Site numbers at each displacement of the star, shape (D_a, n_a).
    grid : Grid or None
        Where the members of each sublattice, as they are listed, fill a regular grid.
    """

    members: tuple[Tensor, ...]
    neighbours: tuple[Tensor, ...]
    grid: Grid | None = None

    def __len__(self) -> int:
        return sum(map(len, self.members))

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Sublattice of each site, and its number there."""
        sublattice, row = torch.empty((2, len(self)), dtype=torch.int64, device=self.members[0].device)
        for a, members in enumerate(self.members):
            sublattice[members] = a
            row[members] = torch.arange(len(members), device=members.device)
        return sublattice, row

    def restricted(self, chosen: Tensor) -> "Sites":
        """Some of the sites, numbered anew in the order given; a neighbour that is left out becomes the site itself."""
        number = torch.full((len(self),), -1)
        number[chosen] = torch.arange(len(chosen))
        sublattice, row = self.rows
        own, neighbours = [], []
        for a, table in enumerate(self.neighbours):
            some = torch.nonzero(sublattice[chosen] == a)[:, 0]
            found = number[table[:, row[chosen[some]]]]
            own.append(some)
            neighbours.append(torch.where(found < 0, some, found))
        return Sites(tuple(own), tuple(neighbours))

    def around(self, chosen: Tensor, bonds: int) -> Tensor:
        """The sites chosen and all within some bonds of them, in the order in which they are met."""
        met = torch.zeros(len(self), dtype=torch.bool)
        met[chosen] = True
        found, edge = [chosen], chosen
        sublattice, row = self.rows
        for _ in range(bonds):
            reached = torch.cat(
                [table[:, row[edge[sublattice[edge] == a]]].flatten() for a, table in enumerate(self.neighbours)]
            )
            reached = reached[~met[reached]]
            met[reached] = True
            edge = _first_occurrences(reached)
            found.append(edge)
        return torch.cat(found)

    def to(self, device: torch.device | str) -> "Sites":
        """Copy on a device."""
        members, neighbours = (tuple(part.to(device) for part in parts) for parts in (self.members, self.neighbours))
        return Sites(members, neighbours, self.grid)


@dataclass(frozen=True)
class LatticeStars:
    """The stars of all sublattices: what a network knows of its lattice."""

    stars: tuple[Star, ...]

    @property
    def shells(self) -> tuple[int, ...]:
        """Neighbour shells that take part."""
        return tuple(sorted({shell for star in self.stars for shell in star.shells}))

    @classmethod
    def of(cls, atoms: Atoms, shells: Iterable[int]) -> "LatticeStars":
        """The stars of a structure, by the neighbour shells counted from 1."""
        return _classified(atoms, shells)[0]

    def place(self, atoms: Atoms) -> Sites:
        """Find sublattices and neighbours of a structure; on a regular grid, members are listed in its order.

        Raises
        ------
        KLMError
            When the structure has other species, or sites that see other displacements.
        """
        sites = self._placed(atoms)
        found = cells_in_order(atoms)
        if found is None or len({len(members) for members in sites.members}) > 1:
            return sites
        shape, places = found
        orders = [torch.as_tensor(np.argsort(places[members])) for members in sites.members]
        members = tuple(m[order] for m, order in zip(sites.members, orders, strict=True))
        neighbours = tuple(table[:, order] for table, order in zip(sites.neighbours, orders, strict=True))
        grid = grid_offsets(shape, [table.numpy() for table in neighbours], places, [s.ends for s in self.stars])
        return Sites(members, neighbours, grid)

    def _placed(self, atoms: Atoms) -> Sites:
        found, sites = _classified(atoms, self.shells)
        kinds = [self._matching(star) for star in found.stars]
        missing = [star for a, star in enumerate(self.stars) if a not in kinds]
        if missing:
            raise KLMError(
                "this network was trained on a lattice with more kinds of sites",
                f"no site here sees {_listed(missing[0])} (in units of the shortest bond)",
                "use the lattice of its card, or train a network for yours",
            )
        members, neighbours = [], []
        for a in range(len(self.stars)):  # rounding may tell sites apart that see the same star
            alike = [number for number, kind in enumerate(kinds) if kind == a]
            own = torch.cat([sites.members[number] for number in alike])
            order = own.argsort()
            members.append(own[order])
            neighbours.append(torch.cat([sites.neighbours[number] for number in alike], dim=1)[:, order])
        return Sites(tuple(members), tuple(neighbours))

    def _matching(self, star: Star) -> int:
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


def _first_occurrences(values: Tensor) -> Tensor:
    """Distinct values in the order in which they come."""
    _, first = np.unique(values.numpy(), return_index=True)
    return values[torch.as_tensor(np.sort(first))]


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
                tuple((float(x), float(y), float(z)) for _, x, y, z in kinds[own]),
                tuple(int(kinds[k][0]) for k in own),
                tuple(int(sublattice[table[d, 0]]) for d in range(count)),
            )
        )
        members.append(torch.as_tensor(sites))
        neighbours.append(torch.as_tensor(table))
    return LatticeStars(tuple(stars)), Sites(tuple(members), tuple(neighbours))


def _distinct(vectors: NDArray[np.float64], shell: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct (shell, displacement), ordered by shell and then by angle-like coordinates, and the number of each."""
    # simple fractions of a bond lie half-way between two whole numbers, where rounding noise decides: hence the shift
    grid = np.column_stack([shell, np.round(vectors / TOLERANCE + 0.137)]).astype(np.int64)
    _, first, number = np.unique(grid, axis=0, return_index=True, return_inverse=True)
    table = np.column_stack([shell[first], np.round(vectors[first], 9)])
    return table, number.reshape(-1)
