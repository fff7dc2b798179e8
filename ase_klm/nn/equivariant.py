"""Layers for tensors of sites that keep degree, parity and time reversal; see `irreps` for the layout.

Components come first and channels last, so that mixing channels is one matrix product for each representation, and
coupling two of them is one product with the matrix of Clebsch-Gordan coefficients.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ase_klm.nn.irreps import SCALAR, Features, Irrep, Irreps, clebsch_gordan, displacement


class Linear(nn.Module):
    """Mixes the channels of each representation; those of the target that the source lacks are left out.

    Parameters
    ----------
    source, target : dict
        Channels of each representation.
    bias : bool
        Whether something is added to scalars.
    """

    def __init__(self, source: Mapping[Irrep, int], target: Mapping[Irrep, int], bias: bool = False) -> None:
        super().__init__()
        self.target = {irrep: n for irrep, n in target.items() if irrep in source}
        self.weights = nn.ParameterDict(
            {str(irrep): torch.randn(source[irrep], n) / source[irrep] ** 0.5 for irrep, n in self.target.items()}
        )
        self.bias = nn.Parameter(torch.zeros(target[SCALAR])) if bias and SCALAR in self.target else None

    def forward(self, features: Features) -> Features:
        found = {irrep: features[irrep] @ self.weights[str(irrep)] for irrep in self.target}
        if self.bias is not None:
            found[SCALAR] = found[SCALAR] + self.bias
        return found


class Coupling(nn.Module):
    """Representations c in outer products of a and b: (a.dim b.dim, n, channels) → (c.dim, n, channels) each."""

    matrix: Tensor

    def __init__(self, a: Irrep, b: Irrep, target: tuple[Irrep, ...]) -> None:
        super().__init__()
        self.sizes = [c.dim for c in target]
        self.exact = torch.cat([clebsch_gordan(a, b, c).reshape(-1, c.dim) for c in target], 1).T.contiguous()
        self.register_buffer("matrix", self.exact.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, function: Any, recurse: bool = True) -> Any:
        super()._apply(function, recurse)
        self.matrix.copy_(self.exact)  # in the full precision of the new type
        return self

    def forward(self, outer: Tensor) -> tuple[Tensor, ...]:
        return (self.matrix @ outer.flatten(1)).view(len(self.matrix), *outer.shape[1:]).split(self.sizes)


class Harmonics(nn.Module):
    """Solid harmonics Y_0...Y_degree of vectors (n, 3), each (2l + 1, n), on the unit sphere of norm sqrt(2l + 1)."""

    def __init__(self, degree: int) -> None:
        super().__init__()
        self.degree = degree
        steps = [(displacement(l), displacement(1), (displacement(l + 1),)) for l in range(1, degree)]
        self.couplings = nn.ModuleList([Coupling(*step) for step in steps])
        # Y_l of the pole has one component, sqrt(2l + 1)
        self.factors = [
            ((2 * l + 3) / (6 * l + 3)) ** 0.5 / float(clebsch_gordan(*step[:2], step[2][0])[l, 1, l + 1])
            for l, step in enumerate(steps, start=1)
        ]

    def forward(self, vectors: Tensor) -> list[Tensor]:
        one = 3**0.5 * vectors.T
        found = [torch.ones_like(one[:1]), one]
        for coupling, factor in zip(self.couplings, self.factors, strict=True):
            (higher,) = coupling((found[-1][:, None] * one).flatten(0, 1))
            found.append(factor * higher)
        return found[: self.degree + 1]


class Product(nn.Module):
    """Products of tensors, channel by channel, whose channels are then mixed.

    Parameters
    ----------
    left, right : dict
        Representations of the factors, all with the same number of channels.
    target : dict
        Channels of each representation of the product; what is not reached is left out.
    square : bool
        Whether both factors are mixtures of the same tensors, so that of a × b and b × a one will do.
    """

    def __init__(self, left: Irreps, right: Irreps, target: Irreps, square: bool = False) -> None:
        super().__init__()
        channels = max(left.values())
        self.pairs = [
            (a, b, found)
            for number, a in enumerate(left)
            for b in list(right)[number if square else 0 :]
            if (found := tuple(c for c in a.products(b) if c in target))
        ]
        self.couplings = nn.ModuleList([Coupling(*pair) for pair in self.pairs])
        paths = [c for _, _, found in self.pairs for c in found]
        self.target = {irrep: n for irrep, n in target.items() if irrep in paths}
        self.mix = Linear({c: paths.count(c) * channels for c in self.target}, self.target)

    def forward(self, left: Features, right: Features) -> Features:
        parts: dict[Irrep, list[Tensor]] = {c: [] for c in self.target}
        for (a, b, found), coupling in zip(self.pairs, self.couplings, strict=True):
            x, y = left[a], right[b]
            if found == (SCALAR,):
                parts[SCALAR].append((x * y).sum(0, keepdim=True) / a.dim**0.5)
                continue
            if a.dim == 1 or b.dim == 1:
                parts[found[0]].append(x * y)
                continue
            outer = (x[:, None] * y[None]).reshape(a.dim * b.dim, *x.shape[1:])
            for c, part in zip(found, coupling(outer), strict=True):
                parts[c].append(part)
        return self.mix({c: torch.cat(tensors, -1) for c, tensors in parts.items()})


class Gate(nn.Module):
    """SiLU of scalars; every other tensor times a sigmoid of a mixture of them.

    Parameters
    ----------
    irreps : dict
        Channels of each representation; there must be scalars.
    """

    def __init__(self, irreps: Mapping[Irrep, int]) -> None:
        super().__init__()
        self.gated = [irrep for irrep in irreps if irrep != SCALAR]
        self.sizes = [irreps[irrep] for irrep in self.gated]
        self.gates = nn.Linear(irreps[SCALAR], sum(self.sizes)) if self.gated else None

    def forward(self, features: Features) -> Features:
        scalars = features[SCALAR]
        found = {SCALAR: nn.functional.silu(scalars)}
        if self.gates is not None:
            for irrep, gate in zip(self.gated, torch.sigmoid(self.gates(scalars)).split(self.sizes, -1), strict=True):
                found[irrep] = 2 * features[irrep] * gate
        return found


class LayerNorm(nn.Module):
    """Divides each representation by its root mean square over channels, after taking the mean off scalars.

    The E3LayerNorm of DeepH-E3 (X. Gong et al., Nat. Commun. 14, 2848 (2023)), smooth where tensors vanish.
    """

    def __init__(self, irreps: Mapping[Irrep, int], epsilon: float = 1e-3) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weights = nn.ParameterDict({str(irrep): torch.ones(n) for irrep, n in irreps.items()})
        self.bias = nn.Parameter(torch.zeros(irreps[SCALAR]))

    def forward(self, features: Features) -> Features:
        found = {}
        for irrep, values in features.items():
            centred = values - values.mean(-1, keepdim=True) if irrep == SCALAR else values
            square = centred.square().sum(0, keepdim=True).mean(-1, keepdim=True) / irrep.dim
            found[irrep] = centred * (square + self.epsilon).rsqrt() * self.weights[str(irrep)]
        found[SCALAR] = found[SCALAR] + self.bias
        return found


def added(*terms: Features) -> Features:
    """Sum of features, over the representations of any of them."""
    found: Features = {}
    for term in terms:
        for irrep, values in term.items():
            found[irrep] = found[irrep] + values if irrep in found else values
    return found
