"""Neighbours of the sites of a structure and of its replicas, sublattice by sublattice."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ase_klm.nn.gather import Table
from ase_klm.nn.lattice import Sites


class Neighbourhoods:
    """Tables of neighbours, with the sites laid out by sublattices, so that each sublattice is one stretch of sites.

    Replicas of the structure follow each other within a sublattice: site number k of replica b of a sublattice of n
    sites stands at start + b n + k.
    """

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        self.device = sites.members[0].device
        self.inverse = torch.argsort(torch.cat(sites.members))
        self.sublattice, self.number = sites.rows
        self.sizes = torch.tensor([len(members) for members in sites.members], device=self.device)
        self.starts = self.sizes.cumsum(0) - self.sizes
        self._tables: dict[int, list[Table]] = {}

    def __len__(self) -> int:
        return len(self.inverse)

    def stretches(self, replicas: int) -> list[slice]:
        """Where the sites of each sublattice stand."""
        starts, sizes = (replicas * self.starts).tolist(), (replicas * self.sizes).tolist()
        return [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]

    def laid_out(self, moments: Tensor) -> Tensor:
        """Moments (replicas, N, 3) as (3, replicas · N)."""
        return torch.cat([moments[:, members].reshape(-1, 3) for members in self.sites.members]).mT.contiguous()

    def site_values(self, values: Tensor, replicas: int) -> Tensor:
        """Values (replicas · N) in the order of the structure, (replicas, N)."""
        parts = [values[stretch].view(replicas, -1) for stretch in self.stretches(replicas)]
        return torch.cat(parts, 1)[:, self.inverse]

    def lifted(self, index: Tensor, replicas: int) -> Tensor:
        """Site numbers (..., n) as places in the layout of all replicas, (..., replicas · n)."""
        a = self.sublattice[index]
        place = replicas * self.starts[a] + self.number[index]
        step = torch.arange(replicas, device=self.device)[:, None] * self.sizes[a][..., None, :]
        return (place[..., None, :] + step).flatten(-2)

    def tables(self, replicas: int) -> list[Table]:
        """Who reads whom: index (D + 1, replicas · n) of each sublattice, the site itself before its D neighbours."""
        if replicas not in self._tables:
            self._tables[replicas] = [
                Table(self.lifted(torch.cat([own[None], others]), replicas), replicas * len(self))
                for own, others in zip(self.sites.members, self.sites.neighbours, strict=True)
            ]
        return self._tables[replicas]


def shell_tables(places: Neighbourhoods, shells: Sequence[Sequence[int]], replicas: int) -> list[Tensor]:
    """Places of the neighbours of all sites in each shell, (largest number, total), padded with the total.

    Parameters
    ----------
    shells : sequence
        Shell of each displacement of each sublattice's star.
    """
    total = replicas * len(places)
    tables = []
    for shell in sorted({number for star in shells for number in star}):
        columns = []
        for star, others in zip(shells, places.sites.neighbours, strict=True):
            chosen = [d for d, number in enumerate(star) if number == shell]
            columns.append(places.lifted(others[chosen], replicas))
        most = max(len(column) for column in columns)
        padded = [torch.nn.functional.pad(column, (0, 0, 0, most - len(column)), value=total) for column in columns]
        tables.append(torch.cat(padded, 1))
    return tables
