"""Checkpoints: all that a training needs to continue to the same bits, in one ``.safetensors`` file."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ase_klm.continuation import check_same_run
from ase_klm.errors import KLMError
from ase_klm.models.files import read_tensors, write_tensors
from ase_klm.training.averages import Averages

FORMAT = "ase_klm training 1"


@dataclass
class Progress:
    """Where a training stands.

    Attributes
    ----------
    epoch, batches, step : int
        Whole epochs done, batches done in the present one, and all steps.
    seconds : float
        Time spent, over all sessions.
    loss : float
        Sum of the losses of the present epoch.
    halvings, lowest, waited : int, float, int
        Of the learning rate; smallest validation loss; epochs since.
    best : float
        Smallest score so far; see `problem.Validation`.
    history : list of dict
        Rows of ``curves.csv``.
    """

    epoch: int = 0
    batches: int = 0
    step: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    halvings: int = 0
    lowest: float = float("inf")
    waited: int = 0
    best: float = float("inf")
    history: list[dict[str, float]] = field(default_factory=list)


def save(path: Path, progress: Progress, tensors: dict[str, Tensor], configuration: dict[str, Any]) -> None:
    """Write a checkpoint, replacing an older one in one go."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {
        "format": FORMAT,
        "progress": json.dumps(asdict(progress)),
        "configuration": json.dumps(configuration),
    }
    write_tensors(path, copies, metadata)


def load(path: Path, configuration: dict[str, Any]) -> tuple[Progress, dict[str, Tensor]]:
    """Read a checkpoint of a training with this configuration.

    Raises
    ------
    KLMError
        When the file is damaged or of another kind, or belongs to another training. It is left as it is.
    """
    try:
        tensors, metadata = read_tensors(path)
        if metadata.get("format") != FORMAT:
            raise KeyError(f"its format is not {FORMAT!r}")
        progress = Progress(**json.loads(metadata["progress"]))
        there = json.loads(metadata["configuration"])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise KLMError(
            f"{path} cannot be read as a checkpoint of a training",
            f"{type(error).__name__}: {error}",
            "it is damaged or of another kind: move it away to start anew",
        ) from None
    remedy = "restore that configuration, or give this training a directory of its own"
    check_same_run(path, "training", there, configuration, remedy)
    return progress, tensors


def tensors_of(model: nn.Module, averages: Averages, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of all three as named tensors."""
    tensors = {f"model/{name}": value for name, value in model.state_dict().items()} | averages.tensors()
    for number, row in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": value for name, value in row.items()}
    return tensors


def restore(tensors: dict[str, Tensor], model: nn.Module, averages: Averages, optimizer: torch.optim.Optimizer) -> None:
    """The reverse of `tensors_of`."""
    model.load_state_dict({key.removeprefix("model/"): t for key, t in tensors.items() if key.startswith("model/")})
    averages.restore(tensors)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, number, name = key.split("/")
            state.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
