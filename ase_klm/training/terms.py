"""The terms that losses and lists of errors are made of: a quantity, which part of it, and a unit.

One list for all networks, as in the metrics of NequIP (S. Batzner et al., Nat. Commun. 13, 2453 (2022)). Labels that
are not known are NaN and count nowhere; of some magnetic forces only the part across the moment is known.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ase_klm.training.values import Values
from ase_klm.vectors import dot, transverse


@dataclass(frozen=True)
class Term:
    """A part of a quantity.

    Attributes
    ----------
    name : str
        In losses, errors, curves and cards.
    quantity : str
        The attribute of `Values`.
    unit : str
        Of an error, as users read it.
    finest : float
        In that unit, what labels can resolve at best, about: the smallest unit of a loss in spreads.
    part : str
        "whole", or "across" or "along" the moment.
    """

    name: str
    quantity: str
    unit: str
    finest: float
    part: str = "whole"

    def given(self, labels: Values) -> Tensor:
        """The labels of this quantity."""
        values: Tensor = getattr(labels, self.quantity)
        return values

    def error(self, predicted: Values, labels: Values) -> tuple[Tensor, Tensor]:
        """Differences from the labels, zero where these are not known, and a mask of those that are.

        The mask is that of the labels, so that a prediction that is not finite shows. A magnetic force of which only
        the part across the moment is known counts along the moment as right.
        """
        given = self.given(labels)
        known = given.isfinite()
        found = torch.where(known, self.given(predicted) - given, torch.zeros_like(given))
        if self.quantity != "magnetic_forces":
            return found, known
        e, only = labels.directions, labels.transverse_only
        if self.part == "along":
            return dot(found, e)[:, 0], known.all(-1) & ~only & e.bool().any(-1)
        across = transverse(found, e)
        return (across if self.part == "across" else torch.where(only[:, None], across, found)), known

    def fully_known(self, labels: Values) -> Tensor:
        """The mask of those labels that are known in all of this part."""
        known = self.error(labels, labels)[1]
        if (self.quantity, self.part) == ("magnetic_forces", "whole"):
            return known & ~labels.transverse_only[:, None]
        return known


TERMS = (
    Term("energy", "energy_densities", "eV/atom", 1e-5),
    Term("forces", "forces", "eV/Å", 1e-3),
    Term("stress", "stress", "eV/Å³", 1e-5),
    Term("magnetic_forces", "magnetic_forces", "eV/μB", 1e-4),
    Term("transverse", "magnetic_forces", "eV/μB", 1e-4, "across"),
    Term("longitudinal", "magnetic_forces", "eV/μB", 1e-4, "along"),
    Term("electrons", "electrons", "1/atom", 1e-5),
)


def root_mean_square(values: Tensor, known: Tensor) -> float:
    """Of those that are known, in double precision; NaN where none is."""
    return float(values[known].double().square().mean().sqrt()) if bool(known.any()) else math.nan
