"""Bases in which columns of features, (rows, K), are of one size and uncorrelated, over a training set."""

import torch
from torch import Tensor

SMALLEST_VARIANCE = 1e-3
"""Of the largest: directions that vary less count as if they did by so much."""


def decorrelation(rows: Tensor) -> Tensor:
    """Matrix that brings columns to their natural scale and half of the way to being uncorrelated, (C + 1)^(-1/2)."""
    spread = rows.square().mean(0).sqrt().clamp_min(1e-2).double()
    scaled = rows.double() / spread
    values, vectors = torch.linalg.eigh(scaled.mT @ scaled / len(rows))
    mixing = (vectors / (values + 1).sqrt()) @ vectors.mT / spread[:, None]
    return mixing.to(rows)


def whitening(rows: Tensor) -> Tensor:
    """Matrix W such that the mean square of a row of x W is the square of a Mahalanobis distance of x from zero.

    Its mean over the rows given is 1; a floor under the variances keeps distances finite.
    """
    x = rows.double()
    values, vectors = torch.linalg.eigh(x.mT @ x / len(x))
    mixing = vectors / (values + SMALLEST_VARIANCE * values[-1]).sqrt()
    return (mixing / (x @ mixing).square().mean().sqrt()).to(rows)
