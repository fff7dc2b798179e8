"""Vectors between pairs of atoms, and forces and stress from the derivatives of an energy by them.

v_b = r_end + R·cell - r_start,   F_end = -Σ_b ∂E/∂v_b,   F_start = Σ_b ∂E/∂v_b,   σ = (1/V) Σ_b sym(∂E/∂v_b ⊗ v_b)
"""

import warnings
from typing import Any

import torch
from torch import Tensor


class Edges:
    """Pairs (start, end, R); tensors of vectors have shape (..., n_edges, 3).

    Parameters
    ----------
    start, end : array_like
        Atoms, shape (n_edges,).
    cells : array_like
        Cell R of the end, shape (n_edges, 3).
    like : Tensor
        Gives the device, as positions do.
    """

    def __init__(self, start: Any, end: Any, cells: Any, like: Tensor) -> None:
        self.start = torch.as_tensor(start, dtype=torch.int64, device=like.device)
        self.end = torch.as_tensor(end, dtype=torch.int64, device=like.device)
        self.cells = torch.as_tensor(cells, device=like.device).to(like)
        self._shifted: tuple[Tensor, Tensor] | None = None
        self._incidences: tuple[Tensor, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.start)

    def vectors(self, positions: Tensor, cell: Tensor) -> Tensor:
        """From positions (..., N, 3) and cells (..., 3, 3), Å."""
        shifts = self._shifts(cell)
        if positions.ndim == shifts.ndim == 2 and not positions.requires_grad:  # one structure: half the time
            return torch.addmm(shifts, self._incidence(len(positions))[0], positions)
        return positions.index_select(-2, self.end) - positions.index_select(-2, self.start) + shifts

    def _shifts(self, cell: Tensor) -> Tensor:
        """R·cell, kept until the cell changes."""
        if cell.requires_grad:
            return self.cells @ cell
        if self._shifted is None or not torch.equal(self._shifted[0], cell):
            self._shifted = cell.clone(), self.cells @ cell
        return self._shifted[1]

    def forces(self, slopes: Tensor, n_atoms: int) -> Tensor:
        """Of the slopes ∂E/∂v (..., n_edges, 3), eV/Å, shape (..., n_atoms, 3)."""
        if slopes.ndim == 2:  # one structure: a third of the time
            return self._incidence(n_atoms)[1] @ slopes
        forces = slopes.new_zeros((*slopes.shape[:-2], n_atoms, 3))
        return forces.index_add_(-2, self.end, slopes).neg_().index_add_(-2, self.start, slopes)

    def _incidence(self, n_atoms: int) -> tuple[Tensor, Tensor]:
        """-1 where an edge starts and 1 where it ends, sparse, (n_edges, n_atoms), and its negative transpose."""
        if self._incidences is None:
            edges = torch.arange(len(self), device=self.start.device)
            edge, atom = torch.cat([edges, edges]), torch.cat([self.start, self.end])
            ones = torch.ones_like(edges, dtype=self.cells.dtype)
            values = torch.cat([-ones, ones])
            shape = len(self), n_atoms
            self._incidences = _sparse(edge, atom, values, shape), _sparse(atom, edge, -values, shape[::-1])
        return self._incidences


def _sparse(rows: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    entries = torch.sparse_coo_tensor(torch.stack([rows, columns]), values, shape, check_invariants=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        return entries.coalesce().to_sparse_csr()


def stress_of(slopes: Tensor, vectors: Tensor, cell: Tensor) -> Tensor:
    """Of the slopes ∂E/∂v by vectors that follow strain, eV/Å³, shape (..., 3, 3)."""
    by_strain = slopes.mT @ vectors
    return (by_strain + by_strain.mT) / (2 * torch.linalg.det(cell).abs()[..., None, None])
