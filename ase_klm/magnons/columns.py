"""Second derivatives column by column: how the magnetic forces of a supercell answer to turning one moment.

Each moment of the home cell is turned about two axes across it. Where a potential has exact Hessian-vector products a
turn is one of them; else it is a central difference of the magnetic forces, of which each is kept on disk if asked
for, since exact diagonalisations are expensive. What has been turned in a supercell acts on all its periodic images:
that is exact for wave vectors of the supercell, and for all others if the supercell is longer than twice the range.
"""

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from ase import Atoms

from ase_klm.errors import KLMError
from ase_klm.graphs import with_complete_cell
from ase_klm.images import images_around, reduced
from ase_klm.magnons.cache import Cache
from ase_klm.memory import require_memory
from ase_klm.moments import get_moments
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential
from ase_klm.potentials.second_derivatives import Blocks
from ase_klm.validate import Array

BYTES_A_PAIR = 320
"""Of an atom of the home cell and one of the supercell: forces, what is across the moments, and differences."""

ROUGH = 0.05
"""Relative change of a difference between two steps above which forces are not smooth enough for it."""


@dataclass(frozen=True)
class Columns:
    """Second derivatives of a supercell, and how far they can be trusted.

    Attributes
    ----------
    blocks : Blocks
        Φ(i, j, R) across both moments, eV/μB².
    asymmetry : float
        Largest difference between Φ(i, j, R) and Φ(j, i, -R)ᵀ, which were found one by one, eV/μB².
    at_the_edge : float
        Largest Φ between atoms half a supercell apart, relative to the largest of all.
    supercell : tuple of int
        In which they were found.
    step_error : float
        Error of differences by the length of their step, eV/μB², judged by two steps; 0 without differences.
    """

    blocks: Blocks
    asymmetry: float
    at_the_edge: float
    supercell: tuple[int, int, int]
    step_error: float = 0.0


def columns(
    potential: Potential,
    atoms: Atoms,
    axes: Array,
    supercell: tuple[int, int, int],
    delta: float,
    differences: bool,
    cache: Path | None,
    device: str = "cpu",
) -> tuple[Columns, Array]:
    """Second derivatives, and the magnetic forces on the atoms of the home cell, (N, 3).

    Parameters
    ----------
    axes : ndarray
        Two directions across each moment, shape (N, 2, 3); zero for non-magnetic atoms.
    delta : float
        Angle, rad, by which moments are turned in differences.
    differences : bool
        Whether to use them although the potential is differentiable.
    """
    sites = len(atoms) * int(np.prod(supercell))
    require_memory(
        BYTES_A_PAIR * len(atoms) * sites,
        f"second derivatives between {len(atoms)} atoms and the {sites} of a supercell",
        "give a smaller supercell, or start from the smallest magnetic cell",
    )
    repeated = atoms.repeat(supercell)
    bound, undisturbed = _bound_in(supercell, potential, atoms, repeated, device)
    forces = undisturbed.magnetic_forces.cpu().numpy()
    n = len(atoms)
    if differences or not bound.twice_differentiable:
        kept = Cache(cache, repeated, delta, float(undisturbed.energy))
        found, step_error = _by_differences(bound, repeated, forces, axes, delta, kept)
    else:
        found, step_error = _by_products(bound, axes), 0.0
    return replace(_as_blocks(found, atoms, axes, supercell), step_error=step_error), forces[:n]


def _bound_in(
    supercell: tuple[int, int, int], potential: Potential, atoms: Atoms, repeated: Atoms, device: str
) -> tuple[BoundPotential, Evaluation]:
    """The potential in the supercell, and what it gives there."""
    try:
        bound = potential.repeated(atoms, supercell).bind(repeated, device)
        return bound, bound.evaluate(atomic=False)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, KLMError):
            raise
        raise KLMError(
            f"{type(potential).__name__} cannot be evaluated in a supercell",
            f"it gives the energy of the cell, but of {supercell}: {error}",
            "name its parameters of single sites in `per_site`, or give it a method `repeated(atoms, repetitions)`",
        ) from error


def _by_products(bound: BoundPotential, axes: Array) -> Array:
    """Φ x of all turned axes, shape (N, 2, sites, 3)."""
    found = np.zeros((*axes.shape[:2], bound.n_atoms, 3))
    hessian = bound.hessian(bound.moments)
    vector = torch.zeros_like(bound.moments)
    for atom, axis in np.argwhere(np.abs(axes).sum(-1) > 0):
        vector.zero_()
        vector[atom] = bound.tensor(axes[atom, axis])
        found[atom, axis] = hessian(vector).cpu().numpy()
    return found


