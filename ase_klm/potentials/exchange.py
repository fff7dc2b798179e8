"""Bilinear exchange of directions, E = Σ_bonds e_i·M·e_j + Σ_i e_i·A_i·e_i - Σ_i f_i·e_i, with e = m/abs(m).

All in eV, every bond once, so that M > 0 is antiferromagnetic. In one symmetric matrix K of shape (3N, 3N):

    E = ½ e·K·e - f·e,   g = K·e - f,   F = -P g/abs(m),   P = 1 - e eᵀ.

The energy does not depend on the lengths, so the magnetic forces are transverse.
"""

import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.graphs import Bonds, neighbour_shells
from ase_klm.moments import is_magnetic
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Structures, frozen_array, over_moments
from ase_klm.potentials.second_derivatives import Blocks
from ase_klm.validate import checked_array, checked_number
from ase_klm.vectors import transverse

Bond = tuple[int, int, Sequence[int], Any]


@dataclass(frozen=True, eq=False)
class Exchange(Potential):
    """Exchange by shells, by explicit bonds, or both; they add up.

    Parameters
    ----------
    shells : mapping, optional
        Shell number (among the magnetic atoms, counted from 1) → M in eV: a number J; a symmetric matrix (3, 3); or a
        function of the bond vector r_j - r_i (Å, shape (3,)) that returns one of these or, for Dzyaloshinskii-Moriya
        interaction, any matrix with M(-r) = M(r)ᵀ.
    bonds : sequence, optional
        ``(i, j, (n1, n2, n3), M)`` with atom j in the cell (n1, n2, n3); M a number or (3, 3), any matrix.
    onsite : array_like, optional
        A in eV, shape (N, 3, 3).
    site_fields : array_like, optional
        f in eV, broadcast against moments: (3,), (N, 3) or (replicas, 1, 3).
    """

    shells: Mapping[int, Any] | None = None
    bonds: Sequence[Bond] | None = None
    onsite: Any = None
    site_fields: Any = None
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
        shells = {shell: _shell_matrix(value, shell) for shell, value in (self.shells or {}).items()}
        object.__setattr__(self, "shells", shells)
        object.__setattr__(
            self, "bonds", tuple(_checked_bond(bond) for bond in (() if self.bonds is None else self.bonds))
        )
        if self.onsite is not None:
            object.__setattr__(self, "onsite", frozen_array(self.onsite, "onsite", "eV"))
        if self.site_fields is not None:
            object.__setattr__(self, "site_fields", frozen_array(self.site_fields, "site_fields", "eV"))

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundExchange":
        return BoundExchange(self, atoms, device)

    def explicit_bonds(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """All bonds of a structure: i, j (n,), cells R (n, 3), and M (n, 3, 3) in eV."""
        magnetic = is_magnetic(atoms)
        shells = dict(self.shells or {})
        i, j = np.zeros(0, int), np.zeros(0, int)
        cells, matrices = np.zeros((0, 3), int), np.zeros((0, 3, 3))
        if shells:
            found = neighbour_shells(atoms, shells, among=magnetic)
            i, j, cells = found.i, found.j, found.cells
            matrices = _shell_matrices(shells, found)
        if self.bonds:
            listed_i, listed_j, listed_cells, listed = (np.array(column) for column in zip(*self.bonds, strict=True))
            _check_ends(listed_i, listed_j, listed_cells, atoms)
            i, j = np.concatenate([i, listed_i]), np.concatenate([j, listed_j])
            cells, matrices = np.concatenate([cells, listed_cells]), np.concatenate([matrices, listed])
        bare = np.flatnonzero(~magnetic & np.isin(np.arange(len(atoms)), np.concatenate([i, j])))
        if len(bare):
            raise KLMError(
                f"atom {bare[0]} is joined by exchange but carries no moment",
                "its direction e = m/abs(m) does not exist",
                "set its moment with set_moments or a texture, or leave it out of the bonds",
            )
        return i, j, cells, matrices


class BoundExchange(BoundPotential):
    """The quadratic form of a structure; one sparse matrix product gives energy and fields of all replicas."""

    def __init__(self, exchange: Exchange, atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        reference = atoms if isinstance(atoms, Atoms) else atoms[0]
        if not is_magnetic(reference).any():
            raise KLMError(
                "no atom carries a moment", "exchange acts on directions of moments", "set them, e.g. textures.random"
            )
        i, j, cells, matrices = exchange.explicit_bonds(reference)
        onsite = self._checked_onsite(exchange.onsite)
        self._bonds, self._onsite = (i, j, cells, matrices), onsite
        sites = np.arange(self.n_atoms)
        rows = np.concatenate([i, j, sites])
        columns = np.concatenate([j, i, sites])
        blocks = np.concatenate([matrices, matrices.transpose(0, 2, 1), onsite + onsite.transpose(0, 2, 1)])
        axis = np.arange(3)
        entries = np.broadcast_arrays(
            3 * rows[:, None, None] + axis[:, None], 3 * columns[:, None, None] + axis, blocks
        )
        form = scipy.sparse.coo_array(
            (entries[2].ravel(), (entries[0].ravel(), entries[1].ravel())), shape=(3 * self.n_atoms,) * 2
        ).tocsr()
        entries_of_blocks = [form.diagonal(b - a)[min(a, b) :: 3] for a in axis for b in axis]
        self.diagonal_blocks = self.tensor(np.stack(entries_of_blocks, axis=1).reshape(-1, 3, 3))
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
            self.moments.new_zeros(3)
            if exchange.site_fields is None
            else over_moments(exchange.site_fields, self, "site_fields")
        )

    def _checked_onsite(self, onsite: np.ndarray | None) -> np.ndarray:
        if onsite is None:
            return np.zeros((self.n_atoms, 3, 3))
        return checked_array(onsite, (self.n_atoms, 3, 3), "onsite", "eV")

    def apply(self, vectors: Tensor) -> Tensor:
        """K·v for v of shape (..., N, 3)."""
        flat = vectors.reshape(-1, 3 * self.n_atoms)
        return (self.form @ flat.mT).mT.reshape(vectors.shape)

    def _frame(self, moments: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Directions e, lengths, the product K·e, and the gradient g = K·e - f."""
        length = torch.linalg.vector_norm(moments, dim=-1, keepdim=True)
        length = torch.where(length > 0, length, 1.0)
        e = moments / length
        product = self.apply(e)
        return e, length, product, product - self.site_fields

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        e, length, product, gradient = self._frame(moments)
        energy = (e * (0.5 * product - self.site_fields)).sum(dim=(-2, -1))
        magnetic_forces = -transverse(gradient, e) / length
        magnetic_forces = torch.where(self.magnetic[:, None], magnetic_forces, 0.0)
        return Evaluation(energy, magnetic_forces, *self.no_atomic_forces(moments, atomic))

    def hessian_vector_product(self, moments: Tensor, vectors: Tensor) -> Tensor:
        e, length, _, g = self._frame(moments)
        v = torch.where(self.magnetic[:, None], vectors, 0.0)
        along = (e * v).sum(-1, keepdim=True)
        across = v - along * e
        longitudinal = (e * g).sum(-1, keepdim=True)
        g_across = g - longitudinal * e
        turned = transverse(self.apply(across / length), e) / length
        curved = across * longitudinal + e * (across * g).sum(-1, keepdim=True) + g_across * along
        return torch.where(self.magnetic[:, None], turned - curved / length**2, 0.0)

    def site_hessian(self, moments: Tensor) -> Tensor:
        e, length, _, g = self._frame(moments)
        projector = torch.eye(3, dtype=e.dtype, device=e.device) - e[..., :, None] * e[..., None, :]
        longitudinal = (e * g).sum(-1)[..., None, None]
        mixed = e[..., :, None] * transverse(g, e)[..., None, :]
        block = projector @ self.diagonal_blocks @ projector - longitudinal * projector - mixed - mixed.mT
        return torch.where(self.magnetic[:, None, None], block / length[..., None] ** 2, 0.0)

    def second_derivatives(self, moments: Tensor) -> Blocks:
        e, length, _, g = (values.cpu().numpy() for values in self._frame(moments))
        (i, j, cells, matrices), sites = self._bonds, np.arange(self.n_atoms)
        projector = np.eye(3) - e[:, :, None] * e[:, None, :]
        bonded = projector[i] @ matrices @ projector[j] / (length[i] * length[j])[:, :, None]
        longitudinal = (e * g).sum(1)[:, None, None]
        mixed = e[:, :, None] * (g - longitudinal[:, 0] * e)[:, None, :]
        onsite = projector @ (self._onsite + self._onsite.transpose(0, 2, 1)) @ projector
        own = (onsite - longitudinal * projector - mixed - mixed.transpose(0, 2, 1)) / length[:, :, None] ** 2
        return Blocks(
            self.n_atoms,
            np.concatenate([i, j, sites]),
            np.concatenate([j, i, sites]),
            np.concatenate([cells, -cells, np.zeros((self.n_atoms, 3), int)]),
            np.concatenate([bonded, bonded.transpose(0, 2, 1), own]),
        )


def _shell_matrix(value: Any, shell: int) -> Any:
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
        name = f"exchange of shell {number} along a bond"
        found = np.array([_matrix(value(vector), name) for vector in vectors]).reshape(-1, 3, 3)
        for matrix, vector in zip(found, vectors, strict=True):
            if not np.allclose(_matrix(value(-vector), name), matrix.T):
                raise KLMError(
                    f"the exchange of shell {number} depends on which end of a bond comes first",
                    f"for r = {vector.tolist()} M(-r) is not the transpose of M(r)",
                    "a Dzyaloshinskii-Moriya vector must be odd in r, all else even",
                )
        matrices[members] = found[kind.ravel()]
    return matrices


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
            f"{bond!r} is not a bond", str(error), "write bonds as (i, j, (n1, n2, n3), M), M in eV, (3, 3) or a number"
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
