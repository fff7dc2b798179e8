"""Exchange that follows atoms, E = Σ_bonds e_i·M(v)·e_j with v = r_j - r_i, every bond once, in eV.

With unit vectors e = m/abs(m), so that magnetic forces are transverse. Atomic forces and stress come from ∂M/∂v. What
the coupled dynamics of spins and atoms need: J. Tranchida et al., J. Comput. Phys. 372, 406 (2018), arXiv:1801.10233.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.graphs import SkinBonds, neighbour_shells
from ase_klm.moments import is_magnetic
from ase_klm.potentials.base import Evaluation, Potential, Structures
from ase_klm.potentials.bilinear import BoundBilinear, unit_vectors
from ase_klm.potentials.bond_terms import BondTerm, Others
from ase_klm.potentials.edges import Edges, stress_of
from ase_klm.potentials.exchange import check_magnetic
from ase_klm.potentials.functions_of_distance import DistanceFunction, checked_distance_function
from ase_klm.validate import checked_number
from ase_klm.vectors import dot

Term = DistanceFunction | BondTerm


@dataclass(frozen=True, eq=False)
class ExchangeOfDistance(Potential):
    """Exchange of moving atoms by shells, between all near pairs, or both; they add up.

    Parameters
    ----------
    shells : mapping, optional
        Shell number (among the magnetic atoms, counted from 1) → a function of distance (`Exponential`, `Table`,
        `BetheSlater`...), a matrix that follows the bond (`DzyaloshinskiiMoriya...`, `Kitaev`...), or a list of these.
        The bonds are those of the reference structure and are kept; only their lengths and directions change.
    function : DistanceFunction, optional
        Exchange between all magnetic atoms that are nearer than the cutoff at the time.
    cutoff : float, optional
        Å, with `function` only. The energy jumps where a pair crosses it, unless the function vanishes there (`Table`
        and `Tapered` do).
    skin : float
        Å; pairs are searched anew when atoms have moved by half of it.
    """

    shells: Mapping[int, Any] | None = None
    function: DistanceFunction | None = None
    cutoff: float | None = None
    skin: float = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.shells, Mapping | None):
            raise KLMError(
                f"shells = {self.shells!r} is no mapping",
                "it assigns functions of distance to shells",
                "for instance {1: potentials.Exponential(-0.01, r0=2.5, decay=0.4)}",
            )
        shells = {shell: checked_terms(value, f"shell {shell}") for shell, value in (self.shells or {}).items()}
        object.__setattr__(self, "shells", shells)
        if (self.function is None) != (self.cutoff is None):
            raise KLMError(
                "function and cutoff are given together or not at all",
                f"function = {self.function!r} and cutoff = {self.cutoff!r}",
                "the cutoff (Å) says which pairs the function is for; functions of a shell stand in shells",
            )
        if self.function is not None:
            checked_distance_function(self.function, "function")
            checked_number(self.cutoff, "cutoff", "Å", above=0)
        checked_number(self.skin, "skin", "Å", minimum=0)

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundExchangeOfDistance":
        reference = atoms if isinstance(atoms, Atoms) else atoms[0]
        check_magnetic(reference)
        shells: Mapping[int, tuple[Term, ...]] = self.shells or {}
        members = []
        if shells:
            bonds = neighbour_shells(reference, shells, among=is_magnetic(reference))
            for number, terms in shells.items():
                own = bonds[bonds.shells == number]
                members += [Members.of(term, reference, own.i, own.j, own.cells) for term in terms]
        bound = BoundExchangeOfDistance(members, atoms, device)
        if self.function is not None and self.cutoff is not None:
            bound.join_pairs(self.function, self.cutoff, self.skin)
        return bound


class Members(NamedTuple):
    """The bonds of one term: ends (n,) and cells (n, 3), and the other atoms on which a matrix depends."""

    term: Term
    i: np.ndarray
    j: np.ndarray
    cells: np.ndarray
    others: Sequence[Others] = ()

    @classmethod
    def of(cls, term: Term, atoms: Atoms, i: np.ndarray, j: np.ndarray, cells: np.ndarray) -> "Members":
        """With the other atoms as the term finds them on the structure."""
        others = term.others(atoms, i, j, cells) if isinstance(term, BondTerm) else ()
        return cls(term, i, j, cells, others)


class BoundExchangeOfDistance(BoundBilinear):
    """Explicit sums over bonds; only the functions of bond vectors are differentiated automatically."""

    def __init__(self, members: Sequence[Members], atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self.site_fields = self.moments.new_zeros(3)
        self._fixed = sorted(members, key=lambda group: not isinstance(group.term, DistanceFunction))
        self._pairs: SkinBonds | None = None
        self._arrange(self._fixed)

    def join_pairs(self, function: DistanceFunction, cutoff: float, skin: float) -> None:
        """Let a function act between all magnetic atoms within a cutoff, which are found anew as they move."""
        self._function, self._cutoff = function, cutoff
        self._chosen = torch.nonzero(self.magnetic)[:, 0]
        self._pairs = SkinBonds(self.reference[self.magnetic.cpu().numpy()], cutoff, skin)

    def _arrange(self, members: Sequence[Members]) -> None:
        """Number the bonds group by group, functions of distance first, and the edges to other atoms after them."""
        self._members = members
        empty = np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3), int)
        edges = [empty, *((group.i, group.j, group.cells) for group in members)]
        edges += [(group.i, *other) for group in members for other in group.others]
        start, end, cells = (np.concatenate(column) for column in zip(*edges, strict=True))
        self._edges = Edges(start, end, cells, like=self.positions)
        sizes = [len(group.i) for group in members]
        self._slices = [slice(sum(sizes[:g]), sum(sizes[: g + 1])) for g in range(len(sizes))]
        self._bonds = slice(0, sum(sizes))
        self._i, self._j = self._edges.start[self._bonds], self._edges.end[self._bonds]
        self._isotropic = sum(1 for group in members if isinstance(group.term, DistanceFunction))

    def _follow(self, positions: Tensor, cell: Tensor) -> None:
        """Find the pairs again where atoms have moved too far."""
        if self._pairs is None or not self._pairs.update(positions.index_select(-2, self._chosen), cell):
            return
        chosen = self._chosen.cpu().numpy()
        i, j, cells = self._pairs.bonds
        self._arrange([Members(self._function, chosen[i], chosen[j], cells), *self._fixed])

    def _functions(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """M of all isotropic bonds and (dM/dr)/r, both (..., n)."""
        bonds = vectors[..., : self._slices[self._isotropic - 1].stop, :]
        r = dot(bonds, bonds).sqrt_()[..., 0]
        values, slopes = [], []
        for number, own in enumerate(self._slices[: self._isotropic]):
            function: Any = self._members[number].term
            value, slope = function.slope(r[..., own])
            if self._pairs is not None and number == 0:
                inside = (r[..., own] < self._cutoff).to(r)
                value, slope = value * inside, slope * inside  # much faster than torch.where
            values.append(value)
            slopes.append(slope)
        return torch.cat(values, dim=-1), torch.cat(slopes, dim=-1) / r

    def _tensors(self, vectors: Tensor) -> list[tuple[slice, BondTerm, Tensor, list[slice]]]:
        """Of each group with matrices: its bonds, its term, all of its vectors (..., 1 + others, n, 3), its edges."""
        found, after = [], self._bonds.stop
        for group, own in zip(self._members[self._isotropic :], self._slices[self._isotropic :], strict=True):
            edges = [own]
            for _ in group.others:
                edges.append(slice(after, after + len(group.i)))
                after = edges[-1].stop
            term: Any = group.term
            found.append((own, term, torch.stack([vectors[..., edge, :] for edge in edges], dim=-3), edges))
        return found

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        self._follow(positions, cell)
        batch = torch.broadcast_shapes(moments.shape[:-2], positions.shape[:-2], cell.shape[:-2])
        vectors = self._edges.vectors(positions, cell).expand(*batch, -1, -1)
        e, length = unit_vectors(moments.expand(*batch, -1, -1))
        e_i, e_j = e.index_select(-2, self._i), e.index_select(-2, self._j)
        at_i, at_j = torch.empty_like(e_i), torch.empty_like(e_j)  # M·e_j and Mᵀ·e_i
        slopes = torch.zeros_like(vectors) if atomic else None
        if self._isotropic:
            M, slope = self._functions(vectors)
            own = slice(0, M.shape[-1])
            torch.mul(M[..., None], e_j[..., own, :], out=at_i[..., own, :])
            torch.mul(M[..., None], e_i[..., own, :], out=at_j[..., own, :])
            if slopes is not None:
                cosines = dot(e_i[..., own, :], e_j[..., own, :])
                torch.mul(slope[..., None] * cosines, vectors[..., own, :], out=slopes[..., own, :])
        for own, term, found, edges in self._tensors(vectors):
            around = found.detach().requires_grad_(atomic)
            with torch.set_grad_enabled(atomic):
                M = term.matrices(around)
            if slopes is not None:
                products = e_i[..., own, :, None] * e_j[..., own, None, :]
                (by_vector,) = torch.autograd.grad(M, around, products, materialize_grads=True)
                for number, edge in enumerate(edges):
                    slopes[..., edge, :] += by_vector[..., number, :, :]
            M = M.detach()
            at_i[..., own, :] = (M @ e_j[..., own, :, None])[..., 0]
            at_j[..., own, :] = (M.mT @ e_i[..., own, :, None])[..., 0]
        gradient = torch.zeros_like(e).index_add_(-2, self._i, at_i).index_add_(-2, self._j, at_j)
        energy = 0.5 * (e * gradient).sum(dim=(-2, -1))
        magnetic_forces = self.magnetic_forces(gradient, e, length)
        if slopes is None:
            return Evaluation(energy, magnetic_forces)
        forces = self._edges.forces(slopes, self.n_atoms)
        return Evaluation(energy, magnetic_forces, forces, stress_of(slopes, vectors, cell))

    def apply(self, vectors: Tensor) -> Tensor:
        """As in the base class, without matrices where numbers do."""
        if len(self._members) > self._isotropic:
            return super().apply(vectors)
        self._follow(self.positions, self.cell)
        found = torch.zeros_like(vectors)
        if self._isotropic:
            M = self._functions(self._edges.vectors(self.positions, self.cell))[0][..., None]
            found.index_add_(-2, self._i, M * vectors.index_select(-2, self._j))
            found.index_add_(-2, self._j, M * vectors.index_select(-2, self._i))
        return found

    def bond_matrices(
        self, positions: Tensor | None = None, cell: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        positions = self.positions if positions is None else positions
        cell = self.cell if cell is None else cell
        self._follow(positions, cell)
        vectors = self._edges.vectors(positions, cell)
        found = []
        if self._isotropic:
            M, _ = self._functions(vectors)
            found.append(M[..., None, None] * torch.eye(3, dtype=M.dtype, device=M.device))
        found += [term.matrices(around) for _, term, around, _ in self._tensors(vectors)]
        M = torch.cat(found, dim=-3) if found else vectors.new_zeros((*vectors.shape[:-2], 0, 3, 3))
        return self._i, self._j, M

    def bond_strengths(
        self, positions: Tensor | None = None, cell: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """As `bond_matrices`, with numbers M (..., n_bonds) where all matrices are M times unity, else None."""
        if len(self._members) > self._isotropic or not self._isotropic:
            return None
        positions = self.positions if positions is None else positions
        cell = self.cell if cell is None else cell
        self._follow(positions, cell)
        return self._i, self._j, self._functions(self._edges.vectors(positions, cell))[0]

    def bond_cells(self) -> Tensor:
        return self._edges.cells[self._bonds]


def checked_terms(value: Any, name: str) -> tuple[Term, ...]:
    """The terms of a shell, one or a list of them.

    Raises
    ------
    KLMError
        When something else is among them.
    """
    terms = tuple(value) if isinstance(value, list | tuple) else (value,)
    for term in terms:
        if not isinstance(term, DistanceFunction | BondTerm):
            raise KLMError(
                f"the exchange of {name} is {term!r}",
                "here it must follow the distance: a DistanceFunction such as Exponential, a BondTerm such as Kitaev, "
                "or a list of these",
                "constant exchange belongs to potentials.Exchange; ExchangeCalculator takes both in one mapping",
            )
    return terms


def follows_distance(value: Any) -> bool:
    """Whether the exchange of a shell is a function of distance, a term of bonds, or a list with such."""
    entries = value if isinstance(value, list | tuple) else [value]
    return any(isinstance(entry, DistanceFunction | BondTerm) for entry in entries)
