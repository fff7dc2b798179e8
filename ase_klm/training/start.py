"""What a training starts from: a network with its first weights, and checks of what was asked for."""

import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ase_klm.errors import KLMError
from ase_klm.models import files
from ase_klm.models.base import NetworkOnLattice
from ase_klm.models.trained import TrainedNetwork
from ase_klm.validate import checked_number


def starting_network(model: TrainedNetwork | None, initial: str | Path | TrainedNetwork | None) -> TrainedNetwork:
    """The network to train, with its first weights."""
    if initial is None:
        if not isinstance(model, TrainedNetwork):
            raise KLMError(
                f"{type(model).__name__} is no network",
                "there is nothing to train",
                "give a LatticeNetwork such as ECNN, or an AtomicNetwork such as MagNet",
            )
        return model
    source: TrainedNetwork = files.load(initial)
    if model is None:
        return copy.deepcopy(source)
    if architecture(model) != architecture(source):
        raise KLMError(
            f"the weights of {initial if isinstance(initial, str | Path) else 'the network'} do not fit the model",
            "architecture, hyperparameters, lattice or precision differ",
            "leave the model out (None) to take those of the weights",
        )
    model.load_state_dict(source.state_dict())
    return model


def architecture(model: TrainedNetwork) -> dict[str, Any]:
    """What must be equal in two networks for one to take the weights of the other; JSON."""
    table = {
        "architecture": type(model).__name__,
        "hyperparameters": model.hyperparameters,
        **({"lattice": asdict(model.lattice)} if isinstance(model, NetworkOnLattice) else {}),
        "dtype": str(next(model.parameters()).dtype),
    }
    found: dict[str, Any] = json.loads(json.dumps(table))
    return found


def check_length(epochs: int | None, minutes: float | None) -> None:
    """Complain unless one of the two is given and can be used."""
    if (epochs is None) == (minutes is None):
        raise KLMError("give either epochs or minutes", "they say how long to train", "e.g. epochs=100, or minutes=60")
    if epochs is not None and checked_number(epochs, "epochs", minimum=1) != int(epochs):
        raise KLMError(f"epochs = {epochs!r} cannot be used", "it is a whole number", "e.g. epochs=100")
    if minutes is not None:
        checked_number(minutes, "minutes", above=0)


def checked_kind(value: Any, kind: Any, name: str, example: str) -> Any:
    """The value, if it is of that class."""
    if not isinstance(value, kind):
        raise KLMError(f"{name} = {value!r} cannot be used", f"it must be a {kind.__name__}", f"e.g. {name}={example}")
    return value


def name_of(initial: str | Path | TrainedNetwork | None) -> str | None:
    """What cards and checkpoints say of the first weights."""
    if initial is None:
        return None
    return Path(initial).name if isinstance(initial, str | Path) else "a network"
