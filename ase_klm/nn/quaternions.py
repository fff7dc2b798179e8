"""Products of spins and matrix elements in real quaternions, as differentiable sums of products of components.

A 2 × 2 matrix a + i b·σ with real a and b is a quaternion q = (a, b), and S·σ = -i (0, S). A matrix element of T_m is a
pair of them, q1 - i q2, on which a spin acts as

    S·σ (q1 - i q2) = -(0, S) q2 - i (0, S) q1.

Axes: (component, ..., site of the cluster, centre), with the four components of one quaternion or the eight of a pair.
"""

from typing import Any

from torch import Tensor
from torch.autograd import Function

from ase_klm.nn.harmonics import Terms


class Applied(Function):
    """The Hamiltonian on a state: hops · state + field ∘ state - before, each on the sites that it reaches.

    Its adjoint is of the same form; its derivative by the field is made of products.
    """

    @staticmethod
    def forward(ctx: Any, hops: Tensor, field: Tensor, state: Tensor, before: Tensor | None, terms: Terms) -> Tensor:
        ctx.save_for_backward(hops, field, state)
        ctx.terms, ctx.size_before = terms, 0 if before is None else before.shape[-2]
        found = hops @ state
        size = min(len(hops), state.shape[-2])
        _add_products(found.narrow(-2, 0, size), state.narrow(-2, 0, size), field, terms)
        if before is not None:
            found.narrow(-2, 0, ctx.size_before).sub_(before)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hops, field, state = ctx.saved_tensors
        by_field = by_state = by_before = None
        size = field.shape[-2]
        if ctx.needs_input_grad[1]:
            turned = tuple((m, o, f, c) for m, f, o, c in ctx.terms)
            by_field = Products.apply(state[..., :size, :], gradient[..., :size, :], turned, 3)
        if ctx.needs_input_grad[2]:
            adjoint = tuple((o, f, m, c) for m, f, o, c in ctx.terms)
            by_state = Applied.apply(hops.mT, field, gradient, None, adjoint)
        if ctx.needs_input_grad[3]:
            by_before = -gradient[..., : ctx.size_before, :]
        return None, by_field, by_state, by_before, None


class Products(Function):
    """Sums of products of components on every site, Σ c left_m right_f → o; its derivatives are such sums again."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, terms: Terms, components: int) -> Tensor:
        ctx.save_for_backward(left, right)
        ctx.terms = terms
        return _add_products(left.new_zeros(components, *left.shape[1:]), left, right, terms)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        left, right = ctx.saved_tensors
        by_left = by_right = None
        if ctx.needs_input_grad[0]:
            by_left = Products.apply(gradient, right, tuple((o, f, m, c) for m, f, o, c in ctx.terms), len(left))
        if ctx.needs_input_grad[1]:
            by_right = Products.apply(left, gradient, tuple((m, o, f, c) for m, f, o, c in ctx.terms), len(right))
        return by_left, by_right, None, None


def _add_products(found: Tensor, left: Tensor, right: Tensor, terms: Terms) -> Tensor:
    lefts, rights, sums = left.unbind(), right.unbind(), found.unbind()
    for m, f, o, c in terms:
        sums[o].addcmul_(lefts[m], rights[f], value=c)
    return found


def _quaternion_product(sign: int, conjugated: bool) -> Terms:
    """Terms of sign · p q or of sign · p* q, where (a, b) (c, d) = (ac - b·d, ad + cb - b×d)."""
    b = -1 if conjugated else 1
    found = [(0, 0, 0, 1)]
    for x, y, z in ((1, 2, 3), (2, 3, 1), (3, 1, 2)):
        found += [(x, x, 0, -b), (0, x, x, 1), (x, 0, x, b), (y, z, x, -b), (z, y, x, b)]
    return tuple((p, q, o, float(sign * c)) for p, q, o, c in found)


def _spin_on(sign: int, start: int, end: int) -> Terms:
    """Terms of sign · (0, S) q: components of q from `start`, of S, and of the result from `end`."""
    products = _quaternion_product(sign, conjugated=False)
    return tuple((start + q, p - 1, end + o, c) for p, q, o, c in products if p > 0)


def _vector_of(sign: int, left: int, right: int) -> Terms:
    """Terms of the vector of sign · p* q, components of p from `left` and of q from `right`."""
    products = _quaternion_product(sign, conjugated=True)
    return tuple((left + p, right + q, o - 1, c) for p, q, o, c in products if o > 0)


SPIN_ON_ONE, SPIN_ON_OTHER = _spin_on(1, 0, 0), _spin_on(-1, 0, 0)
SPIN_ON_PAIR = (*_spin_on(-1, 4, 0), *_spin_on(1, 0, 4))
VECTOR_OF_ONE, VECTOR_OF_OTHER = _vector_of(1, 0, 0), _vector_of(-1, 0, 0)
VECTOR_OF_PAIR = (*_vector_of(-1, 4, 0), *_vector_of(1, 0, 4))
