"""A potential times a number, as ASE's weighted combinations of calculators need it: E = w E'."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from torch import Tensor

from ase_klm.plausibility import Doubt
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Structures, Sum
from ase_klm.potentials.second_derivatives import Blocks, ScaledDerivatives, SecondDerivatives
from ase_klm.supercells import Repetitions
from ase_klm.validate import checked_number


@dataclass(frozen=True, eq=False)
class Scaled(Potential):
    """E = w E': a potential times a number, with all its derivatives.

    Parameters
    ----------
    potential : Potential
        E', one term.
    factor : float
        w; it may be zero or negative.
    """

    potential: Potential
    factor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", checked_number(self.factor, "factor"))

    @property
    def uses_lattice(self) -> bool:  # type: ignore[override]
        return self.potential.uses_lattice

    @property
    def counts_shells(self) -> bool:
        return self.potential.counts_shells

    @property
    def lattice(self) -> Atoms | None:
        """That of E'."""
        return getattr(self.potential, "lattice", None)

    def on_lattice(self, lattice: Atoms | None) -> Potential:
        found = self.potential.on_lattice(lattice)
        return self if found is self.potential else Scaled(found, self.factor)

    def geometry(self, atoms: Atoms) -> tuple[np.ndarray, ...]:
        return self.potential.geometry(atoms)

    @property
    def force_scale(self) -> float:
        return abs(self.factor) * self.potential.force_scale

    def doubts(self, atoms: Atoms, force_scale: float) -> Iterator[Doubt]:
        return self.potential.doubts(atoms, force_scale)

    def repeated(self, atoms: Atoms, repetitions: Repetitions) -> "Scaled":
        return replace(self, potential=self.potential.repeated(atoms, repetitions))

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundScaled":
        return BoundScaled(self.potential.bind(atoms, device), self.factor, atoms, device)


def scaled(potential: Potential, factor: float) -> Potential:
    """The potential times a number: of a sum each term, of a scaled one its factor, and itself for a factor of 1."""
    if factor == 1:
        return potential
    if isinstance(potential, Sum):
        return Sum(tuple(scaled(term, factor) for term in potential.terms))
    if isinstance(potential, Scaled):
        return Scaled(potential.potential, factor * potential.factor)
    return Scaled(potential, factor)


def unscaled(potential: Potential) -> Potential:
    """E' of a scaled potential, any other one itself."""
    return potential.potential if isinstance(potential, Scaled) else potential


class BoundScaled(BoundPotential):
    """Everything that a bound potential gives, times the factor; further results as they are."""

    def __init__(self, bound: BoundPotential, factor: float, atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self.bound, self.factor = bound, factor
        self.turns_spins = bound.turns_spins

    def move_to(self, positions: Tensor, cell: Tensor) -> None:
        super().move_to(positions, cell)
        self.bound.move_to(positions, cell)

    @property
    def interaction_range(self) -> float | None:
        return self.bound.interaction_range

    @property
    def differentiable(self) -> bool:
        return self.bound.differentiable

    @property
    def twice_differentiable(self) -> bool:
        return self.bound.twice_differentiable

    def energy(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        return self.factor * self.bound.energy(moments, positions, cell)

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        found = self.bound._evaluate(moments, positions, cell, atomic)
        energy, magnetic_forces = self.factor * found.energy, self.factor * found.magnetic_forces
        return Evaluation(energy, magnetic_forces, self._times(found.forces), self._times(found.stress), found.extras)

    def _times(self, values: Tensor | None) -> Tensor | None:
        return None if values is None else self.factor * values

    def forces(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor | None:
        return self._times(self.bound.forces(moments, positions, cell))

    def effective_field(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        return self.factor * self.bound.effective_field(moments, positions, cell)

    def hessian_vector_product(self, moments: Tensor, vectors: Tensor) -> Tensor:
        return self.factor * self.bound.hessian_vector_product(moments, vectors)

    def hessian(self, moments: Tensor) -> Callable[[Tensor], Tensor]:
        product = self.bound.hessian(moments)
        return lambda vectors: self.factor * product(vectors)

    def site_hessian(self, moments: Tensor) -> Tensor | None:
        return self._times(self.bound.site_hessian(moments))

    def second_derivatives(self, moments: Tensor) -> SecondDerivatives | None:
        found: Any = self.bound.second_derivatives(moments)
        if isinstance(found, Blocks):
            return replace(found, values=self.factor * found.values)
        return None if found is None else ScaledDerivatives(found, self.factor)
