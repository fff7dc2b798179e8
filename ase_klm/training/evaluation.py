"""What a network says of labelled configurations, and how far off it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor

from ase_klm.data.frames import Frame
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.models.base import LatticeNetwork
from ase_klm.nn.symmetry import site_permutations
from ase_klm.training.atomic import predict_structures
from ase_klm.training.atomic_loss import AtomicMeasures, AtomicValues, atomic_measures
from ase_klm.training.dataset import Group, checked_frames, grouped, prepared
from ase_klm.training.loss import Measures, Values, measures

SITES_AT_ONCE = 4096
"""Configurations are evaluated together up to this number of sites."""


@dataclass(frozen=True)
class Loaded:
    """A group of configurations with the tables of a network.

    Attributes
    ----------
    group : Group
    placed : object
        Tables of the lattice.
    prepared : list or None
        What the network keeps of each configuration.
    permutations : Tensor
        Symmetries of the lattice, shape (operations, N).
    """

    group: Group
    placed: Any
    prepared: list[Any] | None
    permutations: Tensor

    @classmethod
    def of(cls, model: LatticeNetwork, group: Group, symmetries: bool = False) -> "Loaded":
        """Place a group on the device of the network; look for symmetries where they are wanted."""
        device = model.energy_shift.device
        there, placed = group.to(device), model.place(group.atoms, group.hamiltonian)
        operations = torch.arange(len(group.atoms))[None]
        if symmetries:
            operations = torch.as_tensor(site_permutations(group.atoms))
        return cls(there, placed, prepared(model, there, placed), operations.to(device))

    def kept(self, chosen: Sequence[int]) -> list[Any] | None:
        """What the network keeps of some of the configurations."""
        return None if self.prepared is None else [self.prepared[i] for i in chosen]


def energies_and_fields(
    model: LatticeNetwork, moments: Tensor, placed: Any, kept: list[Any] | None = None, training: bool = False
) -> tuple[Tensor, Tensor]:
    """Energies (B,), eV, float64, and magnetic forces (B, N, 3), eV/μB, of moments (B, N, 3).

    Parameters
    ----------
    training : bool
        Whether derivatives by the weights will be asked for.
    """
    m = moments.detach().requires_grad_()
    with torch.enable_grad():
        energies = model(m, placed, kept)
        (gradient,) = torch.autograd.grad(energies.sum(), m, create_graph=training)
    return (energies, -gradient) if training else (energies.detach(), -gradient)


def at_chemical_potentials(
    model: Any, moments: Tensor, potentials: Tensor, placed: Any, kept: list[Any] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `energies_and_fields` in training, for networks that give grand potentials, at the labels' μ.

    The fields at fixed μ are those at fixed filling, and the same derivative by μ gives the number of electrons.

    Returns
    -------
    tuple of Tensor
        Energies Ω + μ N (B,), magnetic forces (B, N, 3), and the excess of electrons a site, (B,).
    """
    m, mu = moments.detach().requires_grad_(), potentials.detach().requires_grad_()
    omega = model.grand_potentials(m, mu, placed, kept)
    by_moment, by_mu = torch.autograd.grad(omega.sum(), (m, mu), create_graph=True)
    excess = (-by_mu - placed.electrons) / m.shape[-2]
    return omega + mu.detach() * placed.electrons, -by_moment, excess


def labels_of(loaded: Sequence[Loaded]) -> Values:
    """The labels of groups, in a row."""
    groups = [one.group for one in loaded]
    return Values.joined([Values.of(group.moments, group.energies, group.magnetic_forces) for group in groups])


def predicted_by(model: LatticeNetwork, loaded: Sequence[Loaded]) -> Values:
    """What a network predicts for groups, in a row."""
    values = []
    for one in loaded:
        together = max(1, SITES_AT_ONCE // len(one.group.atoms))
        for start in range(0, len(one.group), together):
            chosen = range(start, min(start + together, len(one.group)))
            moments = one.group.moments[start : chosen.stop]
            values.append(Values.of(moments, *energies_and_fields(model, moments, one.placed, one.kept(chosen))))
    return Values.joined(values)


@overload
def predict(model: LatticeNetwork, frames: Sequence[Frame]) -> tuple[Values, Values]: ...
@overload
def predict(model: AtomicNetwork, frames: Sequence[Frame]) -> tuple[AtomicValues, AtomicValues]: ...
def predict(model: Any, frames: Sequence[Frame]) -> tuple[Any, Any]:
    """Prediction of a network for labelled frames, and their labels.

    Both are in the order of the frames; for networks of spins in the order of lattices, then of frames.

    Returns
    -------
    tuple of Values or AtomicValues
        Labels that a frame lacks are NaN in the latter.

    Raises
    ------
    KLMError
        When there are no frames, they lack labels, or their lattice or species are not the network's.
    """
    known = checked_frames(frames, "evaluated")
    if isinstance(model, AtomicNetwork):
        return predict_structures(model, known)
    loaded = [Loaded.of(model, group) for group in grouped(known, model.energy_shift.dtype)]
    return predicted_by(model, loaded), labels_of(loaded)


@overload
def evaluate(model: LatticeNetwork, frames: Sequence[Frame]) -> Measures: ...
@overload
def evaluate(model: AtomicNetwork, frames: Sequence[Frame]) -> AtomicMeasures: ...
def evaluate(model: Any, frames: Sequence[Frame]) -> Any:
    """Errors of a network on labelled frames.

    Raises
    ------
    KLMError
        As `predict`.
    """
    if isinstance(model, AtomicNetwork):
        return atomic_measures(*predict(model, frames))
    return measures(*predict(model, frames))
