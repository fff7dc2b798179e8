"""Exchange that follows atoms, E = Σ_bonds e_i·M(v)·e_j with v = r_j - r_i, every bond once, in eV.

With unit vectors e = m/abs(m), so that magnetic forces are transverse. Atomic forces and stress come from ∂M/∂v. What
the coupled dynamics of spins and atoms need: J. Tranchida et al., J. Comput. Phys. 372, 406 (2018), arXiv:1801.10233.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.graphs import SkinBonds, checked_shells
from ase_klm.memory import require_memory
from ase_klm.moments import is_magnetic
from ase_klm.plausibility import Doubt, doubts_about, doubts_about_cutoff, nearest_neighbours
from ase_klm.potentials.base import Evaluation, Potential, Structures
from ase_klm.potentials.bilinear import BoundBilinear, unit_vectors
from ase_klm.potentials.bond_terms import BondTerm, Others
from ase_klm.potentials.edges import Edges, stress_of
from ase_klm.potentials.exchange import check_magnetic
from ase_klm.potentials.functions_of_distance import DistanceFunction, check_pair_function
from ase_klm.supercells import Undistorted, undistorted
from ase_klm.vectors import dot, norm

Term = DistanceFunction | BondTerm

BYTES_A_BOND = 600
"""Ends, vectors, values, slopes and their products of one evaluation."""


@dataclass(frozen=True, eq=False)
class ExchangeOfDistance(Potential):
    """E = Σ_bonds e_i·M(v)·e_j with v = r_j - r_i and e = m/abs(m), every bond once: M > 0 is antiferromagnetic.

    Exchange of moving atoms by shells, between all near pairs, or both; they add up.

    Parameters
    ----------
    shells : mapping, optional
        Shell number (among the magnetic atoms, counted from 1) → a function of distance (`Exponential`, `Table`,
        `BetheSlater`...), a matrix that follows the bond (`DzyaloshinskiiMoriya...`, `Kitaev`...), or a list of these.
        The bonds are kept while atoms move; only their lengths and directions change.
    function : DistanceFunction, optional
        Exchange between all magnetic atoms that are nearer than the cutoff at the time.
    cutoff : float, optional
        Å, with `function` only. The energy jumps where a pair crosses it, unless the function vanishes there (`Table`
        and `Tapered` do).
    skin : float
        Å; pairs are searched anew when atoms have moved by half of it.
    lattice : Atoms, optional
        Cell on which shells are counted, for all structures that repeat it. Default: the structure that this is bound
        to.
    """

    shells: Mapping[int, Any] | None = None
    function: DistanceFunction | None = None
    cutoff: float | None = None
    skin: float = 0.5
    lattice: Atoms | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.shells, Mapping | None):
            raise KLMError(
                f"shells = {self.shells!r} is no mapping",
                "it assigns functions of distance to shells",
                "for instance {1: potentials.Exponential(-0.01, r0=2.5, decay=0.4)}",
            )
        checked_shells(self.shells or {})
        shells = {shell: checked_terms(value, f"shell {shell}") for shell, value in (self.shells or {}).items()}
        object.__setattr__(self, "shells", shells)
        check_pair_function(self.function, self.cutoff, self.skin)
        self._keep_lattice()

    @property
    def uses_lattice(self) -> bool:  # type: ignore[override]
        return bool(self.shells)

    def doubts(self, atoms: Atoms, force_scale: float) -> Iterator[Doubt]:
        magnetic = atoms[is_magnetic(atoms)]
        nearest = nearest_neighbours(magnetic) if len(magnetic) else None
        if nearest is None:
            return
        r = torch.tensor([float(np.median(nearest.distance))], dtype=torch.float64)
        for terms in ((self.function,), *(self.shells or {}).values()):
            for term in terms:
                if isinstance(term, DistanceFunction):
                    yield from doubts_about("exchange", term(r).detach(), f"exchange at {float(r):.3g} Å")
        if self.cutoff is not None:
            yield from doubts_about_cutoff(self.cutoff, nearest.distance.min())

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundExchangeOfDistance":
        reference = atoms if isinstance(atoms, Atoms) else atoms[0]
        check_magnetic(reference)
        shells: Mapping[int, tuple[Term, ...]] = self.shells or {}
        members = []
        if shells:
            lattice = undistorted(atoms, self.lattice)
            bonds = lattice.shells(shells, among=is_magnetic(reference))
            for number, terms in shells.items():
                own = bonds[bonds.shells == number]
                members += [Members.of(term, lattice, own.i, own.j, own.cells) for term in terms]
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
    def of(cls, term: Term, lattice: Undistorted, i: np.ndarray, j: np.ndarray, cells: np.ndarray) -> "Members":
        """Of bonds on a lattice, with the other atoms as the term finds them there."""
        others = term.others(lattice.atoms, i, j, cells) if isinstance(term, BondTerm) else ()
        return cls(term, i, j, cells, others).in_images(lattice)

    def in_images(self, lattice: Undistorted) -> "Members":
        """With the cells of a structure whose atoms stand in other images than on the lattice."""
        others = [(k, lattice.present(self.i, k, cells)) for k, cells in self.others]
        return Members(self.term, self.i, self.j, lattice.present(self.i, self.j, self.cells), others)


@dataclass(frozen=True)
class _Placed:
    """The exchange at some positions and in some cell, along the batch of the moments."""

    positions: Tensor
    cell: Tensor
    batch: tuple[int, ...]
    vectors: Tensor  # of all edges, (..., n_edges, 3)
    strengths: Tensor  # M of the isotropic bonds, which come first, (..., n)
    slopes: Tensor  # (dM/dr)/r of these
    matrices: Tensor | None  # M of the other bonds, (..., n, 3, 3), with its way back to the vectors; None without any

    def is_at(self, positions: Tensor, cell: Tensor, batch: tuple[int, ...]) -> bool:
        return self.batch == batch and torch.equal(self.positions, positions) and torch.equal(self.cell, cell)


class BoundExchangeOfDistance(BoundBilinear):
    """Explicit sums over bonds; only the functions of bond vectors are differentiated automatically.

    The exchange is kept until the positions change, as integrators and magnons ask for it many times.
    """

    def __init__(self, members: Sequence[Members], atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self.site_fields = self.moments.new_zeros(3)
        self._fixed = sorted(members, key=lambda group: not isinstance(group.term, DistanceFunction))
        self._pairs: SkinBonds | None = None
        self._last: _Placed | None = None
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
        require_memory(
            BYTES_A_BOND * sum(sizes),
            f"exchange along {sum(sizes)} bonds",
            "use a shorter cutoff, or a smaller structure",
        )
        self._slices = [slice(sum(sizes[:g]), sum(sizes[: g + 1])) for g in range(len(sizes))]
        self._bonds = slice(0, sum(sizes))
        self._i, self._j = self._edges.start[self._bonds], self._edges.end[self._bonds]
        self._isotropic = sum(1 for group in members if isinstance(group.term, DistanceFunction))
        tensors = members[self._isotropic :]
        others = [len(group.i) for group in tensors for _ in group.others]
        self._pieces = [sum(sizes[: self._isotropic]), *sizes[self._isotropic :], *others]

    def _follow(self, positions: Tensor, cell: Tensor) -> None:
        """Find the pairs again where atoms have moved too far."""
        if self._pairs is None or not self._pairs.update(positions.index_select(-2, self._chosen), cell):
            return
        chosen = self._chosen.cpu().numpy()
        i, j, cells = self._pairs.bonds
        self._arrange([Members(self._function, chosen[i], chosen[j], cells), *self._fixed])

    def _at(self, positions: Tensor, cell: Tensor, batch: tuple[int, ...]) -> _Placed:
        """The exchange there; what was found last, where it was there."""
        positions, cell = positions.detach(), cell.detach()
        if self._last is None or not self._last.is_at(positions, cell, batch):
            self._follow(positions, cell)
            vectors = self._edges.vectors(positions, cell).expand(*batch, -1, -1)
            matrices = self._matrices(vectors.requires_grad_()) if len(self._members) > self._isotropic else None
            M, slopes = self._functions(vectors.detach())
            self._last = _Placed(positions.clone(), cell.clone(), batch, vectors, M, slopes, matrices)
        return self._last

    def _functions(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """M of all isotropic bonds and (dM/dr)/r, both (..., n)."""
        bonds = vectors[..., : self._pieces[0], :]
        r = norm(bonds)[..., 0]
        values, slopes = [r[..., :0]], [r[..., :0]]
        for number, own in enumerate(self._slices[: self._isotropic]):
            function: Any = self._members[number].term
            value, slope = function.slope(r[..., own])
            if self._pairs is not None and number == 0:
                inside = (r[..., own] < self._cutoff).to(r)
                value, slope = value * inside, slope * inside  # much faster than torch.where
            values.append(value)
            slopes.append(slope)
        return torch.cat(values, dim=-1), torch.cat(slopes, dim=-1) / r

    def _matrices(self, vectors: Tensor) -> Tensor:
        """M of all other bonds (..., n, 3, 3), differentiable in the vectors."""
        groups = self._members[self._isotropic :]
        with torch.enable_grad():
            _, *pieces = vectors.split(self._pieces, dim=-2)
            own, others = pieces[: len(groups)], iter(pieces[len(groups) :])
            found = []
            for group, to_j in zip(groups, own, strict=True):
                term: Any = group.term
                found.append(term.matrices(torch.stack([to_j, *(next(others) for _ in group.others)], dim=-3)))
            return torch.cat(found, dim=-3)

    def _slopes(self, at: _Placed, e_i: Tensor, e_j: Tensor) -> Tensor:
        """∂E/∂v of all edges, eV/Å, shape (..., n_edges, 3)."""
        n = self._pieces[0]
        cosines = dot(e_i[..., :n, :], e_j[..., :n, :])
        isotropic = (at.slopes[..., None] * cosines) * at.vectors.detach()[..., :n, :]
        if at.matrices is None:
            return isotropic
        products = e_i[..., n:, :, None] * e_j[..., n:, None, :]
        (slopes,) = torch.autograd.grad(at.matrices, at.vectors, products, retain_graph=True)
        slopes[..., :n, :] = isotropic
        return slopes

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        at = self._at(positions, cell, _batch(moments, positions, cell))
        e, length = unit_vectors(moments.expand(*at.batch, -1, -1))
        e_i, e_j = e.index_select(-2, self._i), e.index_select(-2, self._j)
        n, M = self._pieces[0], at.strengths[..., None]
        at_i, at_j = M * e_j[..., :n, :], M * e_i[..., :n, :]  # M·e_j and Mᵀ·e_i
        if at.matrices is not None:
            matrices = at.matrices.detach()
            at_i = torch.cat([at_i, (matrices @ e_j[..., n:, :, None])[..., 0]], dim=-2)
            at_j = torch.cat([at_j, (matrices.mT @ e_i[..., n:, :, None])[..., 0]], dim=-2)
        gradient = torch.zeros_like(e).index_add_(-2, self._i, at_i).index_add_(-2, self._j, at_j)
        energy = 0.5 * (e * gradient).sum(dim=(-2, -1))
        magnetic_forces = self.magnetic_forces(gradient, e, length)
        if not atomic:
            return Evaluation(energy, magnetic_forces)
        slopes = self._slopes(at, e_i, e_j)
        forces = self._edges.forces(slopes, self.n_atoms)
        return Evaluation(energy, magnetic_forces, forces, stress_of(slopes, at.vectors.detach(), cell))

    def forces(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        at = self._at(positions, cell, _batch(moments, positions, cell))
        e, _ = unit_vectors(moments.expand(*at.batch, -1, -1))
        slopes = self._slopes(at, e.index_select(-2, self._i), e.index_select(-2, self._j))
        return self._edges.forces(slopes, self.n_atoms)

    def apply(self, vectors: Tensor) -> Tensor:
        """As in the base class, without matrices where numbers do."""
        strengths = self.bond_strengths()
        if strengths is None:
            return super().apply(vectors)
        i, j, M = strengths
        at_i, at_j = (M[..., None] * vectors.index_select(-2, end) for end in (j, i))
        found = torch.zeros_like(vectors).expand(at_i.shape[:-2] + vectors.shape[-2:]).clone()
        return found.index_add_(-2, i, at_i).index_add_(-2, j, at_j)

    def bond_matrices(
        self, positions: Tensor | None = None, cell: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        at = self._present(positions, cell)
        M = at.strengths[..., None, None] * torch.eye(3).to(at.strengths)
        return self._i, self._j, M if at.matrices is None else torch.cat([M, at.matrices.detach()], dim=-3)

    def bond_strengths(
        self, positions: Tensor | None = None, cell: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        if len(self._members) > self._isotropic or (not self._isotropic and self._pairs is None):
            return None
        at = self._present(positions, cell)
        return self._i, self._j, at.strengths

    def _present(self, positions: Tensor | None, cell: Tensor | None) -> _Placed:
        positions = self.positions if positions is None else positions
        cell = self.cell if cell is None else cell
        return self._at(positions, cell, _batch(positions, cell))

    def bond_cells(self) -> Tensor:
        return self._edges.cells[self._bonds]


def _batch(*tensors: Tensor) -> tuple[int, ...]:
    return np.broadcast_shapes(*(tensor.shape[:-2] for tensor in tensors))


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
