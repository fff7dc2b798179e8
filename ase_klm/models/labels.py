"""Labels: structures that a network evaluates together, with what is known of them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Labels:
    """S structures with N atoms in all, placed by a network, and what is known of them; NaN where it is not known.

    Vectors of atoms have the shape (S, n, 3) for configurations of one lattice with n sites, and (N, 3) for structures
    of any size side by side; below, (..., 3) stands for either.

    Attributes
    ----------
    placed : object
        What `place` of the network gave for them.
    moments : Tensor
        μB, shape (..., 3).
    positions, cells : Tensor or None
        Å, shapes (..., 3) and (S, 3, 3); None for networks of spins on a lattice.
    sizes : Tensor
        Atoms of each structure, shape (S,).
    energies : Tensor
        eV, shape (S,), float64.
    forces, magnetic_forces : Tensor
        eV/Å and eV/μB, shape (..., 3).
    stress : Tensor
        eV/Å³, shape (S, 6), in Voigt's order as in ASE.
    transverse_only : Tensor
        Whether the magnetic force along the moment is not known, shape (...).
    chemical_potentials : Tensor
        Of the electrons, eV, shape (S,), float64.
    prepared : list or None
        What `prepare` of the network gave for each structure.
    """

    placed: Any
    moments: Tensor
    positions: Tensor | None
    cells: Tensor | None
    sizes: Tensor
    energies: Tensor
    forces: Tensor
    magnetic_forces: Tensor
    stress: Tensor
    transverse_only: Tensor
    chemical_potentials: Tensor
    prepared: list[Any] | None = None

    @classmethod
    def of(
        cls,
        placed: Any,
        moments: Tensor,
        *,
        energies: Tensor | None = None,
        forces: Tensor | None = None,
        magnetic_forces: Tensor | None = None,
        stress: Tensor | None = None,
        transverse_only: Tensor | None = None,
        chemical_potentials: Tensor | None = None,
        positions: Tensor | None = None,
        cells: Tensor | None = None,
        sizes: Tensor | None = None,
    ) -> "Labels":
        """What is left out is not known. `sizes` are needed for structures side by side."""
        if sizes is None:
            sizes = moments.new_full((len(moments),), moments.shape[-2], dtype=torch.long)
        unknown, double = float("nan"), torch.float64

        def known(values: Tensor | None, *shape: int) -> Tensor:
            return moments.new_full((len(sizes), *shape), unknown, dtype=double) if values is None else values

        def vectors(values: Tensor | None) -> Tensor:
            return torch.full_like(moments, unknown) if values is None else values

        if transverse_only is None:
            transverse_only = torch.zeros(moments.shape[:-1], dtype=torch.bool, device=moments.device)
        return cls(
            placed,
            moments,
            positions,
            cells,
            sizes,
            known(energies),
            vectors(forces),
            vectors(magnetic_forces),
            known(stress, 6),
            transverse_only,
            known(chemical_potentials),
        )

    def __len__(self) -> int:
        """Number of structures."""
        return len(self.sizes)

    @property
    def energy_densities(self) -> Tensor:
        """E/N of each structure, eV, shape (S,)."""
        return self.energies / self.sizes

    def chosen(self, numbers: Sequence[int]) -> "Labels":
        """Some configurations of one lattice, by their numbers."""
        picked = list(numbers)
        parts: dict[str, Any] = {name: values[picked] for name, values in self.tensors().items()}
        return replace(self, **parts | {"prepared": self.prepared and [self.prepared[i] for i in picked]})

    def to(self, device: torch.device | str) -> "Labels":
        """The same on another device; what was placed there stays where it is."""
        moved: dict[str, Any] = {name: values.to(device) for name, values in self.tensors().items()}
        return replace(self, **moved)

    def tensors(self) -> dict[str, Tensor]:
        """All of them by name; placed tables and what was prepared are none."""
        pairs = ((part.name, getattr(self, part.name)) for part in fields(self) if part.name != "placed")
        return {name: values for name, values in pairs if isinstance(values, Tensor)}


def side_by_side(several: Sequence[Labels], placed: Any) -> Labels:
    """Structures of any size, placed together, from labels of each."""
    tensors: dict[str, Any] = {
        name: torch.cat([getattr(one, name) for one in several]) for name in several[0].tensors()
    }
    return replace(several[0], placed=placed, **tensors)
