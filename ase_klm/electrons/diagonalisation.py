"""Eigenvalues of many Hermitian matrices, and the eigenvectors of their lowest levels.

A Fermi sea fills a fraction of the states only. LAPACK's steps taken one by one give all eigenvalues and just the
occupied eigenvectors:

    A = Q T Q†  (zhetrd),   eigenvalues of T (sterf),   lowest eigenvectors of T (stein),   Q applied to them (unmqr).

Inverse iteration (stein) of levels that are known costs a quarter of what relatively robust representations (stemr)
do, and is orthogonal to rounding in degenerate clusters too, which it orthogonalises. With a fifth of the states
occupied all steps together take half the time of the full decomposition. The chemical potential of a
k-mesh is found between the second and the third step.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import scipy.linalg
import torch
from scipy.linalg import lapack
from torch import Tensor

from ase_klm.errors import KLMError

SMALL = 128
"""Matrices below this size go through one batched call; threads would cost more than they give."""


class Eigensystem(Protocol):
    """Eigenvalues, ascending, shape (batch, n), and eigenvectors on demand."""

    energies: Tensor

    def lowest_states(self, block: slice, counts: Sequence[int]) -> Tensor:
        """Eigenvectors of the lowest levels of some matrices, `counts` of each, as columns, shape (block, n, largest).

        Further columns of a matrix with a smaller count hold its next states, or zeros.
        """
        ...


def diagonalise(matrices: Tensor, solver: str = "auto") -> Eigensystem:
    """Diagonalise Hermitian matrices of shape (batch, n, n), which may be overwritten.

    Parameters
    ----------
    solver : str
        "all": all eigenpairs, batched (the way on a GPU); "occupied": eigenvectors of the lowest levels only, on a
        CPU; "auto": the faster.
    """
    on_cpu = matrices.device.type == "cpu"
    if solver == "occupied" and not on_cpu:
        raise KLMError(
            'solver="occupied" runs on a CPU only',
            f"the matrices are on {matrices.device}",
            'use solver="auto" or "all" there',
        )
    if solver == "all" or not on_cpu or (solver == "auto" and matrices.shape[-1] < SMALL):
        return AllStates(matrices)
    return OccupiedStates(matrices)


def memory_needed(matrices: int, order: int, dtype: torch.dtype, solver: str, on_cpu: bool = True) -> float:
    """Bytes for Hermitian matrices of one order, kept at a time, and for their eigenvectors.

    In units of one matrix, A = order² numbers: every H takes A, and its part without spins A/4. All eigenvectors take
    A for each H, and LAPACK's work space 2 A once. Eigenvectors of occupied levels overwrite H, and take once 3 A at
    most: those of T, their products with Q, and a copy of Q.
    """
    one = float(order) ** 2 * torch.empty((), dtype=dtype).element_size()
    occupied = on_cpu and (solver == "occupied" or (solver == "auto" and order >= SMALL))
    return (1.25 * matrices + 3 if occupied else 2.25 * matrices + 2) * one


def seconds_needed(matrices: int, order: int, dtype: torch.dtype) -> float:
    """A rough time on this CPU: a core of 2024 takes some 5e-10 s times order³ for a complex128 matrix, half for
    complex64.
    """
    each = 5e-10 * float(order) ** 3 * (1.0 if dtype == torch.complex128 else 0.5)
    return matrices * each / torch.get_num_threads()


class AllStates:
    """Full decomposition in one batched call."""

    def __init__(self, matrices: Tensor) -> None:
        self.energies, self.states = torch.linalg.eigh(matrices)

    def lowest_states(self, block: slice, counts: Sequence[int]) -> Tensor:
        return self.states[block, :, : max(counts)]


class OccupiedStates:
    """Tridiagonal reduction of each matrix; eigenvectors of the lowest levels when asked for."""

    def __init__(self, matrices: Tensor) -> None:
        double = matrices.dtype == torch.complex128
        self._hetrd = lapack.zhetrd if double else lapack.chetrd
        self._unmqr = lapack.zunmqr if double else lapack.cunmqr
        self._sterf = lapack.dsterf if double else lapack.ssterf
        self._stein = lapack.dstein if double else lapack.sstein
        work = (lapack.zhetrd_lwork if double else lapack.chetrd_lwork)(matrices.shape[-1], lower=1)[0]
        n = matrices.shape[-1]
        self._one_block = np.ones(n, np.int32), np.full(n, n, np.int32)
        self._reduced = []
        energies = []
        for matrix in matrices.numpy():
            # the transpose of a C-ordered Hermitian matrix is its conjugate in Fortran order: diagonalise that one
            reflectors, diagonal, off_diagonal, scales, info = self._hetrd(
                matrix.T, lower=1, lwork=int(work.real), overwrite_a=1
            )
            _check(info, "hetrd")
            values, info = self._sterf(diagonal, off_diagonal)
            _check(info, "sterf")
            self._reduced.append((reflectors, diagonal, off_diagonal, scales, values))
            energies.append(values)
        self.energies = torch.from_numpy(np.stack(energies))

    def lowest_states(self, block: slice, counts: Sequence[int]) -> Tensor:
        reduced = self._reduced[block]
        n, dtype = self.energies.shape[-1], reduced[0][0].dtype
        found = np.zeros((len(reduced), n, max(counts)), dtype=dtype)
        for states, one, count in zip(found, reduced, counts, strict=True):
            if count:
                self._lowest(*one, states[:, :count])
        return torch.from_numpy(np.conj(found, out=found))

    def _lowest(self, reflectors: Any, diagonal: Any, off_diagonal: Any, scales: Any, values: Any, states: Any) -> None:
        """Eigenvectors of the transposed matrix, written into `states`, shape (n, count)."""
        n, count = states.shape
        vectors, info = self._stein(diagonal, off_diagonal, values[:count], *self._one_block)
        if info != 0 or np.isnan(vectors[0, 0]):  # no start has grown; or the matrix is zero
            tridiagonal = np.diag(diagonal) + np.diag(off_diagonal, 1) + np.diag(off_diagonal, -1)
            vectors = scipy.linalg.eigh(tridiagonal, driver="evd")[1][:, :count]
        states[0] = vectors[0]
        if n > 1:  # Q leaves the first row alone
            rest = np.asfortranarray(vectors[1:], dtype=states.dtype)
            states[1:], _, info = self._unmqr("L", "N", reflectors[1:, :-1], scales, rest, 32 * count, overwrite_c=1)
            _check(info, "unmqr")


def _check(info: int, routine: str) -> None:
    if info != 0:
        raise KLMError(
            "the diagonalisation failed",
            f"LAPACK's {routine} returned info = {info}",
            'check that moments and hopping are finite and of moderate size, or use solver="all"',
        )
