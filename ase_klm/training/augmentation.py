"""Changes of labelled configurations that leave their energy as it is."""

import torch
from torch import Tensor


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


def rotated(
    moments: Tensor, magnetic_forces: Tensor, generator: torch.Generator, sizes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Spins of structures turned at random, each structure as a whole; atoms stay where they are.

    Parameters
    ----------
    moments, magnetic_forces : Tensor
        Of configurations of one lattice, shape (B, N, 3), or of structures side by side, shape (N, 3).
    sizes : Tensor, optional
        Atoms of each structure, shape (S,), where they are side by side.
    """
    matrices = random_rotations(len(moments) if sizes is None else len(sizes), generator).to(moments)
    if sizes is None:
        return moments @ matrices.mT, magnetic_forces @ matrices.mT
    each = matrices.repeat_interleave(sizes, 0)
    turned, forces = (torch.einsum("nab,nb->na", each, vectors) for vectors in (moments, magnetic_forces))
    return turned, forces


def permuted(
    moments: Tensor, magnetic_forces: Tensor, permutations: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Moments and magnetic forces (B, N, 3) after a random symmetry, one of `permutations` (operations, N)."""
    chosen = torch.randint(len(permutations), (len(moments),), generator=generator)
    sites = permutations[chosen.to(permutations.device)][..., None].expand_as(moments)
    return moments.gather(-2, sites), magnetic_forces.gather(-2, sites)
