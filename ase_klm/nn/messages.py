"""Scalars and vectors of sites, passed between neighbours.

Scalars h_i (channels) and vectors V_i (vector channels) go through a layer as

    M_i = Σ_shells Σ_j W V_j,   h_i += MLP(h_i, Σ_j U h_j, V·M, M·M, V·V),   V_i += g(h_i) A V_i + g'(h_i) A' M_i.
"""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from ase_klm.nn.gather import neighbour_sum


class MessageLayer(nn.Module):
    """Exchange of scalars and vectors between neighbours; see the top of the module."""

    def __init__(self, channels: int, vectors: int, hidden: int, shells: int, last: bool) -> None:
        super().__init__()
        self.send = nn.Linear(channels, shells * (hidden // 2), bias=False)
        self.send_vectors = nn.Parameter(torch.randn(vectors, shells * vectors) / (4 * shells * vectors) ** 0.5)
        self.update = perceptron(channels + hidden // 2 + 3 * vectors, hidden, channels)
        self.gates = None if last else nn.Linear(channels, 2 * vectors)
        if not last:
            self.turn = nn.Parameter(torch.randn(2, vectors, vectors) / vectors**0.5)

    def forward(self, h: Tensor, v: Tensor, neighbours: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Scalars (n_sites, channels) and vectors (n_sites, 3, vectors)."""
        sent = self.send(h).chunk(len(neighbours), 1)
        message = _over_shells(sent, neighbours)
        sent = (v @ self.send_vectors).chunk(len(neighbours), 2)
        m = _over_shells(sent, neighbours)
        products = torch.cat([(v * m).sum(1), (m * m).sum(1), (v * v).sum(1)], 1)
        h = h + self.update(torch.cat([h, message, products], 1))
        if self.gates is None:
            return h, v
        own, other = self.gates(h)[:, None].chunk(2, 2)
        return h, v + own * (v @ self.turn[0]) + other * (m @ self.turn[1])


def _over_shells(sent: Sequence[Tensor], neighbours: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, map(neighbour_sum, sent, neighbours))


def perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """One hidden layer."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))
