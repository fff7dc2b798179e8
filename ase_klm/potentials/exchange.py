"""Bilinear exchange of directions, E = Σ_bonds e_i·M·e_j + Σ_i e_i·A_i·e_i - Σ_i f_i·e_i, with e = m/abs(m).

All in eV, every bond once, so that M > 0 is antiferromagnetic. The matrices do not change while atoms move;
`exchange_of_distance` has those that do.
"""

import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError, warn
from ase_klm.graphs import Bonds, checked_shells
from ase_klm.memory import require_memory
from ase_klm.moments import is_magnetic
from ase_klm.plausibility import Doubt, doubts_about
from ase_klm.potentials.base import Evaluation, Potential, Structures, frozen_array, over_moments
from ase_klm.potentials.bilinear import BoundBilinear
from ase_klm.potentials.bond_terms import BondTerm
from ase_klm.potentials.functions_of_distance import DistanceFunction
from ase_klm.supercells import (
    Repetitions,
    cell_of_sites,
    placed_on,
    repeated_bonds,
    tiled,
    undistorted,
)
from ase_klm.validate import checked_array, checked_number

Bond = tuple[int, int, Sequence[int], Any]

BYTES_A_BOND = 1200
"""While the sparse quadratic form is built: 18 numbers with row and column, sorted, and the matrices."""

NEIGHBOURS = 12
"""Of an atom in a dense lattice: their exchange adds up to the field on it."""


