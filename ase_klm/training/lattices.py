"""Data sets of spins on lattices: configurations grouped by lattice and Hamiltonian."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.data.frames import Frame
from ase_klm.errors import KLMError
from ase_klm.models.base import NetworkOnLattice
from ase_klm.models.labels import Labels
from ase_klm.nn.symmetry import site_permutations
from ase_klm.potentials.network import LONGEST_DEVIATION
from ase_klm.training.augmentation import permuted, rotated
from ase_klm.training.dataset import Batch, DataSet
from ase_klm.training.quality import Errors
from ase_klm.training.recipes import Recipe
from ase_klm.validate import Array

LARGEST_PREPARED = 8 * 2**30
"""Bytes of a group that networks may keep; beyond, they work each configuration out anew at every step."""

SITES_AT_ONCE = 4096
"""Configurations are evaluated together up to this number of sites."""


@dataclass(frozen=True)
class Group:
    """Configurations on one lattice with one Hamiltonian.

    Attributes
    ----------
    labels : Labels
    atoms : Atoms
        The lattice.
    hamiltonian : dict or None
        Its parameters without the field, where the frames carry them.
    frames : tuple of int
        Where the configurations come from, by number.
    permutations : Tensor or None
        Symmetries of the lattice, shape (operations, N).
    """

    labels: Labels
    atoms: Atoms
    hamiltonian: dict[str, Any] | None
    frames: tuple[int, ...]
    permutations: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def placed_by(self, model: NetworkOnLattice, symmetries: bool = False) -> "Group":
        """With the tables of a network, what it keeps of each configuration, and the symmetries if they are wanted."""
        device = model.energy_shift.device
        there = replace(self.labels.to(device), placed=model.place(self.atoms, self.hamiltonian))
        operations = torch.as_tensor(site_permutations(self.atoms)).to(device) if symmetries else None
        return replace(self, labels=replace(there, prepared=prepared(model, there)), permutations=operations)


class LatticeData(DataSet):
    """Spins of length 1 on lattices.

    The best weights are those with the smallest errors of magnetic forces, transverse + magnetic forces.

    Parameters
    ----------
    model : NetworkOnLattice
    frames : sequence of Frame
    symmetries : bool
        Whether the symmetries of the lattices are needed.
    """

    units: ClassVar = "absolute"

    def __init__(self, model: NetworkOnLattice, frames: Sequence[Frame], symmetries: bool = False) -> None:
        groups = grouped(frames, model.energy_shift.dtype)
        self.groups = [group.placed_by(model, symmetries) for group in groups]
        self.counts = [len(group) for group in self.groups]

    def batch(self, batch: Batch, recipe: Recipe, generator: torch.Generator) -> Labels:
        group = self.groups[batch.group]
        labels = group.labels.chosen(batch.chosen)
        if labels.prepared is not None:  # a network that prepares configurations needs them as they are
            return labels
        moments, forces = labels.moments, labels.magnetic_forces
        if recipe.lattice_symmetries and group.permutations is not None:
            moments, forces = permuted(moments, forces, group.permutations, generator)
        if recipe.spin_rotations:
            moments, forces = rotated(moments, forces, generator)
        return replace(labels, moments=moments, magnetic_forces=forces)

    def frames(self, batch: Batch) -> list[int]:
        return [self.groups[batch.group].frames[i] for i in batch.chosen]

    def placed(self) -> list[Labels]:
        return [group.labels for group in self.groups]

    def pieces(self) -> Iterator[Labels]:
        for group in self.groups:
            together = max(1, SITES_AT_ONCE // len(group.atoms))
            for start in range(0, len(group), together):
                yield group.labels.chosen(range(start, min(start + together, len(group))))

    def fractions(self) -> Tensor:
        species = sorted({str(symbol) for group in self.groups for symbol in group.atoms.symbols})
        rows = [[float(np.mean(group.atoms.symbols == one)) for one in species] for group in self.groups]
        each = torch.tensor(rows, dtype=torch.float64).repeat_interleave(torch.tensor(self.counts), 0)
        return each.to(self.groups[0].labels.energies.device)

    def contents(self) -> dict[str, Any]:
        return {"configurations": len(self), "sites": sorted({len(group.atoms) for group in self.groups})}

    def score(self, loss: float, errors: Errors) -> float:
        known = [errors.numbers[name] for name in ("transverse", "magnetic_forces") if name in errors.numbers]
        return sum(known) if known and math.isfinite(loss) else loss


def grouped(frames: Sequence[Frame], dtype: torch.dtype = torch.float32) -> list[Group]:
    """Frames by lattice and Hamiltonian, in the order in which these appear.

    The Zeeman energy of a uniform or staggered ``field`` in the frames' Hamiltonian is taken off the labels: networks
    learn the electrons, and calculators add the field.

    Raises
    ------
    KLMError
        When a frame has neither energy nor magnetic forces, or its moments are not unit vectors.
    """
    lattices: dict[bytes, list[_Row]] = {}
    for number, frame in enumerate(frames):
        moments, forces, energy = frame.moments, frame.magnetic_forces, frame.energy
        if forces is None and energy is None:
            raise KLMError(
                f"frame {number} has no labels",
                "training needs the energy or the magnetic forces of every configuration",
                "label the frames with a calculator before writing them",
            )
        if len(moments) == 0 or np.abs(np.linalg.norm(moments, axis=1) - 1).max() > LONGEST_DEVIATION:
            raise KLMError(
                f"frame {number} has moments that are not unit vectors",
                "networks on lattices are made for spins of length 1",
                "put the length of the moments into J and the field",
            )
        hamiltonian, atoms = dict(frame.hamiltonian or {}), frame.atoms
        zeeman = _field(hamiltonian.pop("field", None), moments.shape, number)
        energy = math.nan if energy is None else energy + float((zeeman * moments).sum())
        forces = np.full(moments.shape, np.nan) if forces is None else forces - zeeman
        parts = (atoms.numbers, atoms.cell.array.round(6) + 0.0, atoms.positions.round(6) + 0.0, atoms.pbc)
        key = b"|".join([json.dumps(hamiltonian, sort_keys=True).encode(), *(part.tobytes() for part in parts)])
        lattices.setdefault(key, []).append(_Row(hamiltonian, frame, moments, energy, forces, number))
    return [_group(rows, dtype) for rows in lattices.values()]


@dataclass(frozen=True)
class _Row:
    """A frame without its field."""

    hamiltonian: dict[str, Any]
    frame: Frame
    moments: Array
    energy: float
    magnetic_forces: Array
    number: int


def _group(rows: Sequence[_Row], dtype: torch.dtype) -> Group:
    def stacked(values: list[Any], kind: torch.dtype = torch.float64) -> Tensor:
        return torch.tensor(np.array(values), dtype=kind)

    moments = stacked([row.moments for row in rows], dtype)
    potentials = [row.frame.chemical_potential for row in rows]
    only = torch.tensor([row.frame.transverse_only for row in rows])[:, None].expand(moments.shape[:-1])
    labels = Labels.of(
        None,
        moments,
        energies=stacked([row.energy for row in rows]),
        magnetic_forces=stacked([row.magnetic_forces for row in rows], dtype),
        transverse_only=only.clone(),
        chemical_potentials=stacked([math.nan if mu is None else mu for mu in potentials]),
    )
    first = rows[0]
    return Group(labels, first.frame.atoms, first.hamiltonian or None, tuple(row.number for row in rows))


def _field(field: Any, shape: tuple[int, ...], number: int) -> Array:
    """The field of a frame's Hamiltonian at its sites, eV/μB, shape (N, 3)."""
    try:
        return np.broadcast_to(np.asarray(0.0 if field is None else field, dtype=np.float64), shape)
    except (TypeError, ValueError):
        raise KLMError(
            f"the Hamiltonian of frame {number} has the field {str(field)[:60]}",
            "its Zeeman energy is taken off the labels",
            f"it must be three numbers in eV/μB, or {shape[0]} times three",
        ) from None


def prepared(model: NetworkOnLattice, labels: Labels) -> list[Any] | None:
    """What the network keeps of every configuration; None if it keeps nothing, or it would be too much."""
    first = model.prepare(labels.moments[0], labels.placed)
    if first is None or len(labels) * _bytes(first) > LARGEST_PREPARED:
        return None
    return [first, *(model.prepare(moments, labels.placed) for moments in labels.moments[1:])]


def _bytes(kept: Any) -> int:
    """Memory of the tensors that a network keeps."""
    if isinstance(kept, Tensor):
        return kept.numel() * kept.element_size()
    entries = vars(kept).values() if is_dataclass(kept) else kept if isinstance(kept, list | tuple) else ()
    return sum(map(_bytes, entries))
