"""Second derivatives of the energy by moments, of periodic structures.

    Φ(i, j, R) = ∂²E/∂m_i ∂m_jR,    Φ(q) = Σ_R Φ(i, j, R) exp(2πi q·R),

for atom i of the home cell and atom j of the cell R; q in units of the reciprocal vectors.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ase_klm.memory import require_memory


class SecondDerivatives(ABC):
    """What a bound potential knows exactly of its second derivatives at given moments."""

    @abstractmethod
    def at(self, q: NDArray[np.float64]) -> NDArray[np.complex128]:
        """Φ(q), eV/μB², Hermitian, shape (n_q, N, 3, N, 3), for q of shape (n_q, 3)."""


@dataclass(frozen=True)
class Blocks(SecondDerivatives):
    """Blocks Φ(i, j, R), each as it stands: both (i, j, R) and (j, i, -R) are listed.

    Attributes
    ----------
    n_atoms : int
    i, j : ndarray
        Shape (n_blocks,).
    cells : ndarray
        R, integers, shape (n_blocks, 3).
    values : ndarray
        eV/μB², shape (n_blocks, 3, 3).
    """

    n_atoms: int
    i: NDArray[np.int64]
    j: NDArray[np.int64]
    cells: NDArray[np.int64]
    values: NDArray[np.float64]

    @classmethod
    def none(cls, n_atoms: int) -> "Blocks":
        """Those of an energy linear in the moments: there are none."""
        ends = np.zeros(0, np.int64)
        return cls(n_atoms, ends, ends, np.zeros((0, 3), np.int64), np.zeros((0, 3, 3)))

    def at(self, q: NDArray[np.float64]) -> NDArray[np.complex128]:
        n = self.n_atoms
        require_memory_at(n, len(q))
        phases = np.exp(2j * np.pi * q @ self.cells.T)  # (q, block)
        found = np.zeros((n, n, len(q), 3, 3), complex)
        np.add.at(found, (self.i, self.j), phases.T[:, :, None, None] * self.values[:, None])
        return found.transpose(2, 0, 3, 1, 4)


@dataclass(frozen=True)
class ScaledDerivatives(SecondDerivatives):
    """Those of a potential times a number."""

    derivatives: SecondDerivatives
    factor: float

    def at(self, q: NDArray[np.float64]) -> NDArray[np.complex128]:
        return self.factor * self.derivatives.at(q)


def require_memory_at(n_atoms: int, n_q: int) -> None:
    """Whether Φ at all these q fits into memory: 9 N² complex numbers a q, three times while modes are sought.

    Raises
    ------
    KLMError
        When it does not.
    """
    require_memory(
        3 * 16 * 9.0 * n_atoms**2 * n_q,
        f"the second derivatives of {n_atoms} atoms at {n_q} q",
        "ask for fewer q at a time, or take the smallest magnetic cell instead of a supercell",
    )
