"""Vector algebra of spins, on tensors of shape (..., N, 3)."""

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """a·b, shape (..., N, 1). Adding three columns is several times as fast as torch's sum over a short axis."""
    product = a * b
    return product[..., 0:1] + product[..., 1:2] + product[..., 2:3]


def cross(a: Tensor, b: Tensor) -> Tensor:
    """A × b."""
    return torch.linalg.cross(a, b)


def norm(a: Tensor) -> Tensor:
    """abs(a), shape (..., N, 1)."""
    return dot(a, a).sqrt_()


def directions(a: Tensor) -> Tensor:
    """a/abs(a); zero where a is zero."""
    return a / norm(a).clamp_min_(torch.finfo(a.dtype).tiny)


def transverse(a: Tensor, e: Tensor) -> Tensor:
    """A - (a·e) e for unit vectors e."""
    return torch.addcmul(a, dot(a, e), e, value=-1.0)


def turned(m: Tensor, a: Tensor) -> Tensor:
    """Rotate m by the vector a, as dm/ds = m × a does over 0 ≤ s ≤ 1: by the angle abs(a), clockwise seen along -a.

    The Cayley transform m' = m + (m + m')/2 × a, which conserves abs(m) exactly, turns by 2 arctan(abs(a)/2). Its
    axis is lengthened here by abs(a)²/12, so that the angle is right up to order abs(a)⁵.
    """
    a_squared = dot(a, a)
    half = a * (0.5 + a_squared / 24)
    once = cross(m, half)
    return torch.addcmul(m, 2 / (1 + dot(half, half)), once + cross(once, half))


def rotate(vectors: Tensor, by: Tensor) -> Tensor:
    """Rodrigues' formula for vectors and rotation vectors of shape (..., 3); lengths are kept to rounding."""
    angle = torch.linalg.vector_norm(by, dim=-1, keepdim=True)
    sine = torch.sinc(angle / torch.pi)  # sin(angle)/angle
    versine = 0.5 * torch.sinc(angle / (2 * torch.pi)) ** 2  # (1 - cos(angle))/angle²
    turned = torch.linalg.cross(by, vectors)
    return vectors + sine * turned + versine * torch.linalg.cross(by, turned)
