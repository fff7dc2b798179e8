"""Any ASE calculator that has `magnetic_forces`, as a potential, so that all tools of this package take it."""

from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.mixing import SumCalculator
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.moments import set_moments
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Structures, Sum, stacked
from ase_klm.validate import checked_array


@dataclass(frozen=True, eq=False)
class Foreign(Potential):
    """Face of an ASE calculator, which is asked for energy, magnetic forces and, where it has them, forces and stress.

    Parameters
    ----------
    calculator : ase calculator
        With "magnetic_forces" (-∂E/∂m, eV/μB, shape (N, 3)) among its implemented properties.
    """

    calculator: BaseCalculator

    def __post_init__(self) -> None:
        if "magnetic_forces" not in getattr(self.calculator, "implemented_properties", ()):
            raise KLMError(
                f"{type(self.calculator).__name__} gives no magnetic forces",
                '"magnetic_forces" is not among its implemented_properties',
                "use a calculator whose results hold magnetic_forces = -dE/dm in eV/μB, such as KondoEDCalculator",
            )

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundForeign":
        return BoundForeign(self.calculator, atoms, device)


class BoundForeign(BoundPotential):
    """Replicas are calculated one after the other on a copy of the structure."""

    def __init__(self, calculator: BaseCalculator, atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self.calculator = calculator
        self.template = (atoms if isinstance(atoms, Atoms) else atoms[0]).copy()
        self._own_cell = self.template.cell.array.copy()  # the bound one is completed where it has zero vectors

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        replicas = moments.shape[:-2]
        state = moments, positions.expand(moments.shape), cell.expand(*replicas, 3, 3)
        properties = ["energy", "magnetic_forces"]
        if atomic:
            properties += [name for name in ("forces", "stress") if name in self.calculator.implemented_properties]
        results: dict[str, list[np.ndarray]] = {name: [] for name in properties}
        flat = (axes.reshape(-1, *axes.shape[len(replicas) :]).cpu().numpy() for axes in state)
        for m, x, vectors in zip(*flat, strict=True):
            set_moments(self.template, m)
            self.template.positions[:] = x
            self.template.cell[:] = self._own_cell if cell is self.cell else vectors
            for name in properties:
                results[name].append(np.asarray(self.calculator.get_property(name, self.template)))
        found = {
            name: self.tensor(np.stack(values)).reshape((*replicas, *values[0].shape))
            for name, values in results.items()
        }
        checked_array(
            found["magnetic_forces"].cpu().numpy().reshape(-1, 3), (None, 3), "magnetic forces of the calculator"
        )
        stress = found.get("stress")
        return Evaluation(
            found["energy"],
            torch.where(self.magnetic[:, None], found["magnetic_forces"], 0.0),
            found.get("forces"),
            None if stress is None else _full_stress(stress),
        )


def _full_stress(voigt: Tensor) -> Tensor:
    """From ASE's order xx, yy, zz, yz, xz, xy to (..., 3, 3)."""
    return voigt[..., [[0, 5, 4], [5, 1, 3], [4, 3, 2]]]


def potential_of(atoms: Structures) -> Potential:
    """Potential behind the calculators of a structure, or of several replicas.

    Calculators of this package give theirs, ASE's `SumCalculator` a sum, any other one with magnetic forces is wrapped.

    Raises
    ------
    KLMError
        When there is no calculator, it has no magnetic forces, or the replicas differ in more than fields.
    """
    if not isinstance(atoms, Atoms):
        return stacked([potential_of(replica) for replica in atoms])
    if atoms.calc is None:
        raise KLMError(
            "these atoms have no calculator",
            "energies and magnetic forces come from one",
            "attach one first, for instance atoms.calc = KondoEDCalculator(...)",
        )
    return as_potential(atoms.calc)


def reference_of(atoms: Atoms) -> Atoms:
    """The structure on which the calculator of these atoms finds its bonds, with the present moments."""
    calculators = atoms.calc.mixer.calcs if isinstance(atoms.calc, SumCalculator) else [atoms.calc]
    for calculator in calculators:
        if hasattr(calculator, "reference"):
            return calculator.reference(atoms)
    return atoms


def as_potential(calculator: BaseCalculator) -> Potential:
    """The potential that a calculator stands for."""
    potential = getattr(calculator, "potential", None)
    if isinstance(potential, Potential):
        return potential
    if isinstance(calculator, SumCalculator):
        return Sum(tuple(as_potential(term) for term in calculator.mixer.calcs))
    return Foreign(calculator)
