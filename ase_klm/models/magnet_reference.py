"""The network of `magnet.py` written with e3nn's general layers: tensor products on edges, then sums over neighbours.

Slow and plain: the oracle of the tests and the peer of the benchmark, not for use. Features are rows of one tensor, as
everywhere in e3nn. It knows no time reversal: each representation is a block of its own in `o3.Irreps`, even and odd
ones of the same degree and parity side by side, and instructions name the blocks that are coupled.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from e3nn import o3
from torch import Tensor, nn

from ase_klm.errors import KLMError
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.models.magnet import Layer, MagNet, NeighbourSums
from ase_klm.nn.atomic_graph import AtomicGraph
from ase_klm.nn.equivariant import Gate, Product
from ase_klm.nn.irreps import SCALAR, Irrep, Irreps


class ReferenceMagNet(AtomicNetwork):
    """Same numbers, with the same weights, as a MagNet whose spins rotate with the lattice.

    Successive mixtures of neighbour sums are multiplied into one, so that there are fewer weights.

    Parameters
    ----------
    model : MagNet
        Whose weights are copied.

    Raises
    ------
    KLMError
        When spins rotate apart from the lattice, for which e3nn has no tensors.
    """

    def __init__(self, model: MagNet) -> None:
        if not model.symmetry.spin_orbit:
            raise KLMError(
                "this network cannot be written with e3nn",
                "its spins rotate apart from the lattice, and e3nn knows one group of rotations",
                "make the MagNet with spin_orbit=True",
            )
        super().__init__(model.species, model.cutoff)
        self._hyperparameters = model.hyperparameters
        self.channels = model.channels
        self.degrees, self.spin_degrees = list(range(model.degree + 1)), list(range(model.spin_degree + 1))
        layers: list[Any] = list(model.layers)
        sources: list[Irreps] = [model.embedding.target, *(layer.target for layer in layers)]
        with torch.no_grad(), torch.random.fork_rng(), _double_precision():
            # e3nn draws weights, which are replaced at once, and keeps its constants in the default precision
            self.of_bonds = o3.SphericalHarmonics(self.degrees, normalize=True, normalization="component")
            self.of_moments = o3.SphericalHarmonics(self.spin_degrees, normalize=False, normalization="component")
            self.layers = nn.ModuleList(map(_Layer, layers, sources[:-1]))
        self.lengths, self.basis = deepcopy(model.embedding.lengths), deepcopy(model.basis)
        self.readouts = deepcopy(model.readouts)
        self.scalars = [_places(irreps)[SCALAR] for irreps in sources[1:]]
        self.to(model.dtype)
        self.load_state_dict(dict(model.named_buffers(recurse=False)), strict=False)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return self._hyperparameters

    @property
    def reach(self) -> int:
        return len(self.layers)

    def site_terms(self, graph: AtomicGraph, vectors: Tensor, moments: Tensor) -> Tensor:
        radial = self.basis(vectors.norm(dim=-1)) * self.neighbour_number.rsqrt()
        bonds = _outer([radial] * len(self.degrees), self.of_bonds(vectors), self.degrees)
        square = moments.square().sum(-1, keepdim=True) - 1
        kinds = nn.functional.one_hot(graph.species, len(self.species)).to(moments)
        known = torch.cat([kinds, square, torch.tanh(square / self.moment_spreads[graph.species, None])], 1)
        amplitudes = self.lengths(known).split(self.channels, 1)
        features = _outer(amplitudes, self.of_moments(moments), self.spin_degrees)
        total = vectors.new_zeros(len(graph))
        for layer, readout, scalars in zip(self.layers, self.readouts, self.scalars, strict=True):
            features = layer(features, bonds, graph)
            total = total + readout(features[:, scalars])[:, 0]
        return total


class _Layer(nn.Module):
    channel: Tensor

    def __init__(self, layer: Layer, source: Irreps) -> None:
        super().__init__()
        x: Irreps = layer.sums.target | layer.own.target
        self.send = _linear(layer.sums.send, source, layer.sums.send.target)
        self.messages = _messages(layer.sums, x)
        self.own = _linear(layer.own, source, x)
        self.by_species = nn.Parameter(layer.by_species.clone())
        self.first = _linear(layer.mixes[0], x, layer.target)
        self.factors = nn.ModuleList([_linear(factor, x, x) for factor in layer.factors])
        self.products, self.mixes = nn.ModuleList(), nn.ModuleList()
        power = x
        pairs: list[Any] = list(zip(layer.products, layer.mixes[1:], strict=True))
        for product, mix in pairs:
            last = isinstance(mix, nn.Identity)
            target = layer.target if last else product.target
            self.products.append(_product(product, power, x, target))
            self.mixes.append(mix if last else _linear(mix, target, layer.target))
            power = target
        self.gate = _Gate(layer.gate, layer.target)
        self.skip = _linear(layer.skip, source, layer.target)
        self.register_buffer("channel", _channels(x), persistent=False)

    def forward(self, features: Tensor, bonds: Tensor, graph: AtomicGraph) -> Tensor:
        messages = self.messages(bonds, self.send(features).index_select(0, graph.j))
        own = self.own(features)
        x = torch.zeros_like(own).index_add(0, graph.i, messages) + own
        x = x * self.by_species[graph.species].index_select(1, self.channel)
        power, found = x, self.first(x)
        for factor, product, mix in zip(self.factors, self.products, self.mixes, strict=True):
            power = product(power, factor(x))
            found = found + mix(power)
        return self.skip(features) + self.gate(found)


class _Gate(nn.Module):
    """SiLU of scalars, x times a sigmoid of x; every other channel times twice a sigmoid of a mixture of them."""

    factor: Tensor

    def __init__(self, gate: Gate, irreps: Irreps) -> None:
        super().__init__()
        self.gates, self.scalars = deepcopy(gate.gates), _places(irreps)[SCALAR]
        sizes = [irreps[SCALAR], *gate.sizes]
        starts = {irrep: sum(sizes[:k]) for k, irrep in enumerate((SCALAR, *gate.gated))}
        # what is in the irreps, but not in the gate, is zero
        factor = [starts.get(irrep, 0) + _channels({irrep: n}) for irrep, n in irreps.items()]
        self.register_buffer("factor", torch.cat(factor), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        scalars = features[:, self.scalars]
        factors = [torch.sigmoid(scalars)]
        if self.gates is not None:
            factors.append(2 * torch.sigmoid(self.gates(scalars)))
        return features * torch.cat(factors, 1).index_select(1, self.factor)


def _linear(layer: Any, source: Irreps, target: Irreps) -> o3.Linear:
    """The mixture of channels of a `Linear`; what it does not reach in the target is zero."""
    reached = [(a, b) for a, irrep in enumerate(source) for b, c in enumerate(target) if irrep == c in layer.target]
    biases = [layer.bias is not None and irrep == SCALAR for irrep in target]
    found = o3.Linear(_general(source), _general(target), instructions=reached, biases=biases)
    for number, (a, _) in enumerate(reached):
        weights: Tensor = layer.weights[str(list(source)[a])]
        found.weight_view_for_instruction(number).copy_(weights / found.instructions[number].path_weight)
    if layer.bias is not None:
        found.bias.copy_(layer.bias)
    return found


def _product(product: Product, left: Irreps, right: Irreps, target: Irreps) -> o3.TensorProduct:
    """Products channel by channel, and the mixture of their channels."""
    first, second, to = list(left), list(right), list(target)
    instructions, weights = [], []
    start = dict.fromkeys(product.target, 0)
    for a, b, reached in product.pairs:
        for c in reached:
            rows = slice(start[c], start[c] + left[a])
            start[c] = rows.stop
            instructions.append((first.index(a), second.index(b), to.index(c), "uuw", True))
            weights.append(product.mix.weights[str(c)][rows].flatten())
    return _tensor_product(_general(left), _general(right), target, instructions, weights)


def _messages(sums: NeighbourSums, target: Irreps) -> o3.TensorProduct:
    """Y_l(r) B_n(r) with what is sent, fully connected as far as time reversal allows."""
    sent, to = list(sums.send.target), list(target)
    instructions, weights = [], []
    start = dict.fromkeys(sums.target, 0)
    for (l, a, reached), path in zip(sums.paths, sums.weights, strict=True):
        for c in reached:
            rows = slice(start[c], start[c] + path.shape[1])
            start[c] = rows.stop
            instructions.append((l, sent.index(a), to.index(c), "uvw", True))
            weights.append((path @ sums.mix.weights[str(c)][rows]).flatten())  # (n · sent, out)
    bonds = o3.Irreps([(sums.radial, (l, (-1) ** l)) for l in range(sums.degree + 1)])
    return _tensor_product(bonds, _general(sums.send.target), target, instructions, weights)


def _tensor_product(
    left: o3.Irreps, right: o3.Irreps, target: Irreps, instructions: list[Any], weights: list[Tensor]
) -> o3.TensorProduct:
    found = o3.TensorProduct(left, right, _general(target), instructions, path_normalization="none")
    found.weight.copy_(torch.cat(weights))
    return found


def _general(irreps: Mapping[Irrep, int]) -> o3.Irreps:
    """In the notation of e3nn, a block for each."""
    return o3.Irreps([(channels, (irrep.l, irrep.p)) for irrep, channels in irreps.items()])


def _places(irreps: Irreps) -> dict[Irrep, slice]:
    return dict(zip(irreps, _general(irreps).slices(), strict=True))


def _channels(irreps: Irreps) -> Tensor:
    """Channel of each place in a row."""
    return torch.cat([torch.arange(n).repeat_interleave(irrep.dim) for irrep, n in irreps.items()])


@contextmanager
def _double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _outer(amplitudes: Sequence[Tensor], harmonics: Tensor, degrees: Sequence[int]) -> Tensor:
    """Channels (n, channels) of each degree times Y_l (n, Σ(2l + 1)), as rows of e3nn."""
    parts = zip(amplitudes, harmonics.split([2 * l + 1 for l in degrees], 1), strict=True)
    return torch.cat([(amplitude[:, :, None] * tensor[:, None]).flatten(1) for amplitude, tensor in parts], 1)
