"""Training of networks on labelled frames: losses, recipes, the loop, and errors on data held apart."""

from ase_klm.training.dataset import split
from ase_klm.training.evaluation import evaluate, predict
from ase_klm.training.loss import Loss
from ase_klm.training.quality import Errors, errors_of
from ase_klm.training.recipes import RECIPES, Modern, Paper, PlateauAdam, Recipe
from ase_klm.training.trainer import Trainer
from ase_klm.training.values import Values

__all__ = [
    "RECIPES",
    "Errors",
    "Loss",
    "Modern",
    "Paper",
    "PlateauAdam",
    "Recipe",
    "Trainer",
    "Values",
    "errors_of",
    "evaluate",
    "predict",
    "split",
]
