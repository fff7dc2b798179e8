"""Spherical tensors of spins, in the order and phases of e3nn.

Solid harmonics abs(m)^l Y_l(e) are polynomials of the moment, smooth through m = 0, with Y_l·Y_l = 2l + 1 on the unit
sphere ("component" normalisation). The parity of an `e3nn.o3.Irreps` here means the sign under reversal of all spins,
time reversal: a spin is 1o.
"""

from collections.abc import Sequence
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


@cache
def _raising(l: int) -> Tensor:
    """Coefficients of Y_(l+1) in products of Y_l and Y_1."""
    pole = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    lower, one = (o3.spherical_harmonics(k, pole, normalize=False, normalization="component") for k in (l, 1))
    higher = o3.spherical_harmonics(l + 1, pole, normalize=False, normalization="component")
    coefficients = coupling(l, 1, l + 1)
    product = torch.einsum("i,j,ijk->k", lower, one, coefficients)
    return coefficients * (higher @ product) / (product @ product)


def solid_harmonics(moments: Tensor, degree: int) -> list[Tensor]:
    """Y_0 ... Y_degree of moments (3, ...): tensors of shape (2 l + 1, ...)."""
    found = [torch.ones_like(moments[:1])]
    if degree >= 1:
        found.append(3**0.5 * moments)
    for l in range(1, degree):
        coefficients = _raising(l).to(moments)
        products = (found[l][:, None] * found[1]).flatten(0, 1)  # ((2l+1)·3, ...)
        found.append(torch.tensordot(coefficients.flatten(0, 1), products, dims=([0], [0])))
    return found


Terms = tuple[tuple[int, int, int, float], ...]
"""Non-zero coefficients of a coupling: components of both factors and of the product, and the coefficient."""


@cache
def terms(l1: int, l2: int, l3: int) -> Terms:
    """The non-zero entries of `coupling`."""
    table = coupling(l1, l2, l3)
    found = torch.nonzero(table.abs() > 1e-12).tolist()
    return tuple((m, f, o, float(table[m, f, o])) for m, f, o in found)


def coupled(parts: Sequence[Tensor], spins: Sequence[Tensor | None], sparse: Sequence[Terms], degree: int) -> Tensor:
    """Sum of products of tensors on each site with tensors of its spin.

    Parameters
    ----------
    parts : sequence of Tensor
        Shape (2 l1 + 1, channels, n), l1 of each.
    spins : sequence of Tensor or None
        Shape (2 l2 + 1, n); None for a scalar, which leaves the part as it is.
    sparse : sequence of tuple
        `terms` of each coupling; empty where the spin is None.
    degree : int
        l3 of the sum.

    Returns
    -------
    Tensor
        Shape (2 l3 + 1, channels, n).
    """
    used = [spin for spin in spins if spin is not None]
    which = tuple(None if spin is None else next(k for k, s in enumerate(used) if s is spin) for spin in spins)
    return _Coupled.apply(tuple(sparse), which, 2 * degree + 1, len(parts), *parts, *used)


def _turned(sparse: Terms) -> Terms:
    """The same coefficients, from the product and the spin back to the first factor."""
    return tuple((o, f, m, c) for m, f, o, c in sparse)


class _Coupled(Function):
    """A sum over non-zero terms, one pass over memory each; its derivatives are couplings again."""

    @staticmethod
    def forward(
        ctx: Any, sparse: tuple[Terms, ...], which: tuple[int | None, ...], components: int, n: int, *tensors: Tensor
    ) -> Tensor:
        parts, spins = tensors[:n], tensors[n:]
        ctx.save_for_backward(*tensors)
        ctx.plan = sparse, which, n
        shape = (components, *parts[0].shape[1:])
        plain = [part for part, spin in zip(parts, which, strict=True) if spin is None]
        found = plain[0].clone() if plain else parts[0].new_zeros(shape)
        for part in plain[1:]:
            found += part
        for part, table, number in zip(parts, sparse, which, strict=True):
            for m, f, o, c in table:
                found[o].addcmul_(part[m], spins[number][f], value=c)  # type: ignore[index]
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        sparse, which, n = ctx.plan
        parts, spins = ctx.saved_tensors[:n], ctx.saved_tensors[n:]
        by_parts: list[Tensor | None] = []
        by_spins: list[Tensor | None] = [None] * len(spins)
        for k, (part, table, number) in enumerate(zip(parts, sparse, which, strict=True)):
            if number is None:
                by_parts.append(gradient)
                continue
            wanted = ctx.needs_input_grad[4 + k]
            turned = (_turned(table),)
            by_parts.append(_Coupled.apply(turned, (0,), len(part), 1, gradient, spins[number]) if wanted else None)
            if ctx.needs_input_grad[4 + n + number]:
                more = _Contracted.apply(part, gradient, table, len(spins[number]))
                by_spins[number] = more if by_spins[number] is None else by_spins[number] + more
        return None, None, None, None, *by_parts, *by_spins


class _Contracted(Function):
    """Derivative of a coupling by the spin: sums over channels of products of two tensors, shape (2 l2 + 1, n)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, gradient: Tensor, sparse: Terms, components: int) -> Tensor:
        ctx.save_for_backward(values, gradient)
        ctx.sparse = sparse
        found = values.new_zeros(components, *values.shape[1:])
        for m, f, o, c in sparse:
            found[f].addcmul_(values[m], gradient[o], value=c)
        return found.sum(1)

    @staticmethod
    def backward(ctx: Any, spin: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, gradient = ctx.saved_tensors
        by_values = by_gradient = None
        if ctx.needs_input_grad[0]:
            by_values = _Coupled.apply((_turned(ctx.sparse),), (0,), len(values), 1, gradient, spin)
        if ctx.needs_input_grad[1]:
            by_gradient = _Coupled.apply((ctx.sparse,), (0,), len(gradient), 1, values, spin)
        return by_values, by_gradient, None, None
