"""Uniaxial single-ion anisotropy E = -Σ_i K_i (e_i·n_i)²; K > 0 makes n an easy axis, K < 0 a hard one."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ase import Atoms

from ase_klm.errors import KLMError
from ase_klm.plausibility import Doubt, doubts_about
from ase_klm.potentials.base import BoundPotential, Potential, Structures, frozen_array
from ase_klm.potentials.exchange import Exchange


@dataclass(frozen=True, eq=False)
class UniaxialAnisotropy(Potential):
    """E = -Σ_i K_i (e_i·n_i)², e = m/abs(m): K > 0 makes n an easy axis, K < 0 a hard one.

    Parameters
    ----------
    constant : float or array_like
        K in eV, a number or one a site (N,).
    axis : array_like
        n, shape (3,) or (N, 3); normalised here.
    """

    constant: Any
    axis: Any = (0.0, 0.0, 1.0)
    uses_lattice: ClassVar[bool] = False
    per_site: ClassVar[Mapping[str, int]] = {"constant": -1, "axis": -2}

    def __post_init__(self) -> None:
        axis = frozen_array(self.axis, "axis", "")
        if axis.shape[-1:] != (3,) or axis.ndim > 2 or not np.all(np.linalg.norm(axis, axis=-1) > 0):
            raise KLMError(
                f"axis = {self.axis!r} has no direction everywhere",
                "it must be non-zero vectors of shape (3,) or (N, 3)",
                "for instance axis=(0, 0, 1)",
            )
        object.__setattr__(self, "axis", axis)
        object.__setattr__(self, "constant", frozen_array(self.constant, "constant", "eV"))

    def doubts(self, atoms: Atoms, force_scale: float) -> Iterator[Doubt]:
        yield from doubts_about("anisotropy", self.constant)

    def bind(self, atoms: Structures, device: str = "cpu") -> BoundPotential:
        n_atoms = BoundPotential(atoms, device).n_atoms
        n = self.axis / np.linalg.norm(self.axis, axis=-1, keepdims=True)
        projector = n[..., :, None] * n[..., None, :]
        try:
            onsite = np.broadcast_to(-self.constant[..., None, None] * projector, (n_atoms, 3, 3))
        except ValueError:
            raise KLMError(
                f"constant {self.constant.shape} and axis {self.axis.shape} do not fit {n_atoms} sites",
                "each must be given once for all sites or once a site",
                "check their lengths",
            ) from None
        return Exchange(onsite=onsite).bind(atoms, device)
