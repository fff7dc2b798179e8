"""What is minimised in training.

Loss (8) of Z. Yuan et al., Quantum Frontiers 3, 8 (2024), arXiv:2402.04864, over the labels that are known. Large
errors may count linearly (P. J. Huber, Ann. Math. Statist. 35, 73 (1964)).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.training.terms import TERMS, Term, root_mean_square
from ase_klm.training.values import Values
from ase_klm.validate import checked_number

UNITS = ("absolute", "spreads")
HUBER = 0.1
"""Where errors in units of spreads begin to count linearly, by default."""

WEIGHTS = tuple(term.name for term in TERMS)


@dataclass(frozen=True, kw_only=True)
class Spreads:
    """The units in which a loss measures errors, one a term: 1 in absolute units (eV, eV/Å, eV/Å³, eV/μB)."""

    energy: float = 1.0
    forces: float = 1.0
    stress: float = 1.0
    magnetic_forces: float = 1.0
    transverse: float = 1.0
    longitudinal: float = 1.0
    electrons: float = 1.0

    @classmethod
    def of(cls, labels: Values, fractions: Tensor) -> "Spreads":
        """Root mean squares of the labels of a training set, or what labels can resolve where that is more.

        Parameters
        ----------
        labels : Values
            Energies count from a fit by composition.
        fractions : Tensor
            Of each species in each structure, shape (S, species).
        """
        return cls(**{term.name: _spread(term, labels, fractions) for term in TERMS})


def _spread(term: Term, labels: Values, fractions: Tensor) -> float:
    error, known = term.error(labels.zeros(), labels)
    if term.name == "energy" and bool(known.any()):
        densities, composition = labels.energy_densities[known].double(), fractions[known]
        error = densities - composition @ (torch.linalg.pinv(composition) @ densities)
        known = torch.ones_like(error, dtype=torch.bool)
    found = root_mean_square(error, known)
    return max(found, term.finest) if found > 0 else term.finest


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Σ λ <h(Δ/unit)> over the terms, h(x) = x² at first: energy an atom, forces, stress, magnetic forces.

    Means over the structures of a batch, or over components of vectors, as far as labels are known. Magnetic forces
    count as a whole, and once more by their parts across and along the moment; where only the part across is known,
    that along counts as right.

    Attributes
    ----------
    energy, forces, stress, magnetic_forces : float
        Weights λ.
    transverse, longitudinal : float
        Extra weights of the parts of the magnetic force across the moment, which is what turns it, and along it.
    electrons : float
        Weight of the number of electrons an atom, for networks that give grand potentials, trained at the chemical
        potentials of the labels.
    units : str, optional
        "absolute": errors in eV, eV/Å, eV/Å³ and eV/μB, as the weights λ of papers. "spreads": in units of the root
        mean square of each label over the training part. Default: absolute for networks of spins on a lattice,
        spreads for networks of atoms and moments.
    huber : float, optional
        Errors above it, in these units, count linearly, h(x) = 2 huber abs(x) - huber², so that a few labels of
        another kind weigh little. Default: 0.1 for spreads, infinity (squares throughout) for absolute units.
    label_scale : float or "fit"
        Magnetic forces of the potential are this many times the labels, for sets whose energies and torques disagree
        by a factor; "fit" takes the slope of energy on work (`ase-klm data check`) of the training part. It stands on
        the card, and errors of magnetic forces are those of the labels as they are.
    """

    energy: float = 1.0
    forces: float = 1.0
    stress: float = 0.0
    magnetic_forces: float = 1.0
    transverse: float = 1.0
    longitudinal: float = 0.0
    electrons: float = 20.0
    units: str | None = None
    huber: float | None = None
    label_scale: float | str = 1.0

    def __post_init__(self) -> None:
        weights = {name: checked_number(getattr(self, name), f"loss.{name}", minimum=0.0) for name in WEIGHTS}
        if not any(weight for name, weight in weights.items() if name != "electrons"):
            raise KLMError("all weights of the loss are zero", "nothing would be learned", "set one above zero")
        if self.units is not None and self.units not in UNITS:
            raise KLMError(
                f"loss.units = {self.units!r} is unknown", f"there are {' and '.join(UNITS)}", "leave it out"
            )
        if self.huber is not None and self.huber != math.inf:
            checked_number(self.huber, "loss.huber", above=0.0)
        if isinstance(self.label_scale, str) and self.label_scale != "fit":
            raise KLMError(
                f"loss.label_scale = {self.label_scale!r} is unknown", "it is a number, or 'fit'", "e.g. 1.0"
            )
        if self.label_scale != "fit":
            checked_number(self.label_scale, "loss.label_scale", above=0.0)

    def __call__(self, predicted: Values, labels: Values, spreads: Spreads | None = None) -> Tensor:
        """The loss, a scalar tensor; in absolute units without spreads."""
        units = Spreads() if spreads is None else spreads
        found = labels.energy_densities.new_zeros(())
        for term in TERMS:
            weight = getattr(self, term.name)
            if weight > 0:
                error, known = term.error(predicted, labels)
                found = found + weight * self._mean(error / getattr(units, term.name), known)
        return found

    def _mean(self, error: Tensor, known: Tensor) -> Tensor:
        size = error.abs()
        inner = size.clamp_max(self.bend)
        counted = inner * (2 * size - inner)  # x² up to the bend, then its tangent
        return counted.sum() / known.sum().clamp_min(1)

    @property
    def bend(self) -> float:
        """Errors above it count linearly."""
        if self.huber is not None:
            return self.huber
        return HUBER if self.units == "spreads" else math.inf
