"""The network of `ecnn.py` written with e3nn's general tensor product over gathered neighbours.

Slow and plain: the oracle of the tests and the peer of the benchmark, not for use.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from e3nn import o3
from torch import Tensor, nn

from ase_klm.models.ecnn import ECNN, norm_activation
from ase_klm.nn.convolution import LatticeConvolution
from ase_klm.nn.neighbourhoods import Neighbourhoods


class ReferenceECNN(nn.Module):
    """Same numbers, with the same weights, as an ECNN of a lattice with one sublattice.

    Parameters
    ----------
    model : ECNN
        Whose weights are taken.
    """

    def __init__(self, model: ECNN) -> None:
        super().__init__()
        self.model = model
        self.spin = _spin_irreps(model)
        with torch.random.fork_rng(), _default_dtype(model.energy_shift.dtype):
            # e3nn draws weights, which are replaced at once, and keeps its constants in the default precision
            scalars = o3.Irreps([(model.irreps.count("0e"), (0, 1))])
            self.irreps = [self.spin, *(model.irreps for _ in model.blocks), scalars]
            layers = zip((*model.blocks, model.output), self.irreps[:-1], self.irreps[1:], strict=True)
            self.blocks = nn.ModuleList(
                _Convolution(layer, source, target, self.spin) for layer, source, target in layers
            )

    def forward(self, moments: Tensor, placed: Neighbourhoods) -> Tensor:
        """Site energies, eV, shape (N,), of moments (N, 3)."""
        index = torch.cat([placed.sites.members[0][None], placed.sites.neighbours[0]])  # (D + 1, N)
        spins = o3.spherical_harmonics(self.spin, moments, normalize=False, normalization="component")
        features, irreps = spins, self.spin
        for block, target in zip(self.blocks, self.irreps[1:], strict=True):
            new = block(features, spins[:, :4], index)
            if block is self.blocks[-1]:
                features = new
                break
            parts = [
                new[:, s].reshape(len(new), mul, ir.dim) for (mul, ir), s in zip(target, target.slices(), strict=True)
            ]
            activated = torch.cat([_activated(part).flatten(1) for part in parts], 1)
            features = activated + features if target == irreps else activated
            irreps = target
        energies = self.model.perceptron(features)[:, 0]
        return self.model.energy_shift + self.model.energy_scale * energies


class _Convolution(nn.Module):
    def __init__(self, convolution: LatticeConvolution, source: o3.Irreps, target: o3.Irreps, spin: o3.Irreps) -> None:
        super().__init__()
        self.source, self.target = source, target
        places = len(convolution.classes[0])
        gathered = o3.Irreps([(mul * places, ir) for mul, ir in self.source])
        self.product = o3.TensorProduct(
            gathered,
            spin[:2],
            self.target,
            [(path.source, path.spin, path.target, "uvw", True) for path in convolution.paths],
            shared_weights=True,
            internal_weights=True,
        ).to(convolution.weights[0])
        weights = [
            weight[..., convolution.classes[0]].flatten(1).mT.flatten() for weight in convolution.weights
        ]  # (in · place, out)
        self.product.weight.data = torch.cat([weight.detach() for weight in weights])

    def forward(self, features: Tensor, spins: Tensor, index: Tensor) -> Tensor:
        parts = []
        for (mul, ir), stretch in zip(self.source, self.source.slices(), strict=True):
            own = features[:, stretch].reshape(-1, mul, ir.dim)
            parts.append(own[index].permute(1, 2, 0, 3).flatten(1))  # (N, channel, place, component)
        return self.product(torch.cat(parts, 1), spins)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _activated(values: Tensor) -> Tensor:
    """The norm activation for values (n, channels, 2 l + 1)."""
    return norm_activation(values.permute(2, 1, 0)).permute(2, 1, 0)


def _spin_irreps(model: ECNN) -> o3.Irreps:
    parity = -1 if model.time_reversal else 1
    return o3.Irreps([(1, (l, parity**l)) for l in range(model.irreps.lmax + 1)])
