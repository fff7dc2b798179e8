"""What is minimised in training networks of spins, and the four numbers that say how good they are."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.training.quality import Panel, Quality
from ase_klm.validate import checked_number
from ase_klm.vectors import directions, transverse


@dataclass(frozen=True)
class Loss:
    """energy (ΔE/N)² + field <ΔF²> + transverse <ΔF_⊥²> + electrons (ΔN_e/N)².

    They are means over configurations, and over components of vectors.

    Attributes
    ----------
    energy, field, transverse : float
        Weights of the squared errors of the energy a site (eV), of the magnetic force and of its part across the spin
        (eV/μB).
    electrons : float
        Weight of the squared error of the number of electrons a site, for networks that give grand potentials, trained
        at the chemical potentials of the labels.
    """

    energy: float = 1.0
    field: float = 1.0
    transverse: float = 1.0
    electrons: float = 20.0

    def __post_init__(self) -> None:
        weights = [checked_number(getattr(self, part.name), f"loss.{part.name}", minimum=0.0) for part in fields(self)]
        if not any(weights[:3]):
            raise KLMError("all weights of the loss are zero", "nothing would be learned", "set one above zero")

    def __call__(self, predicted: "Values", labels: "Values") -> Tensor:
        """The loss, a scalar tensor."""
        energy = (predicted.energy_densities - labels.energy_densities).square().mean()
        error = predicted.magnetic_forces - labels.magnetic_forces
        across = transverse(error, labels.directions)
        found = self.energy * energy + self.field * error.square().mean() + self.transverse * across.square().mean()
        return found if predicted.excess is None else found + self.electrons * predicted.excess.square().mean()


@dataclass(frozen=True)
class Values:
    """Energies and magnetic forces, predicted or given.

    Attributes
    ----------
    energy_densities : Tensor
        E/N, eV, shape (configurations,).
    magnetic_forces : Tensor
        eV/μB, shape (spins, 3): all spins of all configurations in a row.
    directions : Tensor
        Unit vectors along the spins, shape (spins, 3).
    excess : Tensor or None
        Predicted electrons a site beyond those that there are, shape (configurations,); in training only.
    """

    energy_densities: Tensor
    magnetic_forces: Tensor
    directions: Tensor
    excess: Tensor | None = None

    @classmethod
    def of(cls, moments: Tensor, energies: Tensor, magnetic_forces: Tensor, excess: Tensor | None = None) -> "Values":
        """From energies (configurations,) in eV, and moments and magnetic forces (configurations, N, 3)."""
        e = directions(moments.detach()).reshape(-1, 3)
        return cls(energies / moments.shape[-2], magnetic_forces.reshape(-1, 3), e, excess)

    @classmethod
    def joined(cls, several: Sequence["Values"]) -> "Values":
        """All of them in one."""
        return cls(*(torch.cat([getattr(values, part.name) for values in several]) for part in fields(cls)[:3]))


@dataclass(frozen=True)
class Measures(Quality):
    """Errors of a network of spins on labelled configurations.

    Attributes
    ----------
    energy : float
        Root mean square error of E/N, eV.
    field : float
        Root mean square error of a component of the magnetic force, eV/μB.
    torque : float
        The same of its part across the spin, F - (F·e) e, which is what moves it.
    correlation : float
        Pearson's coefficient of predicted and labelled components across the spin.
    """

    energy: float
    field: float
    torque: float
    correlation: float

    units: ClassVar = MappingProxyType({"energy": "eV/site", "field": "eV/μB", "torque": "eV/μB", "correlation": ""})
    note: ClassVar = "energy eV/site, field and torque eV/μB a component, root mean square"
    loss_label: ClassVar = "training loss (eV²)"
    panels: ClassVar = (Panel("validation RMSE (eV/μ$_\\mathrm{B}$)", ("field", "torque")),)

    def __str__(self) -> str:
        return (
            f"energy {self.energy:.3e} eV/site, field {self.field:.3e} eV/μB, torque {self.torque:.3e} eV/μB, "
            f"correlation {self.correlation:.5f}"
        )


def measures(predicted: Values, labels: Values) -> Measures:
    """The four numbers by which networks are judged; over all configurations, in double precision."""
    found, given = predicted.magnetic_forces.double(), labels.magnetic_forces.double()
    e = labels.directions.double()
    across, label = transverse(found, e), transverse(given, e)
    energy = predicted.energy_densities.double() - labels.energy_densities.double()

    def rms(error: Tensor) -> float:
        return float(error.square().mean().sqrt())

    x, y = across - across.mean(), label - label.mean()
    spread = float(x.norm() * y.norm())
    correlation = float((x * y).sum()) / spread if spread > 0 else 0.0
    return Measures(rms(energy), rms(found - given), rms(across - label), correlation)
