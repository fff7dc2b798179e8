"""The energy of small deviations from a stationary texture, as a quadratic form of bosons.

With local axes x_i, y_i across the direction e_i, u = x + i y, and S = abs(m)/g, a deviation of the moments is

    δm_i = sqrt(g abs(m_i)/2) (u*_i a_i + u_i a†_i),    δE = ½ δm (P Φ P + δ_ij (e·F/abs(m)) P) δm,

where the last term comes from the fixed length of the moments. Its matrix in Ψ_q = (a_q, a†_-q) is H_q, in eV.
(S. Toth, B. Lake, J. Phys.: Condens. Matter 27, 166002 (2015); the signs are those of docs/conventions.md.)
"""

from collections.abc import Sequence
from copy import copy

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from ase_klm.moments import directions
from ase_klm.potentials.second_derivatives import Blocks, SecondDerivatives
from ase_klm.units import G_ELECTRON
from ase_klm.validate import Array


def local_axes(moments: Array) -> Array:
    """Directions x, y across each moment, so that (x, y, e) is right-handed, shape (N, 2, 3); zero without moment."""
    e = directions(moments)
    start = np.zeros_like(e)
    start[np.arange(len(e)), np.abs(e).argmin(1)] = 1.0  # the Cartesian axis most across
    x = np.cross(start, e)
    x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-300)
    axes = np.stack([x, np.cross(e, x)], axis=1)
    return np.where(np.any(moments != 0, axis=1)[:, None, None], axes, 0.0)


class QuadraticForm:
    """H_q of a texture.

    Parameters
    ----------
    moments : ndarray
        Of the magnetic cell, μB, shape (N, 3); zero on non-magnetic atoms, which have no modes.
    magnetic_forces : ndarray
        eV/μB, shape (N, 3).
    derivatives : sequence of SecondDerivatives
        Φ, which add up.
    """

    def __init__(self, moments: Array, magnetic_forces: Array, derivatives: Sequence[SecondDerivatives]) -> None:
        self.moments, self.axes = moments, local_axes(moments)
        self.sites = np.flatnonzero(np.any(moments != 0, axis=1))
        lengths = np.linalg.norm(moments[self.sites], axis=1)
        x, y = self.axes[self.sites].transpose(1, 0, 2)
        self.amplitudes = np.sqrt(G_ELECTRON * lengths / 2)[:, None] * (x + 1j * y)  # (n, 3), of a†
        n = len(self.sites)
        longitudinal = (directions(moments) * magnetic_forces).sum(1)[self.sites]
        self.n_modes = n
        self._local = self._bosonic([d for d in derivatives if isinstance(d, Blocks)], G_ELECTRON * longitudinal)
        self._others = [d for d in derivatives if not isinstance(d, Blocks)]

    @property
    def scale(self) -> float:
        """The largest element of H in real space that is known there, eV: an energy to compare zero modes with."""
        return float(np.abs(self._local[1]).max())

    def with_onsite(self, normal: Array, anomalous: NDArray[np.complex128]) -> "QuadraticForm":
        """A form with [[p, w], [w*, p]] added at each magnetic site: p and w in eV, shape (n,)."""
        n, changed = self.n_modes, copy(self)
        cells, form = self._local
        own, home = np.arange(n), int(np.flatnonzero(~cells.any(1))[0])
        rows, columns = np.concatenate([own, own + n, own, own + n]), np.concatenate([own, own + n, own + n, own])
        values = np.concatenate([normal, normal, anomalous, anomalous.conj()])
        entries = rows.astype(np.int64) * 2 * n + columns
        more = scipy.sparse.coo_array((values, (entries, np.full(4 * n, home))), shape=form.shape)
        changed._local = cells, (form + more).tocsr()
        return changed

    def at(self, q: Array) -> NDArray[np.complex128]:
        """H_q, eV, Hermitian, shape (n_q, 2 n, 2 n), for q of shape (n_q, 3)."""
        cells, form = self._local
        size = 2 * self.n_modes
        H = np.ascontiguousarray((form @ np.exp(2j * np.pi * cells @ q.T)).T).reshape(-1, size, size)
        if self._others:
            whole = np.sum([d.at(q) for d in self._others], axis=0)
            n, v = self.n_modes, self.amplitudes
            across = whole[:, self.sites][:, :, :, self.sites]
            right = np.stack([v.conj(), v])  # of a_j and a†_j
            H += np.einsum("fia,qiajb,gjb->qfigj", right.conj(), across, right, optimize=True).reshape(-1, 2 * n, 2 * n)
        return H

    def _bosonic(self, several: Sequence[Blocks], longitudinal: Array) -> tuple[Array, scipy.sparse.csr_array]:
        """Cells R, (n_cells, 3), and H_R as a sparse matrix of shape (4 n², n_cells)."""
        n, size = self.n_modes, 2 * self.n_modes
        number = np.full(len(self.moments), -1)
        number[self.sites] = np.arange(n)
        own = np.arange(n)
        rows, columns = [own, own + n], [own, own + n]
        cells, values = [np.zeros((2 * n, 3), int)], [longitudinal.astype(complex)] * 2
        v = np.stack([self.amplitudes.conj(), self.amplitudes])
        for blocks in several:
            used = (number[blocks.i] >= 0) & (number[blocks.j] >= 0)
            i, j = number[blocks.i[used]], number[blocks.j[used]]
            for f in (0, 1):
                left = np.einsum("na,nab->nb", v[f, i].conj(), blocks.values[used])
                for g in (0, 1):
                    rows.append(i + f * n)
                    columns.append(j + g * n)
                    cells.append(blocks.cells[used])
                    values.append(np.einsum("nb,nb->n", left, v[g, j]))
        places, which = np.unique(np.concatenate(cells), axis=0, return_inverse=True)
        entry = np.concatenate(rows).astype(np.int64) * size + np.concatenate(columns)
        form = scipy.sparse.coo_array(
            (np.concatenate(values), (entry, which.ravel())), shape=(size * size, len(places))
        ).tocsr()
        return places, form
