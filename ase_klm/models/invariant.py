"""Fully connected network of rotation-invariant products of the spins around a site: the baseline of local models.

P. Zhang and G.-W. Chern, Phys. Rev. Lett. 127, 146401 (2021), arXiv:2105.08221. What it sees of the spins is in
:mod:`ase_klm.nn.invariants`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ase_klm.errors import KLMError
from ase_klm.models.base import LocalNetwork
from ase_klm.models.labels import Labels
from ase_klm.nn.clusters import Cluster
from ase_klm.nn.gather import Table
from ase_klm.nn.invariants import Invariants, matchings
from ase_klm.nn.lattice import LatticeStars, Sites


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
                found = matchings(*self._sites(members[0][0]), *self._sites(a))
                if len(found):
                    members.append((a, found[0]))
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
            torch.cat([self.clusters[a].table(sites, a)[torch.as_tensor(numbers)] for a, numbers in members], 1)
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

    def calibrate(self, labels: Sequence[Labels]) -> None:
        """As in the base class; and mean and spread of the invariants over the training set."""
        super().calibrate(labels)
        device = self.energy_shift.device
        with torch.no_grad():
            sums = [torch.zeros(2, len(i.mean), dtype=torch.float64, device=device) for i in self._by_class]
            counts = [0] * len(sums)
            for one in labels:
                for configuration in one.moments:
                    for number, values in enumerate(self._values(configuration, one.placed)):
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


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in pairwise(widths):
        layers += [nn.SiLU(), nn.Linear(width, following)]
    return nn.Sequential(*layers[1:])