@dataclass(frozen=True, eq=False)
class Exchange(Potential):
    """E = Σ_bonds e_i·M·e_j + Σ_i e_i·A_i·e_i - Σ_i f_i·e_i with e = m/abs(m), every bond once.

    M > 0 is antiferromagnetic. By shells, by explicit bonds, or both; they add up.

    Parameters
    ----------
    shells : mapping, optional
        Shell number (among the magnetic atoms, counted from 1) → M in eV: a number J; a symmetric matrix (3, 3); or a
        function of the bond vector r_j - r_i (Å, shape (3,)) that returns one of these or, for Dzyaloshinskii-Moriya
        interaction, any matrix with M(-r) = M(r)ᵀ. Vectors are those of the lattice; without one they are those of the
        structure, and there are no atomic forces.
    bonds : sequence, optional
        ``(i, j, (n1, n2, n3), M)`` with atom j in the cell (n1, n2, n3); M a number or (3, 3), any matrix.
    onsite : array_like, optional
        A in eV, shape (N, 3, 3).
    site_fields : array_like, optional
        f in eV, broadcast against moments: (3,), (N, 3) or (replicas, 1, 3).
    lattice : Atoms, optional
        Cell on which shells are counted, and whose indices `bonds`, `onsite` and `site_fields` use; for all structures
        that repeat it as `Atoms.repeat` does, displaced or strained too. Default: the structure that this is bound to.
    """

    shells: Mapping[int, Any] | None = None
    bonds: Sequence[Bond] | None = None
    onsite: Any = None
    site_fields: Any = None
    lattice: Atoms | None = None
    per_replica: ClassVar[tuple[str, ...]] = ("site_fields",)

    def __post_init__(self) -> None:
        if not isinstance(self.shells, Mapping | None):
            raise KLMError(
                f"shells = {self.shells!r} is no mapping", "it assigns an exchange to shells", "for instance {1: 0.01}"
            )
        if not isinstance(self.bonds, Iterable | None):
            raise KLMError(
                f"bonds = {self.bonds!r} is no sequence", "it lists bonds", "for instance [(0, 1, (0, 0, 0), 0.01)]"
            )
        checked_shells(self.shells or {})
        shells = {shell: _shell_matrix(value, shell) for shell, value in (self.shells or {}).items()}
        object.__setattr__(self, "shells", shells)
        object.__setattr__(
            self, "bonds", tuple(_checked_bond(bond) for bond in (() if self.bonds is None else self.bonds))
        )
        if self.onsite is not None:
            object.__setattr__(self, "onsite", frozen_array(self.onsite, "onsite", "eV"))
        if self.site_fields is not None:
            object.__setattr__(self, "site_fields", frozen_array(self.site_fields, "site_fields", "eV"))
        self._keep_lattice()

    @property
    def uses_lattice(self) -> bool:  # type: ignore[override]
        return bool(self.shells or self.bonds) or self.onsite is not None or self.site_fields is not None

    @property
    def counts_shells(self) -> bool:
        return bool(self.shells) and self.lattice is None

    def geometry(self, atoms: Atoms) -> tuple[np.ndarray, ...]:
        return super().geometry(atoms) if self.shells or self.lattice is not None else ()

    @property
    def force_scale(self) -> float:
        listed = [matrix for *_, matrix in self.bonds or ()]
        shells = [value for value in (self.shells or {}).values() if not callable(value)]
        return NEIGHBOURS * max((float(np.abs(matrix).max()) for matrix in listed + shells), default=0.0)

    def doubts(self, atoms: Atoms, force_scale: float) -> Iterator[Doubt]:
        for shell, value in (self.shells or {}).items():
            if not callable(value):
                yield from doubts_about("exchange", value, f"exchange of shell {shell}")
        for i, j, cell, matrix in self.bonds or ():
            yield from doubts_about("exchange", matrix, f"exchange of bond ({i}, {j}, {cell})")
        if self.onsite is not None:
            yield from doubts_about("anisotropy", self.onsite, "on-site term")
        if self.site_fields is not None:
            yield from doubts_about("site field", self.site_fields, limit=3 * force_scale)

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundExchange":
        return BoundExchange(self, atoms, device)

    def repeated(self, atoms: Atoms, repetitions: Repetitions) -> "Exchange":
        if self.lattice is None:
            return replace(self, lattice=atoms)
        onsite, fields = self.site_terms(atoms)
        lattice = undistorted(atoms, self.lattice)
        bonds = self.bonds
        if bonds:
            i, j, cells, matrices = self._listed(atoms)
            bonds = tuple(zip(i, j, lattice.present(i, j, cells), matrices, strict=True))
        return replace(self, bonds=bonds, onsite=onsite, site_fields=fields, lattice=lattice.followed)

    def explicit_bonds(self, structures: Structures) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All bonds of a structure, or of replicas: i, j (n,), cells R (n, 3), and M (n, 3, 3) in eV."""
        atoms = structures if isinstance(structures, Atoms) else structures[0]
        magnetic = is_magnetic(atoms)
        lattice = undistorted(structures if self.shells or self.lattice is not None else atoms, self.lattice)
        shells = dict(self.shells or {})
        i, j = np.zeros(0, int), np.zeros(0, int)
        cells, matrices = np.zeros((0, 3), int), np.zeros((0, 3, 3))
        if shells:
            found = lattice.shells(shells, among=magnetic)
            i, j, cells = found.i, found.j, found.cells
            matrices = _shell_matrices(shells, found)
        if self.bonds:
            listed_i, listed_j, listed_cells, listed = self._listed(atoms)
            i, j = np.concatenate([i, listed_i]), np.concatenate([j, listed_j])
            cells, matrices = np.concatenate([cells, listed_cells]), np.concatenate([matrices, listed])
        bare = np.flatnonzero(~magnetic & np.isin(np.arange(len(atoms)), np.concatenate([i, j])))
        if len(bare):
            raise KLMError(
                f"atom {bare[0]} is joined by exchange but carries no moment",
                "its direction e = m/abs(m) does not exist",
                "set its moment with set_moments or a texture, or leave it out of the bonds",
            )
        return i, j, lattice.present(i, j, cells), matrices

    def _listed(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The listed bonds in all cells of a structure, with cells as on the lattice."""
        i, j, cells, matrices = (np.array(column) for column in zip(*self.bonds or (), strict=True))
        home = atoms if self.lattice is None else self.lattice
        _check_ends(i, j, cells, home)
        if self.lattice is None:
            _warn_of_unbonded_cells(np.unique([i, j]), atoms)
            return i, j, cells, matrices
        repetitions, _ = placed_on(self.lattice, atoms)
        return *repeated_bonds(i, j, cells, len(home), repetitions), tiled(matrices, 0, repetitions)

    def site_terms(self, atoms: Atoms) -> tuple[np.ndarray | None, np.ndarray | None]:
        """A, shape (N, 3, 3), and f, broadcast against moments, of a structure, in eV; None without."""
        onsite, fields = self.onsite, self.site_fields
        n = len(atoms if self.lattice is None else self.lattice)
        if onsite is not None and onsite.shape != (n, 3, 3):
            raise KLMError(
                f"onsite has shape {onsite.shape}, and there are {n} atoms",
                "it holds one matrix for each",
                f"give shape ({n}, 3, 3); if the matrices are those of a cell that was repeated, say so: lattice=cell",
            )
        if self.lattice is not None:
            repetitions, _ = placed_on(self.lattice, atoms)
            onsite = None if onsite is None else tiled(onsite, 0, repetitions)
            if fields is not None and fields.ndim > 1 and fields.shape[-2] == len(self.lattice):
                fields = tiled(fields, -2, repetitions)
        return onsite, fields


