"""L-BFGS on orthogonal spin rotations (A. V. Ivanov, V. M. Uzdin, H. Jónsson, Comput. Phys. Commun. 260, 107749).

The variables are rotation vectors a_i about the present moments, m_i → exp([a_i]×) m_i. At a = 0 the gradient is
∂E/∂a_i = -m_i × F_i, minus the torque. Moments keep their lengths, and no constraint is left to respect.
"""

from collections import deque

import torch
from torch import Tensor


class RotationLBFGS:
    """Search directions from the last steps s and changes of gradient y.

    Parameters
    ----------
    memory : int
        Pairs (s, y) kept.
    """

    def __init__(self, memory: int) -> None:
        self._pairs: deque[tuple[Tensor, Tensor, Tensor]] = deque(maxlen=memory)

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def forget(self) -> None:
        """Start anew from steepest descent."""
        self._pairs.clear()

    def learn(self, step: Tensor, gradient_change: Tensor) -> None:
        """Keep a pair of positive curvature."""
        curvature = (step * gradient_change).sum()
        if curvature > 1e-12 * step.norm() * gradient_change.norm():
            self._pairs.append((step, gradient_change, curvature))

    def direction(self, gradient: Tensor) -> Tensor:
        """-H g by the two-loop recursion (Nocedal, Math. Comput. 35, 773); with no pairs -g."""
        q = gradient.clone()
        coefficients = []
        for s, y, curvature in reversed(self._pairs):
            coefficient = (s * q).sum() / curvature
            coefficients.append(coefficient)
            q -= coefficient * y
        if self._pairs:
            s, y, curvature = self._pairs[-1]
            q *= curvature / (y * y).sum()
        for (s, y, curvature), coefficient in zip(self._pairs, reversed(coefficients), strict=True):
            q += s * (coefficient - (y * q).sum() / curvature)
        return -q


def largest(vectors: Tensor) -> float:
    """Largest length among vectors of shape (..., 3)."""
    return torch.linalg.vector_norm(vectors, dim=-1).max().item()
