"""What all tensors of spin correlations in reciprocal space give: intensities, and their wave vectors in rad/Å."""

import numpy as np
from numpy.typing import NDArray

from ase_klm.validate import Array


class Correlations:
    """Base of results S_ab(q, ...) for wave vectors q (n_q, 3) of a cell (3, 3): `tensor` of shape (n_q, ..., 3, 3)."""

    q: Array
    tensor: NDArray[np.complex128]
    cell: Array

    @property
    def intensity(self) -> Array:
        """Σ_a S_aa, in the unit of `tensor`, shape (n_q, ...)."""
        return np.asarray(np.einsum("q...aa->q...", self.tensor).real)

    @property
    def q_cartesian(self) -> Array:
        """Wave vectors in rad/Å, shape (n_q, 3)."""
        return self.q @ self.reciprocal

    @property
    def reciprocal(self) -> Array:
        """Reciprocal vectors of `cell` as rows, rad/Å, shape (3, 3)."""
        return np.asarray(2 * np.pi * np.linalg.inv(self.cell).T)

    def perpendicular(self) -> Array:
        """Σ_ab (δ_ab - q_a q_b/q²) S_ab, which neutrons see, in the unit of `tensor`, shape (n_q, ...).

        At q = 0, which has no direction, the average over directions, 2/3 of the intensity (as Sunny).
        """
        lengths = np.linalg.norm(self.q_cartesian, axis=1)
        at_zero = lengths < 1e-9
        towards = self.q_cartesian / np.where(at_zero, 1.0, lengths)[:, None]
        projectors = np.eye(3) - towards[:, :, None] * towards[:, None, :]
        projectors[at_zero] = 2 / 3 * np.eye(3)
        return np.asarray(np.einsum("qab,q...ab->q...", projectors, self.tensor).real)
