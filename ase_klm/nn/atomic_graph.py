"""Atoms of one or several structures, and who is near whom."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.graphs import bonds_within
from ase_klm.validate import checked_atoms


@dataclass(frozen=True, eq=False)
class AtomicGraph:
    """Neighbours within a cutoff, of unlike structures side by side; edges sorted by i.

    Attributes
    ----------
    species : Tensor
        Place of each atom in the model's list of species, shape (N,).
    structure : Tensor
        Number of the structure of each atom, shape (N,).
    n_structures : int
        S.
    i, j : Tensor
        Directed edges, each pair both ways, shape (E,): atom i sees atom j.
    cells : Tensor
        Cell of atom j, shape (E, 3), integers.
    """

    species: Tensor
    structure: Tensor
    n_structures: int
    i: Tensor
    j: Tensor
    cells: Tensor

    @classmethod
    def of(cls, structures: Sequence[Atoms], cutoff: float, species: Sequence[str]) -> "AtomicGraph":
        """The graph of structures.

        Parameters
        ----------
        structures : sequence of Atoms
            Their positions and cells decide who is near.
        cutoff : float
            Å.
        species : sequence of str
            Chemical symbols that the model knows.

        Raises
        ------
        KLMError
            When there are other species.
        """
        bonds = [bonds_within(checked_atoms(atoms), cutoff) for atoms in structures]
        graphs = [
            cls.joined(species_numbers(atoms, species), 1, found.i, found.j, found.cells)
            for atoms, found in zip(structures, bonds, strict=True)
        ]
        return cls.side_by_side(graphs)

    @classmethod
    def joined(cls, species: Tensor, replicas: int, i: Any, j: Any, cells: Any) -> "AtomicGraph":
        """Replicas of one structure whose bonds (i, j, R), each once, are given as arrays."""
        i, j, cells = (torch.as_tensor(np.asarray(values)).to(species.device) for values in (i, j, cells))
        n = len(species)
        starts, ends, images = torch.cat([i, j]), torch.cat([j, i]), torch.cat([cells, -cells])
        order = torch.argsort(starts, stable=True)
        shifts = n * torch.arange(replicas, device=species.device)[:, None]
        return cls(
            species.repeat(replicas),
            torch.arange(replicas, device=species.device).repeat_interleave(n),
            replicas,
            (shifts + starts[order]).flatten(),
            (shifts + ends[order]).flatten(),
            images[order].repeat(replicas, 1),
        )

    @classmethod
    def side_by_side(cls, graphs: Sequence["AtomicGraph"]) -> "AtomicGraph":
        """One graph of several, e.g. a batch of training frames whose graphs were made before."""
        atoms = np.cumsum([0] + [len(graph.species) for graph in graphs])
        structures = np.cumsum([0] + [graph.n_structures for graph in graphs])
        return cls(
            torch.cat([graph.species for graph in graphs]),
            torch.cat([graph.structure + int(s) for graph, s in zip(graphs, structures, strict=False)]),
            int(structures[-1]),
            torch.cat([graph.i + int(n) for graph, n in zip(graphs, atoms, strict=False)]),
            torch.cat([graph.j + int(n) for graph, n in zip(graphs, atoms, strict=False)]),
            torch.cat([graph.cells for graph in graphs]),
        )

    def __getitem__(self, edges: Tensor) -> "AtomicGraph":
        """The graph with some of its edges, given as a mask of shape (E,)."""
        return replace(self, i=self.i[edges], j=self.j[edges], cells=self.cells[edges])

    def __len__(self) -> int:
        return len(self.species)

    def to(self, device: torch.device | str) -> "AtomicGraph":
        """The same on another device."""
        tensors = (tensor.to(device) for tensor in (self.i, self.j, self.cells))
        return AtomicGraph(self.species.to(device), self.structure.to(device), self.n_structures, *tensors)

    def vectors(self, positions: Tensor, cells: Tensor) -> Tensor:
        """From i to j, Å, shape (E, 3), of positions (N, 3) and cells (S, 3, 3)."""
        images = self.cells.to(positions.dtype)
        if self.n_structures == 1:
            shifts = images @ cells[0]
        else:
            shifts = torch.einsum("ea,eab->eb", images, cells.index_select(0, self.structure[self.i]))
        return positions.index_select(0, self.j) - positions.index_select(0, self.i) + shifts

    def sums(self, values: Tensor) -> Tensor:
        """Sums over the atoms of each structure, (N,) → (S,)."""
        return values.new_zeros(self.n_structures).index_add(0, self.structure, values)

    @cached_property
    def most(self) -> int:
        """Largest number of neighbours of an atom."""
        return int(torch.bincount(self.i, minlength=len(self)).max()) if len(self.i) else 0

    @cached_property
    def places(self) -> Tensor:
        """Place of each edge in a table (N, most) with a row for each atom, shape (E,)."""
        counts = torch.bincount(self.i, minlength=len(self))
        starts = counts.cumsum(0) - counts
        return self.i * self.most + torch.arange(len(self.i), device=self.i.device) - starts[self.i]

    @cached_property
    def neighbours(self) -> Tensor:
        """Atoms j in that table, shape (N, most); an atom itself where it has fewer neighbours."""
        own = torch.arange(len(self), device=self.i.device).repeat_interleave(self.most)
        return own.index_copy(0, self.places, self.j).view(len(self), self.most)

    def table(self, values: Tensor) -> Tensor:
        """Values of edges (E, ...) in that table, (N, most, ...); zero where an atom has fewer neighbours."""
        rows = values.new_zeros((len(self) * self.most, *values.shape[1:])).index_copy(0, self.places, values)
        return rows.view(len(self), self.most, *values.shape[1:])


def species_numbers(atoms: Atoms, species: Sequence[str]) -> Tensor:
    """Place of each atom in a list of chemical symbols, shape (N,).

    Raises
    ------
    KLMError
        When a symbol is not there.
    """
    places = {symbol: number for number, symbol in enumerate(species)}
    symbols = atoms.get_chemical_symbols()
    unknown = sorted(set(symbols) - places.keys())
    if unknown:
        raise KLMError(
            f"the model does not know {', '.join(unknown)}",
            f"it was made for {', '.join(species)}",
            "take a model that was trained on these species, or train one",
        )
    return torch.tensor([places[symbol] for symbol in symbols])
