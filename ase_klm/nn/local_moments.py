"""Local Chebyshev moments of a Kondo Hamiltonian, μ_n(i) = <i|T_n(H/a)|i>.

Each is a 2 × 2 matrix s_n + w_n·σ: an exact function of the spins within n/2 hops of i, with a scalar s_n, even under
reversal of all spins, and a vector w_n that turns with them. They come from T_m|i> on the cluster of sites within
R hops, by T_{m+1} = 2 (H/a) T_m - T_{m-1} and the doubling μ_{m+n} = 2 <i|T_m T_n|i> - μ_{m-n}, so that R steps give 2 R
moments. (A. Weisse, G. Wellein, A. Alvermann, H. Fehske, Rev. Mod. Phys. 78, 275, section II.)

A matrix element of T_m is a pair of real quaternions, q1 - i q2 with q = a + i b·σ, and S·σ = -i (i S·σ), so that

    S·σ (q1 - i q2) = -(0, S) q2 - i (0, S) q1.

On a bipartite lattice only one of the two differs from zero, q1 where the number of hops and the degree are both even or
both odd: half of the work, and s_n = 0 for odd n, w_n = 0 for even n.

Axes: (pair, quaternion component, ..., site of the cluster, centre).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn.functional import pad

from ase_klm.nn.gather import Table
from ase_klm.nn.lattice import LatticeStars, Sites

CENTRES = 256
"""Centres whose clusters are propagated together: enough to fill vector units, few enough for the cache."""


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
        places, sublattices, paths, sizes = [np.zeros(3)], [sublattice], [None], [1]
        numbers = {(0, 0, 0): 0}
        elements = []
        for shell in range(radius):
            for site in range(sizes[shell - 1] if shell else 0, sizes[shell]):
                star = stars.stars[sublattices[site]]
                for d, (vector, number) in enumerate(zip(star.displacements, star.shells, strict=True)):
                    if number not in hopping:
                        continue
                    place = places[site] + np.array(vector)
                    key = tuple(int(x) for x in np.round(place * 20))
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
        for path in self.paths[1:]:
            start, d = path
            rows.append(sites.neighbours[self.sublattices[start]][d, row[rows[start]]])
        return torch.stack(rows)


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
        self.hops = torch.as_tensor(-cluster.hops / scale, dtype=dtype, device=table.device)
        # sign of (0, S) φ by where it lands: -1 in q1, +1 in q2
        signs = np.array([[-1.0], [1.0]]) if cluster.parities is None else -1.0 + 2.0 * np.array([cluster.parities])
        self.signs = torch.as_tensor(signs, dtype=dtype, device=table.device)[:, None, :, None]  # (pair, 1, M, 1)
        self.coupling = -J / 2 / scale

    def __call__(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars (n_s, ..., n) and vectors (n_w, 3, ..., n) from moments (3, ..., n_sites).

        n_s = n_w = 2 R; on a bipartite lattice n_s = n_w = R, since the others vanish.
        """
        return self.propagated(self.table.gather(moments))

    def propagated(self, spins: Tensor) -> tuple[Tensor, Tensor]:
        """The same from the spins of the clusters, (3, ..., M, n)."""
        field = self.coupling * spins
        extra = (1,) * (field.dim() - 3)
        signs = self.signs.view(self.signs.shape[0], 1, *extra, self.signs.shape[2], 1)
        pairs = 1 if self.bipartite else 2
        identity = field.new_zeros(pairs, 4, *field.shape[1:-2], 1, field.shape[-1])
        identity[0, 0] = 1.0
        older, old = None, identity
        scalars: list[Tensor] = []
        vectors: list[Tensor] = []
        first: tuple[Tensor | None, Tensor | None] = (None, None)
        for step, size in enumerate(self.sizes[1:]):
            inner = self.sizes[step]
            sign = signs[..., :inner, :] if self.bipartite else signs
            sign = -sign if self.bipartite and step % 2 == 0 else sign
            new = self.hops[:size, :inner] @ old
            coupled = sign * _product(field[..., :inner, :], old.flip(0) if pairs == 2 else old)
            new = new + pad(coupled, (0, 0, 0, size - inner))
            if older is not None:
                new = 2 * new - pad(older, (0, 0, 0, size - older.shape[-2]))
            outer = signs[..., :size, :] if self.bipartite else signs
            outer = -outer if self.bipartite and step % 2 == 0 else outer
            for left, right, subtracted in ((old, new[..., :inner, :], first), (new, new, (1.0, None))):
                same = left is right
                if not self.bipartite or same:
                    s = 2 * (left * right).sum(dim=(0, 1, -2))
                    scalars.append(s - subtracted[0] if subtracted[0] is not None else s / 2)
                if not self.bipartite or not same:
                    w = 2 * _vector(left, right, sign, pairs)
                    vectors.append(w - subtracted[1] if subtracted[1] is not None else w if same else w / 2)
            if step == 0:
                first = (None if self.bipartite else scalars[0], vectors[0])
            older, old = old, new
        return torch.stack(scalars), torch.stack(vectors)

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


def _product(field: Tensor, q: Tensor) -> Tensor:
    """(0, S) q of quaternions: S (3, ..., M, n), q (pair, 4, ..., M, n)."""
    a, bx, by, bz = q.unbind(1)
    x, y, z = field
    return torch.stack(
        [-(x * bx + y * by + z * bz), x * a - (y * bz - z * by), y * a - (z * bx - x * bz), z * a - (x * by - y * bx)],
        1,
    )


def _vector(left: Tensor, right: Tensor, sign: Tensor, pairs: int) -> Tensor:
    """Vector w of Σ_j left_j† right_j, shape (3, ..., n): from the products of q1 with q2, which it is made of."""
    partner = (left.flip(0) if pairs == 2 else left) * sign
    a, x, y, z = partner.unbind(1)
    c, u, v, w = right.unbind(1)
    # vector part of the product of the conjugate of (a; x, y, z) with (c; u, v, w)
    return torch.stack(
        [
            (a * u - c * x + (y * w - z * v)).sum(dim=(0, -2)),
            (a * v - c * y + (z * u - x * w)).sum(dim=(0, -2)),
            (a * w - c * z + (x * v - y * u)).sum(dim=(0, -2)),
        ]
    )
