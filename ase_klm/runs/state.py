"""Moments of one structure or of several replicas, on the device, and the Atoms that show them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.moments import get_moments, set_moments
from ase_klm.potentials.base import BoundPotential, Evaluation, terms_of
from ase_klm.potentials.foreign import Foreign, potential_of
from ase_klm.potentials.scaled import Scaled, unscaled
from ase_klm.supercells import beside
from ase_klm.validate import Array
from ase_klm.vectors import norm


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
        self.check_size()
        self._shown = [self.array(self.moments, number) for number in range(len(self.replicas))]
        for number, replica in enumerate(self.replicas):
            set_moments(replica, self._shown[number])
            known = self._evaluation
            unchanged = _identical(_hamiltonian(replica), self._hamiltonians[number])
            if known is not None and unchanged and hasattr(replica.calc, "remember"):
                replica.calc.remember(replica, known if self.single else _of_replica(known, number))

    def synchronise(self) -> bool:
        """Take over what was changed on the atoms since they were shown: moments, positions, cell, the calculator or
        its parameters. Returns whether there was anything.
        """
        self.check_size()
        found = [get_moments(replica) for replica in self.replicas]
        turned = not all(np.array_equal(a, b) for a, b in zip(found, self._shown, strict=True))
        if self._is_stale(found):
            moments, length = self.moments, self.length
            if not turned:
                self.show()
            self._bind()
            if not turned:
                self.set(moments, length)  # to the last bit
            return True
        if turned:
            self._shown = found
            self.set(self.bound.tensor(found[0] if self.single else np.stack(found)))
        return turned

    def check_size(self) -> None:
        """Refuse atoms that were added or removed.

        Raises
        ------
        KLMError
            When their number is no longer that of the beginning.
        """
        for replica in self.replicas:
            check_size(len(replica), self.bound.n_atoms)

    def _is_stale(self, moments: list[Array]) -> bool:
        """Whether the potential must be bound anew."""
        magnetic = self.bound.magnetic.cpu().numpy()
        return (
            any(
                not all(map(np.array_equal, place_of(replica), place))
                for replica, place in zip(self.replicas, self._places, strict=True)
            )
            or any(not np.array_equal(m.any(axis=1), magnetic) for m in moments)
            or not all(map(_identical, map(_hamiltonian, self.replicas), self._hamiltonians))
        )

    def _bind(self) -> None:
        self._hamiltonians = [_hamiltonian(replica) for replica in self.replicas]
        self._places = [place_of(replica) for replica in self.replicas]
        device = str(getattr(self.replicas[0].calc, "device", "cpu"))
        first, *others = self.replicas
        potential = potential_of(first if self.single else list(self.replicas))
        present = first if self.single else [first, *(beside(first, other) for other in others)]
        self.bound: BoundPotential = potential.bind(present, device)
        self.set(self.bound.moments)
        self._shown = [get_moments(replica) for replica in self.replicas]


def check_size(found: int, began: int) -> None:
    """Refuse a number of atoms that is not the one that a tool began with."""
    if found != began:
        raise KLMError(
            f"{found} atoms, this tool was made for {began}",
            "atoms were added or removed since it was made; what it keeps of each atom would belong to another one",
            "make a new one for the atoms as they are",
        )


def place_of(atoms: Atoms) -> tuple[Array, ...]:
    """What bonds depend on: positions, cell, species, periodicity."""
    return atoms.positions.copy(), atoms.cell.array.copy(), atoms.numbers.copy(), atoms.pbc.copy()


def _hamiltonian(atoms: Atoms) -> list[Any]:
    """What the energy consists of; replaced, not changed, when a parameter of a calculator changes."""
    parts: list[Any] = []
    for term in terms_of(potential_of(atoms)):
        own = unscaled(term)
        parts.append(own.calculator if isinstance(own, Foreign) else own)
        if isinstance(term, Scaled):
            parts.append(term.factor)
    return parts


def _identical(first: list[Any], second: list[Any]) -> bool:
    return len(first) == len(second) and all(
        a == b if isinstance(a, float) else a is b for a, b in zip(first, second, strict=True)
    )


def _of_replica(evaluation: Evaluation, number: int) -> Evaluation:
    extras = {name: value[number] for name, value in evaluation.extras.items()}
    return Evaluation(evaluation.energy[number], evaluation.magnetic_forces[number], extras=extras)


def all_finite(*tensors: Tensor) -> bool:
    """Whether no tensor holds NaN or infinity."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
