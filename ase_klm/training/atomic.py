"""The problem of a network of atoms and moments: energies, forces and magnetic forces, any of which may be missing."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from ase_klm.data import work
from ase_klm.data.frames import Frame
from ase_klm.errors import KLMError
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.training.atomic_loss import AtomicLoss, AtomicMeasures, AtomicValues, Spreads, atomic_measures
from ase_klm.training.problem import Batch, Problem, Validation
from ase_klm.training.quality import Quality
from ase_klm.training.recipes import Recipe
from ase_klm.training.structures import Structures, derivatives, fingerprint

ATOMS_AT_ONCE = 256
"""Structures are evaluated together up to this number of atoms."""


class AtomicProblem(Problem):
    """A network of atoms and moments with structures of any size.

    The best weights are those with the smallest loss on the validation part.
    """

    loss_type = AtomicLoss

    def __init__(
        self,
        model: AtomicNetwork,
        training: Sequence[Frame],
        validation: Sequence[Frame],
        loss: AtomicLoss,
        recipe: Recipe,
    ) -> None:
        self.model, self.weighted, self.recipe = model, loss, recipe
        self.training = [Structures.of(model, frame, number) for number, frame in enumerate(training)]
        self.validation = [Structures.of(model, frame, number) for number, frame in enumerate(validation)]
        self.counts = [len(self.training)]
        self.labels = Structures.joined(self.validation).labels
        self._check_weights()
        self.label_scale = _label_scale(loss, training)
        every = Structures.joined(self.training)
        self.spreads = Spreads.of(every.labels, every.composition(len(model.species)) / every.sizes[:, None])

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        chosen = Structures.joined([self.training[i] for i in batch.chosen])
        if self.recipe.spin_rotations:
            chosen = chosen.turned(generator)
        predicted = derivatives(self.model, chosen, training=True)
        return self.weighted(predicted.as_labelled(self.label_scale), chosen.labels, self.spreads)

    def validate(self) -> Validation:
        predicted = predicted_by(self.model, self.validation).as_labelled(self.label_scale)
        loss = float(self.weighted(predicted, self.labels, self.spreads))
        return Validation(loss, loss, atomic_measures(predicted, self.labels))

    def quality(self) -> AtomicMeasures:
        return atomic_measures(predicted_by(self.model, self.validation).as_labelled(self.label_scale), self.labels)

    def calibrate(self, fine_tuned: bool) -> None:
        """Only the range of structures and the energy shifts when fine-tuning."""
        model, every = self.model, Structures.joined(self.training)
        placed = every.graph, every.positions, every.cells, every.moments
        if fine_tuned:
            model.learn_range(*placed)
        else:
            model.calibrate(*placed, every.energies, every.forces, every.magnetic_forces)
        found, given = predicted_by(model, self.training), every.labels
        rest = (given.energy_densities - found.energy_densities) * every.sizes
        composition = every.composition(len(model.species))
        known = rest.isfinite()
        if bool(known.any()):
            model.energy_shifts += torch.linalg.pinv(composition[known]) @ rest[known]

    def frames(self, batch: Batch) -> list[int]:
        return list(batch.chosen)

    @property
    def n_validation(self) -> int:
        return len(self.validation)

    @property
    def fingerprints(self) -> tuple[str, str]:
        return fingerprint(self.training), fingerprint(self.validation)

    def card(self, quality: Quality) -> dict[str, Any]:
        numbers = {name: value for name, value in quality.numbers.items() if math.isfinite(value)}
        return {
            "training": {
                **_contents(self.training),
                "label_scale": round(self.label_scale, 4),
                "spreads": asdict(self.spreads),
            },
            "errors": {**_contents(self.validation), **numbers, "units": quality.note},
        }

    def _check_weights(self) -> None:
        """Complain when nothing that counts in the loss is known."""
        labels = Structures.joined(self.training).labels
        magnetic = bool(labels.magnetic_forces.isfinite().any())
        terms = {
            "energy": bool(labels.energy_densities.isfinite().any()),
            "forces": bool(labels.forces.isfinite().any()),
            "magnetic_forces": magnetic,
            "transverse": magnetic,
        }
        wanted = [name for name in terms if getattr(self.weighted, name) > 0]
        if not any(terms[name] for name in wanted):
            raise KLMError(
                f"the training part has no {' and no '.join(wanted).replace('_', ' ')}",
                "the loss weighs nothing else",
                f"give weights to labels that there are: {', '.join(name for name, there in terms.items() if there)}",
            )


def _label_scale(loss: AtomicLoss, training: Sequence[Frame]) -> float:
    """What magnetic forces of the potential are in units of the labels."""
    if loss.label_scale != "fit":
        return float(loss.label_scale)
    found, reason = work.slope(training)
    if found is not None:
        if found.value > 0 and found.correlation >= work.LEAST_CORRELATION:
            return found.value
        reason = f"the slope of energy on work is {found.value:.3g}, correlation {found.correlation:.2g}"
    raise KLMError(
        'loss.label_scale = "fit" finds no scale',
        reason,
        "look at `ase-klm data check`, and give a number, or leave it out",
    )


def predicted_by(model: AtomicNetwork, several: Sequence[Structures]) -> AtomicValues:
    """What a network predicts for structures, in a row."""
    values, chunk = [], list[Structures]()
    for number, one in enumerate(several):
        chunk.append(one)
        after = several[number + 1] if number + 1 < len(several) else None
        if after is None or sum(len(c.positions) for c in chunk) + len(after.positions) > ATOMS_AT_ONCE:
            values.append(derivatives(model, Structures.joined(chunk)))
            chunk = []
    return AtomicValues.joined(values)


def predict_structures(model: AtomicNetwork, frames: Sequence[Frame]) -> tuple[AtomicValues, AtomicValues]:
    """Prediction of a network for labelled frames, and their labels, in the order of the frames."""
    several = [Structures.of(model, frame, number) for number, frame in enumerate(frames)]
    return predicted_by(model, several), Structures.joined(several).labels


def _contents(several: Sequence[Structures]) -> dict[str, Any]:
    """How many structures, of which sizes, with which labels."""
    every = Structures.joined(several)
    known = every.magnetic_forces.isfinite().all(-1)
    whole = int((known & ~every.transverse_only).sum())
    return {
        "configurations": len(every),
        "atoms": sorted(set(every.sizes.tolist())),
        "labels": {
            "energies": int(every.energies.isfinite().sum()),
            "forces": int(every.forces.isfinite().all(-1).sum()),
            "magnetic forces": whole,
            "magnetic forces across the moment": int(known.sum()) - whole,
        },
    }
