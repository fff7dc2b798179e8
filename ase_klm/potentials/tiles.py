"""Evaluation of a lattice network tile by tile, so that memory does not grow with the lattice.

The terms of a site depend on the spins within `reach` bonds, so the fields of a tile's own sites depend on the terms within
one reach and on the spins within two. Tiles that look alike share their tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from ase_klm.models.base import LatticeNetwork, LocalNetwork


@dataclass(frozen=True)
class Tile:
    """Part of a lattice.

    Attributes
    ----------
    sites : Tensor
        Site numbers: first the tile's own, then those whose terms depend on them, then those on which these depend.
    n_own, n_near : int
        How many are the tile's own, and how many have terms that matter.
    placed : object
        Tables of the network for these sites.
    """

    sites: Tensor
    n_own: int
    n_near: int
    placed: Any


def tiles(
    model: LatticeNetwork, atoms: Atoms, largest: int, hamiltonian: Mapping[str, Any] | None = None
) -> list[Tile]:
    """Cut a structure into tiles of at most `largest` own sites, of equal shape where the lattice allows it."""
    lattice = model.lattice.place(atoms)
    known: dict[bytes, Any] = {}
    found = []
    for own in _blocks(atoms, largest):
        near = lattice.around(own, model.reach)
        sites = torch.cat([near, lattice.around(near, model.reach)[len(near) :]])
        local = lattice.restricted(sites)
        key = b"".join(part.to(torch.int32).numpy().tobytes() for part in (*local.members, *local.neighbours))
        if key not in known:
            known[key] = model.tables(local, hamiltonian)
        found.append(Tile(sites.to(model.energy_shift.device), len(own), len(near), known[key]))
    return found


def energy_and_gradient(model: LatticeNetwork, parts: list[Tile], whole: Any, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Energy, eV, and its derivative by the moments (N, 3).

    Parameters
    ----------
    parts : list of Tile
    whole : object
        What the network's `total` needs to know of the structure.
    """
    weights, energy = torch.ones(1, dtype=torch.float64, device=moments.device), torch.zeros(())
    if not isinstance(model, LocalNetwork):  # the energy is no plain sum of local terms
        with torch.no_grad():
            sums = sum(model.local_terms(moments[t.sites], t.placed)[:, : t.n_own].double().sum(-1) for t in parts)
        with torch.enable_grad():
            sums = torch.as_tensor(sums).requires_grad_()
            energy = model.total(sums, whole)
            (weights,) = torch.autograd.grad(energy, sums)
    gradient = torch.zeros_like(moments)
    plain = torch.zeros((), dtype=torch.float64, device=moments.device)
    for tile in parts:
        m = moments[tile.sites].requires_grad_()
        with torch.enable_grad():
            terms = model.local_terms(m, tile.placed)
            (own,) = torch.autograd.grad((weights * terms[:, : tile.n_near].double().sum(-1)).sum(), m)
        gradient[tile.sites[: tile.n_own]] = own[: tile.n_own]
        plain += terms[0, : tile.n_own].detach().double().sum()
    return (plain if isinstance(model, LocalNetwork) else energy.detach()), gradient


def _blocks(atoms: Atoms, largest: int) -> list[Tensor]:
    """Site numbers of the blocks of a grid along the cell vectors, as near to cubes as halving allows."""
    lengths = atoms.cell.lengths()
    scaled = atoms.get_scaled_positions(wrap=False)
    scaled -= scaled.min(0)
    scaled /= np.maximum(np.ptp(scaled, axis=0), 1e-9) * (1 + 1e-9)
    counts = np.ones(3, dtype=int)
    while True:
        number: NDArray[np.int64] = np.ravel_multi_index(tuple((scaled * counts).astype(int).T), tuple(counts))
        order = np.argsort(number, kind="stable")
        sizes = np.bincount(number)
        if sizes.max() <= largest:
            return [torch.as_tensor(block) for block in np.split(order, np.cumsum(sizes)[:-1]) if len(block)]
        counts[np.argmax(lengths / counts)] *= 2
