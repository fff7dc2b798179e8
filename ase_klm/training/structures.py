"""Data sets of atoms and moments: structures of any size, side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from ase_klm.data.frames import Frame
from ase_klm.errors import KLMError
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.models.labels import Labels
from ase_klm.training.augmentation import rotated
from ase_klm.training.dataset import Batch, DataSet
from ase_klm.training.quality import Errors
from ase_klm.training.recipes import Recipe
from ase_klm.validate import Array
from ase_klm.vectors import directions, transverse

QUANTITIES = ("energy", "forces", "magnetic_forces", "stress")

ATOMS_AT_ONCE = 256
"""Structures are evaluated together up to this number of atoms."""


class AtomicData(DataSet):
    """Structures of any size, any of whose labels may be missing.

    The best weights are those with the smallest loss.

    Parameters
    ----------
    model : AtomicNetwork
    frames : sequence of Frame
    symmetries : bool
        Of no effect.
    """

    units: ClassVar = "spreads"

    def __init__(self, model: AtomicNetwork, frames: Sequence[Frame], symmetries: bool = False) -> None:
        self.model = model
        self.structures = [labels_of(model, frame, number) for number, frame in enumerate(frames)]
        self.counts = [len(self.structures)]

    def batch(self, batch: Batch, recipe: Recipe, generator: torch.Generator) -> Labels:
        labels = self.model.joined([self.structures[i] for i in batch.chosen])
        return turned(labels, generator) if recipe.spin_rotations else labels

    def frames(self, batch: Batch) -> list[int]:
        return list(batch.chosen)

    def placed(self) -> list[Labels]:
        return [self.model.joined(self.structures)]

    def pieces(self) -> Iterator[Labels]:
        piece: list[Labels] = []
        for one in self.structures:
            if piece and sum(int(other.sizes.sum()) for other in (*piece, one)) > ATOMS_AT_ONCE:
                yield self.model.joined(piece)
                piece = []
            piece.append(one)
        yield self.model.joined(piece)

    def fractions(self) -> Tensor:
        (every,) = self.placed()
        return self.model.composition(every.placed) / every.sizes[:, None]

    def contents(self) -> dict[str, Any]:
        (every,) = self.placed()
        known = every.magnetic_forces.isfinite().all(-1)
        whole = int((known & ~every.transverse_only).sum())
        counts = {
            "energies": int(every.energies.isfinite().sum()),
            "forces": int(every.forces.isfinite().all(-1).sum()),
            "stresses": int(every.stress.isfinite().all(-1).sum()),
            "magnetic forces": whole,
            "magnetic forces across the moment": int(known.sum()) - whole,
        }
        if not counts["stresses"]:
            del counts["stresses"]
        return {"configurations": len(every), "atoms": sorted(set(every.sizes.tolist())), "labels": counts}

    def score(self, loss: float, errors: Errors) -> float:
        return loss


def labels_of(model: AtomicNetwork, frame: Frame, number: int) -> Labels:
    """A frame, placed, on the device of a network; magnetic forces of atoms without a moment are NaN.

    Raises
    ------
    KLMError
        When it has other species, no labels, or labels that cannot be.
    """
    atoms, n = frame.atoms, len(frame.atoms)
    try:
        graph = model.place(atoms)
    except KLMError as error:
        raise KLMError(f"frame {number}: {error.what}", error.why, error.remedy) from None
    labels = {name: _labels(frame, name, number) for name in QUANTITIES}
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
    return Labels.of(
        graph,
        moments,
        positions=torch.tensor(atoms.positions),
        cells=torch.tensor(atoms.cell.array)[None],
        sizes=torch.tensor([n]),
        energies=torch.tensor(labels["energy"]),
        forces=torch.tensor(labels["forces"]),
        magnetic_forces=found,
        stress=torch.tensor(labels["stress"]),
        transverse_only=only,
    ).to(graph.species.device)


def turned(labels: Labels, generator: torch.Generator) -> Labels:
    """The spins of each structure turned at random, all as one; atoms stay where they are."""
    moments, forces = rotated(labels.moments, labels.magnetic_forces, generator, labels.sizes)
    return replace(labels, moments=moments, magnetic_forces=forces)


def _labels(frame: Frame, name: str, number: int) -> Array:
    """A label as it stands in the frame, NaN where it is missing; vectors are known as a whole or not at all."""
    atoms = frame.atoms
    places: list[Any] = [atoms.calc.results if atoms.calc is not None else {}]
    if name == "magnetic_forces":
        places += [atoms.arrays, atoms.info]
    values = next((place[name] for place in places if place.get(name) is not None), None)
    if name == "stress":
        values = None if atoms.cell.volume == 0 else _voigt(values)
    elif values is None:
        values = getattr(frame, name)
    shape = {"energy": (1,), "stress": (1, 6)}.get(name, (len(atoms), 3))
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


def _voigt(stress: Any) -> Any:
    """A stress in Voigt's order, also from a matrix."""
    return full_3x3_to_voigt_6_stress(np.asarray(stress)) if np.shape(stress) == (3, 3) else stress
