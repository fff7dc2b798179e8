"""A network of atoms and moments as a potential: energy, forces, stress and magnetic forces by differentiation."""

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ase_klm.errors import KLMError, warn
from ase_klm.graphs import SkinBonds
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.models.files import verified_origin
from ase_klm.nn.atomic_graph import AtomicGraph, species_numbers
from ase_klm.potentials.base import BoundPotential, Potential, Structures, hessian_by_differences
from ase_klm.validate import checked_number

CLOSER = 0.95
"""Atoms nearer than this fraction of the shortest distance in training are warned of."""

LONGER = 1.1
"""Moments longer than this multiple of the longest in training are warned of."""

LARGEST_DEVIATION = 1e-3
"""Relative difference of forces up to which a compiled network is taken to be the network; float32 has 1e-5."""

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True, eq=False)
class Atomistic(Potential):
    """E = Σ_i f(atoms and moments around atom i): a trained network.

    Parameters
    ----------
    model : AtomicNetwork
        Its present weights are copied.
    dtype : str, optional
        "float32" or "float64"; default that of the weights. Results are float64.
    compile : bool
        Whether torch compiles the network; takes minutes, and pays on GPUs. The first results are compared with those
        of the network as it is, which is used where they differ.
    skin : float
        Å; neighbours are found again when atoms have moved by half of it.
    """

    model: AtomicNetwork
    dtype: str | None = None
    compile: bool = False
    skin: float = 0.3
    uses_lattice: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.model, AtomicNetwork):
            raise KLMError(
                f"{type(self.model).__name__} is not a network of atoms and moments",
                "an AtomicNetwork such as MagNet is needed; networks of spins on a lattice belong to ECNNCalculator",
                "load a file of such a network with models.load",
            )
        if self.dtype is not None and self.dtype not in DTYPES:
            raise KLMError(
                f"dtype = {self.dtype!r} is unknown", "known are float32 and float64", 'e.g. dtype="float32"'
            )
        checked_number(self.skin, "skin", "Å", minimum=0)
        model = deepcopy(self.model).requires_grad_(False).eval()
        model.origin = verified_origin(self.model)
        if self.dtype is not None:
            model = model.to(DTYPES[self.dtype])
        if self.compile:
            model.site_terms = torch.compile(model.site_terms)  # type: ignore[method-assign]
        object.__setattr__(self, "model", model)

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundAtomistic":
        return BoundAtomistic(self, atoms, device)


