"""Values of neighbours: a gather whose derivative is a gather too.

Automatic differentiation of an indexed read is a scattered addition, slow on a CPU and in random order on a GPU. Here
the table of who reads whom is inverted once, so that the adjoint is a read and a sum as well, to any order of
derivative.
"""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


class Table:
    """Which sites are read: `index` of any shape into `n_sites` sites."""

    def __init__(self, index: Tensor, n_sites: int) -> None:
        self.index, self.n_sites = index, n_sites

    @cached_property
    def readers(self) -> Tensor:
        """Places of `index` (flattened) that read each site, (most readers, n_sites); spare ones point past it."""
        flat = self.index.flatten()
        order = torch.argsort(flat, stable=True)
        counts = torch.bincount(flat, minlength=self.n_sites)
        starts = counts.cumsum(0) - counts
        most = int(counts.max()) if len(flat) else 0
        number = torch.arange(most, device=flat.device)[:, None]
        places = order[(starts + number).clamp_max(max(len(flat) - 1, 0))]
        return torch.where(number < counts, places, len(flat))

    @cached_property
    def padded(self) -> bool:
        """Whether some sites are read less often than others."""
        return bool((self.readers == self.index.numel()).any())

    def gather(self, values: Tensor) -> Tensor:
        """Values (..., n_sites) → (..., *index.shape)."""
        return _Gather.apply(values, self)

    def sum(self, values: Tensor) -> Tensor:
        """The adjoint: values (..., *index.shape) → sums over the readers of each site, (..., n_sites)."""
        return _Sum.apply(values, self)


class _Gather(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, table: Table) -> Tensor:
        ctx.table = table
        return values.index_select(-1, table.index.flatten()).unflatten(-1, table.index.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Sum.apply(gradient, ctx.table), None


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, table: Table) -> Tensor:
        ctx.table = table
        flat = values.flatten(-table.index.dim())
        if table.padded:
            flat = torch.cat([flat, flat.new_zeros((*flat.shape[:-1], 1))], -1)
        return flat.index_select(-1, table.readers.flatten()).unflatten(-1, table.readers.shape).sum(-2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(gradient, ctx.table), None


def neighbour_sum(values: Tensor, neighbours: Tensor) -> Tensor:
    """Σ over neighbours of rows (n, channels); neighbours (most, n), spare places hold n.

    Neighbourhood is mutual, so that the sum is its own adjoint.
    """
    return _NeighbourSum.apply(values, neighbours)


class _NeighbourSum(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, neighbours: Tensor) -> Tensor:
        ctx.neighbours = neighbours
        if bool((neighbours[-1] == len(values)).any()):
            values = torch.cat([values, values.new_zeros((1, *values.shape[1:]))])
        total = values.index_select(0, neighbours[0])
        for row in neighbours[1:]:
            total += values.index_select(0, row)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _NeighbourSum.apply(gradient, ctx.neighbours), None
