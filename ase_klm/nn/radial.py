"""Functions of a distance, smooth at a cutoff: Bessel or Gaussian functions times a polynomial envelope.

J. Gasteiger, J. Groß, S. Günnemann, ICLR 2020, arXiv:2003.03123, equations 7 and 8.
"""

import math

import torch
from torch import Tensor, nn


def envelope(x: Tensor, power: int = 6) -> Tensor:
    """1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2) for x < 1, else zero: two continuous derivatives."""
    p = power
    x = x.clamp(max=1.0)
    inner = (p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2))
    return 1 - x**p * inner


class BesselBasis(nn.Module):
    """sqrt(2) sin(nπx)/x times the envelope, n = 1...size, x = r/cutoff: of order 1 at uniform density."""

    numbers: Tensor

    def __init__(self, cutoff: float, size: int) -> None:
        super().__init__()
        self.cutoff, self.size = cutoff, size
        self.register_buffer("numbers", torch.arange(1.0, size + 1), persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Distances (E,), above zero → (E, size)."""
        x = distances[:, None] / self.cutoff
        return torch.sin(math.pi * self.numbers * x) * (2**0.5 * envelope(x) / x)


class GaussianBasis(nn.Module):
    """exp(-(r - r_n)²/2w²) times the envelope, centres r_n from 0 to the cutoff, w their distance."""

    numbers: Tensor

    def __init__(self, cutoff: float, size: int) -> None:
        super().__init__()
        self.cutoff, self.size = cutoff, size
        self.width = cutoff / (size - 1)
        self.register_buffer("numbers", torch.arange(float(size)), persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Distances (E,) → (E, size)."""
        r = distances[:, None]
        return torch.exp(-0.5 * (r / self.width - self.numbers) ** 2) * envelope(r / self.cutoff)