def _by_differences(
    bound: BoundPotential, repeated: Atoms, undisturbed: Array, axes: Array, delta: float, cache: Cache
) -> tuple[Array, float]:
    """Φ x, shape (N, 2, sites, 3), and the error by the length of the step."""
    sites, moments = bound.n_atoms, get_moments(repeated)
    found = np.zeros((*axes.shape[:2], sites, 3))

    def forces(atom: int, axis: int, angle: float) -> Array:
        def calculate() -> Array:
            turned = moments.copy()
            length = np.linalg.norm(turned[atom])
            turned[atom] = turned[atom] * np.cos(angle) + length * axes[atom, axis] * np.sin(angle)
            return bound.evaluate(torch.as_tensor(turned), atomic=False).magnetic_forces.cpu().numpy()

        return cache.get(f"{atom}-{'xy'[axis]}{'+' if angle > 0 else '-'}{abs(angle):.6g}", calculate)

    def difference(atom: int, axis: int, angle: float) -> Array:
        length, x = np.linalg.norm(moments[atom]), axes[atom, axis]
        e, forward, backward = moments[atom] / length, forces(atom, axis, angle), forces(atom, axis, -angle)
        change = (backward - forward) / (2 * np.sin(angle))
        # along x the moment's own force is taken in the frame that turns with it: exact for bilinear exchange
        tilted = (forward[atom] + backward[atom]) / 2 - undisturbed[atom]
        change[atom] += ((np.cos(angle) - 1) * (change[atom] @ x) + tilted @ e) * x
        return change / length

    turned = np.argwhere(np.abs(axes).sum(-1) > 0)
    step_error = 0.0
    for number, (atom, axis) in enumerate(turned.tolist()):
        found[atom, axis] = difference(atom, axis, delta)
        if number == 0:
            step_error = _step_error(found[atom, axis], difference(atom, axis, 2 * delta), delta)
    return found, step_error


def _step_error(one: Array, two: Array, delta: float) -> float:
    """Error of differences, from two steps: they agree up to third derivatives times the squared step, and noise."""
    change, size = float(np.abs(one - two).max()), float(np.abs(one).max())
    if change > ROUGH * size:
        raise KLMError(
            f"magnetic forces are not smooth enough for the step delta = {delta:g} rad",
            f"second derivatives with this step and with twice of it differ by {100 * change / size:.2g} %",
            "noise: a larger delta, float64, a tighter convergence or an electronic temperature; "
            "a strongly curved energy: a smaller delta",
        )
    return change / 3


def _as_blocks(found: Array, atoms: Atoms, axes: Array, supercell: tuple[int, int, int]) -> Columns:
    """Blocks of the answers (N, 2, sites, 3); images at equal distance share theirs."""
    n, cells = len(atoms), np.array(list(product(*(range(m) for m in supercell))))
    answers = np.einsum("iacjz,jbz->iacjb", found.reshape(n, 2, len(cells), n, 3), axes, optimize=True)
    across = np.einsum("iacjb,iax,jby->ijcxy", answers, axes, axes, optimize=True)  # Φ(i, j in cell c)
    backwards = np.ravel_multi_index(tuple((-cells % supercell).T), supercell)
    asymmetry = float(np.abs(across - across.transpose(1, 0, 2, 4, 3)[:, :, backwards]).max(initial=0.0))
    cell, periodic, sizes = with_complete_cell(atoms).cell.array, np.flatnonzero(atoms.pbc), np.array(supercell)
    periods = (sizes[:, None] * cell)[periodic]
    closest = _nearest_distance(atoms)
    parts, edge = [], 0.0
    for i in range(n):
        vectors = atoms.positions[:, None] - atoms.positions[i] + cells @ cell  # (j, cell, 3)
        shifts, distances = images_around(vectors, periods)  # (j, cell, image, n_periodic), (j, cell, image)
        nearest = distances < distances.min(-1, keepdims=True) + 1e-6
        j, c, image = np.nonzero(nearest)
        values = across[i, j, c] / nearest.sum(-1)[j, c][:, None, None]
        numbers = cells[c]
        numbers[:, periodic] += sizes[periodic] * shifts[j, c, image]
        parts.append((np.full(len(j), i), j, numbers, values))
        if distances.shape[-1] > 1:
            first, second = np.partition(distances, 1)[..., :2].transpose(2, 0, 1)
            at_the_edge = second - first < 1.01 * closest
            edge = max(edge, float(np.abs(across[i][at_the_edge]).max(initial=0.0)))
    blocks = Blocks(n, *(np.concatenate(part) for part in zip(*parts, strict=True)))
    return Columns(blocks, asymmetry, edge / max(float(np.abs(across).max(initial=0.0)), 1e-300), supercell)


def _nearest_distance(atoms: Atoms) -> float:
    """Shortest distance between atoms, or between an atom and its image, Å."""
    periods = atoms.cell.array[atoms.pbc]
    _, apart = images_around(atoms.positions - atoms.positions[:, None], periods)
    distances = np.concatenate([apart.ravel(), np.linalg.norm(reduced(periods)[0], axis=1)])
    return float(distances[distances > 1e-6].min(initial=np.inf))
