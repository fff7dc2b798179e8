"""Exchange matrices that follow bonds: Dzyaloshinskii-Moriya vectors by rules of symmetry, Kitaev and axial exchange.

All act on unit vectors, in eV, every bond once: e_i·M·e_j, with D·(e_i × e_j) for a Dzyaloshinskii-Moriya vector D.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.graphs import bonds_within, with_complete_cell
from ase_klm.potentials.functions_of_distance import DistanceFunction, checked_distance_function
from ase_klm.potentials.parameters import Parametrised
from ase_klm.validate import Array, checked_array

Others = tuple[np.ndarray, np.ndarray]
"""Further atoms k of each bond, one a bond, and their cells seen from atom i: shapes (n,) and (n, 3)."""


class BondTerm(Parametrised, ABC):
    """A matrix M for each bond, as a function of vectors from its first atom."""

    def others(self, atoms: Atoms, i: np.ndarray, j: np.ndarray, cells: np.ndarray) -> Sequence[Others]:
        """Atoms besides j on which M depends, found on the reference structure; none by default."""
        return ()

    @abstractmethod
    def matrices(self, vectors: Tensor) -> Tensor:
        """M, (..., n, 3, 3) in eV, from the vectors (..., 1 + others, n, 3) to j and to the others; differentiable.

        M(-v) of the reversed bond must be M(v)ᵀ.
        """


@dataclass(frozen=True)
class DMAlongBond(BondTerm):
    """D = D(r) v/r, as in chiral crystals such as MnSi: helices and Bloch skyrmions.

    Parameters
    ----------
    function : DistanceFunction
        D(r), eV.
    """

    function: DistanceFunction

    def __post_init__(self) -> None:
        checked_distance_function(self.function, "function")

    def matrices(self, vectors: Tensor) -> Tensor:
        direction, r = _direction(vectors[..., 0, :, :])
        return cross_product_matrices(self.function(r)[..., None] * direction)


@dataclass(frozen=True, eq=False)
class DMAcrossBond(BondTerm):
    """D = D(r) n × v/r, as at the surface of a heavy metal with the normal n: cycloids and Néel skyrmions.

    A. Fert, P. M. Levy, Phys. Rev. Lett. 44, 1538 (1980); it is what a mirror plane through bond and normal allows.

    Parameters
    ----------
    function : DistanceFunction
        D(r), eV.
    normal : array_like
        n, fixed in space.
    """

    function: DistanceFunction
    normal: Any = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        checked_distance_function(self.function, "function")
        object.__setattr__(self, "normal", _unit_vector(self.normal, "normal"))

    def matrices(self, vectors: Tensor) -> Tensor:
        direction, r = _direction(vectors[..., 0, :, :])
        normal = torch.tensor(self.normal).to(r).expand_as(direction)
        return cross_product_matrices(self.function(r)[..., None] * torch.linalg.cross(normal, direction))


@dataclass(frozen=True)
class DMThroughAtom(BondTerm):
    """D = D(r) (r_ik × r_kj)/abs(r_ik × r_kj), k the atom between i and j.

    F. Keffer, Phys. Rev. 126, 896 (1962). Between second neighbours of a honeycomb lattice it is ± the normal of the
    plane, with the sign of Haldane's fluxes. It turns with the lattice, and moves atom k too.

    Parameters
    ----------
    function : DistanceFunction
        D(r), eV, r the distance of i and j.
    symbol : str, optional
        Species of k; default any. It is the atom nearest to both i and j on the reference structure.
    """

    function: DistanceFunction
    symbol: str | None = None

    def __post_init__(self) -> None:
        checked_distance_function(self.function, "function")

    def others(self, atoms: Atoms, i: np.ndarray, j: np.ndarray, cells: np.ndarray) -> Sequence[Others]:
        return shared_neighbours(atoms, i, j, cells, self.symbol, count=1)

    def matrices(self, vectors: Tensor) -> Tensor:
        to_j, to_k = vectors.unbind(-3)
        normal, _ = _direction(torch.linalg.cross(to_k, to_j))  # to_k × (to_j - to_k)
        return cross_product_matrices(self.function(_direction(to_j)[1])[..., None] * normal)


@dataclass(frozen=True, eq=False)
class Kitaev(BondTerm):
    """M = K(r) γ γᵀ with γ that of three axes to which the bond is most nearly perpendicular.

    A. Kitaev, Ann. Phys. 321, 2 (2006).

    Parameters
    ----------
    function : DistanceFunction
        K(r), eV.
    axes : array_like
        The three γ, fixed in space, shape (3, 3).
    """

    function: DistanceFunction
    axes: Any

    def __post_init__(self) -> None:
        checked_distance_function(self.function, "function")
        axes = np.array([_unit_vector(axis, "axes") for axis in checked_array(self.axes, (3, 3), "axes")])
        axes.setflags(write=False)
        object.__setattr__(self, "axes", axes)

    def matrices(self, vectors: Tensor) -> Tensor:
        direction, r = _direction(vectors[..., 0, :, :])
        axes = torch.tensor(self.axes).to(r)
        axis = axes[(direction.detach() @ axes.mT).abs().argmin(-1)]
        return self.function(r)[..., None, None] * dyads(axis)


@dataclass(frozen=True)
class KitaevThroughLigands(BondTerm):
    """M = K(r) γ γᵀ with γ the normal of the plaquette that i, j and the two ligands between them form.

    That is where Kitaev's axes come from where octahedra share edges: G. Jackeli, G. Khaliullin, Phys. Rev. Lett. 102,
    017205 (2009). They turn with the lattice.

    Parameters
    ----------
    function : DistanceFunction
        K(r), eV.
    symbol : str
        Species of the ligands; they are those nearest to both i and j on the reference structure.
    """

    function: DistanceFunction
    symbol: str

    def __post_init__(self) -> None:
        checked_distance_function(self.function, "function")

    def others(self, atoms: Atoms, i: np.ndarray, j: np.ndarray, cells: np.ndarray) -> Sequence[Others]:
        return shared_neighbours(atoms, i, j, cells, self.symbol, count=2)

    def matrices(self, vectors: Tensor) -> Tensor:
        to_j, one, other = vectors.unbind(-3)
        axis, _ = _direction(torch.linalg.cross(to_j, one - other))
        return self.function(_direction(to_j)[1])[..., None, None] * dyads(axis)


@dataclass(frozen=True, eq=False)
class AxialExchange(BondTerm):
    """M = λ(r) n nᵀ: two-ion anisotropy, that of an XXZ model.

    Parameters
    ----------
    function : DistanceFunction
        λ(r), eV; negative favours spins along n where exchange is ferromagnetic.
    axis : array_like
        n, fixed in space.
    """

    function: DistanceFunction
    axis: Any = (0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        checked_distance_function(self.function, "function")
        object.__setattr__(self, "axis", _unit_vector(self.axis, "axis"))

    def matrices(self, vectors: Tensor) -> Tensor:
        _, r = _direction(vectors[..., 0, :, :])
        return self.function(r)[..., None, None] * dyads(torch.tensor(self.axis).to(r))


def cross_product_matrices(D: Tensor) -> Tensor:
    """M with a·M·b = D·(a × b), (..., 3) → (..., 3, 3)."""
    x, y, z = D.unbind(-1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, dim=-1) for row in ((zero, z, -y), (-z, zero, x), (y, -x, zero))]
    return torch.stack(rows, dim=-2)


def dyads(n: Tensor) -> Tensor:
    """N nᵀ, (..., 3) → (..., 3, 3)."""
    return n[..., :, None] * n[..., None, :]


def shared_neighbours(
    atoms: Atoms, i: np.ndarray, j: np.ndarray, cells: np.ndarray, symbol: str | None, count: int
) -> list[Others]:
    """The `count` atoms k with the shortest ways i-k-j, among those nearer to i than the longest bond is long.

    Raises
    ------
    KLMError
        When there are fewer, or one more that is as near.
    """
    vectors = atoms.positions[j] + cells @ with_complete_cell(atoms).cell.array - atoms.positions[i]
    near = bonds_within(atoms, np.linalg.norm(vectors, axis=1).max(initial=1e-3))
    start, end = np.concatenate([near.i, near.j]), np.concatenate([near.j, near.i])
    hops, steps = np.concatenate([near.cells, -near.cells]), np.concatenate([near.vectors, -near.vectors])
    wanted = np.ones(len(end), bool) if symbol is None else np.array(atoms.get_chemical_symbols())[end] == symbol
    order = np.flatnonzero(wanted)[np.argsort(start[wanted], kind="stable")]
    first = np.searchsorted(start[order], np.arange(len(atoms) + 1))
    found = np.zeros((count, len(i)), int)
    for bond, (a, vector) in enumerate(zip(i, vectors, strict=True)):
        members = order[first[a] : first[a + 1]]
        onwards = np.linalg.norm(vector - steps[members], axis=1)
        members, onwards = members[onwards > 1e-6], onwards[onwards > 1e-6]
        ways = np.linalg.norm(steps[members], axis=1) + onwards
        nearest = np.argsort(ways, kind="stable")[: count + 1]
        if len(nearest) < count or (len(nearest) > count and ways[nearest[-1]] < 1.01 * ways[nearest[-2]]):
            raise KLMError(
                f"the bond between atoms {a} and {j[bond]} has {'too few' if len(nearest) < count else 'too many'} "
                f"atoms{f' {symbol}' if symbol else ''} between its ends",
                f"the rule takes {count} of them, nearer than the ends are to each other, the next one farther away",
                "check symbol and shell, or use a rule that needs no atom between",
            )
        found[:, bond] = members[nearest[:count]]
    return [(end[members], hops[members]) for members in found]


def _direction(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """v/r and r."""
    r = torch.linalg.vector_norm(vectors, dim=-1)
    return vectors / r[..., None], r


def _unit_vector(values: Any, name: str) -> Array:
    vector = checked_array(values, (3,), name)
    length = np.linalg.norm(vector)
    if not length > 0:
        raise KLMError(f"{name} = {values!r} is zero", "it must have a direction", f"for instance {name}=(0, 0, 1)")
    if abs(length - 1) > 1e-15:  # a unit vector stays as it is to the last bit
        vector /= length
    vector.setflags(write=False)
    return vector
