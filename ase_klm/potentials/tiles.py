"""Evaluation of a lattice network tile by tile, so that memory does not grow with the lattice.

The terms of a site depend on the spins within `reach` bonds, so the fields of a tile's own sites depend on the terms
within one reach and on the spins within two. On a regular grid, tiles are blocks with a margin of two reaches, taken
for small periodic lattices of their own: what is wrong at their edges does not get further than one reach. Tiles that
look alike share their tables.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.graphs import with_complete_cell
from ase_klm.images import reduced, upright_cell
from ase_klm.models.base import LatticeNetwork, LocalNetwork
from ase_klm.nn.grid import Grid
from ase_klm.nn.lattice import Sites


@dataclass(frozen=True)
class Tile:
    """Part of a lattice.

    Attributes
    ----------
    sites : Tensor
        Site numbers of all spins that the tile needs.
    own, near : Tensor
        Places among these of the tile's own sites, and of the sites whose terms depend on the spins of these.
    placed : object
        Tables of the network for these sites.
    """

    sites: Tensor
    own: Tensor
    near: Tensor
    placed: Any


def tiles(
    model: LatticeNetwork,
    atoms: Atoms,
    lattice: Sites,
    largest: int,
    hamiltonian: Mapping[str, Any] | None = None,
) -> list[Tile]:
    """Cut a structure into tiles of at most `largest` own sites, of equal shape where the lattice allows it."""
    known: dict[Any, Any] = {}
    device = model.energy_shift.device
    found = []
    pieces = _by_neighbours(atoms, lattice, largest, model.reach)
    if lattice.grid is not None:
        pieces = _by_blocks(lattice, lattice.grid, largest, model.reach)
    for sites, own, near, local in pieces:
        key = _looks(local)
        if key not in known:
            known[key] = model.tables(local, hamiltonian)
        found.append(Tile(sites.to(device), own.to(device), near.to(device), known[key]))
    return found


def sums_and_gradient(model: LatticeNetwork, parts: list[Tile], whole: Any, moments: Tensor) -> tuple[Tensor, Tensor]:
    """Local terms summed over all sites, (terms,), and the derivative of the energy by the moments (N, 3), eV/μB.

    Parameters
    ----------
    parts : list of Tile
    whole : object
        What the network's `total` needs to know of the structure.
    """
    gradient = torch.zeros_like(moments)
    if isinstance(model, LocalNetwork):  # a plain sum of terms: one sweep is enough
        weights = torch.ones(1, dtype=torch.float64, device=moments.device)
    else:
        with torch.no_grad():
            sums = torch.stack([_terms(model, tile, moments[tile.sites], tile.own) for tile in parts]).sum(0)
        with torch.enable_grad():
            sums.requires_grad_()
            energy = model.total(sums, whole)
            (weights,) = torch.autograd.grad(energy, sums)
    found = []
    for tile in parts:
        m = moments[tile.sites].requires_grad_()
        with torch.enable_grad():
            terms = model.local_terms(m, tile.placed)
            (by_moment,) = torch.autograd.grad((weights * terms[:, tile.near].double().sum(-1)).sum(), m)
        gradient[tile.sites[tile.own]] = by_moment[tile.own]
        found.append(terms[:, tile.own].detach().double().sum(-1))
    return torch.stack(found).sum(0), gradient


def _terms(model: LatticeNetwork, tile: Tile, moments: Tensor, chosen: Tensor) -> Tensor:
    return model.local_terms(moments, tile.placed)[:, chosen].double().sum(-1)


Piece = tuple[Tensor, Tensor, Tensor, Sites]
"""Site numbers, places of the own and of the near sites among them, and the sites with their neighbours."""


def _by_blocks(lattice: Sites, grid: Grid, largest: int, reach: int) -> Iterator[Piece]:
    """Blocks of cells with margins, as periodic lattices."""
    kinds, shape = len(lattice.members), np.array(grid.shape)
    block = shape.copy()
    while block.prod() * kinds > largest:
        block[np.argmax(block)] = -(-block.max() // 2)
    margin = reach * np.array(grid.reach)
    patch = np.minimum(block + 4 * margin, shape)
    margin = np.where(patch == shape, 0, 2 * margin)  # a direction without a cut is periodic as it was
    patch = np.where(margin == 0, shape, patch)
    local = _periodic(grid, patch, kinds)
    for start in product(*(range(0, n, b) for n, b in zip(shape, block, strict=True))):
        size = np.where(margin == 0, shape, np.minimum(block, shape - start))
        begin = np.where(margin == 0, 0, start)
        if any(s and m == 0 for s, m in zip(start, margin, strict=True)):
            continue  # this direction is covered by the first block
        cells = np.ravel_multi_index(
            np.ix_(*((np.arange(n) + b - m) % s for n, b, m, s in zip(patch, begin, margin, shape, strict=True))), shape
        ).ravel()
        own = _inside(patch, margin, margin + size, kinds)
        near = _inside(patch, margin // 2, margin + size + (margin - margin // 2), kinds)
        yield torch.cat([members[torch.as_tensor(cells)] for members in lattice.members]), own, near, local


def _looks(sites: Sites) -> Any:
    """What is equal where two sets of sites have equal tables.

    On a grid this is its shape: the tiles of a structure have one order of sites and the same stars.
    """
    if sites.grid is not None:
        return sites.grid.shape
    return b"".join(part.to(torch.int32).numpy().tobytes() for part in (*sites.members, *sites.neighbours))


def _inside(patch: np.ndarray, low: np.ndarray, high: np.ndarray, kinds: int) -> Tensor:
    """Places of the sites in a box of cells of a patch."""
    box = np.ix_(*(np.arange(a, min(b, n)) for a, b, n in zip(low, high, patch, strict=True)))
    cells = np.ravel_multi_index(box, tuple(patch)).ravel()
    return torch.as_tensor(np.concatenate([kind * patch.prod() + cells for kind in range(kinds)]))


def _periodic(grid: Grid, shape: np.ndarray, kinds: int) -> Sites:
    """The same lattice with another number of cells; sublattice by sublattice, in the order of the cells."""
    cells = np.arange(shape.prod()).reshape(shape)
    axes = tuple(range(len(shape)))
    members = tuple(torch.as_tensor(kind * cells.size + cells.ravel()) for kind in range(kinds))
    neighbours = tuple(
        torch.as_tensor(
            np.stack(
                [
                    end * cells.size + np.roll(cells, tuple(-x for x in offset), axes).ravel()
                    for offset, end in zip(offsets, ends, strict=True)
                ]
            )
        )
        for offsets, ends in zip(grid.offsets, grid.ends, strict=True)
    )
    return Sites(members, neighbours, Grid(tuple(int(n) for n in shape), grid.offsets, grid.ends))


def _by_neighbours(atoms: Atoms, lattice: Sites, largest: int, reach: int) -> Iterator[Piece]:
    """Any structure: blocks in space, and what is met going from neighbour to neighbour."""
    for own in _blocks(atoms, largest):
        near = lattice.around(own, reach)
        sites = torch.cat([near, lattice.around(near, reach)[len(near) :]])
        yield sites, torch.arange(len(own)), torch.arange(len(near)), lattice.restricted(sites)


def _blocks(atoms: Atoms, largest: int) -> list[Tensor]:
    """Site numbers of the blocks of a grid along the shortest cell vectors, as near to cubes as halving allows."""
    cell = upright_cell(with_complete_cell(atoms).cell, atoms.pbc)
    cell[atoms.pbc], _ = reduced(cell[atoms.pbc])
    lengths = np.linalg.norm(cell, axis=1)
    scaled = atoms.positions @ np.linalg.inv(cell)
    scaled[:, atoms.pbc] %= 1.0
    scaled -= scaled.min(0)
    scaled /= np.maximum(np.ptp(scaled, axis=0), 1e-9) * (1 + 1e-9)
    counts = np.ones(3, dtype=int)
    while True:
        number = np.ravel_multi_index(tuple((scaled * counts).astype(int).T), tuple(counts))
        order = np.argsort(number, kind="stable")
        sizes = np.bincount(number)
        if sizes.max() <= largest:
            return [torch.as_tensor(block) for block in np.split(order, np.cumsum(sizes)[:-1]) if len(block)]
        counts[np.argmax(lengths / counts)] *= 2
