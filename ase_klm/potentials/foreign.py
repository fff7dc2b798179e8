"""Any ASE calculator as a potential, so that all tools of this package take it.

With `magnetic_forces` it is a potential of spins. Without, it is one of the lattice alone: an embedded-atom table, a
machine-learned potential without moments, a dispersion correction. Then it adds energy, forces and stress, and turns
no moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator, PropertyNotImplementedError
from ase.calculators.mixing import LinearCombinationCalculator
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.moments import computes_moments, directions, get_moments, set_moments
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Structures, Sum, stacked, terms_of
from ase_klm.potentials.scaled import scaled, unscaled
from ase_klm.potentials.second_derivatives import Blocks
from ase_klm.supercells import Repetitions
from ase_klm.validate import checked_array

PROPERTIES = "forces", "stress", "energy", "magnetic_forces"
"""In the order in which they are asked for."""

SAME_ENERGY = 1e-6
"""Differences of energies, eV an atom and relative, that count as rounding."""


@dataclass(frozen=True, eq=False)
class Foreign(Potential):
    """Face of an ASE calculator, which is asked for energy and, where it has them, magnetic forces, forces and stress.

    Parameters
    ----------
    calculator : ase calculator
        With "magnetic_forces" (-∂E/∂m, eV/μB, shape (N, 3)) among its implemented properties; or one whose energy does
        not depend on moments.
    magnetic : bool, optional
        Whether it gives magnetic forces. False says that the energy does not depend on moments: its magnetic forces
        count as zero. Default: what its implemented properties say; without magnetic forces among them, its energy must
        stay the same when moments turn, and its results must hold no moments of its own.

    Raises
    ------
    KLMError
        When its energy may depend on moments, and it gives no magnetic forces.
    """

    calculator: BaseCalculator
    magnetic: bool | None = None
    uses_lattice: ClassVar[bool] = False

    def __post_init__(self) -> None:
        name, offered = type(self.calculator).__name__, getattr(self.calculator, "implemented_properties", ())
        if self.turns_spins and "magnetic_forces" not in offered:
            raise _without_magnetic_forces(name, '"magnetic_forces" is not among its implemented_properties')
        if "energy" not in offered:
            raise _without_magnetic_forces(name, "nor is there an energy among its implemented_properties")

    @property
    def turns_spins(self) -> bool:
        """Whether it gives magnetic forces."""
        if self.magnetic is not None:
            return self.magnetic
        return "magnetic_forces" in getattr(self.calculator, "implemented_properties", ())

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundForeign | BoundForeignLattice":
        if self.turns_spins:
            return BoundForeign(self.calculator, atoms, device)
        bound = BoundForeignLattice(self.calculator, atoms, device)
        if self.magnetic is None:
            bound.check_ignores_moments()
        return bound

    def repeated(self, atoms: Atoms, repetitions: Repetitions) -> Potential:
        own = getattr(self.calculator, "potential", None)
        return own.repeated(atoms, repetitions) if isinstance(own, Potential) else self


class _BoundCalculator(BoundPotential):
    """A calculator that is asked replica after replica, on a copy of the structure."""

    def __init__(self, calculator: BaseCalculator, atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self.calculator = calculator
        self.template: Atoms = (atoms if isinstance(atoms, Atoms) else atoms[0]).copy()
        self._spanned = self.template.cell.array.any(axis=1)  # other vectors are zero; the bound cell completes them

    def _asked(
        self, names: Sequence[str], positions: Tensor, cell: Tensor, moments: Tensor | None = None
    ) -> dict[str, Tensor | None]:
        """Results by name along the batch of positions (..., N, 3); None for what the calculator has not.

        Forces come first: whoever calculates them knows the energy, too.
        """
        batch = torch.broadcast_shapes(positions.shape[:-2], cell.shape[:-2])
        state = [positions, cell] if moments is None else [positions, cell, moments]
        replicas = (axes.expand(*batch, *axes.shape[-2:]).reshape(-1, *axes.shape[-2:]).cpu().numpy() for axes in state)
        results: dict[str, list[np.ndarray]] = {name: [] for name in sorted(names, key=PROPERTIES.index)}
        for x, vectors, *m in zip(*replicas, strict=True):
            self.template.positions[:] = x
            self.template.cell[:] = np.where(self._spanned[:, None], vectors, 0.0)
            if m:
                set_moments(self.template, m[0])
            for name, values in results.items():
                try:
                    values.append(np.asarray(self.calculator.get_property(name, self.template)))
                except PropertyNotImplementedError:
                    if name not in ("forces", "stress"):
                        raise
        return {
            name: self.tensor(np.stack(values)).reshape((*batch, *values[0].shape)) if values else None
            for name, values in results.items()
        }

    def _wanted(self, atomic: bool) -> list[str]:
        offered = self.calculator.implemented_properties
        return [name for name in ("forces", "stress") if atomic and name in offered]


class BoundForeign(_BoundCalculator):
    """A calculator with magnetic forces."""

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        names = [*self._wanted(atomic), "energy", "magnetic_forces"]
        found = self._asked(names, positions.expand(moments.shape), cell, moments)
        energy, magnetic_forces = found["energy"], found["magnetic_forces"]
        assert energy is not None
        assert magnetic_forces is not None
        checked_array(magnetic_forces.cpu().numpy().reshape(-1, 3), (None, 3), "magnetic forces of the calculator")
        return Evaluation(
            energy,
            torch.where(self.magnetic[:, None], magnetic_forces, 0.0),
            found.get("forces"),
            _full_stress(found.get("stress")),
        )


class BoundForeignLattice(_BoundCalculator):
    """A calculator whose energy does not depend on moments, which it sees as they were at binding.

    Results are kept until atoms move or somebody else uses the calculator, so that spins that turn on a lattice at rest
    do not pay for it.
    """

    turns_spins = False

    def __init__(self, calculator: BaseCalculator, atoms: Structures, device: str) -> None:
        super().__init__(calculator, atoms, device)
        self._place: tuple[Tensor, Tensor] | None = None
        self._kept: dict[str, Tensor | None] = {}
        self._left: dict[str, Any] = {}

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        batch = torch.broadcast_shapes(moments.shape[:-2], positions.shape[:-2], cell.shape[:-2])
        found = self._at([*self._wanted(atomic), "energy"], positions, cell)
        energy, forces, stress = found["energy"], found.get("forces"), _full_stress(found.get("stress"))
        assert energy is not None
        return Evaluation(
            energy.expand(batch),
            self.effective_field(moments, positions, cell).expand(*batch, -1, -1),
            None if forces is None else forces.expand(*batch, -1, -1),
            None if stress is None else stress.expand(*batch, 3, 3),
        )

    def forces(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor | None:
        batch = torch.broadcast_shapes(moments.shape[:-2], positions.shape[:-2], cell.shape[:-2])
        forces = self._at(["forces"], positions, cell)["forces"]
        return None if forces is None else forces.expand(*batch, -1, -1)

    def effective_field(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        return torch.zeros_like(moments)

    def hessian_vector_product(self, moments: Tensor, vectors: Tensor) -> Tensor:
        return torch.zeros_like(moments)

    def site_hessian(self, moments: Tensor) -> Tensor:
        return moments.new_zeros((*moments.shape, 3))

    def second_derivatives(self, moments: Tensor) -> Blocks:
        return Blocks.none(self.n_atoms)

    def check_ignores_moments(self) -> None:
        """Look at the moments it computes, and compare its energy with that of other moments.

        Raises
        ------
        KLMError
            When it computes moments, or the energies differ.
        """
        name = type(self.calculator).__name__
        if computes_moments(self.calculator, self.template):
            raise _without_magnetic_forces(
                name,
                "it computes moments, so that its energy may depend on them",
                f"if it does not, say so: SpinCalculator(Foreign({name}(...), magnetic=False) + ...)",
            )
        moments = get_moments(self.template)
        lengths = np.linalg.norm(moments, axis=1, keepdims=True)
        others = lengths * directions(np.random.default_rng(0).standard_normal(moments.shape))
        energies = []
        for state in (others, moments):  # the true ones last, so that the calculator keeps their results
            set_moments(self.template, state)
            energies.append(float(self.calculator.get_property("energy", self.template)))
        if abs(energies[0] - energies[1]) > SAME_ENERGY * (len(moments) + abs(energies[1])):
            raise _without_magnetic_forces(
                name,
                f"yet its energy depends on the moments: it is {energies[1]:.6g} eV, and {energies[0]:.6g} eV "
                "with other directions",
                f"if that is noise, say so: SpinCalculator(Foreign({name}(...), magnetic=False) + ...)",
            )

    def _at(self, names: Sequence[str], positions: Tensor, cell: Tensor) -> dict[str, Tensor | None]:
        """Results there; what was found last, where it was there."""
        if not self._is_kept(positions, cell):
            self._kept = {}
        missing = [name for name in names if name not in self._kept]
        if missing:
            self._kept |= self._asked(missing, positions, cell)
            self._place = positions.clone(), cell.clone()
            self._left = dict(getattr(self.calculator, "results", {}))
        return {name: self._kept[name] for name in names}

    def _is_kept(self, positions: Tensor, cell: Tensor) -> bool:
        """Whether what is kept belongs there, and the calculator was neither changed nor used since."""
        if self._place is None or any(
            a.shape != b.shape or not torch.equal(a, b) for a, b in zip(self._place, (positions, cell), strict=True)
        ):
            return False
        results = getattr(self.calculator, "results", self._left)
        return all(results.get(name) is value for name, value in self._left.items())


def _without_magnetic_forces(name: str, why: str, remedy: str = "") -> KLMError:
    return KLMError(
        f"{name} gives no magnetic forces",
        why,
        remedy
        or "use a calculator whose results hold magnetic_forces = -dE/dm in eV/μB, such as KondoEDCalculator, or add "
        "one by SumCalculator",
    )


def _full_stress(voigt: Tensor | None) -> Tensor | None:
    """From ASE's order xx, yy, zz, yz, xz, xy to (..., 3, 3)."""
    return None if voigt is None else voigt[..., [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]


def potential_of(atoms: Structures) -> Potential:
    """Potential behind the calculators of a structure, or of several replicas.

    Calculators of this package give theirs, ASE's `SumCalculator` a sum, its other linear combinations a sum of
    scaled terms; all others are wrapped by `Foreign`.

    Raises
    ------
    KLMError
        When there is no calculator, nothing in it gives magnetic forces, or the replicas differ in more than fields.
    """
    if not isinstance(atoms, Atoms):
        return stacked([potential_of(replica) for replica in atoms])
    if atoms.calc is None:
        raise KLMError(
            "these atoms have no calculator",
            "energies and magnetic forces come from one",
            "attach one first, for instance atoms.calc = KondoEDCalculator(...)",
        )
    found = as_potential(atoms.calc)
    if all(isinstance(term, Foreign) and not term.turns_spins for term in map(unscaled, terms_of(found))):
        raise _without_magnetic_forces(
            type(atoms.calc).__name__,
            "nothing turns the moments: it is taken for a potential of the lattice alone",
            "add the energy of the spins: atoms.calc = SumCalculator([ExchangeCalculator(...), calc])",
        )
    return found


def as_potential(calculator: Any) -> Potential:
    """The potential that a calculator stands for."""
    potential = getattr(calculator, "potential", None)
    if isinstance(potential, Potential):
        return potential
    if isinstance(calculator, LinearCombinationCalculator):
        weighted = zip(calculator.mixer.calcs, calculator.mixer.weights, strict=True)
        return Sum(tuple(scaled(as_potential(term), weight) for term, weight in weighted))
    return Foreign(calculator)
