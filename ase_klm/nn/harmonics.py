"""Spherical tensors of spins, in the order and phases of e3nn.

Solid harmonics abs(m)^l Y_l(e) are polynomials of the moment, smooth through m = 0, with Y_l·Y_l = 2l + 1 on the unit
sphere ("component" normalisation). The parity of an `e3nn.o3.Irreps` here means the sign under reversal of all spins,
time reversal: a spin is 1o.
"""

from functools import cache

import torch
from e3nn import o3
from torch import Tensor


@cache
def coupling(
    l1: int, l2: int, l3: int, dtype: torch.dtype = torch.float64, device: torch.device | None = None
) -> Tensor:
    """Coefficients that couple degrees l1 and l2 to l3, shape (2 l1 + 1, 2 l2 + 1, 2 l3 + 1).

    They are sqrt(2 l3 + 1) times Wigner's 3j symbols: independent components of variance 1 couple to variance 1.
    """
    return (o3.wigner_3j(l1, l2, l3, dtype=torch.float64) * (2 * l3 + 1) ** 0.5).to(device, dtype)


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


def coupled(values: Tensor, spin: Tensor, coefficients: Tensor) -> Tensor:
    """Products of tensors on each site with a tensor of its spin.

    Parameters
    ----------
    values : Tensor
        Shape (channels, 2 l1 + 1, n).
    spin : Tensor
        Shape (2 l2 + 1, n).
    coefficients : Tensor
        Shape (2 l1 + 1, 2 l2 + 1, 2 l3 + 1).

    Returns
    -------
    Tensor
        Shape (channels, 2 l3 + 1, n).
    """
    products = (values[:, :, None] * spin).flatten(1, 2)
    return coefficients.flatten(0, 1).mT @ products
