"""A rough model of a data set: E = Σ_pairs J m_i·m_j - Σ_i B·m_i, one J a neighbour shell, fitted to the torques."""

from typing import Any

import numpy as np
from ase import Atoms
from scipy.sparse import csr_array

from ase_klm import graphs
from ase_klm.validate import Array

CUTOFF = 6.0
"""Å; shells beyond are left out."""

_MOST_SHELLS = 12
_SAME_SHELL = 0.15  # Å


def fit_exchange(atoms: Atoms, moments: Array, magnetic_forces: Array) -> tuple[Array, Array]:
    """Energies and magnetic forces of the model that fits the torques m × F best.

    Parameters
    ----------
    atoms : Atoms
        The structure that all frames share.
    moments, magnetic_forces : ndarray
        μB and eV/μB, shape (frames, N, 3).

    Returns
    -------
    energy, magnetic_forces : ndarray
        eV, shape (frames,), and eV/μB, shape (frames, N, 3).
    """
    magnetic = np.any(moments != 0, axis=-1)  # (frame, atom)
    matrices = _shells(atoms, magnetic.any(axis=0))
    exchange = [[-(matrix @ frame) for frame in moments] for matrix in matrices]
    applied = np.eye(3)[:, None, None, :] * magnetic[:, :, None]
    fields = np.concatenate([np.reshape(exchange, (-1, *moments.shape)), applied])  # (term, frame, atom, xyz)
    design = np.cross(moments[None], fields).reshape(len(fields), -1).T
    strengths = np.linalg.lstsq(design, np.cross(moments, magnetic_forces).ravel(), rcond=1e-8)[0]
    work = np.einsum("tfix,fix->tf", fields, moments)
    work[: len(matrices)] /= 2  # every bond once
    return -strengths @ work, np.einsum("t,tfix->fix", strengths, fields)


def _shells(atoms: Atoms, magnetic: Any) -> list[Any]:
    """Bond matrices (N, N) of the nearest shells, each of a pair of species and a distance."""
    bonds = graphs.bonds_within(atoms, CUTOFF)
    both = magnetic[bonds.i] & magnetic[bonds.j] & (bonds.i != bonds.j)  # an image of the same atom feels no torque
    i, j, distance = bonds.i[both], bonds.j[both], np.linalg.norm(bonds.vectors[both], axis=1)
    species = np.sort(np.stack([atoms.numbers[i], atoms.numbers[j]]), axis=0)
    found: list[tuple[float, Any]] = []
    for kind in np.unique(species, axis=1).T:
        chosen = np.flatnonzero((species == kind[:, None]).all(axis=0))
        order = chosen[np.argsort(distance[chosen])]
        for shell in np.split(order, np.flatnonzero(np.diff(distance[order]) > _SAME_SHELL) + 1):
            matrix = csr_array((np.ones(len(shell)), (i[shell], j[shell])), shape=(len(atoms), len(atoms)))
            found.append((float(distance[shell].mean()), matrix + matrix.T))
    return [matrix for _, matrix in sorted(found, key=lambda one: one[0])[:_MOST_SHELLS]]
