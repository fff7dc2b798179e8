"""What a trainer fits: a network, its labelled data and a loss, behind the few questions that the loop asks."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ase_klm.data import work
from ase_klm.data.frames import Frame
from ase_klm.errors import KLMError
from ase_klm.models.trained import TrainedNetwork
from ase_klm.training.dataset import Batch, DataSet, common_hamiltonian, fingerprint
from ase_klm.training.derivatives import derivatives, given
from ase_klm.training.evaluation import data_type, given_by, predicted_by
from ase_klm.training.loss import Loss, Spreads
from ase_klm.training.quality import Errors, errors_of
from ase_klm.training.recipes import Recipe
from ase_klm.training.terms import TERMS
from ase_klm.training.values import Values


@dataclass(frozen=True)
class Validation:
    """How good the network is on the validation part.

    Attributes
    ----------
    loss : float
        It stops to fall on a plateau.
    score : float
        The best weights have the smallest.
    errors : Errors
        What people look at.
    """

    loss: float
    score: float
    errors: Errors


class Problem:
    """A network, the data it is to fit, and a loss.

    Attributes
    ----------
    training, validation : DataSet
    weighted : Loss
        With units that are said.
    spreads : Spreads
        The units of the loss.
    label_scale : float
        What magnetic forces of the potential are in units of the labels.
    """

    def __init__(
        self,
        model: TrainedNetwork,
        training: Sequence[Frame],
        validation: Sequence[Frame],
        loss: Loss,
        recipe: Recipe,
    ) -> None:
        kind = data_type(model)
        self.model, self.recipe = model, recipe
        self.training: DataSet = kind(model, training, recipe.lattice_symmetries)
        self.validation: DataSet = kind(model, validation)
        self.weighted = loss if loss.units is not None else replace(loss, units=self.training.units)
        self.labels, known = given_by(model, self.validation), given_by(model, self.training)
        self._check_weights(known)
        self.label_scale = _label_scale(loss, training)
        in_spreads = self.weighted.units == "spreads"
        self.spreads = Spreads.of(known, self.training.fractions()) if in_spreads else Spreads()
        self.hamiltonian = common_hamiltonian([frame.hamiltonian for frame in training])
        self.fingerprints = (
            fingerprint(self.training.placed(), training),
            fingerprint(self.validation.placed(), validation),
        )

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """The loss of a batch, differentiable by the weights; random numbers are the generator's."""
        labels = self.training.batch(batch, self.recipe, generator)
        found = derivatives(self.model, labels, training=True, stress=self.weighted.stress > 0)
        known = given(self.model, labels, training=True)
        return self.weighted(found.as_labelled(self.label_scale), known, self.spreads)

    def validate(self) -> Validation:
        """Loss, score and errors of the present weights on the validation part."""
        predicted = predicted_by(self.model, self.validation).as_labelled(self.label_scale)
        loss, errors = float(self.weighted(predicted, self.labels, self.spreads)), errors_of(predicted, self.labels)
        return Validation(loss, self.validation.score(loss, errors), errors)

    def quality(self) -> Errors:
        """The errors alone."""
        return errors_of(predicted_by(self.model, self.validation).as_labelled(self.label_scale), self.labels)

    def calibrate(self, fine_tuned: bool) -> None:
        """Set what is not trained from statistics of the training part; in fine-tuning its range and energy shift."""
        labels = self.training.placed()
        if fine_tuned:
            self.model.learn_range(labels)
        else:
            self.model.calibrate(labels)
        found, known = predicted_by(self.model, self.training), given_by(self.model, self.training)
        self.model.shift_energies(labels, known.energy_densities - found.energy_densities)

    def culprits(self, batch: Batch) -> list[int]:
        """Numbers of those frames of a batch that have no finite loss by themselves; the whole batch if all have."""
        alone = [Batch(batch.group, (i,)) for i in batch.chosen]
        generator = torch.Generator().manual_seed(0)
        found = [one for one in alone if not bool(self.loss(one, generator).isfinite())]
        return [number for one in found or alone for number in self.training.frames(one)]

    def card(self, errors: Errors) -> dict[str, Any]:
        """What the card of the weights says of the data, under ``training``, and of the errors."""
        numbers = {name: value for name, value in errors.numbers.items() if math.isfinite(value)}
        units = {"spreads": asdict(self.spreads)} if self.weighted.units == "spreads" else {}
        return {
            "hamiltonian": self.hamiltonian,
            "training": {**self.training.contents(), "label_scale": round(self.label_scale, 4), **units},
            "errors": {**self.validation.contents(), **numbers, "units": errors.note},
        }

    def _check_weights(self, labels: Values) -> None:
        """Complain when nothing that counts in the loss is known."""
        there = {term.name: bool(term.given(labels).isfinite().any()) for term in TERMS if term.name != "electrons"}
        wanted = [name for name in there if getattr(self.weighted, name) > 0]
        if not any(there[name] for name in wanted):
            raise KLMError(
                f"the training part has no {' and no '.join(wanted).replace('_', ' ')}",
                "the loss weighs nothing else",
                f"give weights to labels that there are: {', '.join(name for name, known in there.items() if known)}",
            )


def _label_scale(loss: Loss, training: Sequence[Frame]) -> float:
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
