"""Network of local Chebyshev moments of the Kondo lattice.

The electrons' matrix elements μ_n(i) = <i|T_n(H/a)|i> = s_n + w_n·σ, n up to 2 R, are exact functions of the spins
within R hops, cheap to propagate and polynomials of J and the hopping (:mod:`ase_klm.nn.local_moments`). The network
turns them into local energies: the invariants of a site's moments, s_n and w_n·w_m, enter a perceptron, and scalars and
vectors pass between neighbouring sites, equivariantly. All scalars are even and all vectors odd under reversal of the
spins, and neighbours of a shell are added up: rotations of the spins, time reversal and the point group of the lattice
are exact.

Scalars h_i (channels) and vectors V_i (vector channels) of a layer:

    M_i = Σ_shells Σ_j W V_j,   h_i += MLP(h_i, Σ_j U h_j, V·M, M·M, V·V),   V_i += g(h_i) A V_i + g'(h_i) A' M_i

What no local model can know is the chemical potential μ of a sample with a fixed number of electrons N: it belongs to
the whole sample. So the network gives local grand potentials to second order around a reference μ0,

    Ω(μ) = Σ_i [ω_i - n_i (μ - μ0) - χ_i (μ - μ0)²/2],      N = -∂Ω/∂μ = Σ_i [n_i + χ_i (μ - μ0)],

and the energy at fixed N is their Legendre transform, E = Σ_i ω_i + μ0 N + (N - Σ n_i)²/(2 Σ χ_i).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import torch
from ase import Atoms
from torch import Tensor, nn
from torch.nn.functional import softplus

from ase_klm.errors import KLMError
from ase_klm.models.base import Labels, LatticeNetwork
from ase_klm.nn.gather import neighbour_sum
from ase_klm.nn.lattice import LatticeStars, Sites
from ase_klm.nn.local_moments import Cluster, LocalMoments
from ase_klm.nn.neighbourhoods import Neighbourhoods, shell_tables
from ase_klm.validate import checked_number

TYPICAL_CHI = -1.4
"""Logarithm, nearly, of the density of states at the chemical potential from which training begins, 0.22 / eV."""

CALIBRATION = 20
"""Configurations from which scales are taken."""


@dataclass(frozen=True)
class Prepared:
    """First-order expansion of the moments of one configuration, which does not depend on the weights.

    Attributes
    ----------
    features : tuple of Tensor
        Of each sublattice, shape (n, K).
    jacobians : tuple of Tensor
        By the spins of each cluster, shape (n, K, 3 M).
    """

    features: tuple[Tensor, ...]
    jacobians: tuple[Tensor, ...]


@dataclass
class Placed:
    """Tables of a structure, made for each number of replicas when first needed."""

    places: Neighbourhoods
    J: float
    electrons: float | None  # None at a fixed chemical potential
    chemical_potential: float
    made: dict[int, tuple[list[LocalMoments], list[Tensor]]] = field(default_factory=dict)


class ChebyshevNetwork(LatticeNetwork):
    """Local energies from the Chebyshev moments of a site and its neighbours.

    Parameters
    ----------
    lattice : LatticeStars
        With the shells of the hopping, and those over which sites exchange messages.
    hamiltonian : mapping
        "hopping" {shell: t} in eV, "J" in eV, and "filling" or "mu": the Kondo lattice that the moments are those of.
    radius : int
        R, in hops.
    channels, vectors, hidden : int
        Scalars and vectors of a site, and the width of the perceptrons.
    layers : int
        Exchanges of messages.
    """

    scalar_scale: Tensor
    vector_mixing: Tensor
    invariant_mean: Tensor
    invariant_mixing: Tensor
    coupling: Tensor
    chemical_potential: Tensor
    electrons: Tensor

    def __init__(
        self,
        lattice: LatticeStars,
        hamiltonian: Mapping[str, Any],
        radius: int = 8,
        channels: int = 128,
        vectors: int = 16,
        hidden: int = 128,
        layers: int = 2,
    ) -> None:
        super().__init__(lattice)
        self.hamiltonian = checked_hamiltonian(hamiltonian)
        self.radius, self.channels, self.vectors, self.hidden = radius, channels, vectors, hidden
        self.hopping = {int(shell): float(t) for shell, t in self.hamiltonian["hopping"].items()}
        unknown = sorted(self.hopping.keys() - set(lattice.shells))
        if unknown:
            raise KLMError(
                f"the stars of this lattice have no shell {unknown[0]}, over which electrons hop",
                f"they have {', '.join(map(str, lattice.shells))}",
                "make the network with `for_atoms`, or the stars with the shells of the hopping",
            )
        self.clusters = [Cluster.around(lattice, a, self.hopping, radius) for a in range(len(lattice.stars))]
        bipartite = self.clusters[0].parities is not None
        self.n_moments = radius if bipartite else 2 * radius
        n, kinds = self.n_moments, len(_species(lattice))
        n_invariants = n + n * (n + 1) // 2
        shells = len(lattice.shells)
        for name, shape in (
            ("scalar_scale", (n,)),
            ("vector_mixing", (n, n)),
            ("invariant_mean", (n_invariants,)),
            ("invariant_mixing", (n_invariants, n_invariants)),
            ("coupling", ()),
            ("chemical_potential", ()),
            ("electrons", ()),
        ):
            self.register_buffer(name, torch.eye(shape[0]) if len(shape) == 2 else torch.ones(shape))
        self.embedding = _perceptron(n_invariants + 1 + kinds, hidden, channels)
        self.linear = nn.Linear(n_invariants, 2)  # to ω and n
        self.mixing = nn.Parameter(torch.randn(n, vectors) / n**0.5)
        self.layers = nn.ModuleList(
            MessageLayer(channels, vectors, hidden, shells, last=number == layers - 1) for number in range(layers)
        )
        self.readout = _perceptron(channels, hidden, 3)
        with torch.no_grad():  # begin at the mean energy, without knowing J
            self.embedding.get_parameter("0.weight")[:, n_invariants:].zero_()
            self.readout.get_parameter("2.weight").zero_()
            self.linear.weight.zero_()

    @classmethod
    def for_atoms(cls, atoms: Atoms, shells: Iterable[int] = (), seed: int = 0, **hyperparameters: Any) -> Any:
        """A network for the lattice of a structure; messages pass over the shells of the hopping and the ones given."""
        hopping = checked_hamiltonian(hyperparameters.get("hamiltonian", {}))["hopping"]
        return super().for_atoms(atoms, {*shells, *map(int, hopping)}, seed, **hyperparameters)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {
            "hamiltonian": self.hamiltonian,
            "radius": self.radius,
            "channels": self.channels,
            "vectors": self.vectors,
            "hidden": self.hidden,
            "layers": len(self.layers),
        }

    @property
    def reach(self) -> int:
        return self.radius + len(self.layers)

    @property
    def scale(self) -> float:
        """Bound a of abs(H), eV."""
        rows = [sum(abs(self.hopping.get(shell, 0.0)) for shell in star.shells) for star in self.lattice.stars]
        return max(rows) + abs(self.hamiltonian["J"]) / 2

    def tables(self, sites: Sites, hamiltonian: Mapping[str, Any] | None = None) -> Placed:
        """Of a structure; `hamiltonian` may give other values of J, filling, mu and kpts."""
        values = self._changed(hamiltonian or {})
        copies = math.prod(values.get("kpts") or (1, 1, 1))  # a k-mesh stands for a supercell
        n_states = 2 * len(sites) * copies
        filling = values.get("filling")
        return Placed(
            Neighbourhoods(sites.to(self.energy_shift.device)),
            float(values["J"]),
            None if filling is None else round(n_states * filling) / copies,
            float(values.get("mu") or 0.0),
        )

    def _changed(self, hamiltonian: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters with other values of some; filling takes the place of mu, and mu that of filling."""
        changes = dict(hamiltonian)
        if {"filling", "mu"} & {name for name, value in changes.items() if value is not None}:
            changes = {"filling": None, "mu": None} | changes
        values = checked_hamiltonian(self.hamiltonian | changes)
        if any(
            values["hopping"].get(k, 0) != self.hamiltonian["hopping"].get(k, 0)
            for k in values["hopping"] | self.hamiltonian["hopping"]
        ):
            raise KLMError(
                f"this network belongs to the hopping {self.hamiltonian['hopping']}, not {values['hopping']}",
                "its moments follow J and the number of electrons, but the hopping is built into it",
                "leave the hopping out, or train a network for yours",
            )
        return values

    def _made(self, placed: Placed, replicas: int) -> tuple[list[LocalMoments], list[Tensor]]:
        if replicas not in placed.made:
            places, total = placed.places, replicas * len(placed.places)
            moments = [
                LocalMoments(
                    cluster,
                    places.lifted(cluster.table(places.sites, a), replicas),
                    total,
                    placed.J,
                    self.scale,
                    self.energy_shift.dtype,
                )
                for a, cluster in enumerate(self.clusters)
            ]
            placed.made[replicas] = moments, shell_tables(places, [s.shells for s in self.lattice.stars], replicas)
        return placed.made[replicas]

    def features(self, moments: Tensor, placed: Placed, prepared: list[Prepared] | None = None) -> Tensor:
        """s_n and the components of w_n, shape (n_sites, K), of moments laid out as (3, n_sites)."""
        replicas = moments.shape[1] // len(placed.places)
        tables, _ = self._made(placed, replicas)
        if prepared is None:
            return torch.cat([local.rows(moments) for local in tables])
        return torch.cat(
            [
                _expanded(
                    local.table.gather(moments),
                    torch.cat([entry.features[a] for entry in prepared]),
                    torch.cat([entry.jacobians[a] for entry in prepared]) if replicas > 1 else prepared[0].jacobians[a],
                )
                for a, local in enumerate(tables)
            ]
        )

    def prepare(self, moments: Tensor, placed: Placed) -> Prepared:
        """Moments of a training configuration and their derivatives, so that training propagates nothing anew."""
        laid_out = placed.places.laid_out(moments[None])
        tables, _ = self._made(placed, 1)
        pairs = [local.rows_and_jacobian(laid_out) for local in tables]
        return Prepared(tuple(rows for rows, _ in pairs), tuple(jacobian for _, jacobian in pairs))

    def calibrate(self, sets: Sequence[tuple[Labels, Placed]]) -> None:
        """Scales of the moments, a basis of the invariants, and the linear model that training begins with.

        Fields are sums of derivatives of invariants, Σ_k c_k ∂I_k/∂m, whose sizes differ by orders of magnitude. In the
        basis (C + V + ε)^(-1/2) I, with the correlations C of the derivatives and the covariance V of the values over
        the training set, all are alike, and gradient descent finds its way; the best c are known at once, by least
        squares.
        """
        chosen = [(labels, c, placed) for labels, placed in sets for c in range(len(labels.moments))]
        chosen = chosen[:: max(len(chosen) // CALIBRATION, 1)]
        rows = torch.cat([self.features(p.places.laid_out(labels.moments[[c]]), p).detach() for labels, c, p in chosen])
        s, w = self._split(rows)
        with torch.no_grad():
            self.scalar_scale.copy_(1 / s.std(0).clamp_min(1e-2))
            self.vector_mixing.copy_(_decorrelation(w.mT.flatten(0, 1)))
            invariants = self._invariants(rows)[0]
            self.invariant_mean.copy_(invariants.mean(0))
            derivatives = torch.cat([self._derivatives(labels.moments[c], p) for labels, c, p in chosen], 1).double()
            fields = torch.cat([labels.magnetic_forces[c].flatten() for labels, c, _ in chosen]).double()
            sizes = 3 * derivatives @ derivatives.mT / derivatives.shape[1] + torch.cov(invariants.mT.double())
            values, vectors = torch.linalg.eigh(sizes)
            mixing = 2 * (vectors / (values + 1e-6 * values[-1]).sqrt()) @ vectors.mT
            self.invariant_mixing.copy_(mixing)
            coefficients = torch.linalg.lstsq((mixing @ derivatives).mT, -fields[:, None]).solution[:, 0]
            self.linear.weight[0] = coefficients.to(rows)
            self.coupling.fill_(sets[0][1].J)
            potentials = [labels.chemical_potentials for labels, _ in sets if labels.chemical_potentials is not None]
            if potentials:
                self.chemical_potential.fill_(float(torch.cat(potentials).mean()))
            electrons = [p.electrons / len(p.places) for _, p in sets if p.electrons is not None]
            if electrons:
                self.electrons.fill_(sum(electrons) / len(electrons))
            densities = torch.cat([labels.energies / labels.moments.shape[-2] for labels, _ in sets])
            self.energy_shift.fill_(float(densities.mean() - self.chemical_potential * self.electrons))

    def _derivatives(self, moments: Tensor, placed: Placed) -> Tensor:
        """Derivatives of the sums of all invariants by the moments, shape (invariants, 3 N)."""
        kept = self.prepare(moments, placed)
        with torch.enable_grad():
            m = moments.detach().requires_grad_()
            sums = self._invariants(self.features(placed.places.laid_out(m[None]), placed, [kept]))[0].sum(0)
            return torch.stack([torch.autograd.grad(x, m, retain_graph=True)[0].flatten() for x in sums])

    def _split(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        n = self.n_moments
        return rows[:, :n], rows[:, n:].unflatten(1, (n, 3))

    def _invariants(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Invariants of each site, (n_sites, I), and its mixed vectors, (n_sites, n_moments, 3)."""
        s, w = self._split(rows)
        w = self.vector_mixing @ w
        n = self.n_moments
        upper = torch.triu_indices(n, n, device=rows.device)
        gram = (w @ w.mT)[:, upper[0], upper[1]]
        return torch.cat([s * self.scalar_scale, gram], 1), w

    def local_terms(self, moments: Tensor, placed: Placed, prepared: list[Prepared] | None = None) -> Tensor:
        """ω_i, n_i and χ_i in eV, 1 and 1/eV, shape (3, ..., N), of moments (..., N, 3)."""
        batch = moments.shape[:-2]
        laid_out = placed.places.laid_out(moments.reshape(-1, *moments.shape[-2:]))
        replicas = laid_out.shape[1] // len(placed.places)
        _, neighbours = self._made(placed, replicas)
        invariants, w = self._invariants(self.features(laid_out, placed, prepared))
        invariants = (invariants - self.invariant_mean) @ self.invariant_mixing
        h = self.embedding(torch.cat([invariants, self._labels(placed, replicas)], 1))
        vectors = w.mT @ self.mixing  # (n_sites, 3, vectors)
        for layer in self.layers:
            h, vectors = layer(h, vectors, neighbours)
        from_network, linear = self.readout(h), self.linear(invariants)
        terms = torch.stack(
            [
                self.energy_shift + linear[:, 0] + from_network[:, 0],
                self.electrons + linear[:, 1] + 0.1 * from_network[:, 1],
                softplus(0.3 * from_network[:, 2] + TYPICAL_CHI),
            ]
        )
        values = [placed.places.site_values(term, replicas).view(*batch, -1) for term in terms]
        return torch.stack(values)

    def grand_potentials(
        self, moments: Tensor, chemical_potentials: Tensor, placed: Placed, prepared: list[Prepared] | None = None
    ) -> Tensor:
        """Ω, eV, shape (...), of moments (..., N, 3) at chemical potentials (...), eV; float64."""
        omega, n, chi = self.local_terms(moments, placed, prepared).double().sum(-1)
        change = chemical_potentials - self.chemical_potential
        return omega - n * change - chi * change**2 / 2

    def total(self, sums: Tensor, placed: Placed) -> Tensor:
        """E at fixed filling, Ω at fixed mu."""
        omega, n, chi = sums
        if placed.electrons is None:
            change = placed.chemical_potential - self.chemical_potential
            return omega - n * change - chi * change**2 / 2
        return omega + self.chemical_potential * placed.electrons + (placed.electrons - n) ** 2 / (2 * chi)

    def _labels(self, placed: Placed, replicas: int) -> Tensor:
        """Relative change of J, and the species, of each site."""
        species = _species(self.lattice)
        kinds = torch.eye(len(species), dtype=self.coupling.dtype, device=self.coupling.device)
        own = kinds[[species.index(star.species) for star in self.lattice.stars]]
        kind = own.repeat_interleave(replicas * placed.places.sizes, 0)
        change = (placed.J - self.coupling) / self.coupling.abs().clamp_min(0.1)
        return torch.cat([change.expand(len(kind), 1), kind], 1)


class MessageLayer(nn.Module):
    """Exchange of scalars and vectors between neighbours; see the top of the module."""

    def __init__(self, channels: int, vectors: int, hidden: int, shells: int, last: bool) -> None:
        super().__init__()
        self.send = nn.Linear(channels, shells * (hidden // 2), bias=False)
        self.send_vectors = nn.Parameter(torch.randn(vectors, shells * vectors) / (4 * shells * vectors) ** 0.5)
        self.update = _perceptron(channels + hidden // 2 + 3 * vectors, hidden, channels)
        self.gates = None if last else nn.Linear(channels, 2 * vectors)
        if not last:
            self.turn = nn.Parameter(torch.randn(2, vectors, vectors) / vectors**0.5)

    def forward(self, h: Tensor, v: Tensor, neighbours: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Scalars (n_sites, channels) and vectors (n_sites, 3, vectors)."""
        sent = self.send(h).chunk(len(neighbours), 1)
        message = _over_shells(sent, neighbours)
        sent = (v @ self.send_vectors).chunk(len(neighbours), 2)
        m = _over_shells(sent, neighbours)
        products = torch.cat([(v * m).sum(1), (m * m).sum(1), (v * v).sum(1)], 1)
        h = h + self.update(torch.cat([h, message, products], 1))
        if self.gates is None:
            return h, v
        own, other = self.gates(h)[:, None].chunk(2, 2)
        return h, v + own * (v @ self.turn[0]) + other * (m @ self.turn[1])


def _over_shells(sent: Sequence[Tensor], neighbours: Sequence[Tensor]) -> Tensor:
    return reduce(torch.add, map(neighbour_sum, sent, neighbours))


def checked_hamiltonian(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a Kondo lattice, in the form that cards and data sets hold.

    Raises
    ------
    KLMError
        When hopping or J is missing or no number, or not exactly one of filling and mu is given.
    """
    known = dict(values) if isinstance(values, Mapping) else {}
    if not known.get("hopping") or known.get("J") is None:
        raise KLMError(
            f"hamiltonian = {values!r} is not that of a Kondo lattice",
            "the moments are those of a Hamiltonian with hopping and J",
            'for instance {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48}',
        )
    if (known.get("filling") is None) == (known.get("mu") is None):
        raise KLMError(
            f"hamiltonian = {values!r} does not say how many electrons there are",
            "exactly one of filling and mu is needed",
            'for instance {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48}',
        )
    checked_number(known["J"], "J", "eV")
    if known.get("mu") is not None:
        checked_number(known["mu"], "mu", "eV")
    elif checked_number(known["filling"], "filling", minimum=0.0) > 1:
        raise KLMError(
            f"filling = {known['filling']} is outside 0 to 1",
            "it counts electrons per state, and a site has two states",
            "divide the electrons per site by two",
        )
    return known | {"hopping": _checked_hopping(known["hopping"])}


def _checked_hopping(hopping: Any) -> dict[str, float]:
    shells = [str(shell) for shell in hopping] if isinstance(hopping, Mapping) else []
    if not shells or not all(shell.isdecimal() and int(shell) >= 1 for shell in shells):
        raise KLMError(
            f"hopping = {hopping!r} is not given by neighbour shell",
            "the moments are those of a lattice with hopping amplitudes in eV by shell, counted from 1",
            "for instance {1: 1.0, 3: -0.85}",
        )
    return {str(shell): float(checked_number(t, f"hopping[{shell}]", "eV")) for shell, t in hopping.items()}


def _species(lattice: LatticeStars) -> list[str]:
    """What tells sublattices apart, beside their moments: rotations turn those of one species into each other."""
    return sorted({star.species for star in lattice.stars})


def _perceptron(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.SiLU(), nn.Linear(hidden, outputs))


def _expanded(spins: Tensor, features: Tensor, jacobian: Tensor) -> Tensor:
    """Features to first order in the spins (3, M, n) around the values that these have."""
    change = (spins - spins.detach()).permute(2, 0, 1).flatten(1)  # zero, but its derivative is not
    return features + (jacobian @ change[..., None])[..., 0]


def _decorrelation(rows: Tensor) -> Tensor:
    """Matrix that brings columns to their natural scale and half of the way to being uncorrelated, (C + 1)^(-1/2)."""
    spread = rows.square().mean(0).sqrt().clamp_min(1e-2).double()
    scaled = rows.double() / spread
    values, vectors = torch.linalg.eigh(scaled.mT @ scaled / len(rows))
    mixing = (vectors / (values + 1).sqrt()) @ vectors.mT / spread[:, None]
    return mixing.to(rows)
