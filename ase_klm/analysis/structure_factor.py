"""Spin structure factor S(q) = (1/N) |Σ_j m_j exp(2πi q·r_j)|², r in primitive lattice vectors.

On the wave vectors of the supercell the phase factorises, exp(2πi h x) exp(2πi k y): two matrix products give the
whole plane for any positions, without a regular grid of sites.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from ase_klm import graphs
from ase_klm.analysis.correlations import Correlations
from ase_klm.analysis.frames import structures
from ase_klm.analysis.magnetisation import no_moments
from ase_klm.analysis.wave_vectors import supercell_waves
from ase_klm.errors import KLMError
from ase_klm.images import upright_cell
from ase_klm.moments import get_moments
from ase_klm.validate import Array, checked_array


@dataclass(frozen=True)
class StructureFactor(Correlations):
    """Structure factor at a list of wave vectors, averaged over frames.

    Attributes
    ----------
    q : ndarray
        In units of the reciprocal vectors of `cell`, shape (n_q, 3).
    tensor : ndarray
        S_ab = (1/N) m_a(q)* m_b(q) in μB², Hermitian, shape (n_q, 3, 3), with N magnetic atoms.
    cell : ndarray
        The lattice vectors that q refers to, Å, shape (3, 3).
    steps : ndarray
        Smallest wave vectors of the supercell in units of q, shape (n_periodic, 3); none for a list of one's own.
    """

    q: Array
    tensor: NDArray[np.complex128]
    cell: Array
    steps: Array


def structure_factor(frames: Any, cell: ArrayLike | None = None, q_max: float | None = None) -> StructureFactor:
    """S(q) at all wave vectors of the supercell in the first Brillouin zone, each once, or up to `q_max`.

    Over the zone of a lattice with one site a cell, the mean of S is Σ|m|²/N. With several sites a cell, S is not
    periodic in q, and `q_max` shows more of it.

    Parameters
    ----------
    frames : Atoms or sequence
        A structure, a frame, or a sequence of these that S is averaged over.
    cell : array_like, optional
        Primitive lattice vectors, Å, shape (3, 3). Default: those of the structure without its moments, see
        ``graphs.primitive_cell``; give them when atoms are displaced.
    q_max : float, optional
        Largest abs(q), rad/Å.

    Raises
    ------
    KLMError
        When there are no moments, no periodic direction, or the supercell does not consist of whole cells.
    """
    atoms = structures(frames)
    first = atoms[0]
    if not first.pbc.any():
        raise KLMError(
            "the structure is not periodic",
            "a supercell's wave vectors are asked for",
            "use structure_factor_at(atoms, q, cell=...) with wave vectors of your own",
        )
    grid = supercell_waves(first, cell)
    q = grid.first_zone() if q_max is None else grid.within(q_max)
    waves = grid.counts(q).round().astype(np.int64)
    return StructureFactor(q, _averaged([_on_grid(frame, waves) for frame in atoms]), grid.primitive, grid.steps)


def structure_factor_at(frames: Any, q: ArrayLike, cell: ArrayLike | None = None) -> StructureFactor:
    """S(q) at given wave vectors.

    Parameters
    ----------
    frames : Atoms or sequence
        As for :func:`structure_factor`.
    q : array_like
        In units of the reciprocal vectors of `cell`, shape (n_q, 3).
    cell : array_like, optional
        Lattice vectors, Å, shape (3, 3); default ``graphs.primitive_cell`` of the structure.
    """
    atoms = structures(frames)
    wave_vectors = checked_array(q, (None, 3), "q")
    vectors = graphs.primitive_cell(atoms[0]) if cell is None else checked_array(cell, (3, 3), "cell", "Å")
    tensors = []
    for frame in atoms:
        coordinates, moments = _magnetic(frame, vectors)
        amplitudes = [np.exp(2j * np.pi * (coordinates @ one)) @ moments for one in wave_vectors]
        tensors.append(_tensor(np.array(amplitudes).reshape(-1, 3), len(moments)))
    return StructureFactor(wave_vectors, _averaged(tensors), vectors, np.zeros((0, 3)))


def _magnetic(atoms: Atoms, vectors: Array) -> tuple[Array, Array]:
    """Positions in units of the vectors and moments of the magnetic atoms, both of shape (N, 3)."""
    moments = get_moments(atoms)
    magnetic = moments.any(axis=1)
    if not magnetic.any():
        raise no_moments()
    return atoms.positions[magnetic] @ np.linalg.inv(vectors), moments[magnetic]


def _on_grid(atoms: Atoms, waves: NDArray[np.int64]) -> NDArray[np.complex128]:
    """S_ab at integer multiples of the supercell's wave vectors, shape (n_q, 3, 3)."""
    coordinates, moments = _magnetic(atoms, upright_cell(graphs.with_complete_cell(atoms).cell, atoms.pbc))
    lowest = waves.min(axis=0)
    counts = np.ones(3, dtype=np.int64)
    counts[: waves.shape[1]] = waves.max(axis=0) - lowest + 1
    factors = [
        np.exp(2j * np.pi * np.outer(np.arange(count) + low, x))  # (h, site)
        for low, count, x in zip(lowest, counts, coordinates.T[np.flatnonzero(atoms.pbc)], strict=False)
    ]
    while len(factors) < 3:
        factors.append(np.ones((1, len(moments)), dtype=complex))
    box = np.empty((*counts, 3), dtype=complex)
    for component in range(3):
        for third, factor in enumerate(factors[2]):
            box[:, :, third, component] = (factors[0] * (moments[:, component] * factor)) @ factors[1].T
    index = np.zeros((len(waves), 3), dtype=np.int64)
    index[:, : waves.shape[1]] = waves - lowest
    return _tensor(box[tuple(index.T)], len(moments))


def _tensor(amplitudes: NDArray[np.complex128], n_sites: int) -> NDArray[np.complex128]:
    return np.asarray(np.einsum("qa,qb->qab", amplitudes.conj(), amplitudes) / n_sites)


def _averaged(tensors: list[NDArray[np.complex128]]) -> NDArray[np.complex128]:
    return np.asarray(sum(tensors[1:], tensors[0]) / len(tensors))
