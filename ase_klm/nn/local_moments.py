"""Local Chebyshev moments of a Kondo Hamiltonian, μ_n(i) = <i|T_n(H/a)|i>.

Each is a 2 × 2 matrix s_n + w_n·σ: an exact function of the spins within n/2 hops of i, with a scalar s_n, even under
reversal of all spins, and a vector w_n that turns with them. They come from T_m|i> on the cluster of sites within
R hops, by T_{m+1} = 2 (H/a) T_m - T_{m-1} and the doubling μ_{m+n} = 2 <i|T_m T_n|i> - μ_{m-n}, so that R steps give
2 R moments. (A. Weisse, G. Wellein, A. Alvermann, H. Fehske, Rev. Mod. Phys. 78, 275, section II.)

A matrix element of T_m is a pair of real quaternions, q1 - i q2 (:mod:`ase_klm.nn.quaternions`). On a bipartite lattice
only one of the two differs from zero, q1 where the number of hops and the degree are both even or both odd: half of
the work, and s_n = 0 for odd n, w_n = 0 for even n.

Axes: (component, ..., site of the cluster, centre), with the four components of one quaternion or the eight of both.
"""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function

from ase_klm.nn.clusters import Cluster
from ase_klm.nn.gather import Table
from ase_klm.nn.harmonics import Terms
from ase_klm.nn.quaternions import (
    SPIN_ON_ONE,
    SPIN_ON_OTHER,
    SPIN_ON_PAIR,
    VECTOR_OF_ONE,
    VECTOR_OF_OTHER,
    VECTOR_OF_PAIR,
    Applied,
    Products,
)

CENTRES = 512
"""Centres whose clusters are propagated together: enough to fill vector units, few enough for the cache."""


