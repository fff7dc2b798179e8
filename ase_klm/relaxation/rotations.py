"""Rotations of moments by vectors, one a site: m → exp([a]×) m turns m about a by abs(a) radians."""

import torch
from torch import Tensor


def rotate(vectors: Tensor, by: Tensor) -> Tensor:
    """Rodrigues' formula for vectors and rotation vectors of shape (..., 3); lengths are kept to rounding."""
    angle = torch.linalg.vector_norm(by, dim=-1, keepdim=True)
    sine = torch.sinc(angle / torch.pi)  # sin(angle)/angle
    versine = 0.5 * torch.sinc(angle / (2 * torch.pi)) ** 2  # (1 - cos(angle))/angle²
    turned = torch.linalg.cross(by, vectors)
    return vectors + sine * turned + versine * torch.linalg.cross(by, turned)
