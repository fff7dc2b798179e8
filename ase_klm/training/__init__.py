"""Training of networks on labelled frames: losses, recipes, the loop, and errors on data held apart."""

from ase_klm.training.atomic_loss import AtomicLoss, AtomicMeasures, AtomicValues, atomic_measures
from ase_klm.training.dataset import split
from ase_klm.training.evaluation import evaluate, predict
from ase_klm.training.loss import Loss, Measures, Values, measures
from ase_klm.training.recipes import RECIPES, Modern, Paper, PlateauAdam, Recipe
from ase_klm.training.trainer import Trainer

__all__ = [
    "RECIPES",
    "AtomicLoss",
    "AtomicMeasures",
    "AtomicValues",
    "Loss",
    "Measures",
    "Modern",
    "Paper",
    "PlateauAdam",
    "Recipe",
    "Trainer",
    "Values",
    "atomic_measures",
    "evaluate",
    "measures",
    "predict",
    "split",
]
