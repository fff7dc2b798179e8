"""Energy of the lattice alone, which spins do not enter: pairs and angles between bonds.

    E = Σ_pairs V(r) + ½ Σ_angles κ (cos θ - cos θ₀)²

Invariant under translations and rotations. A spring has V = ½ k (r - l)²; with springs and angles this is a valence
force field.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.graphs import Bonds, SkinBonds
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Structures, frozen_array
from ase_klm.potentials.edges import Edges, stress_of
from ase_klm.potentials.functions_of_distance import DistanceFunction, check_pair_function
from ase_klm.potentials.second_derivatives import Blocks
from ase_klm.supercells import Repetitions, undistorted
from ase_klm.validate import checked_number
from ase_klm.vectors import dot, norm


@dataclass(frozen=True, eq=False)
class Spring(DistanceFunction):
    """V(r) = ½ k (r - l)².

    Parameters
    ----------
    stiffness : float
        k, eV/Å².
    length : float or array_like
        l, Å, for all bonds or one a bond.
    """

    stiffness: float
    length: Any

    def __post_init__(self) -> None:
        checked_number(self.stiffness, "stiffness", "eV/Å²", minimum=0)
        object.__setattr__(self, "length", frozen_array(self.length, "length", "Å"))

    def __call__(self, r: Tensor) -> Tensor:
        return self.slope(r)[0]

    def slope(self, r: Tensor) -> tuple[Tensor, Tensor]:
        longer = r - torch.tensor(self.length).to(r)
        return 0.5 * self.stiffness * longer**2, self.stiffness * longer


@dataclass(frozen=True)
class Morse(DistanceFunction):
    """V(r) = depth [exp(-2 (r - r0)/decay) - 2 exp(-(r - r0)/decay)], with the minimum -depth at r0.

    Parameters
    ----------
    depth : float
        eV.
    r0, decay : float
        Å.
    """

    depth: float
    r0: float
    decay: float

    def __post_init__(self) -> None:
        checked_number(self.depth, "depth", "eV")
        checked_number(self.r0, "r0", "Å")
        checked_number(self.decay, "decay", "Å", above=0)

    def __call__(self, r: Tensor) -> Tensor:
        decayed = torch.exp((self.r0 - r) / self.decay)
        return self.depth * decayed * (decayed - 2)

    def slope(self, r: Tensor) -> tuple[Tensor, Tensor]:
        decayed = torch.exp((self.r0 - r) / self.decay)
        return self.depth * decayed * (decayed - 2), (2 * self.depth / self.decay) * decayed * (1 - decayed)


@dataclass(frozen=True, eq=False)
class LatticeEnergy(Potential):
    """E = Σ_pairs V(r) + ½ Σ_angles κ (cos θ - cos θ₀)²: springs, pair energies and angles, on all atoms.

    Parameters
    ----------
    shells : mapping, optional
        Shell number (among all atoms, counted from 1) → the stiffness of a spring in eV/Å², whose rest length is that
        on the lattice, or a function of distance in eV.
    bends : mapping, optional
        Shell number → κ in eV for all angles between two bonds of that shell at one atom; θ₀ is that on the lattice.
    function : DistanceFunction, optional
        Energy of all pairs that are nearer than the cutoff at the time, e.g. `Morse`.
    cutoff : float, optional
        Å, with `function` only. The energy jumps where a pair crosses it, unless the function vanishes there.
    skin : float
        Å; pairs are searched anew when atoms have moved by half of it.
    lattice : Atoms, optional
        Cell on which shells are counted and springs are at rest, for all structures that repeat it. Default: the
        structure that this is bound to.
    """

    shells: Mapping[int, Any] | None = None
    bends: Mapping[int, float] | None = None
    function: DistanceFunction | None = None
    cutoff: float | None = None
    skin: float = 0.5
    lattice: Atoms | None = None

    def __post_init__(self) -> None:
        for name, given in (("shells", self.shells), ("bends", self.bends)):
            if not isinstance(given, Mapping | None):
                raise KLMError(
                    f"{name} = {given!r} is no mapping", "it assigns a stiffness to shells", "for instance {1: 5.0}"
                )
        for shell, value in (self.shells or {}).items():
            if not isinstance(value, DistanceFunction):
                checked_number(value, f"stiffness of shell {shell}", "eV/Å²")
        for shell, value in (self.bends or {}).items():
            checked_number(value, f"bending stiffness of shell {shell}", "eV")
        check_pair_function(self.function, self.cutoff, self.skin)
        self._keep_lattice()

    @property
    def uses_lattice(self) -> bool:  # type: ignore[override]
        return bool(self.shells or self.bends)

    def repeated(self, atoms: Atoms, repetitions: Repetitions) -> Potential:
        for shell, value in (self.shells or {}).items():
            if isinstance(value, Spring) and np.size(value.length) > 1:
                raise KLMError(
                    f"springs of shell {shell} with a length for each bond cannot be repeated",
                    "the lengths have the order of the bonds of one structure",
                    "give a stiffness alone, whose lengths are those on the lattice, or one length",
                )
        return super().repeated(atoms, repetitions)

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundLatticeEnergy":
        shells, bends = self.shells or {}, self.bends or {}
        pairs, angles = [], []
        if shells or bends:
            lattice = undistorted(atoms, self.lattice)
            bonds = lattice.shells({*shells, *bends})
            bonds = replace(bonds, cells=lattice.present(bonds.i, bonds.j, bonds.cells))
            for number, value in shells.items():
                own = bonds[bonds.shells == number]
                law = value if isinstance(value, DistanceFunction) else Spring(value, own.distances)
                pairs.append(Pairs(law, own.i, own.j, own.cells))
            angles = [Angles.between(bonds[bonds.shells == number], kappa) for number, kappa in bends.items()]
        bound = BoundLatticeEnergy(pairs, angles, atoms, device)
        if self.function is not None and self.cutoff is not None:
            bound.join_pairs(self.function, self.cutoff, self.skin)
        return bound


class Pairs(NamedTuple):
    """Pairs (i, j, R) with one law."""

    law: DistanceFunction
    i: np.ndarray
    j: np.ndarray
    cells: np.ndarray


class Angles(NamedTuple):
    """Angles at atoms i between the ways to j and to k, each (n,), cells (n, 3), with stiffness and cos θ₀."""

    stiffness: float
    i: np.ndarray
    j: np.ndarray
    cells_j: np.ndarray
    k: np.ndarray
    cells_k: np.ndarray
    cosines: np.ndarray

    @classmethod
    def between(cls, bonds: Bonds, stiffness: float) -> "Angles":
        """All angles between two of these bonds that meet."""
        i, j = np.concatenate([bonds.i, bonds.j]), np.concatenate([bonds.j, bonds.i])
        cells, vectors = np.concatenate([bonds.cells, -bonds.cells]), np.concatenate([bonds.vectors, -bonds.vectors])
        order = np.argsort(i, kind="stable")
        counts = np.bincount(i)
        ends = np.cumsum(counts)
        meeting = [np.stack(np.triu_indices(n, 1)) + end - n for n, end in zip(counts, ends, strict=True) if n > 1]
        one, other = order[np.concatenate(meeting, axis=1)] if meeting else np.zeros((2, 0), int)
        lengths = np.linalg.norm(vectors, axis=1)
        cosines = (vectors[one] * vectors[other]).sum(1) / (lengths[one] * lengths[other])
        return cls(stiffness, i[one], j[one], cells[one], j[other], cells[other], cosines)


class BoundLatticeEnergy(BoundPotential):
    """Explicit sums over pairs; angles are differentiated automatically. There are no magnetic forces."""

    turns_spins = False

    def __init__(self, pairs: Sequence[Pairs], angles: Sequence[Angles], atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self._fixed, self._angles = list(pairs), list(angles)
        self._near: SkinBonds | None = None
        self._arrange(self._fixed)
        ways = [(a.i, a.j, a.cells_j) for a in angles] + [(a.i, a.k, a.cells_k) for a in angles]
        self._ways = self._edges_of(ways)
        self._stiffness = self.tensor(np.repeat([a.stiffness for a in angles], [len(a.i) for a in angles]))
        self._cosines = self.tensor(np.concatenate([np.zeros(0), *(a.cosines for a in angles)]))

    def join_pairs(self, function: DistanceFunction, cutoff: float, skin: float) -> None:
        """Let a function act between all atoms within a cutoff, which are found anew as they move."""
        self._function, self._cutoff = function, cutoff
        self._near = SkinBonds(self.reference, cutoff, skin)

    def _edges_of(self, ends: Sequence[tuple[np.ndarray, ...]]) -> Edges:
        none = np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3), int)
        i, j, cells = (np.concatenate(column) for column in zip(none, *ends, strict=True))
        return Edges(i, j, cells, like=self.positions)

    def _arrange(self, pairs: Sequence[Pairs]) -> None:
        self._pairs = pairs
        self._edges = self._edges_of([(group.i, group.j, group.cells) for group in pairs])
        ends = np.cumsum([0, *(len(group.i) for group in pairs)]).tolist()
        self._slices = [slice(*span) for span in pairwise(ends)]

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        batch = torch.broadcast_shapes(moments.shape[:-2], positions.shape[:-2], cell.shape[:-2])
        energy, parts = self._derivatives(positions, cell, batch)
        magnetic_forces = torch.zeros_like(moments).expand(*batch, -1, -1)
        if not atomic:
            return Evaluation(energy, magnetic_forces)
        first, *rest = (stress_of(slopes, vectors, cell) for _, slopes, vectors in parts)
        return Evaluation(energy, magnetic_forces, self._forces(parts), sum(rest, start=first))

    def effective_field(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        return torch.zeros_like(moments)

    def forces(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        batch = torch.broadcast_shapes(moments.shape[:-2], positions.shape[:-2], cell.shape[:-2])
        return self._forces(self._derivatives(positions, cell, batch)[1])

    def _forces(self, parts: Sequence[tuple[Edges, Tensor, Tensor]]) -> Tensor:
        first, *rest = (edges.forces(slopes, self.n_atoms) for edges, slopes, _ in parts)
        return sum(rest, start=first)

    def _derivatives(
        self, positions: Tensor, cell: Tensor, batch: tuple[int, ...]
    ) -> tuple[Tensor, list[tuple[Edges, Tensor, Tensor]]]:
        """Energy, and of pairs and angles: edges, slopes ∂E/∂v, and vectors v."""
        if self._near is not None and self._near.update(positions, cell):
            self._arrange([Pairs(self._function, *self._near.bonds), *self._fixed])
        vectors = self._edges.vectors(positions, cell).expand(*batch, -1, -1)
        r = norm(vectors)[..., 0]
        energy, slopes = positions.new_zeros(batch), torch.empty_like(r)
        for number, (group, own) in enumerate(zip(self._pairs, self._slices, strict=True)):
            value, slope = group.law.slope(r[..., own])
            if self._near is not None and number == 0:
                inside = (r[..., own] < self._cutoff).to(r)
                value, slope = value * inside, slope * inside  # much faster than torch.where
            energy = energy + value.sum(-1)
            torch.div(slope, r[..., own], out=slopes[..., own])
        parts = [(self._edges, slopes[..., None] * vectors, vectors)]
        if self._angles:
            ways = self._ways.vectors(positions, cell).expand(*batch, -1, -1).detach().requires_grad_()
            with torch.enable_grad():
                bending = self._bending(ways)
                (by_way,) = torch.autograd.grad(bending.sum(), ways)
            energy = energy + bending.detach()
            parts.append((self._ways, by_way, ways.detach()))
        return energy, parts

    def _bending(self, ways: Tensor) -> Tensor:
        lengths = dot(ways, ways).sqrt()[..., 0]
        n = len(self._cosines)
        products = dot(ways[..., :n, :], ways[..., n:, :])[..., 0]
        cosines = products / (lengths[..., :n] * lengths[..., n:])
        return 0.5 * (self._stiffness * (cosines - self._cosines) ** 2).sum(-1)

    def hessian_vector_product(self, moments: Tensor, vectors: Tensor) -> Tensor:
        return torch.zeros_like(moments)

    def site_hessian(self, moments: Tensor) -> Tensor:
        return moments.new_zeros((*moments.shape, 3))

    def second_derivatives(self, moments: Tensor) -> Blocks:
        return Blocks.none(self.n_atoms)
