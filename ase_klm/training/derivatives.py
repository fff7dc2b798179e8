"""What a network says of labelled structures: energies, and their derivatives as forces."""

from typing import Any

import torch
from torch import Tensor

from ase_klm.models.labels import Labels
from ase_klm.models.trained import TrainedNetwork
from ase_klm.training.values import Values

VOIGT = (0, 4, 8, 5, 2, 1)
"""Places of xx, yy, zz, yz, xz, xy in a matrix of nine components."""


def derivatives(model: TrainedNetwork, labels: Labels, training: bool = False, stress: bool = False) -> Values:
    """Energies, magnetic forces -∂E/∂m, and of atoms that move forces -∂E/∂x and, where wanted, the stress.

    Parameters
    ----------
    training : bool
        Whether derivatives by the weights will be asked for. Networks that give grand potentials are taken at the
        chemical potentials of the labels then, where these are known.
    stress : bool
        Whether the stress is wanted.
    """
    if model.gives == "magnetic_forces":
        with torch.set_grad_enabled(training):
            found = model(labels.placed, labels.moments, labels.positions, labels.cells, labels.prepared)
        return Values.predicted(labels, None, magnetic_forces=found)
    if training and counts_electrons(model, labels):
        return _at_chemical_potentials(model, labels)
    m = labels.moments.detach().requires_grad_()
    x, cells, strain = labels.positions, labels.cells, None
    wanted = [m]
    if x is not None and cells is not None:
        x = x.detach().requires_grad_()
        wanted.append(x)
    with torch.enable_grad():
        moved, strained = x, cells
        if stress and x is not None and cells is not None:
            strain = cells.new_zeros(cells.shape).requires_grad_()
            wanted.append(strain)
            deformation = torch.eye(3).to(cells) + (strain + strain.mT) / 2
            moved = (x[:, None] @ deformation.repeat_interleave(labels.sizes, 0))[:, 0]
            strained = cells @ deformation
        energies = model.energies(labels.placed, m, moved, strained, labels.prepared)
        found = torch.autograd.grad(energies.sum(), wanted, create_graph=training, materialize_grads=True)
    by_strain = None
    if strain is not None and cells is not None:
        by_strain = (found[2] / torch.linalg.det(cells).abs()[:, None, None]).flatten(1)[:, VOIGT]
    return Values.predicted(
        labels,
        energies if training else energies.detach(),
        magnetic_forces=-found[0],
        forces=None if x is None else -found[1],
        stress=by_strain,
    )


def given(model: TrainedNetwork, labels: Labels, training: bool = False) -> Values:
    """The labels of what `derivatives` gives; energies count for nothing where a network has none."""
    values = Values.given(labels, electrons=training and counts_electrons(model, labels))
    if model.gives == "energies":
        return values
    only = {"magnetic_forces": values.magnetic_forces, "transverse_only": values.transverse_only}
    return Values.of(torch.full_like(values.energy_densities, torch.nan), values.directions, **only)


def counts_electrons(model: TrainedNetwork, labels: Labels) -> bool:
    """Whether a network gives grand potentials that can be taken at the chemical potentials of labels."""
    return hasattr(model, "grand_potentials") and bool(labels.chemical_potentials.isfinite().all())


def _at_chemical_potentials(model: Any, labels: Labels) -> Values:
    """Energies Ω + μ N, magnetic forces, and the excess of electrons an atom, at the labels' μ.

    The magnetic forces at fixed μ are those at fixed filling, and the same derivative by μ gives the number of
    electrons.
    """
    m, mu = labels.moments.detach().requires_grad_(), labels.chemical_potentials.detach().requires_grad_()
    with torch.enable_grad():
        omega: Tensor = model.grand_potentials(m, mu, labels.placed, labels.prepared)
        by_moment, by_mu = torch.autograd.grad(omega.sum(), (m, mu), create_graph=True)
    electrons = labels.placed.electrons
    excess = (-by_mu - electrons) / labels.sizes
    return Values.predicted(labels, omega + mu.detach() * electrons, magnetic_forces=-by_moment, electrons=excess)
