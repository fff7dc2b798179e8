"""What is minimised in training networks of atoms and moments, and the numbers that say how good they are.

Loss (8) of Z. Yuan et al., Quantum Frontiers 3, 8 (2024), arXiv:2402.04864, with a mask: labels that are not known are
NaN and count nowhere, and of some magnetic forces only the part across the moment is known. Large errors may count
linearly (P. J. Huber, Ann. Math. Statist. 35, 73 (1964)).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.training.quality import Panel, Quality
from ase_klm.validate import checked_number
from ase_klm.vectors import transverse

FINEST = (1e-5, 1e-3, 1e-4, 1e-4)
"""Spreads of labels count as at least so much, about what DFT can resolve: eV an atom, eV/Å, eV/μB (twice)."""


@dataclass(frozen=True)
class AtomicValues:
    """Energies, forces and magnetic forces of S structures with N atoms, predicted or given; NaN where not known.

    Attributes
    ----------
    energy_densities : Tensor
        E/N, eV, shape (S,).
    forces : Tensor
        eV/Å, shape (N, 3).
    magnetic_forces : Tensor
        eV/μB, shape (N, 3).
    directions : Tensor
        Unit vectors along the moments, shape (N, 3); zero without a moment.
    transverse_only : Tensor
        Whether the magnetic force along the moment is not known, shape (N,).
    """

    energy_densities: Tensor
    forces: Tensor
    magnetic_forces: Tensor
    directions: Tensor
    transverse_only: Tensor

    @classmethod
    def joined(cls, several: Sequence["AtomicValues"]) -> "AtomicValues":
        """All of them in one."""
        return cls(*(torch.cat([getattr(values, part.name) for values in several]) for part in fields(cls)))

    def as_labelled(self, label_scale: float) -> "AtomicValues":
        """Predictions as labels would have them whose magnetic forces are too small by a factor."""
        return replace(self, magnetic_forces=self.magnetic_forces / label_scale)


@dataclass(frozen=True)
class AtomicErrors:
    """Differences from labels, zero where they are not known, with masks of those that are."""

    energy: Tensor  # of E/N, (S,)
    forces: Tensor  # (N, 3)
    magnetic_forces: Tensor  # (N, 3); across the moment where only that is known
    across: Tensor  # (N, 3); the same, across the moment everywhere
    energy_known: Tensor
    forces_known: Tensor
    magnetic_known: Tensor

    @classmethod
    def of(cls, predicted: AtomicValues, labels: AtomicValues) -> "AtomicErrors":
        """Masks are those of the labels, so that a prediction that is not finite shows."""
        known = [values.isfinite() for values in (labels.energy_densities, labels.forces, labels.magnetic_forces)]
        energy = _difference(predicted.energy_densities, labels.energy_densities, known[0])
        forces = _difference(predicted.forces, labels.forces, known[1])
        magnetic = _difference(predicted.magnetic_forces, labels.magnetic_forces, known[2])
        across = transverse(magnetic, labels.directions)
        magnetic = torch.where(labels.transverse_only[:, None], across, magnetic)
        return cls(energy, forces, magnetic, across, *known)


@dataclass(frozen=True)
class Spreads:
    """Root mean squares of the labels of a training set, the units in which its loss measures errors.

    Attributes
    ----------
    energy : float
        Of E/N around a fit by composition, eV.
    forces, magnetic_forces, transverse : float
        Of a component, eV/Å and eV/μB.
    """

    energy: float
    forces: float
    magnetic_forces: float
    transverse: float

    @classmethod
    def of(cls, labels: AtomicValues, fractions: Tensor) -> "Spreads":
        """Of labels, and of the fractions of each species in each structure, shape (S, species)."""
        known = labels.energy_densities.isfinite()
        rest = labels.energy_densities[known].double()
        if len(rest):
            rest = rest - fractions[known] @ (torch.linalg.pinv(fractions[known]) @ rest)
        zeros = (torch.zeros_like(v) for v in (labels.energy_densities, labels.forces, labels.magnetic_forces))
        nothing = AtomicValues(next(zeros), next(zeros), next(zeros), labels.directions, labels.transverse_only)
        error = AtomicErrors.of(nothing, labels)
        magnetic = (_rms(part, error.magnetic_known) for part in (error.magnetic_forces, error.across))
        found = (_rms(rest, torch.ones_like(rest, dtype=torch.bool)), _rms(error.forces, error.forces_known), *magnetic)
        return cls(*(max(value, finest) if value > 0 else finest for value, finest in zip(found, FINEST, strict=True)))


@dataclass(frozen=True)
class AtomicLoss:
    """energy <h(ΔE/N)> + forces <h(ΔF)> + magnetic_forces <h(ΔF_m)> + transverse <h(ΔF_m⊥)>, h(x) = x² at first.

    Errors are in units of the spread of each label in training. Means over the structures of a batch, or over
    components of vectors, as far as labels are known; of magnetic forces of which only the part across the moment is
    known, that along it counts as right.

    Attributes
    ----------
    energy, forces, magnetic_forces : float
        Weights λ.
    transverse : float
        Extra weight of the part of the magnetic force across the moment, which is what turns it.
    huber : float
        Errors above this part of the spread count linearly, h(x) = 2 huber abs(x) - huber², so that a few labels of
        another kind weigh little; infinity for squares throughout.
    label_scale : float or "fit"
        Magnetic forces of the potential are this many times the labels, for sets whose energies and torques disagree
        by a factor; "fit" takes the slope of energy on work (`ase-klm data check`) of the training part. It stands on
        the card, and errors of magnetic forces are those of the labels as they are.
    """

    energy: float = 1.0
    forces: float = 1.0
    magnetic_forces: float = 1.0
    transverse: float = 1.0
    huber: float = 0.1
    label_scale: float | str = 1.0

    def __post_init__(self) -> None:
        names = ("energy", "forces", "magnetic_forces", "transverse")
        weights = [checked_number(getattr(self, name), f"loss.{name}", minimum=0.0) for name in names]
        if not any(weights):
            raise KLMError("all weights of the loss are zero", "nothing would be learned", "set one above zero")
        if self.huber != math.inf:
            checked_number(self.huber, "loss.huber", above=0.0)
        if isinstance(self.label_scale, str) and self.label_scale != "fit":
            raise KLMError(
                f"loss.label_scale = {self.label_scale!r} is unknown", "it is a number, or 'fit'", "e.g. 1.0"
            )
        if self.label_scale != "fit":
            checked_number(self.label_scale, "loss.label_scale", above=0.0)

    def __call__(self, predicted: AtomicValues, labels: AtomicValues, spreads: Spreads) -> Tensor:
        """The loss, a scalar tensor."""
        error = AtomicErrors.of(predicted, labels)
        return (
            self.energy * self._mean(error.energy / spreads.energy, error.energy_known)
            + self.forces * self._mean(error.forces / spreads.forces, error.forces_known)
            + self.magnetic_forces * self._mean(error.magnetic_forces / spreads.magnetic_forces, error.magnetic_known)
            + self.transverse * self._mean(error.across / spreads.transverse, error.magnetic_known)
        )

    def _mean(self, error: Tensor, known: Tensor) -> Tensor:
        size = error.abs()
        inner = size.clamp_max(self.huber)
        counted = inner * (2 * size - inner)  # x² up to the bend, then its tangent
        return counted.sum() / known.sum().clamp_min(1)


@dataclass(frozen=True)
class AtomicMeasures(Quality):
    """Root mean square errors of a network of atoms and moments; NaN where no labels are known.

    Attributes
    ----------
    energy : float
        Of E/N, eV.
    forces : float
        Of a component, eV/Å.
    magnetic_forces : float
        Of a component, eV/μB, over atoms with moments whose whole magnetic force is known.
    transverse : float
        Of a component of its part across the moment, eV/μB, over all atoms with moments.
    correlation : float
        Pearson's coefficient of predicted and labelled components across the moment.
    """

    energy: float
    forces: float
    magnetic_forces: float
    transverse: float
    correlation: float

    units: ClassVar = MappingProxyType(
        {
            "energy": "eV/atom",
            "forces": "eV/Å",
            "magnetic_forces": "eV/μB",
            "transverse": "eV/μB",
            "correlation": "",
        }
    )
    note: ClassVar = "energy eV/atom, forces eV/Å, magnetic forces and transverse eV/μB a component, root mean square"
    loss_label: ClassVar = "training loss"
    panels: ClassVar = (
        Panel("energy (meV/atom)", ("energy",), 1e3),
        Panel("forces (meV/Å)", ("forces",), 1e3),
        Panel("magnetic (meV/μ$_\\mathrm{B}$)", ("magnetic_forces", "transverse"), 1e3),
    )

    def __str__(self) -> str:
        return (
            f"energy {1e3 * self.energy:.4g} meV/atom, forces {1e3 * self.forces:.4g} meV/Å, "
            f"magnetic forces {1e3 * self.magnetic_forces:.4g} meV/μB, transverse {1e3 * self.transverse:.4g} meV/μB, "
            f"correlation {self.correlation:.5f}"
        )


def atomic_measures(predicted: AtomicValues, labels: AtomicValues) -> AtomicMeasures:
    """The five numbers by which networks are judged."""
    error = AtomicErrors.of(predicted, labels)
    whole = error.magnetic_known & ~labels.transverse_only[:, None]
    return AtomicMeasures(
        _rms(error.energy, error.energy_known),
        _rms(error.forces, error.forces_known),
        _rms(error.magnetic_forces, whole),
        _rms(error.across, error.magnetic_known),
        _correlation(predicted, labels),
    )


def _difference(found: Tensor, given: Tensor, known: Tensor) -> Tensor:
    return torch.where(known, found - given, torch.zeros_like(found))


def _rms(error: Tensor, known: Tensor) -> float:
    return float(error[known].double().square().mean().sqrt()) if bool(known.any()) else math.nan


def _correlation(predicted: AtomicValues, labels: AtomicValues) -> float:
    known = labels.magnetic_forces.isfinite().all(-1)
    if not bool(known.any()):
        return math.nan
    parts = (transverse(values.magnetic_forces, labels.directions)[known].double() for values in (predicted, labels))
    x, y = (part - part.mean() for part in parts)
    spread = float(x.norm() * y.norm())
    return float((x * y).sum()) / spread if spread > 0 else 0.0