class BoundAtomistic(BoundPotential):
    """A network with the neighbours of a structure, or of several replicas of it."""

    def __init__(self, potential: Atomistic, atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self.model = potential.model.to(self.device)
        self._compiled = "site_terms" in self.model.__dict__
        self.species = species_numbers(self.reference, self.model.species).to(self.device)
        self._bonds = SkinBonds(self.reference, self.model.cutoff, potential.skin)
        self._listed: AtomicGraph | None = None
        self._graph: AtomicGraph | None = None
        self._near: Tensor | None = None
        self._warned: set[str] = set()
        self._warn_of_missing_moments()
        if self._compiled:
            self._check_compiled()

    def _check_compiled(self) -> None:
        """Leave out what torch has compiled where its gradients are wrong, as they can be (torch 2.13 on a CPU)."""
        compiled, network = self.evaluate(), self.model.site_terms
        del self.model.site_terms  # the method of the class comes to light
        plain = self.evaluate()
        differences = [
            float((a - b).abs().max()) / (1e-6 + float(b.abs().max()))
            for a, b in ((compiled.forces, plain.forces), (compiled.magnetic_forces, plain.magnetic_forces))
            if a is not None and b is not None
        ]
        if max(differences) < LARGEST_DEVIATION:
            self.model.site_terms = network  # type: ignore[method-assign]
            return
        self._compiled = False
        warn(
            "the compiled network is left out",
            f"its forces differ from those of the network by {max(differences):.1g} of the largest",
            "nothing: the network works without; compile=False saves the time of compiling",
        )

    @property
    def interaction_range(self) -> float:
        return 2 * self.model.reach * self.model.cutoff

    def hessian_vector_product(self, moments: Tensor, vectors: Tensor) -> Tensor:
        if self._compiled:  # torch differentiates what it has compiled once only
            return hessian_by_differences(self, moments, vectors)
        return super().hessian_vector_product(moments, vectors)

    def graph(self, positions: Tensor, cell: Tensor) -> AtomicGraph:
        """Neighbours of the replicas at positions (replicas, N, 3) in cells (replicas, 3, 3), without the skin."""
        positions, cell = positions.detach(), cell.detach()
        changed = self._bonds.update(positions, cell)
        if changed or self._listed is None or self._listed.n_structures != len(positions):
            self._listed = AtomicGraph.joined(self.species, len(positions), *self._bonds.bonds)
            self._graph = None
        distances = self._listed.vectors(positions.flatten(0, 1), cell).norm(dim=-1)
        near = distances < self.model.cutoff
        if self._graph is None or self._near is None or not torch.equal(near, self._near):
            self._graph, self._near = self._listed[near], near
            _ = self._graph.neighbours  # made here, outside of what torch compiles
        self._warn_of_short_distances(self._graph, distances[near])
        return self._graph

    def energy(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(moments.shape[:-2], positions.shape[:-2], cell.shape[:-2])
        moments, positions, cell = (
            values.expand(*batch, *values.shape[-2:]).reshape(-1, *values.shape[-2:])
            for values in (moments, positions, cell)
        )
        graph = self.graph(positions, cell)
        self._warn_of_long_moments(moments.detach())
        energies = self.model.energies(graph, moments.flatten(0, 1), positions.flatten(0, 1), cell)
        return energies.view(batch)

    def _warn_of_missing_moments(self) -> None:
        for number, symbol in enumerate(self.model.species):
            own = self.species == number
            usual = float(self.model.longest_moments[number])
            if bool(own.any()) and 0 < usual < np.inf and not bool(self.magnetic[own].any()):
                warn(
                    f"no {symbol} atom has a moment",
                    f"in training they had moments of up to {usual:.3g} μB; moments of zero stay zero, and the "
                    "energy is that of a state which the network has not seen",
                    "set them with set_moments(atoms, ...)",
                )

    def _warn_of_long_moments(self, moments: Tensor) -> None:
        """Once, tell of moments beyond those of the training set."""
        if "moments" in self._warned:
            return
        longest = self.model.longest_moments.to(moments)[self.species]
        excess = (moments.norm(dim=-1) - LONGER * longest).amax(0)
        if not bool((excess > 0).any()):
            return
        self._warned.add("moments")
        site = int(excess.argmax())
        length = float(moments[:, site].norm(dim=-1).max())
        warn(
            f"the moment of atom {site} ({self.reference.symbols[site]}) is longer than any in training",
            f"it is {length:.4g} μB long, and the longest that the network has seen {float(longest[site]):.4g}",
            "energy and forces are a guess there; check the moments, or train on longer ones",
        )

    def _warn_of_short_distances(self, graph: AtomicGraph, distances: Tensor) -> None:
        """Once, tell of pairs that are closer than those of the training set."""
        if "distances" in self._warned:
            return
        nearest = self.model.nearest.to(distances)[graph.species[graph.i], graph.species[graph.j]]
        ratio = distances / nearest
        if not bool((ratio < CLOSER).any()):
            return
        self._warned.add("distances")
        edge = int(ratio.argmin())
        i, j = (int(ends[edge]) % self.n_atoms for ends in (graph.i, graph.j))
        symbols = self.reference.symbols
        warn(
            f"atoms {i} ({symbols[i]}) and {j} ({symbols[j]}) are closer than any such pair in training",
            f"they are {float(distances[edge]):.4g} Å apart, and the shortest distance that the network has seen is "
            f"{float(nearest[edge]):.4g} Å",
            "energy and forces are a guess there; check positions and units, or train on denser structures",
        )
