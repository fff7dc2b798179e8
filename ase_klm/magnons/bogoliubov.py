"""Bosonic quadratic forms ½ Ψ† H Ψ with Ψ = (a, a†), brought to normal modes.

J. H. P. Colpa, Physica A 93, 327 (1978): with H = K†K, the energies are the positive eigenvalues of K η K†,
η = (1, -1), and the modes T = K⁻¹ U sqrt(abs(L)) obey T† η T = η. K is Cholesky's factor; where H is singular
(Goldstone modes) it comes from the eigenvalues of H.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Matrices = NDArray[np.complex128]

RAISED = 1e-10
"""H is raised by this fraction of its largest element before modes are normalised."""

SMALLEST = 1e-6
"""A largest element below this, eV, is taken for a zero of rounding there."""


@dataclass(frozen=True)
class Factor:
    """K with H = K†K, where negative eigenvalues of H are set to zero.

    Attributes
    ----------
    K : ndarray
        Shape (n_q, 2 n, 2 n).
    negative : ndarray
        The lowest eigenvalue of H where it is not positive, else 0, shape (n_q,).
    vectors : dict
        Its eigenvector, by the number of q.
    """

    K: Matrices
    negative: NDArray[np.float64]
    vectors: dict[int, NDArray[np.complex128]]


def factor(H: Matrices) -> Factor:
    """Of Hermitian matrices (n_q, 2 n, 2 n)."""
    L, info = torch.linalg.cholesky_ex(torch.from_numpy(H))
    K = L.mH.resolve_conj().numpy()
    negative, vectors = np.zeros(len(H)), {}
    singular = np.flatnonzero(info.numpy())
    if len(singular):
        values, U = np.linalg.eigh(H[singular])
        K = K.copy()
        K[singular] = np.sqrt(np.maximum(values, 0))[:, :, None] * U.conj().swapaxes(-1, -2)
        negative[singular] = np.minimum(values[:, 0], 0)
        vectors = dict(zip(singular.tolist(), U[:, :, 0], strict=True))
    return Factor(K, negative, vectors)


def mode_energies(K: Matrices) -> NDArray[np.float64]:
    """Energies of the normal modes, ascending, shape (n_q, n)."""
    return np.maximum(np.linalg.eigvalsh(_turned(K))[:, K.shape[-1] // 2 :], 0)


def normal_modes(H: Matrices) -> Matrices:
    """Modes T, shape (n_q, 2 n, 2 n): the first n columns create them in the order of their energies.

    The zero modes of an antiferromagnet have no norm; their columns are large and have no meaning.
    """
    n = H.shape[-1] // 2
    # at the zero mode of a ferromagnet H is zero but for rounding, which may be negative
    raised = RAISED * np.maximum(np.abs(H).max((-2, -1)), SMALLEST) - factor(H).negative
    K = factor(H + raised[:, None, None] * np.eye(2 * n)).K
    values, U = np.linalg.eigh(_turned(K))
    order = [*range(n, 2 * n), *range(n - 1, -1, -1)]  # positive ones ascending, then their partners at -q
    return np.asarray(np.linalg.solve(K, U[:, :, order] * np.sqrt(np.abs(values[:, None, order]))))


def _turned(K: Matrices) -> Matrices:
    """K η K†."""
    n = K.shape[-1] // 2
    adjoint = K.conj().swapaxes(-1, -2)
    return K[..., :n] @ adjoint[..., :n, :] - K[..., n:] @ adjoint[..., n:, :]
