"""Spherical tensors of spins, in the order and phases of e3nn.

Solid harmonics abs(m)^l Y_l(e) are polynomials of the moment, smooth through m = 0, with Y_l·Y_l = 2l + 1 on the unit
sphere ("component" normalisation). The parity of an `e3nn.o3.Irreps` here means the sign under reversal of all spins,
time reversal: a spin is 1o.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from e3nn import o3
from torch import Tensor
from torch.autograd import Function


@cache
def coupling(l1: int, l2: int, l3: int) -> Tensor:
    """Coefficients that couple degrees l1 and l2 to l3, shape (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), float64.

    They are sqrt(2 l3 + 1) times Wigner's 3j symbols: independent components of variance 1 couple to variance 1.
    """
    return o3.wigner_3j(l1, l2, l3, dtype=torch.float64) * (2 * l3 + 1) ** 0.5


Terms = tuple[tuple[int, int, int, float], ...]
"""Non-zero coefficients of a coupling: components of both factors and of the product, and the coefficient."""


def _non_zero(table: Tensor) -> Terms:
    found = torch.nonzero(table.abs() > 1e-12).tolist()
    return tuple((m, f, o, float(table[m, f, o])) for m, f, o in found)


@cache
def terms(l1: int, l2: int, l3: int) -> Terms:
    """The non-zero entries of `coupling`."""
    return _non_zero(coupling(l1, l2, l3))


@cache
def _raising(l: int) -> Terms:
    """Coefficients of Y_(l+1) in products of Y_l and Y_1."""
    pole = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    lower, one = (o3.spherical_harmonics(k, pole, normalize=False, normalization="component") for k in (l, 1))
    higher = o3.spherical_harmonics(l + 1, pole, normalize=False, normalization="component")
    coefficients = coupling(l, 1, l + 1)
    product = torch.einsum("i,j,ijk->k", lower, one, coefficients)
    return _non_zero(coefficients * (higher @ product) / (product @ product))


class SolidHarmonics:
    """Y_0 ... Y_degree of moments (3, ...): tensors of shape (2 l + 1, ...)."""

    def __init__(self, degree: int) -> None:
        self.raising = [_raising(l) for l in range(degree)]

    def __call__(self, moments: Tensor) -> list[Tensor]:
        one = 3**0.5 * moments
        found = [torch.ones_like(moments[:1]), one]
        for l, raising in enumerate(self.raising[1:], start=1):
            found.append(coupled([found[l]], [one], [raising], l + 1))
        return found[: len(self.raising) + 1]


def coupled(parts: Sequence[Tensor], spins: Sequence[Tensor | None], sparse: Sequence[Terms], degree: int) -> Tensor:
    """Sum of products of tensors on each site with tensors of its spin.

    Parameters
    ----------
    parts : sequence of Tensor
        Shape (2 l1 + 1, ...), l1 of each.
    spins : sequence of Tensor or None
        Shape (2 l2 + 1, ...), whose components broadcast to those of the parts; None for a scalar, which leaves the
        part as it is.
    sparse : sequence of tuple
        `terms` of each coupling; empty where the spin is None.
    degree : int
        l3 of the sum.

    Returns
    -------
    Tensor
        Shape (2 l3 + 1, ...).
    """
    shape = parts[0].shape[1:]
    used = [spin for spin in spins if spin is not None]
    which = tuple(None if spin is None else next(k for k, s in enumerate(used) if s is spin) for spin in spins)
    wide = [spin[(slice(None), *[None] * (len(shape) - spin.dim() + 1))].expand(-1, *shape) for spin in used]
    return _Coupled.apply(tuple(sparse), which, 2 * degree + 1, len(parts), *parts, *wide)


def _turned(sparse: Terms) -> Terms:
    """The same coefficients, from the product and the spin back to the first factor."""
    return tuple((o, f, m, c) for m, f, o, c in sparse)


def _added(start: Sequence[Tensor], products: Iterable[tuple[int, Tensor, Tensor, float]], like: Tensor) -> Tensor:
    """Components start_o + Σ c a b, over products (o, a, b, c), in one pass over memory each."""
    found = like.new_empty(len(start), *like.shape[1:])
    components, sums = found.unbind(), list(start)
    for o, a, b, c in products:
        sums[o] = torch.addcmul(sums[o], a, b, value=c, out=components[o])
    for component, total in zip(components, sums, strict=True):
        if total is not component:
            component.copy_(total)
    return found


class _Coupled(Function):
    """A sum over non-zero terms; its derivatives are such sums again."""

    @staticmethod
    def forward(
        ctx: Any, sparse: tuple[Terms, ...], which: tuple[int | None, ...], components: int, n: int, *tensors: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.plan = sparse, which, n
        plain = [part for part, number in zip(tensors[:n], which, strict=True) if number is None]
        start = sum(plain[1:], plain[0]).unbind() if plain else [tensors[0].new_zeros(())] * components
        factors = [tensor.unbind() for tensor in tensors]
        products = (
            (o, factors[k][m], factors[n + number][f], c)
            for k, (table, number) in enumerate(zip(sparse, which, strict=True))
            if number is not None
            for m, f, o, c in table
        )
        return _added(start, products, tensors[0])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sparse, which, n = ctx.plan
        parts, spins = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        by_parts: list[Tensor | None] = []
        for k, number in enumerate(which):
            if number is None:
                by_parts.append(gradient)
            elif ctx.needs_input_grad[4 + k]:
                turned = (_turned(sparse[k]),)
                by_parts.append(_Coupled.apply(turned, (0,), len(parts[k]), 1, gradient, spins[number]))
            else:
                by_parts.append(None)
        by_spins: list[Tensor | None] = []
        for number, spin in enumerate(spins):
            used = [k for k in range(n) if which[k] == number]
            wanted = used and ctx.needs_input_grad[4 + n + number]
            tables = tuple(sparse[k] for k in used)
            by_spins.append(
                _Contracted.apply(tables, len(spin), gradient, *(parts[k] for k in used)) if wanted else None
            )
        return None, None, None, None, *by_parts, *by_spins


class _Contracted(Function):
    """Derivative of a coupling by the spin: sums of products of the parts with the gradient, shape (2 l2 + 1, ...)."""

    @staticmethod
    def forward(ctx: Any, sparse: tuple[Terms, ...], components: int, gradient: Tensor, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(gradient, *parts)
        ctx.sparse = sparse
        by_product = gradient.unbind()
        products = (
            (f, values[m], by_product[o], c)
            for values, table in zip([part.unbind() for part in parts], sparse, strict=True)
            for m, f, o, c in table
        )
        return _added([gradient.new_zeros(())] * components, products, gradient)

    @staticmethod
    def backward(ctx: Any, spin: Tensor) -> tuple[Tensor | None, ...]:
        gradient, *parts = ctx.saved_tensors
        sparse, n = ctx.sparse, len(parts)
        by_gradient = (
            _Coupled.apply(sparse, (0,) * n, len(gradient), n, *parts, spin) if ctx.needs_input_grad[2] else None
        )
        by_parts = [
            _Coupled.apply((_turned(table),), (0,), len(part), 1, gradient, spin) if wanted else None
            for part, table, wanted in zip(parts, sparse, ctx.needs_input_grad[3:], strict=True)
        ]
        return None, None, by_gradient, *by_parts
