"""Sublattices of spins that do not interact among themselves, by colouring the graph of bonds.

All spins of one colour feel fixed fields while they turn, so that a sweep over single spins is one vectorised turn a
colour. Fields of a colour are one sparse product K_c·e.
"""

import heapq
import warnings
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Sublattices:
    """Colours of the sites that turn, and fields of each colour.

    Sites are in the order of their colours, those that do not turn last: `order` gives their numbers. Rows of colour c
    are ``rows[c]``.

    Parameters
    ----------
    i, j : Tensor
        Ends of all bonds, shape (n,). Bonds with i = j are on-site terms.
    matrices : Tensor
        Those of the bonds, eV, shape (n, 3, 3), or numbers (n,) for multiples of 1. While all of them are such
        multiples, a third of the work is enough.
    turning : Tensor
        Sites that turn, bool, shape (N,).
    """

    def __init__(self, i: Tensor, j: Tensor, matrices: Tensor, turning: Tensor) -> None:
        first, second = i.cpu().numpy(), j.cpu().numpy()
        moving = turning.cpu().numpy()
        device, n = i.device, len(moving)
        colours = np.where(moving, colouring(first, second, n), np.iinfo(np.int64).max)
        order = np.argsort(colours, kind="stable")
        turning_colours = colours[order][: moving.sum()]
        _, starts = np.unique(turning_colours, return_index=True)
        edges = [*starts.tolist(), len(turning_colours)]
        self.rows = [slice(a, b) for a, b in pairwise(edges)]
        self.order = torch.tensor(order, device=device)
        rank = np.empty(n, dtype=np.int64)
        rank[order] = np.arange(n)
        self.rank = torch.tensor(rank, device=device)
        self._own = torch.nonzero(i == j)[:, 0]
        self._own_sites = i[self._own]
        self._between = torch.nonzero(i != j)[:, 0] if len(self._own) else slice(None)
        self._isotropic = self._all_isotropic(matrices)
        self._stride = matrices[:1].numel()
        self._place(first, second, rank, device)

    def _place(self, i: NDArray[np.int64], j: NDArray[np.int64], rank: NDArray[np.int64], device: torch.device) -> None:
        """Where entries of the matrices stand in the sparse K, whose rows are grouped by colour."""
        between = np.flatnonzero(i != j)
        d = 1 if self._isotropic else 3
        a, b = np.divmod(np.arange(d * d), d)
        rows = np.concatenate([rank[i[between]], rank[j[between]]])
        columns = np.concatenate([rank[j[between]], rank[i[between]]])
        first = self._stride * between[:, None]
        sources = np.concatenate([first + 3 * a + b, first + 3 * b + a])
        rows, columns = d * rows[:, None] + a, d * columns[:, None] + b
        last = d * (self.rows[-1].stop if self.rows else 0)
        kept = rows.ravel() < last
        rows, columns, sources = rows.ravel()[kept], columns.ravel()[kept], sources.ravel()[kept]
        order = np.lexsort((columns, rows))
        pointers = np.searchsorted(rows[order], np.arange(last + 1))
        self._sources = torch.tensor(sources[order], device=device)
        self._values = torch.zeros(len(order), dtype=torch.float64, device=device)
        self._products = []
        for own in self.rows:
            pointer = pointers[d * own.start : d * own.stop + 1]
            entries = slice(pointer[0], pointer[-1])
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
                self._products.append(
                    torch.sparse_csr_tensor(
                        torch.tensor(pointer - pointer[0], device=device),
                        torch.tensor(columns[order][entries], device=device),
                        self._values[entries],  # shared
                        (len(pointer) - 1, d * len(rank)),
                        check_invariants=False,
                    )
                )

    def _all_isotropic(self, matrices: Tensor) -> bool:
        if matrices.ndim == 1:
            return True
        between = matrices[self._between]
        return torch.equal(between, between[:, :1, :1] * torch.eye(3).to(between))

    def takes(self, matrices: Tensor) -> bool:
        """Whether these matrices are isotropic if the first ones were."""
        return not self._isotropic or self._all_isotropic(matrices)

    def set(self, matrices: Tensor) -> None:
        """Take the matrices (n_bonds, 3, 3), or numbers (n_bonds,), of the present positions."""
        torch.index_select(matrices.reshape(-1), 0, self._sources, out=self._values)

    def gradient(self, colour: int, e: Tensor) -> Tensor:
        """Σ_j M_ij e_j for the sites of a colour, eV, from all directions (N, 3) in the order of colours."""
        if self._isotropic:
            return self._products[colour] @ e
        return (self._products[colour] @ e.reshape(-1, 1)).reshape(-1, 3)

    def onsite(self, matrices: Tensor) -> Tensor | None:
        """A of on-site terms e·A·e, symmetric, eV, (N, 3, 3) in the order of colours; None where there are none."""
        if not len(self._own) or matrices.ndim == 1:
            return None
        blocks = matrices[self._own]
        found = blocks.new_zeros(len(self.rank), 3, 3)
        return found.index_add_(0, self.rank[self._own_sites], (blocks + blocks.mT) / 2)


def colouring(i: NDArray[np.int64], j: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """A colour for each of n sites, such that bonds join different ones.

    Next comes the site whose neighbours have most colours already (Brelaz, Commun. ACM 22, 251 (1979),
    doi:10.1145/359094.359101), so bipartite lattices get two.
    """
    apart = i != j
    ends = np.concatenate([i[apart], j[apart]]), np.concatenate([j[apart], i[apart]])
    order = np.argsort(ends[0], kind="stable")
    neighbours = np.split(ends[1][order], np.searchsorted(ends[0][order], np.arange(1, n)))
    lists = [found.tolist() for found in neighbours]
    colours = np.full(n, -1, dtype=np.int64)
    taken: list[set[int]] = [set() for _ in range(n)]
    waiting = [(0, site) for site in range(n)]
    while waiting:
        _, site = heapq.heappop(waiting)
        if colours[site] >= 0:
            continue
        colour = next(c for c in range(n) if c not in taken[site])
        colours[site] = colour
        for other in lists[site]:
            if colours[other] < 0 and colour not in taken[other]:
                taken[other].add(colour)
                heapq.heappush(waiting, (-len(taken[other]), other))
    return colours
