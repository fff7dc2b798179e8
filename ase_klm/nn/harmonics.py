"""Spherical tensors of spins, in the order and phases of e3nn.

Solid harmonics abs(m)^l Y_l(e) are polynomials of the moment, smooth through m = 0, with Y_l·Y_l = 2l + 1 on the unit
sphere ("component" normalisation). The parity of an `e3nn.o3.Irreps` here means the sign under reversal of all spins,
time reversal: a spin is 1o.
"""

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


def coupled(values: Tensor, spin: Tensor, sparse: Terms, components: int) -> Tensor:
    """Products of tensors on each site with a tensor of its spin.

    Parameters
    ----------
    values : Tensor
        Shape (2 l1 + 1, channels, n).
    spin : Tensor
        Shape (2 l2 + 1, n).
    sparse : tuple
        `terms` of the coupling.
    components : int
        2 l3 + 1.

    Returns
    -------
    Tensor
        Shape (2 l3 + 1, channels, n).
    """
    return _Coupled.apply(values, spin, sparse, components)


def _turned(sparse: Terms) -> Terms:
    """The same coefficients, from the product and the spin back to the first factor."""
    return tuple((o, f, m, c) for m, f, o, c in sparse)


class _Coupled(Function):
    """A sum over non-zero terms, one pass over memory each; its derivatives are couplings again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, spin: Tensor, sparse: Terms, components: int) -> Tensor:
        ctx.save_for_backward(values, spin)
        ctx.sparse = sparse
        found = values.new_zeros(components, *values.shape[1:])
        for m, f, o, c in sparse:
            found[o].addcmul_(values[m], spin[f], value=c)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        values, spin = ctx.saved_tensors
        by_values = by_spin = None
        if ctx.needs_input_grad[0]:
            by_values = _Coupled.apply(gradient, spin, _turned(ctx.sparse), len(values))
        if ctx.needs_input_grad[1]:
            by_spin = _Contracted.apply(values, gradient, ctx.sparse, len(spin))
        return by_values, by_spin, None, None


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
            by_values = _Coupled.apply(gradient, spin, _turned(ctx.sparse), len(values))
        if ctx.needs_input_grad[1]:
            by_gradient = _Coupled.apply(values, spin, ctx.sparse, len(gradient))
        return by_values, by_gradient, None, None