class BoundExchange(BoundBilinear):
    """The quadratic form of a structure; one sparse matrix product gives energy and fields of all replicas."""

    def __init__(self, exchange: Exchange, atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        reference = atoms if isinstance(atoms, Atoms) else atoms[0]
        check_magnetic(reference)
        bonds = exchange.explicit_bonds(atoms)
        onsite, site_fields = exchange.site_terms(reference)
        if onsite is not None:
            sites = np.arange(self.n_atoms)
            own = sites, sites, np.zeros((self.n_atoms, 3), int), onsite
            bonds = tuple(np.concatenate(columns) for columns in zip(bonds, own, strict=True))  # type: ignore[assignment]
        i, j, _, matrices = bonds
        require_memory(
            BYTES_A_BOND * len(i),
            f"exchange along {len(i)} bonds",
            "a smaller structure, fewer shells, or functions of distance (shells={1: potentials.Exponential(...)}), "
            "which keep numbers instead of matrices, fit",
        )
        self._i, self._j, self._cells, self._matrices = map(self.tensor, bonds)
        rows, columns = np.concatenate([i, j]), np.concatenate([j, i])
        blocks = np.concatenate([matrices, matrices.transpose(0, 2, 1)])
        # without a lattice, functions of the bond vector change with the positions, in ways that are not differentiated
        self._follows = exchange.lattice is None and any(map(callable, (exchange.shells or {}).values()))
        axis = np.arange(3)
        entries = np.broadcast_arrays(
            3 * rows[:, None, None] + axis[:, None], 3 * columns[:, None, None] + axis, blocks
        )
        form = scipy.sparse.coo_array(
            (entries[2].ravel(), (entries[0].ravel(), entries[1].ravel())), shape=(3 * self.n_atoms,) * 2
        ).tocsr()
        form.eliminate_zeros()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
            self.form = torch.sparse_csr_tensor(
                torch.tensor(form.indptr),
                torch.tensor(form.indices),
                torch.tensor(form.data),
                form.shape,
                check_invariants=False,
            ).to(self.device)
        self.site_fields = (
            self.moments.new_zeros(3) if site_fields is None else over_moments(site_fields, self, "site_fields")
        )

    def bond_matrices(
        self, positions: Tensor | None = None, cell: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        return self._i, self._j, self._matrices

    def bond_cells(self) -> Tensor:
        return self._cells

    def apply(self, vectors: Tensor) -> Tensor:
        flat = vectors.reshape(-1, 3 * self.n_atoms)
        return (self.form @ flat.mT).mT.reshape(vectors.shape)

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        e, length, product, gradient = self.frame(moments)
        energy = (e * (0.5 * product - self.site_fields)).sum(dim=(-2, -1))
        magnetic_forces = self.magnetic_forces(gradient, e, length)
        return Evaluation(energy, magnetic_forces, *self.no_atomic_forces(moments, atomic and not self._follows))


def check_magnetic(atoms: Atoms) -> None:
    """Some atom carries a moment."""
    if not is_magnetic(atoms).any():
        raise KLMError(
            "no atom carries a moment", "exchange acts on directions of moments", "set them, e.g. textures.random"
        )


def _warn_of_unbonded_cells(named: np.ndarray, atoms: Atoms) -> None:
    """Bonds of all magnetic atoms in the first of many equal cells, and of no others, are most likely the cell's."""
    cell = cell_of_sites(atoms, named.max() + 1) if named.max() < len(atoms) // 2 else None
    if cell is None or not np.array_equal(np.flatnonzero(is_magnetic(cell)), named):
        return
    if is_magnetic(atoms)[len(cell) :].any():
        warn(
            f"the bonds join atoms 0 to {named.max()} only, of a structure that repeats its first {len(cell)} atoms "
            f"{len(atoms) // len(cell)} times",
            "indices count the atoms of this structure, so the bonds join nothing in the other cells",
            "for the exchange of the whole crystal say whose indices they are: lattice=cell, with cell the Atoms that "
            "were repeated",
        )


def _shell_matrix(value: Any, shell: int) -> Any:
    if isinstance(value, DistanceFunction | BondTerm):
        raise KLMError(
            f"the exchange of shell {shell} is {value!r}, which follows the atoms",
            "these matrices are found once and kept",
            "use potentials.ExchangeOfDistance, or ExchangeCalculator, which takes both in one mapping",
        )
    if callable(value):
        return value
    matrix = _matrix(value, f"exchange of shell {shell}")
    if not np.allclose(matrix, matrix.T):
        raise KLMError(
            f"the exchange matrix of shell {shell} is not symmetric",
            "its antisymmetric (Dzyaloshinskii-Moriya) part depends on which end of a bond comes first",
            "give a function of the bond vector, or list the bonds with bonds=[(i, j, (n1, n2, n3), M)]",
        )
    return matrix


def _shell_matrices(shells: Mapping[int, Any], bonds: Bonds) -> np.ndarray:
    """M of each bond, (n, 3, 3); functions of the bond vector are asked once for each different vector."""
    matrices = np.zeros((len(bonds), 3, 3))
    for number, value in shells.items():
        members = np.flatnonzero(bonds.shells == number)
        if not callable(value):
            matrices[members] = value
            continue
        _, first, kind = np.unique(bonds.vectors[members].round(8), axis=0, return_index=True, return_inverse=True)
        vectors = bonds.vectors[members][first]
        found = np.array([_along(value, vector, number) for vector in vectors]).reshape(-1, 3, 3)
        for matrix, vector in zip(found, vectors, strict=True):
            if not np.allclose(_along(value, -vector, number), matrix.T):
                raise KLMError(
                    f"the exchange of shell {number} depends on which end of a bond comes first",
                    f"for r = {vector.tolist()} M(-r) is not the transpose of M(r)",
                    "a Dzyaloshinskii-Moriya vector must be odd in r, all else even",
                )
        matrices[members] = found[kind.ravel()]
    return matrices


def _along(function: Callable[[np.ndarray], Any], vector: np.ndarray, shell: int) -> np.ndarray:
    """M of a function of the bond vector."""
    try:
        value = function(vector)
    except Exception as error:
        raise KLMError(
            f"the function of shell {shell} fails on the bond vector {vector.round(4).tolist()}",
            f"{type(error).__name__}: {error}",
            "it takes an array of shape (3,), Å, and returns a number or a matrix (3, 3) in eV",
        ) from error
    return _matrix(value, f"exchange of shell {shell} along a bond")


def _matrix(value: Any, name: str) -> np.ndarray:
    if isinstance(value, int | float | np.number):
        value = checked_number(value, name, "eV") * np.eye(3)
    matrix = checked_array(value, (3, 3), name, "eV")
    matrix.setflags(write=False)
    return matrix


def _checked_bond(bond: Any) -> tuple[int, int, tuple[int, ...], np.ndarray]:
    try:
        i, j, cell, matrix = bond
        ends = tuple(map(operator.index, (i, j, *cell)))
        if len(ends) != 5 or max(map(abs, ends)) > 2**31:
            raise ValueError("i, j, n1, n2 and n3 must be integers")
    except (TypeError, ValueError) as error:
        raise KLMError(
            f"{bond!r} is not a bond",
            str(error),
            "write bonds as (i, j, (n1, n2, n3), M), M in eV, (3, 3) or a number; a Dzyaloshinskii-Moriya vector is "
            "the antisymmetric part of M",
        ) from None
    return ends[0], ends[1], ends[2:], _matrix(matrix, f"M of bond {ends}")


def _check_ends(i: np.ndarray, j: np.ndarray, cells: np.ndarray, atoms: Atoms) -> None:
    n = len(atoms)
    for name, atom in (("i", i), ("j", j)):
        if ((atom < 0) | (atom >= n)).any():
            raise KLMError(
                f"a bond names atom {name} = {atom[(atom < 0) | (atom >= n)][0]}",
                f"the structure has atoms 0 to {n - 1}",
                "count atoms from 0",
            )
    if cells[:, ~atoms.pbc].any():
        raise KLMError(
            "a bond leaves the structure along a non-periodic direction",
            f"pbc = {atoms.pbc.tolist()}",
            "set its cell index there to 0, or make the direction periodic",
        )
    itself = (i == j) & ~cells.any(axis=1)
    if itself.any():
        raise KLMError(
            f"a bond joins atom {i[itself][0]} to itself in the same cell",
            "that is an on-site term",
            "use onsite=A, shape (N, 3, 3)",
        )
    forward = np.column_stack([i, j, cells])
    backward = np.column_stack([j, i, -cells])
    listed = np.minimum(_as_keys(forward), _as_keys(backward))
    if len(np.unique(listed)) < len(listed):
        keys, counts = np.unique(listed, return_counts=True)
        double = forward[listed == keys[counts > 1][0]][0]
        raise KLMError(
            f"the bond {tuple(double.tolist())} is listed twice",
            "every bond stands once: (j, i, -R) is the same bond as (i, j, R)",
            "drop one of the two, or add their matrices",
        )


def _as_keys(rows: np.ndarray) -> np.ndarray:
    """One comparable number for each row of integers."""
    largest = int(np.abs(rows).max()) + 1
    return (rows + largest) @ (2 * largest) ** np.arange(rows.shape[1])