class LocalMoments:
    """Local moments around the sites of one sublattice of a structure.

    Parameters
    ----------
    cluster : Cluster
    table : Tensor
        Site numbers of the cluster, shape (M, n).
    n_sites : int
        Sites of the structure.
    J : float
        Kondo coupling, eV.
    scale : float
        a, eV, not less than the largest abs(energy).
    dtype : torch.dtype
    """

    def __init__(
        self, cluster: Cluster, table: Tensor, n_sites: int, J: float, scale: float, dtype: torch.dtype
    ) -> None:
        self.sizes = cluster.sizes
        self.bipartite = cluster.parities is not None
        self.table = Table(table, n_sites)
        # 2 H/a = hops + coupling S·σ
        self.hops = torch.as_tensor(-2 * cluster.hops / scale, dtype=dtype, device=table.device)
        self.coupling = -J / scale
        # of a bipartite lattice, -1 where T_m of even m is a q1, and +1 where it is a q2
        signs = 2.0 * np.array(cluster.parities) - 1.0 if self.bipartite else np.ones(len(cluster.hops))
        self.signs = torch.as_tensor(signs, dtype=dtype, device=table.device)

    def __call__(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars (n_s, ..., n) and vectors (n_w, 3, ..., n) from moments (3, ..., n_sites).

        n_s = n_w = 2 R; on a bipartite lattice n_s = n_w = R, since the others vanish.
        """
        return self.propagated(self.table.gather(moments))

    def propagated(self, spins: Tensor) -> tuple[Tensor, Tensor]:
        """The same from the spins of the clusters, (3, ..., M, n)."""
        states = self.states(spins)
        steps = list(pairwise(states))
        s_even = 2 * torch.stack([_scalar(new, new) for _, new in steps]) - 1
        w_odd = torch.stack([self._vector(m, old, new) for m, (old, new) in enumerate(steps)])
        w_odd = 2 * w_odd - w_odd[:1]
        if self.bipartite:
            return s_even, w_odd
        s_odd = torch.stack([_scalar(old, new) for old, new in steps])
        s_odd = 2 * s_odd - s_odd[:1]
        w_even = 2 * torch.stack([self._vector(m, new, new) for m, (_, new) in enumerate(steps)])
        return _alternating(s_odd, s_even), _alternating(w_odd, w_even)

    def states(self, spins: Tensor) -> list[Tensor]:
        """T_m|i>, m = 0 ... R, on the sites within m hops, (4 or 8, ..., size, n)."""
        field = self.coupling * self.signs[:, None] * spins
        fields = [field]  # on the sites within R, R - 1, ... 0 hops
        for size in self.sizes[-2::-1]:
            fields.append(fields[-1].narrow(-2, 0, size))
        start = field.new_zeros(4 if self.bipartite else 8, *fields[-1].shape[1:])
        start[0] = 1.0
        states = [start]
        for m, (size, inner) in enumerate(zip(self.sizes[1:], fields[:0:-1], strict=True)):
            state, before = (states[m], states[m - 1]) if m else (start / 2, None)
            states.append(Applied.apply(self.hops[:size, : self.sizes[m]], inner, state, before, self._spin_terms(m)))
        return states

    def _spin_terms(self, m: int) -> Terms:
        """S·σ on T_m, apart from the signs of the sites."""
        if self.bipartite:
            return SPIN_ON_ONE if m % 2 else SPIN_ON_OTHER
        return SPIN_ON_PAIR

    def _vector(self, m: int, left: Tensor, right: Tensor) -> Tensor:
        """The vector of Σ_j left_j† right_j, (3, ..., n), with left = T_m or, where both are the same, T_(m+1)."""
        size = left.shape[-2]
        if not self.bipartite:
            return Products.apply(left, right[..., :size, :], VECTOR_OF_PAIR, 3).sum(-2)
        terms = VECTOR_OF_ONE if m % 2 else VECTOR_OF_OTHER
        return self.signs[:size] @ Products.apply(left, right[..., :size, :], terms, 3)

    def rows(self, moments: Tensor) -> Tensor:
        """s_n and the components of w_n, shape (n, K), in one row for each centre; a block of centres at a time.

        Only the spins are kept for the derivative, which propagates each block anew: memory does not grow with R.
        """
        return _Rows.apply(moments, self)

    def rows_of(self, spins: Tensor) -> Tensor:
        """The same from the spins of the clusters, (3, M, n), in one go."""
        s, w = self.propagated(spins)
        return torch.cat([s, w.flatten(0, 1)]).mT

    def rows_and_jacobian(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (n, K), and their derivatives by the spins of the cluster, (n, K, 3 M), without a graph."""
        rows, jacobians = [], []
        for block in self.table.index.split(CENTRES, 1):
            spins = moments.detach()[:, block].requires_grad_()
            with torch.enable_grad():
                found = self.rows_of(spins)
                derivatives = [
                    torch.autograd.grad(column.sum(), spins, retain_graph=True)[0].flatten(0, 1)
                    for column in found.unbind(1)
                ]
            rows.append(found.detach())
            jacobians.append(torch.stack(derivatives).permute(2, 0, 1))
        return torch.cat(rows), torch.cat(jacobians).contiguous()


class _Rows(Function):
    @staticmethod
    def forward(ctx: Any, moments: Tensor, local: LocalMoments) -> Tensor:
        ctx.save_for_backward(moments)
        ctx.local = local
        return torch.cat([local.rows_of(moments[:, block]) for block in local.table.index.split(CENTRES, 1)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (moments,) = ctx.saved_tensors
        local: LocalMoments = ctx.local
        spins = local.table.gather(moments)
        if torch.is_grad_enabled():  # a second derivative is wanted
            rows = local.rows_of(spins)
            (by_spin,) = torch.autograd.grad(rows, spins, gradient, create_graph=True)
            return local.table.sum(by_spin), None
        by_spins = []
        for some, part in zip(spins.split(CENTRES, 2), gradient.split(CENTRES), strict=True):
            with torch.enable_grad():
                block = some.detach().requires_grad_()
                rows = local.rows_of(block)
            by_spins.append(torch.autograd.grad(rows, block, part)[0])
        return local.table.sum(torch.cat(by_spins, 2)), None


def _scalar(left: Tensor, right: Tensor) -> Tensor:
    """The scalar of Σ_j left_j† right_j, (..., n)."""
    return (left * right[..., : left.shape[-2], :]).sum((0, -2))


def _alternating(odd: Tensor, even: Tensor) -> Tensor:
    """Moments of all degrees, 1 to 2 R."""
    return torch.stack([odd, even], 1).flatten(0, 1)
