"""Moments of one structure or of several replicas, on the device, and the Atoms that show them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.moments import get_moments, set_moments
from ase_klm.potentials.base import BoundPotential, Evaluation
from ase_klm.potentials.foreign import potential_of
from ase_klm.runs.vectors import norm
from ase_klm.validate import Array


class SpinState:
    """Moments, their bound potential, and its evaluation, computed at most once a state.

    Parameters
    ----------
    replicas : sequence of Atoms
        Replicas of one lattice.
    single : bool
        One structure without a batch axis.

    Attributes
    ----------
    moments, length : Tensor
        m in μB, shape (..., N, 3), and abs(m), shape (..., N, 1).
    """

    moments: Tensor
    length: Tensor

    def __init__(self, replicas: Sequence[Atoms], single: bool) -> None:
        self.replicas, self.single = replicas, single
        self._evaluation: Evaluation | None = None
        self._bind()

    def set(self, moments: Tensor, length: Tensor | None = None) -> None:
        """Take moments of other lengths, which are given where rounding must not change them."""
        self.advance(moments)
        self.length = norm(moments) if length is None else length

    def advance(self, moments: Tensor) -> None:
        """Take moments of the same lengths."""
        self.moments = moments
        self._evaluation = None

    def evaluation(self) -> Evaluation:
        """Energy and magnetic forces of the present moments, without atomic forces."""
        if self._evaluation is None:
            self._evaluation = self.bound.evaluate(self.moments, atomic=False)
        return self._evaluation

    def array(self, values: Tensor, number: int) -> Array:
        """Values (..., N, 3) of one replica."""
        return np.array((values if self.single else values[number]).cpu().numpy())

    def show(self) -> None:
        """Write the moments to the atoms; calculators of this package learn what is known of them."""
        self._shown = [self.array(self.moments, number) for number in range(len(self.replicas))]
        for number, replica in enumerate(self.replicas):
            set_moments(replica, self._shown[number])
            known = self._evaluation
            same_potential = _potential(replica) is self._potentials[number]
            if known is not None and same_potential and hasattr(replica.calc, "remember"):
                replica.calc.remember(replica, known if self.single else _of_replica(known, number))

    def take_over(self) -> bool:
        """Take over moments that were changed on the atoms; whether there were any."""
        found = [get_moments(replica) for replica in self.replicas]
        if all(np.array_equal(a, b) for a, b in zip(found, self._shown, strict=True)):
            return False
        self._shown = found
        self.set(self.bound.tensor(found[0] if self.single else np.stack(found)))
        return True

    def rebind_if_changed(self) -> None:
        """Bind anew when calculators, positions or cells have changed."""
        places = all(
            np.array_equal(replica.positions, positions) and np.array_equal(replica.cell.array, cell)
            for replica, (positions, cell) in zip(self.replicas, self._places, strict=True)
        )
        potentials = zip(map(_potential, self.replicas), self._potentials, strict=True)
        if not places or any(a is not b for a, b in potentials):
            self.show()
            moments, length = self.moments, self.length
            self._bind()
            self.set(moments, length)

    def _bind(self) -> None:
        self._potentials = [_potential(replica) for replica in self.replicas]
        self._places = [(replica.positions.copy(), replica.cell.array.copy()) for replica in self.replicas]
        structures = self.replicas[0] if self.single else list(self.replicas)
        device = getattr(self.replicas[0].calc, "device", "cpu")
        self.bound: BoundPotential = potential_of(structures).bind(structures, str(device))
        self.set(self.bound.moments)
        self._shown = [get_moments(replica) for replica in self.replicas]


def _potential(atoms: Atoms) -> Any:
    """What stands for the Hamiltonian: replaced, not changed, when a parameter of a calculator changes."""
    return getattr(atoms.calc, "potential", atoms.calc)


def _of_replica(evaluation: Evaluation, number: int) -> Evaluation:
    extras = {name: value[number] for name, value in evaluation.extras.items()}
    return Evaluation(evaluation.energy[number], evaluation.magnetic_forces[number], extras=extras)


def all_finite(*tensors: Tensor) -> bool:
    """Whether no tensor holds NaN or infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
