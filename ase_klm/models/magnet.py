"""MagNet: an energy of atoms and moments by equivariant message passing.

After Z. Yuan et al., Quantum Frontiers 3, 8 (2024), arXiv:2402.04864, whose own network is `PublishedMagNet`
(``MagNet.paper``). Here parity and time reversal are exact (as in TENN-e3, H. Yu et al., arXiv:2211.11403), spins may
rotate with the lattice or apart from it, and the body order within a site is raised by products of sums over neighbours
(I. Batatia et al., MACE, arXiv:2206.07697):

    A_i = Σ_j B_n(r_ij) Y_l(r_ij) ⊗ h_j,   x_i = W A_i + W' h_i,   h_i' = W'' h_i + gate(W₁ x + W₂ x⊗x + W₃ x⊗x⊗x)

with E_i a perceptron of the scalars of every layer. Sums over neighbours come before all mixing of channels, so that
they are one matrix product for each site, and nothing but the basis and the h_j has the size of the edges. Moments
enter as m^s Y_s(m) with amplitudes that depend on species and m², smooth through m = 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ase_klm.errors import KLMError
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.models.labels import Labels
from ase_klm.nn.atomic_graph import AtomicGraph
from ase_klm.nn.equivariant import Coupling, Gate, Harmonics, Linear, Product, added
from ase_klm.nn.irreps import SCALAR, Features, Irrep, Irreps, Symmetry, displacement
from ase_klm.nn.radial import BesselBasis


class MagNet(AtomicNetwork):
    """Message passing of moments and surroundings, with products of neighbour sums.

    Parameters
    ----------
    species : sequence of str
        Chemical symbols.
    cutoff : float
        Å.
    layers : int
        Layers of messages; the energy of a site depends on atoms within layers × cutoff.
    channels : int
        Channels of each representation.
    sent : int
        Channels that neighbours see of each other.
    radial : int
        Bessel functions of the distance.
    degree : int
        Highest degree l of harmonics of bonds, and of all tensors.
    spin_degree : int
        Highest degree of harmonics of moments.
    correlation : int
        Factors in products of neighbour sums.
    message_degree : int
        Highest degree, of space and spins together, of what neighbours see of each other after the first layer.
    spin_orbit : bool
        Whether spins rotate with the lattice. False holds for data without spin-orbit coupling, and is more accurate
        there.
    time_reversal : bool
        Whether E(-m) = E(m); False is for comparison.
    lattice_channels : int
        Channels of a network beside it that knows nothing of moments. Where forces are far larger than magnetic ones
        (atoms displaced by a tenth of an Å, say), it takes the elastic energy, and both are learned; 0 for none.
    """

    magnetic_scale: Tensor

    def __init__(
        self,
        species: Sequence[str],
        cutoff: float = 5.0,
        layers: int = 2,
        channels: int = 32,
        sent: int = 8,
        radial: int = 8,
        degree: int = 2,
        spin_degree: int = 2,
        correlation: int = 3,
        message_degree: int = 1,
        spin_orbit: bool = True,
        time_reversal: bool = True,
        lattice_channels: int = 0,
    ) -> None:
        super().__init__(species, cutoff)
        self.n_layers, self.channels, self.sent, self.radial = layers, channels, sent, radial
        self.degree, self.spin_degree, self.correlation = degree, spin_degree, correlation
        self.message_degree = message_degree
        self.symmetry = Symmetry(spin_orbit, time_reversal)
        for name, value in (("layers", layers), ("channels", channels), ("correlation", correlation)):
            if value < 1:
                raise KLMError(f"{name} = {value} cannot be used", "there is at least one", f"e.g. {name}=2")
        hidden = dict.fromkeys(_hidden(self.symmetry, degree, spin_degree), channels)
        self.embedding = MomentEmbedding(len(self.species), channels, spin_degree, self.symmetry)
        self.basis, self.harmonics = BesselBasis(cutoff, radial), Harmonics(degree)
        self.layers, self.readouts = nn.ModuleList(), nn.ModuleList()
        source: Irreps = self.embedding.target
        for number in range(layers):
            target = hidden if number < layers - 1 else {SCALAR: channels}
            seen = {irrep: sent for irrep in source if number == 0 or irrep.l + irrep.s <= message_degree}
            layer = Layer(len(self.species), source, hidden, target, seen, radial, degree, correlation)
            self.layers.append(layer)
            self.readouts.append(
                nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, 1, bias=False))
            )
            source = layer.target
        self.lattice_channels, self.lattice = lattice_channels, None
        if lattice_channels:
            shape = (species, cutoff, layers, lattice_channels, sent, radial, degree)
            self.lattice = MagNet(*shape, spin_degree=0, correlation=correlation, spin_orbit=False)
            self.register_buffer("magnetic_scale", torch.ones(()))  # of the terms with moments, in `energy_scale`

    @classmethod
    def paper(cls, species: Sequence[str], **changed: Any) -> AtomicNetwork:
        """The configuration of the paper: `PublishedMagNet`."""
        from ase_klm.models.magnet_published import PublishedMagNet

        return PublishedMagNet(species, **changed)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {
            "species": list(self.species),
            "cutoff": self.cutoff,
            "layers": self.n_layers,
            "channels": self.channels,
            "sent": self.sent,
            "radial": self.radial,
            "degree": self.degree,
            "spin_degree": self.spin_degree,
            "correlation": self.correlation,
            "message_degree": self.message_degree,
            "spin_orbit": self.symmetry.spin_orbit,
            "time_reversal": self.symmetry.time_reversal,
            "lattice_channels": self.lattice_channels,
        }

    @property
    def reach(self) -> int:
        return self.n_layers

    def site_terms(self, graph: AtomicGraph, vectors: Tensor, moments: Tensor) -> Tensor:
        basis = self._edge_basis(graph, vectors)
        terms = self._terms(graph, basis, moments)
        if self.lattice is None:
            return terms
        return self.lattice._terms(graph, basis, torch.zeros_like(moments)) + self.magnetic_scale * terms

    @torch.no_grad()
    def calibrate(self, labels: Sequence[Labels]) -> None:
        super().calibrate(labels)
        if self.lattice is not None:
            every = self.joined(labels)
            turned = every.magnetic_forces * self.moment_scales[every.placed.species, None]
            known = turned[turned.isfinite()]
            if len(known):
                size = float(known.double().square().mean().sqrt() / self.energy_scale)
                self.magnetic_scale.fill_(min(max(size, 1e-3), 1.0))

    def _terms(self, graph: AtomicGraph, basis: Tensor, moments: Tensor) -> Tensor:
        """Of the network with moments, or of that without."""
        features = self.embedding(moments, graph.species, self.moment_spreads)
        total = moments.new_zeros(len(graph))
        for layer, readout in zip(self.layers, self.readouts, strict=True):
            features = layer(features, basis, graph)
            total = total + readout(features[SCALAR][0])[:, 0]
        return total

    def _edge_basis(self, graph: AtomicGraph, vectors: Tensor) -> Tensor:
        """B_n(r) Y_lm(r) in a table of neighbours, shape (N, (degree + 1)² radial, most)."""
        distances = vectors.norm(dim=-1)
        angular = torch.cat(self.harmonics(vectors / distances[:, None]))  # (lm, E)
        radial = self.basis(distances) * self.neighbour_number.rsqrt()
        basis = angular.T[:, :, None] * radial[:, None, :]
        return graph.table(basis.flatten(1)).mT


def _hidden(symmetry: Symmetry, degree: int, spin_degree: int) -> list[Irrep]:
    """Representations on the sites: those of Y_l(r) Y_s(m) up to a total degree."""
    if not symmetry.spin_orbit:
        found = [
            Irrep(l, (-1) ** l, symmetry.moment(s).t, s)
            for s in range(spin_degree + 1)
            for l in range(degree + 1)
            if l + s <= max(degree, spin_degree)
        ]
    else:
        found = [displacement(l) for l in range(degree + 1)]
        found += [symmetry.moment(s) for s in range(1, min(spin_degree, degree) + 1)]
        found += displacement(1).products(symmetry.moment(1)) if degree else []
    return sorted({irrep for irrep in found if irrep.l <= degree}, key=lambda irrep: (irrep.s, -irrep.t, irrep))


class MomentEmbedding(nn.Module):
    """Species and moments as features: amplitudes of species and m², times Y_s(m).

    Amplitudes are a perceptron of the species, m² - 1, and how it compares with the spread in the training set.
    """

    def __init__(self, species: int, channels: int, degree: int, symmetry: Symmetry, hidden: int = 32) -> None:
        super().__init__()
        self.species, self.channels, self.harmonics = species, channels, Harmonics(degree)
        self.irreps = [symmetry.moment(s) for s in range(1, degree + 1)]
        self.target = {SCALAR: channels} | dict.fromkeys(self.irreps, channels)
        self.lengths = nn.Sequential(
            nn.Linear(species + 2, hidden), nn.SiLU(), nn.Linear(hidden, channels * (degree + 1))
        )

    def forward(self, moments: Tensor, species: Tensor, spreads: Tensor) -> Features:
        square = moments.square().sum(-1, keepdim=True) - 1
        kinds = nn.functional.one_hot(species, self.species).to(moments)
        known = torch.cat([kinds, square, torch.tanh(square / spreads[species, None])], 1)
        scalars, *amplitudes = self.lengths(known).split(self.channels, 1)
        tensors = self.harmonics(moments)[1:]
        features = {SCALAR: scalars[None]}
        for irrep, tensor, amplitude in zip(self.irreps, tensors, amplitudes, strict=True):
            features[irrep] = tensor[..., None] * amplitude
        return features


class Layer(nn.Module):
    """One layer of messages and products; see the top of the module."""

    def __init__(
        self,
        species: int,
        source: Irreps,
        hidden: Irreps,
        target: Irreps,
        sent: Irreps,
        radial: int,
        degree: int,
        correlation: int,
    ) -> None:
        super().__init__()
        self.sums = NeighbourSums(source, sent, radial, degree, hidden)
        self.own = Linear(source, hidden)
        reached = {irrep: n for irrep, n in hidden.items() if irrep in self.sums.target or irrep in self.own.target}
        channels = max(hidden.values())
        self.by_species = nn.Parameter(1 + 0.1 * torch.randn(species, channels))
        self.factors, self.products = nn.ModuleList(), nn.ModuleList()
        first = Linear(reached, target, bias=True)
        self.mixes = nn.ModuleList([first])
        power, tensors = reached, set(first.target)
        for number in range(2, correlation + 1):
            self.factors.append(Linear(reached, reached))
            last = number == correlation
            product = Product(power, reached, target if last else hidden, square=number == 2)
            power = product.target
            mix = nn.Identity() if last else Linear(power, target)
            self.products.append(product)
            self.mixes.append(mix)
            tensors |= power.keys() & target.keys()
        new = {irrep: n for irrep, n in target.items() if irrep in tensors}
        self.gate = Gate(new)
        self.skip = Linear(source, target)
        self.target = {irrep: n for irrep, n in target.items() if irrep in new or irrep in self.skip.target}

    def forward(self, features: Features, basis: Tensor, graph: AtomicGraph) -> Features:
        x = added(self.sums(features, basis, graph), self.own(features))
        amplitude = self.by_species[graph.species]
        x = {irrep: values * amplitude for irrep, values in x.items()}
        power, found = x, [self.mixes[0](x)]
        for factor, product, mix in zip(self.factors, self.products, self.mixes[1:], strict=True):
            power = product(power, factor(x))
            found.append(mix(power))
        return added(self.skip(features), self.gate(added(*found)))


class NeighbourSums(nn.Module):
    """A_i = Σ_j B_n(r_ij) Y_l(r_ij) ⊗ h_j, mixed over n and channels."""

    def __init__(self, source: Irreps, sent: Irreps, radial: int, degree: int, target: Irreps) -> None:
        super().__init__()
        self.sent, self.radial, self.degree = max(sent.values()), radial, degree
        self.send = Linear(source, sent)
        self.paths = [
            (l, a, found)
            for a in sent
            for l in range(degree + 1)
            if (found := tuple(c for c in displacement(l).products(a) if c in target))
        ]
        self.couplings = nn.ModuleList([Coupling(displacement(l), a, found) for l, a, found in self.paths])
        channels = max(target.values())
        size = radial * self.sent
        self.weights = nn.ParameterList([torch.randn(size, channels) / size**0.5 for _ in self.paths])
        counts = [c for _, _, found in self.paths for c in found]
        self.target = {c: n for c, n in target.items() if c in counts}
        self.mix = Linear({c: counts.count(c) * channels for c in self.target}, self.target)

    def forward(self, features: Features, basis: Tensor, graph: AtomicGraph) -> Features:
        n, most = graph.neighbours.shape
        sent = self.send(features)
        dims = [irrep.dim for irrep in sent]
        rows = torch.cat(list(sent.values())).transpose(0, 1).reshape(n, sum(dims) * self.sent)
        seen = rows.index_select(0, graph.neighbours.flatten()).view(n, most, rows.shape[1])
        sums = torch.bmm(basis, seen).view(n, -1, self.radial, sum(dims), self.sent)
        sums = sums.permute(1, 3, 0, 2, 4).flatten(3)  # (lm, components, n, radial × channels)
        blocks = {
            (l, irrep): block
            for l, of_l in enumerate(sums.split([2 * l + 1 for l in range(self.degree + 1)]))
            for irrep, block in zip(sent, of_l.split(dims, 1), strict=True)
        }
        parts: dict[Irrep, list[Tensor]] = {c: [] for c in self.target}
        for (l, a, found), weights, coupling in zip(self.paths, self.weights, self.couplings, strict=True):
            outer = blocks[l, a].flatten(0, 1) @ weights
            if l == 0 or a.l == 0:  # the product is the tensor
                parts[found[0]].append(outer)
                continue
            for c, part in zip(found, coupling(outer), strict=True):
                parts[c].append(part)
        return self.mix({c: torch.cat(tensors, -1) for c, tensors in parts.items()})
