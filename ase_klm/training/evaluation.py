"""What a network says of labelled frames, and how far off it is."""

from collections.abc import Sequence
from typing import Any

from ase_klm.data.frames import Frame
from ase_klm.errors import KLMError
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.models.base import NetworkOnLattice
from ase_klm.models.trained import TrainedNetwork
from ase_klm.training.dataset import DataSet, checked_frames
from ase_klm.training.derivatives import derivatives, given
from ase_klm.training.lattices import LatticeData
from ase_klm.training.quality import Errors, errors_of
from ase_klm.training.structures import AtomicData
from ase_klm.training.values import Values


def data_type(model: TrainedNetwork) -> Any:
    """The kind of data that a network is made for.

    Raises
    ------
    KLMError
        When there is none.
    """
    kinds = ((NetworkOnLattice, LatticeData), (AtomicNetwork, AtomicData))
    for network, data in kinds:
        if isinstance(model, network):
            return data
    raise KLMError(
        f"there are no data for a {type(model).__name__}",
        f"training knows what a {' and an '.join(network.__name__ for network, _ in kinds)} is made for",
        "derive the network from one of these",
    )


def predicted_by(model: TrainedNetwork, data: DataSet) -> Values:
    """What a network predicts for labelled structures, in a row; stresses where they are among the labels."""
    pieces = data.pieces()
    return Values.joined([derivatives(model, one, stress=bool(one.stress.isfinite().any())) for one in pieces])


def given_by(model: TrainedNetwork, data: DataSet) -> Values:
    """The labels of what it predicts, in the same row."""
    return Values.joined([given(model, labels) for labels in data.placed()])


def predict(model: TrainedNetwork, frames: Sequence[Frame]) -> tuple[Values, Values]:
    """Prediction of a network for labelled frames, and their labels; what a frame lacks is NaN.

    Both are in the order of the frames; for networks of spins in the order of lattices, then of frames.

    Raises
    ------
    KLMError
        When there are no frames, they lack labels, or their lattice or species are not the network's.
    """
    data: DataSet = data_type(model)(model, checked_frames(frames, "evaluated"))
    return predicted_by(model, data), given_by(model, data)


def evaluate(model: TrainedNetwork, frames: Sequence[Frame]) -> Errors:
    """Errors of a network on labelled frames.

    Raises
    ------
    KLMError
        As `predict`.
    """
    return errors_of(*predict(model, frames))
