"""What networks of atoms and moments share: an energy of positions and moments, a sum over sites."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from ase import Atoms
from ase.data import atomic_numbers
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.models.labels import Labels, side_by_side
from ase_klm.models.trained import TrainedNetwork
from ase_klm.nn.atomic_graph import AtomicGraph
from ase_klm.validate import checked_number

SMALLEST_SPREAD = 0.05
"""Squares of moments are told apart in units of their spread in training, relative to their mean; at least this."""


class AtomicNetwork(TrainedNetwork):
    """An energy of atoms and moments, E = Σ_i (shift of the species + scale · term_i).

    It is rebuilt from its `hyperparameters`, which include species and cutoff, and a state dictionary.

    Parameters
    ----------
    species : sequence of str
        Chemical symbols.
    cutoff : float
        Å; atoms farther apart do not see each other directly.
    """

    energy_shifts: Tensor
    energy_scale: Tensor
    moment_scales: Tensor
    moment_spreads: Tensor
    longest_moments: Tensor
    nearest: Tensor
    neighbour_number: Tensor

    def __init__(self, species: Sequence[str], cutoff: float) -> None:
        super().__init__()
        self.species, self.cutoff = _checked_species(species), float(cutoff)
        checked_number(cutoff, "cutoff", "Å", above=0)
        n = len(self.species)
        self.register_buffer("energy_shifts", torch.zeros(n, dtype=torch.float64))  # eV, in whatever precision
        self.register_buffer("energy_scale", torch.ones(()))  # eV
        self.register_buffer("moment_scales", torch.ones(n))  # μB, root mean square of each species
        self.register_buffer("moment_spreads", torch.ones(n))  # of the squared length, in units of the mean square
        self.register_buffer("longest_moments", torch.full((n,), torch.inf))  # μB, in training; 0: not magnetic there
        self.register_buffer("nearest", torch.zeros(n, n))  # Å, shortest distance of each pair in training
        self.register_buffer("neighbour_number", torch.full((), 50.0))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Move or convert all but the precision of the shifts: thousands of eV would lose the digits that count."""
        shifts = self.energy_shifts
        super()._apply(fn, recurse)
        self.energy_shifts = shifts.to(self.energy_scale.device)
        return self

    @property
    def dtype(self) -> torch.dtype:
        return self.energy_scale.dtype

    def place(self, structures: Atoms | Sequence[Atoms], hamiltonian: Mapping[str, Any] | None = None) -> AtomicGraph:
        """The graph of structures, on the device of the weights."""
        several = [structures] if isinstance(structures, Atoms) else structures
        return AtomicGraph.of(several, self.cutoff, self.species).to(self.energy_scale.device)

    @staticmethod
    def joined(labels: Sequence[Labels]) -> Labels:
        """Structures with their labels side by side."""
        if len(labels) == 1:
            return labels[0]
        return side_by_side(labels, AtomicGraph.side_by_side([one.placed for one in labels]))

    def composition(self, graph: AtomicGraph) -> Tensor:
        """Atoms of each species in each structure, shape (S, species), float64."""
        kinds = torch.nn.functional.one_hot(graph.species, len(self.species)).double()
        return kinds.new_zeros(graph.n_structures, len(self.species)).index_add(0, graph.structure, kinds)

    @abstractmethod
    def site_terms(self, graph: AtomicGraph, vectors: Tensor, moments: Tensor) -> Tensor:
        """Site energies in units of `energy_scale`, shape (N,), without the shifts.

        Parameters
        ----------
        graph : AtomicGraph
            N atoms, E edges, some of which may be longer than the cutoff.
        vectors : Tensor
            Å, shape (E, 3).
        moments : Tensor
            In units of `moment_scales`, shape (N, 3).
        """

    def terms(self, graph: AtomicGraph, moments: Tensor, positions: Tensor, cells: Tensor) -> Tensor:
        """Site energies in units of `energy_scale`, without the shifts, of the arguments of `site_energies`."""
        vectors = graph.vectors(positions, cells).to(self.dtype)  # differences in the precision of the positions
        scaled = moments.to(self.dtype) / self.moment_scales[graph.species, None]
        return self.site_terms(graph, vectors, scaled)

    def site_energies(self, placed: AtomicGraph, moments: Tensor, positions: Tensor, cells: Tensor) -> Tensor:
        """Site energies, eV, shape (N,), float64, differentiable in all but the graph.

        Parameters
        ----------
        placed : AtomicGraph
            With the bonds up to `cutoff`, or more.
        moments, positions : Tensor
            μB and Å, shape (N, 3).
        cells : Tensor
            Å, shape (S, 3, 3).
        """
        terms = self.energy_scale * self.terms(placed, moments, positions, cells)
        return self.energy_shifts[placed.species] + terms.double()

    def energies(
        self,
        placed: AtomicGraph,
        moments: Tensor,
        positions: Tensor | None = None,
        cells: Tensor | None = None,
        prepared: list[Any] | None = None,
    ) -> Tensor:
        """Energies of the structures, eV, shape (S,), summed in float64, of the arguments of `site_energies`."""
        assert positions is not None
        assert cells is not None
        terms = self.energy_scale.double() * self.terms(placed, moments, positions, cells).double()
        return placed.sums(terms + self.energy_shifts[placed.species])

    @torch.no_grad()
    def calibrate(self, labels: Sequence[Labels]) -> None:
        """Set what depends on the training set and is not trained.

        The shifts are a least-squares fit of the energies by composition. The scale is the root mean square of the
        forces (over 1 Å), else of the magnetic forces (over 1 μB), else the spread of energies around the shifts.
        """
        every = self.joined(labels)
        energies = every.energies
        composition, known = self.composition(every.placed), energies.isfinite()
        rest = energies.new_zeros(0)
        if bool(known.any()):
            counts, given = composition[known], energies[known].double()
            shifts = torch.linalg.pinv(counts) @ given
            self.energy_shifts.copy_(shifts)
            rest = given - counts @ shifts
        for values in (every.forces, every.magnetic_forces, rest):
            finite = values[values.isfinite()]
            size = float(finite[finite != 0].double().square().mean().sqrt()) if bool((finite != 0).any()) else 0.0
            if size > 1e-9:
                self.energy_scale.fill_(size)
                break
        self._learn_scales(every)
        self.learn_range(labels)

    def _learn_scales(self, labels: Labels) -> None:
        """Neighbours within the cutoff; lengths of the moments of each species, and how much they vary."""
        near = self._distances(labels) < self.cutoff
        self.neighbour_number.fill_(max(float(near.sum()) / len(labels.placed), 1.0))
        lengths = labels.moments.double().norm(dim=-1)
        for kind in range(len(self.species)):
            magnetic = lengths[(labels.placed.species == kind) & (lengths > 0)]
            if len(magnetic):
                scale = float(magnetic.square().mean().sqrt())
                self.moment_scales[kind] = scale
                spread = float(((magnetic / scale) ** 2).std(correction=0))
                self.moment_spreads[kind] = max(spread, SMALLEST_SPREAD)

    @torch.no_grad()
    def learn_range(self, labels: Sequence[Labels]) -> None:
        """Set beyond what users are warned: the shortest distances and the longest moments of structures."""
        every = self.joined(labels)
        graph: AtomicGraph = every.placed
        n, lengths = len(self.species), every.moments.double().norm(dim=-1)
        for kind in range(n):
            own = lengths[graph.species == kind]
            if len(own):
                self.longest_moments[kind] = float(own.max())
        distances = self._distances(every)
        pairs = graph.species[graph.i] * n + graph.species[graph.j]
        shortest = distances.new_full((n * n,), self.cutoff).scatter_reduce(0, pairs, distances, "amin")
        self.nearest.copy_(shortest.view(n, n))

    @torch.no_grad()
    def shift_energies(self, labels: Sequence[Labels], missing: Tensor) -> None:
        every = self.joined(labels)
        composition, known = self.composition(every.placed), missing.isfinite()
        if bool(known.any()):
            rest = (missing * every.sizes)[known]
            self.energy_shifts += torch.linalg.pinv(composition[known]) @ rest

    @staticmethod
    def _distances(labels: Labels) -> Tensor:
        """Of all edges, Å, shape (E,)."""
        found: Tensor = labels.placed.vectors(labels.positions, labels.cells).norm(dim=-1)
        return found


def _checked_species(species: Sequence[str]) -> tuple[str, ...]:
    found = tuple(species) if not isinstance(species, str) else (species,)
    wrong = [symbol for symbol in found if symbol not in atomic_numbers]
    if wrong or not found or len(set(found)) < len(found):
        raise KLMError(
            f"species = {species!r} cannot be used",
            f"{wrong[0]!r} is no chemical symbol" if wrong else "each species is named once, and there is at least one",
            'e.g. species=("Ni", "O")',
        )
    return found
