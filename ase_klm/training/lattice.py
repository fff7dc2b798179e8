"""The problem of a network of spins on lattices: energies and magnetic forces, grouped by lattice."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ase_klm.data.frames import Frame
from ase_klm.models.base import LatticeNetwork
from ase_klm.training.dataset import common_hamiltonian, fingerprint, grouped, permuted, rotated
from ase_klm.training.evaluation import Loaded, at_chemical_potentials, energies_and_fields, labels_of, predicted_by
from ase_klm.training.loss import Loss, Measures, Values, measures
from ase_klm.training.problem import Batch, Problem, Validation
from ase_klm.training.quality import Quality
from ase_klm.training.recipes import Recipe


class LatticeProblem(Problem):
    """A network of spins, with configurations that its recipe may turn and move.

    The best weights are those with the smallest validation error, torque + field.
    """

    loss_type = Loss

    def __init__(
        self,
        model: LatticeNetwork,
        training: Sequence[Frame],
        validation: Sequence[Frame],
        loss: Loss,
        recipe: Recipe,
    ) -> None:
        self.model, self.weighted, self.recipe = model, loss, recipe
        dtype = model.energy_shift.dtype
        groups = grouped(training, dtype), grouped(validation, dtype)
        self.training = [Loaded.of(model, group, recipe.lattice_symmetries) for group in groups[0]]
        self.validation = [Loaded.of(model, group) for group in groups[1]]
        self.labels = labels_of(self.validation)
        self.hamiltonian = common_hamiltonian([frame.hamiltonian for frame in training])
        self.counts = [len(one.group) for one in self.training]
        self._fingerprints = fingerprint(groups[0]), fingerprint(groups[1])

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        one, chosen = self.training[batch.group], list(batch.chosen)
        moments, labels = one.group.moments[chosen], one.group.magnetic_forces[chosen]
        if one.prepared is None:  # a network that prepares configurations needs them as they are
            if self.recipe.lattice_symmetries:
                moments, labels = permuted(moments, labels, one.permutations, generator)
            if self.recipe.spin_rotations:
                moments, labels = rotated(moments, labels, generator)
        found = Values.of(moments, *self._found(one, chosen, moments))
        return self.weighted(found, Values.of(moments, one.group.energies[chosen], labels))

    def _found(self, one: Loaded, chosen: list[int], moments: Tensor) -> tuple[Tensor, ...]:
        """Energies and fields; at the labels' chemical potentials, with the excess of electrons, where it can be."""
        kept, potentials = one.kept(chosen), one.group.chemical_potentials
        if potentials is None or not hasattr(self.model, "grand_potentials"):
            return energies_and_fields(self.model, moments, one.placed, kept, training=True)
        return at_chemical_potentials(self.model, moments, potentials[chosen], one.placed, kept)

    def validate(self) -> Validation:
        predicted = predicted_by(self.model, self.validation)
        found = measures(predicted, self.labels)
        loss = float(self.weighted(predicted, self.labels))
        return Validation(loss, found.torque + found.field if math.isfinite(loss) else math.inf, found)

    def quality(self) -> Measures:
        return measures(predicted_by(self.model, self.validation), self.labels)

    def calibrate(self, fine_tuned: bool) -> None:
        """Only the range of spins and the energy shift when fine-tuning."""
        sets = [(one.group, one.placed) for one in self.training]
        if not fine_tuned:
            self.model.calibrate(sets)
        self.model.learn_range(sets)
        found, given = predicted_by(self.model, self.training), labels_of(self.training)
        self.model.energy_shift += (given.energy_densities - found.energy_densities).mean()

    def frames(self, batch: Batch) -> list[int]:
        return [self.training[batch.group].group.frames[i] for i in batch.chosen]

    @property
    def n_validation(self) -> int:
        return sum(len(one.group) for one in self.validation)

    @property
    def fingerprints(self) -> tuple[str, str]:
        return self._fingerprints

    def card(self, quality: Quality) -> dict[str, Any]:
        def sites(part: list[Loaded]) -> list[int]:
            return sorted({len(one.group.atoms) for one in part})

        return {
            "hamiltonian": self.hamiltonian,
            "training": {"configurations": sum(self.counts), "sites": sites(self.training)},
            "errors": {
                "configurations": self.n_validation,
                "sites": sites(self.validation),
                **quality.numbers,
                "units": quality.note,
            },
        }
