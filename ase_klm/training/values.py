"""Numbers that losses and errors compare: predicted by a network, or given as labels."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ase_klm.models.labels import Labels
from ase_klm.vectors import directions


@dataclass(frozen=True, eq=False)
class Values:
    """Quantities of S structures with N atoms in all, structures in a row and atoms in a row; NaN where not known.

    Attributes
    ----------
    energy_densities : Tensor
        E/N, eV, shape (S,).
    forces, magnetic_forces : Tensor
        eV/Å and eV/μB, shape (N, 3).
    stress : Tensor
        eV/Å³, shape (S, 6).
    electrons : Tensor
        Electrons an atom beyond those that there are, shape (S,); zero as a label.
    directions : Tensor
        Unit vectors along the moments, shape (N, 3); zero without a moment.
    transverse_only : Tensor
        Whether the magnetic force along the moment is not known, shape (N,).
    """

    energy_densities: Tensor
    forces: Tensor
    magnetic_forces: Tensor
    stress: Tensor
    electrons: Tensor
    directions: Tensor
    transverse_only: Tensor

    @classmethod
    def of(
        cls,
        energy_densities: Tensor,
        directions: Tensor,
        *,
        forces: Tensor | None = None,
        magnetic_forces: Tensor | None = None,
        stress: Tensor | None = None,
        electrons: Tensor | None = None,
        transverse_only: Tensor | None = None,
    ) -> "Values":
        """What is left out is not known."""
        unknown, number = float("nan"), len(energy_densities)
        return cls(
            energy_densities,
            torch.full_like(directions, unknown) if forces is None else forces,
            torch.full_like(directions, unknown) if magnetic_forces is None else magnetic_forces,
            energy_densities.new_full((number, 6), unknown) if stress is None else stress,
            energy_densities.new_full((number,), unknown) if electrons is None else electrons,
            directions,
            directions.new_zeros(len(directions), dtype=torch.bool) if transverse_only is None else transverse_only,
        )

    @classmethod
    def given(cls, labels: Labels, electrons: bool = False) -> "Values":
        """The labels; also the number of electrons, where it was asked for and chemical potentials are known."""
        return cls.of(
            labels.energy_densities,
            _directions(labels),
            forces=labels.forces.reshape(-1, 3),
            magnetic_forces=labels.magnetic_forces.reshape(-1, 3),
            stress=labels.stress,
            electrons=0 * labels.chemical_potentials if electrons else None,
            transverse_only=labels.transverse_only.flatten(),
        )

    @classmethod
    def predicted(
        cls,
        labels: Labels,
        energies: Tensor | None,
        *,
        forces: Tensor | None = None,
        magnetic_forces: Tensor | None = None,
        stress: Tensor | None = None,
        electrons: Tensor | None = None,
    ) -> "Values":
        """What a network says of the structures of labels, in its shapes; None for what it cannot give."""
        return cls.of(
            (torch.full_like(labels.energies, torch.nan) if energies is None else energies) / labels.sizes,
            _directions(labels),
            forces=None if forces is None else forces.reshape(-1, 3),
            magnetic_forces=None if magnetic_forces is None else magnetic_forces.reshape(-1, 3),
            stress=stress,
            electrons=electrons,
            transverse_only=labels.transverse_only.flatten(),
        )

    @classmethod
    def joined(cls, several: Sequence["Values"]) -> "Values":
        """All of them in a row."""
        return cls(*(torch.cat([getattr(values, part.name) for values in several]) for part in fields(cls)))

    def zeros(self) -> "Values":
        """Zero in the place of each quantity."""
        kept = {"directions": self.directions, "transverse_only": self.transverse_only}
        names = [part.name for part in fields(self) if part.name not in kept]
        return Values(**{name: torch.zeros_like(getattr(self, name)) for name in names}, **kept)

    def double(self) -> "Values":
        """In double precision."""
        names = [part.name for part in fields(self) if part.name != "transverse_only"]
        return replace(self, **{name: getattr(self, name).double() for name in names})

    def as_labelled(self, label_scale: float) -> "Values":
        """Predictions as labels would have them whose magnetic forces are too small by a factor."""
        return replace(self, magnetic_forces=self.magnetic_forces / label_scale)


def _directions(labels: Labels) -> Tensor:
    return directions(labels.moments.detach()).reshape(-1, 3)
