"""Labelled configurations of spins as tensors, grouped by lattice, and changes that leave their energy as it is."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.data import labels
from ase_klm.data.frames import Frame
from ase_klm.errors import KLMError
from ase_klm.models.base import Labels, LatticeNetwork
from ase_klm.potentials.network import LONGEST_DEVIATION
from ase_klm.validate import Array, checked_atoms

LARGEST_PREPARED = 8 * 2**30
"""Bytes of a group that networks may keep; beyond, they work each configuration out anew at every step."""


@dataclass(frozen=True, kw_only=True)
class Group(Labels):
    """Labelled configurations on one lattice with one Hamiltonian.

    Attributes
    ----------
    atoms : Atoms
        The lattice.
    hamiltonian : dict or None
        Its parameters without the field, where the frames carry them.
    frames : tuple of int
        Where the configurations come from, by number.
    """

    atoms: Atoms
    hamiltonian: dict[str, Any] | None = None
    frames: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.energies)

    def to(self, device: torch.device | str) -> "Group":
        """Copy on a device."""
        tensors: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **tensors)


def checked_frames(frames: Sequence[Frame | Atoms], part: str) -> list[Frame]:
    """Frames, also from Atoms with their results.

    Raises
    ------
    KLMError
        When there are none, or something else.
    """
    several = list(frames) if isinstance(frames, list | tuple) else []
    if not several:
        raise KLMError(
            f"the {part} part has no frames", "a list of labelled frames is needed", "data.read and training.split help"
        )
    structures = [frame.atoms if isinstance(frame, Frame) else checked_atoms(frame) for frame in several]
    return [Frame(atoms) for atoms in labels.checked(structures, f"the {part} part")]


def grouped(frames: Sequence[Frame], dtype: torch.dtype = torch.float32) -> list[Group]:
    """Frames by lattice and Hamiltonian, in the order in which these appear.

    The Zeeman energy of a uniform or staggered ``field`` in the frames' Hamiltonian is taken off the labels: networks
    learn the electrons, and calculators add the field.

    Raises
    ------
    KLMError
        When a frame has no energy or magnetic forces, or its moments are not unit vectors.
    """
    lattices: dict[bytes, list[tuple[dict[str, Any], Frame, Array, float, Array, int]]] = {}
    for number, frame in enumerate(frames):
        moments, fields, energy = frame.moments, frame.magnetic_forces, frame.energy
        missing = "magnetic forces" if fields is None else "energy"
        if fields is None or energy is None:
            raise KLMError(
                f"frame {number} has no {missing}",
                "training needs energy and magnetic forces of every configuration",
                "label the frames with a calculator before writing them",
            )
        if len(moments) == 0 or np.abs(np.linalg.norm(moments, axis=1) - 1).max() > LONGEST_DEVIATION:
            raise KLMError(
                f"frame {number} has moments that are not unit vectors",
                "networks on lattices are made for spins of length 1",
                "put the length of the moments into J and the field",
            )
        hamiltonian = dict(frame.hamiltonian or {})
        zeeman = _field(hamiltonian.pop("field", None), moments.shape, number)
        row = (hamiltonian, frame, moments, energy + float((zeeman * moments).sum()), fields - zeeman, number)
        atoms = frame.atoms
        parts = (atoms.numbers, atoms.cell.array.round(6) + 0.0, atoms.positions.round(6) + 0.0, atoms.pbc)
        key = b"|".join([json.dumps(hamiltonian, sort_keys=True).encode(), *(part.tobytes() for part in parts)])
        lattices.setdefault(key, []).append(row)
    groups = []
    for rows in lattices.values():
        potentials = [row[1].chemical_potential for row in rows]
        groups.append(
            Group(
                atoms=rows[0][1].atoms,
                moments=torch.tensor(np.array([row[2] for row in rows]), dtype=dtype),
                magnetic_forces=torch.tensor(np.array([row[4] for row in rows]), dtype=dtype),
                energies=torch.tensor([row[3] for row in rows], dtype=torch.float64),
                chemical_potentials=None if None in potentials else torch.tensor(potentials, dtype=torch.float64),
                hamiltonian=rows[0][0] or None,
                frames=tuple(row[5] for row in rows),
            )
        )
    return groups


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


def common_hamiltonian(hamiltonians: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """What the Hamiltonians of all frames agree on; None when that is nothing.

    The field and the k-mesh are no parameters of a network.
    """
    first, *others = [one or {} for one in hamiltonians] or [{}]
    found = {
        key: value
        for key, value in first.items()
        if key not in ("field", "kpts") and all(one.get(key) == value for one in others)
    }
    return found or None


def split(frames: Sequence[Frame], validation: float, seed: int = 0) -> tuple[list[Frame], list[Frame]]:
    """Training and validation parts, chosen at random.

    Parameters
    ----------
    validation : int or float
        How many frames to hold apart, or, below 1, which part of them.
    seed : int
        Of the choice.

    Raises
    ------
    KLMError
        When one of the parts would be empty.
    """
    good = isinstance(validation, int | float) and not isinstance(validation, bool) and np.isfinite(validation)
    count = (round(validation * len(frames)) if 0 < validation < 1 else validation) if good else 0
    if not 0 < count < len(frames) or count != int(count):
        raise KLMError(
            f"validation = {validation!r} of {len(frames)} frames cannot be held apart",
            "both parts need frames: give a number of frames, or a fraction between 0 and 1",
            "for instance 0.1",
        )
    order = np.random.default_rng(seed).permutation(len(frames))
    held = set(order[: int(count)].tolist())
    return [f for i, f in enumerate(frames) if i not in held], [f for i, f in enumerate(frames) if i in held]


def prepared(model: LatticeNetwork, group: Group, placed: Any) -> list[Any] | None:
    """What the network keeps of every configuration; None if it keeps nothing, or it would be too much."""
    first = model.prepare(group.moments[0], placed)
    if first is None or len(group) * _bytes(first) > LARGEST_PREPARED:
        return None
    return [first, *(model.prepare(moments, placed) for moments in group.moments[1:])]


def _bytes(kept: Any) -> int:
    """Memory of the tensors that a network keeps."""
    if isinstance(kept, Tensor):
        return kept.numel() * kept.element_size()
    entries = vars(kept).values() if is_dataclass(kept) else kept if isinstance(kept, list | tuple) else ()
    return sum(map(_bytes, entries))


def random_rotations(number: int, generator: torch.Generator) -> Tensor:
    """Uniformly distributed rotation matrices, from unit quaternions, shape (number, 3, 3), float64."""
    w, x, y, z = torch.nn.functional.normalize(
        torch.randn(number, 4, generator=generator, dtype=torch.float64), dim=-1
    ).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def rotated(moments: Tensor, fields: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Moments and fields (B, N, 3) of configurations turned at random, each as a whole."""
    matrices = random_rotations(len(moments), generator).to(moments)
    return moments @ matrices.mT, fields @ matrices.mT


def permuted(
    moments: Tensor, fields: Tensor, permutations: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Moments and fields (B, N, 3) after a random symmetry of the lattice, one of `permutations` (operations, N)."""
    chosen = torch.randint(len(permutations), (len(moments),), generator=generator)
    sites = permutations[chosen.to(permutations.device)][..., None].expand_as(moments)
    return moments.gather(-2, sites), fields.gather(-2, sites)


def fingerprint(groups: Sequence[Group]) -> str:
    """Short text that differs when the data differ."""
    digest = hashlib.sha256()
    for group in groups:
        for tensor in (group.moments, group.magnetic_forces, group.energies):
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
