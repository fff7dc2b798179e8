"""MagNet as published, for comparison: Z. Yuan et al., Quantum Frontiers 3, 8 (2024), figure 2 and appendix A.

Species enter as scalars. Atomic blocks pass messages along bonds, tensors of the neighbour times Y_l(r) with weights
from a perceptron of Gaussian functions of the distance; then come blocks whose messages carry the neighbour's moment,
by Y_s(m) and Gaussian functions of its length. Each block ends with self-interaction, gate, E3LayerNorm and a skip. The
group is O(3); ``time_reversal=True`` makes it O(3) × {1, T}. Different from the paper, harmonics of moments are solid
ones and lengths enter by their squares, so that the energy is smooth at m = 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_klm.models.atomic import AtomicNetwork
from ase_klm.nn.atomic_graph import AtomicGraph
from ase_klm.nn.equivariant import Coupling, Gate, Harmonics, LayerNorm, Linear, added
from ase_klm.nn.irreps import SCALAR, Features, Irrep, Irreps, Symmetry, displacement
from ase_klm.nn.radial import GaussianBasis


class PublishedMagNet(AtomicNetwork):
    """Four atomic and two magnetic blocks of messages along edges.

    Parameters
    ----------
    species : sequence of str
        Chemical symbols.
    cutoff : float
        Å.
    atomic_blocks, magnetic_blocks : int
        Blocks without and with moments.
    scalars, vectors, tensors : int
        Channels of degree 0, of degree 1, and of degree 2, for each parity (and sign).
    radial : int
        Gaussian functions of a distance.
    hidden : int
        Width of the perceptrons of the distance.
    degree : int
        Highest degree of harmonics.
    time_reversal : bool
        Whether E(-m) = E(m) is built in; not so in the paper.
    """

    def __init__(
        self,
        species: Sequence[str],
        cutoff: float = 6.0,
        atomic_blocks: int = 4,
        magnetic_blocks: int = 2,
        scalars: int = 32,
        vectors: int = 16,
        tensors: int = 8,
        radial: int = 32,
        hidden: int = 32,
        degree: int = 2,
        time_reversal: bool = False,
    ) -> None:
        super().__init__(species, cutoff)
        self._hyperparameters = {
            "atomic_blocks": atomic_blocks,
            "magnetic_blocks": magnetic_blocks,
            "scalars": scalars,
            "vectors": vectors,
            "tensors": tensors,
            "radial": radial,
            "hidden": hidden,
            "degree": degree,
            "time_reversal": time_reversal,
        }
        self.degree, self.symmetry = degree, Symmetry(True, time_reversal)
        widths = [scalars, vectors, tensors]
        self.embedding = nn.Embedding(len(self.species), scalars)
        self.basis, self.harmonics = GaussianBasis(cutoff, radial), Harmonics(degree)
        self.length_basis = GaussianBasis(4.0, 8)  # of m², 1 where lengths are those of the training set
        bonds = [displacement(l) for l in range(degree + 1)]
        moments = [self.symmetry.moment(s) for s in range(degree + 1)]
        plain: Irreps = {irrep: widths[irrep.l] for irrep in bonds}
        signs = (1,) if not time_reversal else (1, -1)
        every = [Irrep(l, p, t) for l in range(degree + 1) for p in (1, -1) for t in signs]
        full = {irrep: widths[irrep.l] for irrep in every if irrep.l or irrep == SCALAR}
        self.blocks = nn.ModuleList()
        source: Irreps = {SCALAR: scalars}
        for _ in range(atomic_blocks):
            block = Block(source, bonds, plain, radial, hidden)
            self.blocks.append(block)
            source = block.target
        self.magnetic_blocks = nn.ModuleList()
        for _ in range(magnetic_blocks):
            block = MagneticBlock(source, bonds, moments, full, radial, hidden, self.length_basis.size)
            self.magnetic_blocks.append(block)
            source = block.target
        self.readout = nn.Sequential(nn.Linear(scalars, scalars), nn.SiLU(), nn.Linear(scalars, 1))

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {"species": list(self.species), "cutoff": self.cutoff, **self._hyperparameters}

    @property
    def reach(self) -> int:
        return len(self.blocks) + len(self.magnetic_blocks)

    def site_terms(self, graph: AtomicGraph, vectors: Tensor, moments: Tensor) -> Tensor:
        distances = vectors.norm(dim=-1)
        basis = self.basis(distances)
        bonds = [y[..., None] for y in self.harmonics(vectors / distances[:, None])]
        spins = [y[..., None] for y in self.harmonics(moments)]
        lengths = self.length_basis(moments.square().sum(-1))
        scale = self.neighbour_number.rsqrt()
        features: Features = {SCALAR: self.embedding(graph.species)[None]}
        for block in self.blocks:
            features = block(features, bonds, basis * scale, graph)
        for block in self.magnetic_blocks:
            features = block(features, bonds, basis * scale, graph, spins, lengths)
        return self.readout(features[SCALAR][0])[:, 0]


class TensorMessage(nn.Module):
    """x ⊗ Y, channel by channel, each path with weights from a perceptron of scalars; then mixed."""

    def __init__(self, source: Irreps, harmonic: Sequence[Irrep], target: Irreps, scalars: int, hidden: int) -> None:
        super().__init__()
        self.paths = [
            (a, l, b, found)
            for a in source
            for l, b in enumerate(harmonic)
            if (found := tuple(c for c in a.products(b) if c in target))
        ]
        self.couplings = nn.ModuleList([Coupling(a, b, found) for a, _, b, found in self.paths])
        self.sizes = [source[a] for a, _, _, found in self.paths for _ in found]
        self.weights = nn.Sequential(
            nn.Linear(scalars, hidden, bias=False), nn.SiLU(), nn.Linear(hidden, sum(self.sizes), bias=False)
        )
        widths: Irreps = {}
        for a, _, _, found in self.paths:
            for c in found:
                widths[c] = widths.get(c, 0) + source[a]
        self.reached = widths
        self.target = {irrep: n for irrep, n in target.items() if irrep in widths}

    def forward(self, features: Features, harmonic: list[Tensor], scalars: Tensor) -> Features:
        """Features and harmonics on edges or sites: (components, n, channels) and (components, n, 1)."""
        weights = iter(self.weights(scalars).split(self.sizes, -1))
        parts: dict[Irrep, list[Tensor]] = {c: [] for c in self.reached}
        for (a, l, _, found), coupling in zip(self.paths, self.couplings, strict=True):
            outer = (features[a][:, None] * harmonic[l][None]).flatten(0, 1)
            for c, part in zip(found, coupling(outer), strict=True):
                parts[c].append(part * next(weights))
        return {c: torch.cat(tensors, -1) for c, tensors in parts.items()}


class Block(nn.Module):
    """Messages from neighbours, self-interaction, gate, norm and skip."""

    def __init__(self, source: Irreps, bonds: Sequence[Irrep], target: Irreps, radial: int, hidden: int) -> None:
        super().__init__()
        self.message = TensorMessage(source, bonds, target, radial, hidden)
        self.mix = Linear(self.message.reached, target, bias=True)
        self.own = Linear(source, target)
        new = {c: n for c, n in target.items() if c in self.mix.target or c in self.own.target}
        self.gate, self.norm, self.skip = Gate(new), LayerNorm(new), Linear(source, target)
        self.target = new

    def forward(self, features: Features, bonds: list[Tensor], basis: Tensor, graph: AtomicGraph) -> Features:
        return added(self.skip(features), self.update(features, bonds, basis, graph))

    def update(self, sent: Features, bonds: list[Tensor], basis: Tensor, graph: AtomicGraph) -> Features:
        """What a block adds to the features, from what sites send and keep."""
        of_neighbours = {irrep: values.index_select(1, graph.j) for irrep, values in sent.items()}
        messages = self.message(of_neighbours, bonds, basis)
        sums = {
            c: values.new_zeros(c.dim, len(graph), values.shape[-1]).index_add(1, graph.i, values)
            for c, values in messages.items()
        }
        return self.norm(self.gate(added(self.mix(sums), self.own(sent))))


class MagneticBlock(Block):
    """A block whose messages carry the neighbour's tensors coupled to its moment."""

    def __init__(
        self,
        source: Irreps,
        bonds: Sequence[Irrep],
        moments: Sequence[Irrep],
        target: Irreps,
        radial: int,
        hidden: int,
        lengths: int,
    ) -> None:
        carried = TensorMessage(source, moments, target, lengths, hidden)
        super().__init__(carried.target, bonds, target, radial, hidden)
        self.carried, self.carry = carried, Linear(carried.reached, target)
        self.skip = Linear(source, target)

    def forward(  # type: ignore[override]
        self,
        features: Features,
        bonds: list[Tensor],
        basis: Tensor,
        graph: AtomicGraph,
        spins: list[Tensor],
        lengths: Tensor,
    ) -> Features:
        sent = self.carry(self.carried(features, spins, lengths))
        return added(self.skip(features), self.update(sent, bonds, basis, graph))
