"""Training of networks on labelled frames: losses, recipes, the loop, and errors on data held apart."""

from ase_klm.training.dataset import split
from ase_klm.training.evaluation import evaluate, predict
from ase_klm.training.loss import Loss, Measures, Values, measures
from ase_klm.training.recipes import RECIPES, Modern, Paper, Recipe
from ase_klm.training.trainer import Trainer

__all__ = [
    "RECIPES",
    "Loss",
    "Measures",
    "Modern",
    "Paper",
    "Recipe",
    "Trainer",
    "Values",
    "evaluate",
    "measures",
    "predict",
    "split",
]
