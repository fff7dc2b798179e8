"""Labelled structures as tensors, side by side; what is not known is NaN."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ase_klm.data.frames import Frame
from ase_klm.errors import KLMError
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.nn.atomic_graph import AtomicGraph
from ase_klm.training.atomic_loss import AtomicValues
from ase_klm.training.dataset import random_rotations
from ase_klm.validate import Array
from ase_klm.vectors import directions, transverse


@dataclass(frozen=True, eq=False)
class Structures:
    """S structures with N atoms and their labels, in float64.

    Attributes
    ----------
    graph : AtomicGraph
        Neighbours within the cutoff of a network.
    positions, moments : Tensor
        Å and μB, shape (N, 3).
    cells : Tensor
        Å, shape (S, 3, 3).
    energies : Tensor
        eV, shape (S,).
    forces, magnetic_forces : Tensor
        eV/Å and eV/μB, shape (N, 3); magnetic forces of atoms without a moment are NaN.
    transverse_only : Tensor
        Whether the magnetic force along the moment is not known, shape (N,); its part along is taken off then.
    """

    graph: AtomicGraph
    positions: Tensor
    moments: Tensor
    cells: Tensor
    energies: Tensor
    forces: Tensor
    magnetic_forces: Tensor
    transverse_only: Tensor

    @classmethod
    def of(cls, model: AtomicNetwork, frame: Frame, number: int) -> "Structures":
        """A frame, on the device of a network.

        Raises
        ------
        KLMError
            When it has other species, no labels, or labels that cannot be.
        """
        atoms, n = frame.atoms, len(frame.atoms)
        try:
            graph = model.graph([atoms])
        except KLMError as error:
            raise KLMError(f"frame {number}: {error.what}", error.why, error.remedy) from None
        labels = {name: _labels(frame, name, number) for name in ("energy", "forces", "magnetic_forces")}
        if not any(np.isfinite(values).any() for values in labels.values()):
            raise KLMError(
                f"frame {number} has no labels",
                "neither its energy nor any force or magnetic force is known",
                "leave it out, or label it; `ase-klm data check` lists what frames have",
            )
        moments = torch.tensor(frame.moments)
        magnetic, found = moments.norm(dim=-1) > 0, torch.tensor(labels["magnetic_forces"])
        if not bool(magnetic.any()) and bool((found.nan_to_num() != 0).any()):
            raise KLMError(
                f"frame {number} has magnetic forces but no moments",
                "moments stand in atoms.arrays['initial_magmoms'], shape (N, 3), and all are zero",
                "set them with set_moments before writing the frames",
            )
        only = torch.full((n,), frame.transverse_only)
        found = torch.where(only[:, None], transverse(found, directions(moments)), found)
        found[~magnetic] = torch.nan
        positions, cell = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array)[None]
        energy, forces = torch.tensor(labels["energy"]), torch.tensor(labels["forces"])
        return cls(graph, positions, moments, cell, energy, forces, found, only).to(graph.species.device)

    @classmethod
    def joined(cls, several: Sequence["Structures"]) -> "Structures":
        """All of them side by side."""
        if len(several) == 1:
            return several[0]
        tensors = (torch.cat([getattr(one, part.name) for one in several]) for part in fields(cls)[1:])
        return cls(AtomicGraph.side_by_side([one.graph for one in several]), *tensors)

    def __len__(self) -> int:
        """Number of structures."""
        return self.graph.n_structures

    def to(self, device: torch.device | str) -> "Structures":
        """The same on another device."""
        return replace(self, **{part.name: getattr(self, part.name).to(device) for part in fields(self)})

    @property
    def sizes(self) -> Tensor:
        """Number of atoms of each structure, shape (S,)."""
        return torch.bincount(self.graph.structure, minlength=len(self))

    def composition(self, species: int) -> Tensor:
        """Atoms of each of so many species in each structure, shape (S, species)."""
        kinds = torch.nn.functional.one_hot(self.graph.species, species).to(self.energies)
        return self.energies.new_zeros(len(self), species).index_add(0, self.graph.structure, kinds)

    @property
    def labels(self) -> AtomicValues:
        """As they stand in a loss."""
        e = directions(self.moments)
        return AtomicValues(self.energies / self.sizes, self.forces, self.magnetic_forces, e, self.transverse_only)

    def turned(self, generator: torch.Generator) -> "Structures":
        """The spins of each structure turned at random, all as one; atoms stay where they are."""
        matrices = random_rotations(len(self), generator).to(self.moments)[self.graph.structure]
        moments, forces = (torch.einsum("nab,nb->na", matrices, v) for v in (self.moments, self.magnetic_forces))
        return replace(self, moments=moments, magnetic_forces=forces)


def derivatives(model: AtomicNetwork, structures: Structures, training: bool = False) -> AtomicValues:
    """Energies, forces -∂E/∂x and magnetic forces -∂E/∂m of a network.

    Parameters
    ----------
    training : bool
        Whether derivatives by the weights will be asked for.
    """
    x, m = (values.detach().requires_grad_() for values in (structures.positions, structures.moments))
    with torch.enable_grad():
        energies = model.total_energies(structures.graph, x, structures.cells, m)
        by_x, by_m = torch.autograd.grad(energies.sum(), (x, m), create_graph=training, materialize_grads=True)
    densities, e = energies / structures.sizes, directions(structures.moments)
    if not training:
        densities = densities.detach()
    return AtomicValues(densities, -by_x, -by_m, e, structures.transverse_only)


def fingerprint(several: Sequence[Structures]) -> str:
    """Short text that differs when the data differ."""
    digest = hashlib.sha256()
    for one in several:
        for part in fields(one)[1:]:
            digest.update(getattr(one, part.name).cpu().numpy().tobytes())
        digest.update(one.graph.species.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _labels(frame: Frame, name: str, number: int) -> Array:
    """A label as it stands in the frame, NaN where it is missing; vectors are known as a whole or not at all."""
    atoms = frame.atoms
    places: list[Any] = [atoms.calc.results if atoms.calc is not None else {}]
    if name == "magnetic_forces":
        places += [atoms.arrays, atoms.info]
    values = next((place[name] for place in places if place.get(name) is not None), None)
    values = getattr(frame, name) if values is None else values
    shape = (1,) if name == "energy" else (len(atoms), 3)
    try:
        found = np.full(shape, np.nan) if values is None else np.array(values, dtype=np.float64).reshape(shape)
    except (TypeError, ValueError):
        raise KLMError(
            f"{name} of frame {number} cannot be used", f"it must be numbers of shape {shape}", "check the frame"
        ) from None
    if np.isinf(found).any():
        raise KLMError(f"{name} of frame {number} is infinite", "a calculation went wrong", "leave the frame out")
    if name != "energy":
        found[np.isnan(found).any(axis=1)] = np.nan
    return found
