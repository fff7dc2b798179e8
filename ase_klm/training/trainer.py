"""The training loop: resumable to the same bits, keeps the best weights, writes curves."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ase_klm.choices import CHECKPOINT
from ase_klm.data.frames import Frame, checked_path
from ase_klm.errors import KLMError
from ase_klm.interrupts import deferred
from ase_klm.models import files
from ase_klm.models.trained import TrainedNetwork
from ase_klm.potentials.base import checked_device
from ase_klm.training import checkpoint, curves
from ase_klm.training.averages import Averages
from ase_klm.training.checkpoint import Progress
from ase_klm.training.dataset import Batch, checked_frames
from ase_klm.training.loss import Loss
from ase_klm.training.problem import Problem, Validation
from ase_klm.training.quality import Errors
from ase_klm.training.recipes import Modern, Recipe, describe
from ase_klm.training.start import architecture, check_length, checked_kind, name_of, starting_network
from ase_klm.validate import checked_number

PICTURE_INTERVAL = 60.0
"""Seconds between two drawings of the learning curves."""


class Trainer:
    """Fits a network to labelled frames: of spins on lattices, or of atoms and moments.

    Into `directory` go ``checkpoint.safetensors``, from which a training that was cut short continues when it is run
    again, also after `KeyboardInterrupt`, which keeps the last whole step; ``best.safetensors``, the weights with the
    smallest validation error (transverse + magnetic forces of spins on lattices, the loss of atoms), with their card;
    and ``curves.csv`` and ``curves.png``. One training at a time: nothing guards the files against a second process
    that trains in the same directory, and the two would overwrite each other's.

    Parameters
    ----------
    model : LatticeNetwork, AtomicNetwork or None
        Trained in place. None: the network of `initial`.
    training, validation : sequence of Frame
        For networks of spins on one lattice or several of the same stars; for networks of atoms any structures. Labels
        may be missing (None or NaN) here and there.
    directory : str or Path
        Made if it does not exist.
    recipe : Recipe
        Optimizer, schedule, augmentation. Default: `Modern`.
    loss : Loss
        What is minimised. Default: `Loss()`.
    epochs : int, optional
        Passes through the training part; either this or `minutes`.
    minutes : float, optional
        Wall time of the loop, over all sessions; schedules follow its elapsed fraction.
    seed : int
        Of the order of batches and of the augmentation.
    device : str
        For instance ``"cuda"``.
    initial : str, Path, or network, optional
        Weights to start from (fine-tuning): a packaged name, a file, or a network. What networks learn from statistics
        of their first training set is kept then, but for the energy shift and the range that they know, which are
        those of the new one.
    checkpoint_every : float
        Seconds between checkpoints; zero for one after every batch.
    progress : bool
        Whether to show a bar.

    Raises
    ------
    KLMError
        When frames lack labels or are on another lattice, the directory holds another training, or the loss is not
        finite; then the last good weights are in the model.
    """

    def __init__(
        self,
        model: TrainedNetwork | None,
        training: Sequence[Frame],
        validation: Sequence[Frame],
        directory: str | Path,
        recipe: Recipe | None = None,
        loss: Loss | None = None,
        epochs: int | None = None,
        minutes: float | None = None,
        seed: int = 0,
        device: str = "cpu",
        initial: str | Path | TrainedNetwork | None = None,
        checkpoint_every: float = 60.0,
        progress: bool = True,
    ) -> None:
        check_length(epochs, minutes)
        checked_number(seed, "seed", minimum=0)
        checked_number(checkpoint_every, "checkpoint_every", "s", minimum=0)
        training, validation = checked_frames(training, "training"), checked_frames(validation, "validation")
        self.recipe = Modern() if recipe is None else checked_kind(recipe, Recipe, "recipe", "Modern()")
        self.epochs, self.minutes, self.seed = epochs, minutes, seed
        self.fine_tuned, self.checkpoint_every, self.show = initial is not None, checkpoint_every, progress
        self.model = starting_network(model, initial)
        weighted = Loss() if loss is None else checked_kind(loss, Loss, "loss", "Loss()")
        self.model.to(checked_device(device))
        self.directory = checked_path(directory)
        self.problem = Problem(self.model, training, validation, weighted, self.recipe)
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = self.recipe.optimizer(self.weights)
        self.generator = torch.Generator().manual_seed(int(seed))
        self.averages = Averages(self.weights, self.recipe.ema)
        self.progress = Progress()
        self.epoch_start = self.generator.get_state()
        self._step_start = -1, self.epoch_start
        self.configuration = {
            **architecture(self.model),
            "initial": name_of(initial),
            "recipe": describe(self.recipe),
            "loss": asdict(self.problem.weighted),
            "epochs": epochs,
            "minutes": minutes,
            "seed": seed,
            "training data": self.problem.fingerprints[0],
            "validation data": self.problem.fingerprints[1],
        }

    def run(self) -> Errors:
        """Train to the end, from the checkpoint in the directory if there is one.

        Returns
        -------
        Errors
            Of the best weights on the validation part; these weights are in the model afterwards.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KLMError(f"{self.directory} cannot be made", str(error), "choose another directory") from None
        if self._checkpoint.exists():
            self._restore()
        else:
            self.problem.calibrate(self.fine_tuned)
            self.averages.restart()
        self._since = time.monotonic() - self.progress.seconds
        self._saved = self._drawn = time.monotonic()
        with tqdm(
            total=100,
            unit="%",
            disable=None if self.show else True,
            bar_format="{l_bar}{bar}| {elapsed}<{remaining}{postfix}",
        ) as bar:
            bar.update(min(100.0, 100 * self._fraction))
            try:
                while self._fraction < 1:
                    self._epoch(bar)
            except KeyboardInterrupt:
                self._keep()
                raise
        if self.progress.batches or not self.progress.history:  # a validation was interrupted, or there was no step
            self._validate()
        self._save()
        curves.save_picture(self.directory, self.progress.history)
        self._take_best()
        return self.problem.quality()

    @property
    def _checkpoint(self) -> Path:
        return self.directory / CHECKPOINT

    @property
    def best_path(self) -> Path:
        """File of the best weights."""
        return self.directory / "best.safetensors"

    @property
    def _batches_an_epoch(self) -> int:
        return sum(math.ceil(count / self.recipe.batch) for count in self.problem.training.counts)

    @property
    def _fraction(self) -> float:
        if self.minutes is not None:
            return self.progress.seconds / (60 * self.minutes)
        return self.progress.step / (self._batches_an_epoch * (self.epochs or 1))

    def _epoch(self, bar: Any) -> None:
        """One pass through the training part, or what is left of it."""
        state = self.progress
        with deferred():
            batches = self._order()
        for batch in batches[state.batches :]:
            self._step(batch)
            bar.update(min(100.0, 100 * self._fraction) - bar.n)
            if state.batches == len(batches) or self._fraction >= 1:
                break
            self._save_in_time()
        self._validate()
        self._show(bar)
        self._save_in_time()

    def _order(self) -> list[Batch]:
        """Batches of the present epoch, which begins where the generator was; then the generator moves on."""
        present = self.generator.get_state()
        self.generator.set_state(self.epoch_start)
        batches = []
        for number, count in enumerate(self.problem.training.counts):
            order = torch.randperm(count, generator=self.generator).tolist()
            size = int(self.recipe.batch)
            batches += [Batch(number, tuple(order[i : i + size])) for i in range(0, len(order), size)]
        mixed = torch.randperm(len(batches), generator=self.generator).tolist()
        if self.progress.batches:
            self.generator.set_state(present)
        return [batches[i] for i in mixed]

    def _step(self, batch: Batch) -> None:
        """One step of the optimizer, which is made whole or not at all."""
        self._step_start = self.progress.step, self.generator.get_state()
        loss = self.problem.loss(batch, self.generator)
        gradients = torch.autograd.grad(loss, self.weights, allow_unused=True)
        factor = self.recipe.gradient_factor(loss.detach())
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = None if gradient is None else gradient * factor.to(gradient.dtype)
        length, value = nn.utils.clip_grad_norm_(self.weights, self.recipe.clip), float(loss.detach())
        if not (math.isfinite(value) and math.isfinite(float(length))):
            self._stop(value, f"at step {self.progress.step}, with {self._named(batch)}")
        state = self.progress
        with deferred():
            for parameters in self.optimizer.param_groups:
                parameters["lr"] = self.recipe.rate(state.step, self._fraction, state.halvings)
            self.optimizer.step()
            self.averages.update(state.step)
            state.loss += value
            state.batches += 1
            state.step += 1
            state.seconds = time.monotonic() - self._since

    def _named(self, batch: Batch) -> str:
        numbers = sorted(self.problem.culprits(batch))
        return f"frame{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))} of the training part"

    def _stop(self, loss: float, where: str) -> None:
        kept = self.best_path.exists() and self.progress.best < math.inf
        if kept:
            self._take_best()
        raise KLMError(
            f"the loss or its gradient is not finite {where}: loss {loss}",
            "the weights have run away, or the labels hold a configuration of another kind",
            "look at these frames, or train again in another directory with a smaller learning_rate or clip"
            + (f"; {self.best_path} holds the best weights so far" if kept else ""),
        )

    def _validate(self) -> None:
        """End of an epoch: errors of the averaged weights, a row of the curves, the best weights so far."""
        state = self.progress
        with self.averages.in_place():
            found = self.problem.validate()
            if math.isfinite(found.loss) and found.score < state.best:
                files.save(self.best_path, self.model, self._card(found.errors))
        if not math.isfinite(found.loss):
            self._stop(found.loss, f"on the validation part after step {state.step}")
        with deferred():
            self._end_epoch(found)

    def _end_epoch(self, found: Validation) -> None:
        state, loss = self.progress, found.loss
        state.best = min(state.best, found.score)
        state.waited = 0 if loss < state.lowest else state.waited + 1
        state.lowest = min(loss, state.lowest)
        if state.waited >= self.recipe.plateau:
            state.halvings, state.waited = state.halvings + 1, 0
        rate = self.recipe.rate(state.step, self._fraction, state.halvings)
        row = (
            state.step / self._batches_an_epoch,
            state.step,
            state.seconds / 60,
            rate,
            state.loss / max(state.batches, 1),
        )
        names = (*curves.COLUMNS, *(f"{curves.PREFIX}{name}" for name in found.errors.numbers))
        state.history.append(dict(zip(names, (*row, *found.errors.numbers.values()), strict=True)))
        self._watched = found.errors.watched
        state.epoch, state.batches, state.loss = state.epoch + 1, 0, 0.0
        self.epoch_start = self.generator.get_state()

    def _show(self, bar: Any) -> None:
        numbers = {"loss": self.progress.history[-1]["training_loss"], **self._watched}
        bar.set_postfix({name: f"{value:.2e}" for name, value in numbers.items()})

    def _keep(self) -> None:
        """A checkpoint of an interrupted training, after its last whole step."""
        step, generator = self._step_start
        if step == self.progress.step:  # the step in hand has drawn random numbers in vain
            self.generator.set_state(generator)
        with deferred():
            self.averages.put_back()
            self._save()

    def _save_in_time(self) -> None:
        if time.monotonic() - self._saved >= self.checkpoint_every:
            self._save()

    def _save(self) -> None:
        self._saved = time.monotonic()
        tensors = checkpoint.tensors_of(self.model, self.averages, self.optimizer)
        tensors |= {"generator": self.generator.get_state(), "epoch_start": self.epoch_start}
        checkpoint.save(self._checkpoint, self.progress, tensors, self.configuration)
        if self.progress.history:
            curves.write(self.directory, self.progress.history)
            if self._saved - self._drawn > PICTURE_INTERVAL:
                curves.save_picture(self.directory, self.progress.history)
                self._drawn = time.monotonic()

    def _restore(self) -> None:
        self.progress, tensors = checkpoint.load(self._checkpoint, self.configuration)
        try:
            checkpoint.restore(tensors, self.model, self.averages, self.optimizer)
            self.generator.set_state(tensors["generator"])
            self.epoch_start = tensors["epoch_start"]
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise KLMError(
                f"{self._checkpoint} does not fit this network",
                " ".join(str(error).split())[:300],
                "it is damaged, or of another version of ase_klm: move it away to start anew",
            ) from None

    def _take_best(self) -> None:
        self.model.load_state_dict(files.load(self.best_path).state_dict())

    def _card(self, errors: Errors) -> dict[str, Any]:
        card = self.problem.card(errors)
        state = self.progress
        card["training"] = {
            "recipe": describe(self.recipe),
            "loss": self.configuration["loss"],
            "initial": self.configuration["initial"],
            **card["training"],
            "seed": self.seed,
            "step": state.step,
            "minutes": round(state.seconds / 60, 2),
            "weights": self.model.n_weights,
        }
        return card
