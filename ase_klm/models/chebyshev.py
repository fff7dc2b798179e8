"""Network of local Chebyshev moments of the Kondo lattice.

The electrons' matrix elements μ_n(i) = <i|T_n(H/a)|i> = s_n + w_n·σ, n up to 2 R, are exact functions of the spins
within R hops, cheap to propagate and polynomials of J and the hopping (:mod:`ase_klm.nn.local_moments`). The network
turns them into local energies: the invariants of a site's moments, s_n and w_n·w_m, enter a perceptron, and scalars
and vectors pass between neighbouring sites, equivariantly (:mod:`ase_klm.nn.messages`). All scalars are even and all
vectors odd under reversal of the spins, and neighbours of a shell are added up: rotations of the spins, time reversal
and the point group of the lattice are exact.

What no local model can know is the chemical potential μ of a sample with a fixed number of electrons N: it belongs to
the whole sample. So the network gives local grand potentials to second order around a reference μ0,

    Ω(μ) = Σ_i [ω_i - n_i (μ - μ0) - χ_i (μ - μ0)²/2],      N = -∂Ω/∂μ = Σ_i [n_i + χ_i (μ - μ0)],

and the energy at fixed N is their Legendre transform, E = Σ_i ω_i + μ0 N + (N - Σ n_i)²/(2 Σ χ_i).

Far from the spins of its training set all of it is a guess. How far they are is known: the invariants have a mean and a
covariance there, hence a Mahalanobis distance, whose mean square over the sites of a structure goes with the error.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from ase import Atoms
from torch import Tensor, nn
from torch.nn.functional import softplus

from ase_klm.errors import KLMError
from ase_klm.models.base import LatticeNetwork
from ase_klm.models.hamiltonian import checked_hamiltonian
from ase_klm.models.labels import Labels
from ase_klm.nn.clusters import Cluster
from ase_klm.nn.lattice import LatticeStars, Sites
from ase_klm.nn.local_moments import LocalMoments
from ase_klm.nn.messages import MessageLayer, perceptron
from ase_klm.nn.neighbourhoods import Neighbourhoods, shell_tables
from ase_klm.nn.statistics import decorrelation, whitening

TYPICAL_CHI = -1.4
"""Logarithm, nearly, of the density of states at the chemical potential from which training begins, 0.22 / eV."""

CALIBRATION = 20
"""Configurations from which scales are taken."""

RANDOM_CLUSTERS = 2048
"""Clusters of random spins that stand for the training set of a file that does not know its own."""


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

    knows = ("hopping", "J", "filling", "mu", "kpts")

    scalar_scale: Tensor
    vector_mixing: Tensor
    invariant_mean: Tensor
    invariant_mixing: Tensor
    range_mixing: Tensor
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
            ("range_mixing", (n_invariants, n_invariants)),
            ("coupling", ()),
            ("chemical_potential", ()),
            ("electrons", ()),
        ):
            self.register_buffer(name, torch.eye(shape[0]) if len(shape) == 2 else torch.ones(shape))
        self.range_mixing.zero_()  # nothing is far from what an untrained network has seen
        self.embedding = perceptron(n_invariants + 1 + kinds, hidden, channels)
        self.linear = nn.Linear(n_invariants, 2)  # to ω and n
        self.mixing = nn.Parameter(torch.randn(n, vectors) / n**0.5)
        self.layers = nn.ModuleList(
            MessageLayer(channels, vectors, hidden, shells, last=number == layers - 1) for number in range(layers)
        )
        self.readout = perceptron(channels, hidden, 3)
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

    def calibrate(self, labels: Sequence[Labels]) -> None:
        """Scales of the moments, a basis of the invariants, and the linear model that training begins with.

        Fields are sums of derivatives of invariants, Σ_k c_k ∂I_k/∂m, whose sizes differ by orders of magnitude. In the
        basis (C + V + ε)^(-1/2) I, with the correlations C of the derivatives and the covariance V of the values over
        the training set, all are alike, and gradient descent finds its way; the best c are known at once, by least
        squares.
        """
        chosen = _some_of(labels)
        rows = self._rows(chosen)
        s, w = self._split(rows)
        with torch.no_grad():
            self.scalar_scale.copy_(1 / s.std(0).clamp_min(1e-2))
            self.vector_mixing.copy_(decorrelation(w.mT.flatten(0, 1)))
            invariants = self._invariants(rows)[0]
            self.invariant_mean.copy_(invariants.mean(0))
            derivatives = torch.cat([self._derivatives(one.moments[c], one.placed) for one, c in chosen], 1).double()
            forces = torch.cat([one.magnetic_forces[c].flatten() for one, c in chosen]).double()
            known = forces.isfinite()
            sizes = 3 * derivatives @ derivatives.mT / derivatives.shape[1] + torch.cov(invariants.mT.double())
            values, vectors = torch.linalg.eigh(sizes)
            mixing = 2 * (vectors / (values + 1e-6 * values[-1]).sqrt()) @ vectors.mT
            self.invariant_mixing.copy_(mixing)
            if bool(known.any()):
                matrix, right = (mixing @ derivatives).mT[known], -forces[known, None]
                self.linear.weight[0] = torch.linalg.lstsq(matrix, right).solution[:, 0].to(rows)
            self.coupling.fill_(labels[0].placed.J)
            potentials = torch.cat([one.chemical_potentials for one in labels])
            if bool(potentials.isfinite().any()):
                self.chemical_potential.fill_(float(potentials.nanmean()))
            placed = [one.placed for one in labels]
            electrons = [p.electrons / len(p.places) for p in placed if p.electrons is not None]
            if electrons:
                self.electrons.fill_(sum(electrons) / len(electrons))
            densities = torch.cat([one.energy_densities for one in labels])
            if bool(densities.isfinite().any()):
                self.energy_shift.fill_(float(densities.nanmean() - self.chemical_potential * self.electrons))
        self._take_range(rows)

    def learn_range(self, labels: Sequence[Labels]) -> None:
        self._take_range(self._rows(_some_of(labels)))

    def _take_range(self, rows: Tensor) -> None:
        """Take the spread of these moments, (n, K), as that of the training set."""
        with torch.no_grad():
            self.range_mixing.copy_(whitening(self._standardised(rows)[0]))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Files without a range were trained on random spins, or on these and others: isotropic ones stand for them."""
        name = f"{prefix}range_mixing"
        known = name in state_dict
        if not known:
            state_dict[name] = self.range_mixing
        super()._load_from_state_dict(state_dict, prefix, *args)
        if not known:
            self._take_range(self._rows_of_random_spins())

    def _rows_of_random_spins(self) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        rows = []
        for cluster in self.clusters:
            size = cluster.sizes[-1] * RANDOM_CLUSTERS
            table = torch.arange(size).view(-1, RANDOM_CLUSTERS)  # no two clusters share a site
            spins = nn.functional.normalize(torch.randn(3, size, generator=generator), dim=0).to(self.coupling)
            local = LocalMoments(
                cluster, table.to(spins.device), size, float(self.coupling), self.scale, self.coupling.dtype
            )
            rows.append(local.rows(spins))
        return torch.cat(rows)

    def _rows(self, chosen: Sequence[tuple[Labels, int]]) -> Tensor:
        """`features` of configurations of a training set."""
        laid_out = ((one.placed.places.laid_out(one.moments[[c]]), one.placed) for one, c in chosen)
        return torch.cat([self.features(moments, placed).detach() for moments, placed in laid_out])

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

    def _standardised(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """As `_invariants`, with the invariants in the basis of calibration."""
        invariants, w = self._invariants(rows)
        return (invariants - self.invariant_mean) @ self.invariant_mixing, w

    def local_terms(self, moments: Tensor, placed: Placed, prepared: list[Prepared] | None = None) -> Tensor:
        """ω_i, n_i, χ_i in eV, 1 and 1/eV, and the squared distance from the training set, which has no derivative.

        Shape (4, ..., N), of moments (..., N, 3).
        """
        batch = moments.shape[:-2]
        laid_out = placed.places.laid_out(moments.reshape(-1, *moments.shape[-2:]))
        replicas = laid_out.shape[1] // len(placed.places)
        _, neighbours = self._made(placed, replicas)
        invariants, w = self._standardised(self.features(laid_out, placed, prepared))
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
                (invariants.detach() @ self.range_mixing).square().mean(1),
            ]
        )
        values = [placed.places.site_values(term, replicas).view(*batch, -1) for term in terms]
        return torch.stack(values)

    def grand_potentials(
        self, moments: Tensor, chemical_potentials: Tensor, placed: Placed, prepared: list[Prepared] | None = None
    ) -> Tensor:
        """Ω, eV, shape (...), of moments (..., N, 3) at chemical potentials (...), eV; float64."""
        omega, n, chi, _ = self.local_terms(moments, placed, prepared).double().sum(-1)
        change = chemical_potentials - self.chemical_potential
        return omega - n * change - chi * change**2 / 2

    def total(self, sums: Tensor, placed: Placed) -> Tensor:
        """E at fixed filling, Ω at fixed mu."""
        omega, n, chi, _ = sums
        if placed.electrons is None:
            change = placed.chemical_potential - self.chemical_potential
            return omega - n * change - chi * change**2 / 2
        return omega + self.chemical_potential * placed.electrons + (placed.electrons - n) ** 2 / (2 * chi)

    def distance(self, sums: Tensor, placed: Placed) -> Tensor:
        return (sums[3] / len(placed.places)).sqrt()

    def _labels(self, placed: Placed, replicas: int) -> Tensor:
        """Relative change of J, and the species, of each site."""
        species = _species(self.lattice)
        kinds = torch.eye(len(species), dtype=self.coupling.dtype, device=self.coupling.device)
        own = kinds[[species.index(star.species) for star in self.lattice.stars]]
        kind = own.repeat_interleave(replicas * placed.places.sizes, 0)
        change = (placed.J - self.coupling) / self.coupling.abs().clamp_min(0.1)
        return torch.cat([change.expand(len(kind), 1), kind], 1)


def _species(lattice: LatticeStars) -> list[str]:
    """What tells sublattices apart, beside their moments: rotations turn those of one species into each other."""
    return sorted({star.species for star in lattice.stars})


def _some_of(labels: Sequence[Labels]) -> list[tuple[Labels, int]]:
    """Configurations of a training set for its statistics: their labels, and their numbers in these."""
    everything = [(one, c) for one in labels for c in range(len(one))]
    return everything[:: max(len(everything) // CALIBRATION, 1)]


def _expanded(spins: Tensor, features: Tensor, jacobian: Tensor) -> Tensor:
    """Features to first order in the spins (3, M, n) around the values that these have."""
    change = (spins - spins.detach()).permute(2, 0, 1).flatten(1)  # zero, but its derivative is not
    return features + (jacobian @ change[..., None])[..., 0]
