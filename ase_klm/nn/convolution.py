"""Convolution of spherical tensors on a lattice, coupled to the spin of the centre.

    out_lo(r) = Σ_paths CG [ Σ_d W_path,d h_li(r + d) ] ⊗ Y_lf(S_r),    path = (li, lf, lo), lf = 0, 1

The neighbours are contracted with the weights first, in one convolution for each path, and coupled to the spin
afterwards: as many operations as neighbours less than coupling them one by one. (Y. Miyazaki, arXiv:2305.03804, eq. 5.)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from e3nn import o3
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import conv1d, conv2d, conv3d, pad

from ase_klm.errors import KLMError
from ase_klm.nn.gather import Table
from ase_klm.nn.grid import Grid, wrapped
from ase_klm.nn.harmonics import Terms, coupled, terms
from ase_klm.nn.lattice import LatticeStars
from ase_klm.nn.neighbourhoods import Neighbourhoods


class Path(NamedTuple):
    """Numbers of the irreps that are coupled, their degrees, the channels before and after, and the coefficients."""

    source: int
    spin: int
    target: int
    degrees: tuple[int, int, int]
    channels: tuple[int, int]
    terms: Terms


class LatticeConvolution(nn.Module):
    """Weights for each sublattice, displacement and path.

    Parameters
    ----------
    lattice : LatticeStars
    source, target : Irreps
        Tensors of the sites before and after; the parity is the sign under time reversal.
    spin : Irreps
        Of the centre's spin, e.g. "0e + 1o".
    tied : bool
        One weight for all displacements of a shell to the same sublattice: exact point-group symmetry.
    """

    def __init__(
        self, lattice: LatticeStars, source: o3.Irreps, target: o3.Irreps, spin: o3.Irreps, tied: bool = False
    ) -> None:
        super().__init__()
        self.n_targets = len(target)
        self.paths = [
            Path(i, f, o, (left.l, right.l, out.l), (inputs, outputs), terms(left.l, right.l, out.l) if right.l else ())
            for i, (inputs, left) in enumerate(source)
            for f, (_, right) in enumerate(spin)
            for o, (outputs, out) in enumerate(target)
            if out in left * right
        ]
        missing = set(range(len(target))) - {path.target for path in self.paths}
        if missing:
            raise KLMError(
                f"tensors {target[min(missing)].ir} of {target} are made by no coupling",
                f"{source} times the spin {spin} does not contain them",
                "leave them out, or keep those out of which they come",
            )
        self.classes = [_weight_classes(star.shells, star.ends, tied) for star in lattice.stars]
        self.weights = nn.ParameterList()  # sublattice by sublattice, one a path: (out, in, class)
        for classes in self.classes:
            for path in self.paths:
                inputs, outputs = path.channels
                self.weights.append(nn.Parameter(torch.randn(outputs, inputs, max(classes) + 1)))

    def _rows(self, sublattice: int) -> Tensor:
        """Weights of all paths as they enter, normalised by the number of terms of each output, (Σ out · in, D + 1)."""
        classes, first = self.classes[sublattice], sublattice * len(self.paths)
        rows = [
            self.weights[first + number].flatten(0, 1) / self._fan_in(path.target, len(classes)) ** 0.5
            for number, path in enumerate(self.paths)
        ]
        return torch.cat(rows)[:, classes]

    def _fan_in(self, target: int, displacements: int) -> int:
        return sum(path.channels[0] * displacements for path in self.paths if path.target == target)

    def _of_paths(self, rows: Tensor) -> list[Tensor]:
        """Rows (Σ out · in, *box) of each path, (out, in, *box)."""
        sizes = [path.channels[::-1] for path in self.paths]
        split = rows.split([outputs * inputs for outputs, inputs in sizes])
        return [part.unflatten(0, size) for part, size in zip(split, sizes, strict=True)]

    def forward(self, tensors: Sequence[Tensor], spins: Sequence[Tensor], places: Neighbourhoods) -> list[Tensor]:
        """Tensors of all irreps of `source` to those of `target`, each of shape (2 l + 1, n, channels).

        Parameters
        ----------
        tensors : sequence of Tensor
        spins : sequence of Tensor
            Harmonics Y_0 and Y_1 of the spins, (2 l + 1, n, channels): the same for each of the most channels.
        places : Neighbourhoods
            With its sites in this order.
        """
        replicas = tensors[0].shape[1] // len(places)
        rows = [self._rows(a) for a in range(len(self.classes))]
        grid = places.sites.grid
        parts = (
            self._on_grid(rows, tensors, replicas, grid)
            if grid
            else self._by_tables(rows, tensors, places.tables(replicas))
        )
        return [self._target(number, parts, spins) for number in range(self.n_targets)]

    def _target(self, number: int, parts: Sequence[Tensor], spins: Sequence[Tensor]) -> Tensor:
        """Sum of the paths that lead to a target."""
        chosen = [k for k, path in enumerate(self.paths) if path.target == number]
        paths, channels = [self.paths[k] for k in chosen], parts[chosen[0]].shape[-1]
        own = [spin[..., :channels] for spin in spins]
        return coupled(
            [parts[k] for k in chosen],
            [own[path.spin] if path.terms else None for path in paths],
            [path.terms for path in paths],
            paths[0].degrees[2],
        )

    def _on_grid(self, rows: list[Tensor], tensors: Sequence[Tensor], replicas: int, grid: Grid) -> list[Tensor]:
        """Σ_d kernel_d values(r + d) of each path, (components, n, out), by torch's convolutions."""
        kinds = len(rows)
        boxes = [
            torch.cat([own, own.new_zeros(len(own), 1)], 1)[:, numbers.to(own.device)]
            for own, numbers in zip(rows, grid.places, strict=True)
        ]  # (Σ out · in, sublattice of the neighbour, *box) of each sublattice
        kernels = self._of_paths(torch.stack(boxes, 1))  # (out, in, sublattice, sublattice of the neighbour, *box)
        cells = []
        for values in tensors:
            parts = values.view(len(values), kinds, replicas, *grid.shape, -1)
            cells.append(parts.movedim(1, -2).reshape(-1, *grid.shape, kinds * values.shape[-1]).movedim(-1, 1))
        found = []
        for path, kernel in zip(self.paths, kernels, strict=True):
            whole = kernel.movedim((2, 3), (0, 2)).flatten(2, 3).flatten(0, 1)
            values = _Periodic.apply(cells[path.source], whole, grid.reach).movedim(1, -1)
            if kinds > 1:
                values = values.reshape(-1, replicas, *grid.shape, kinds, path.channels[1]).movedim(-2, 1)
            found.append(values.reshape(*tensors[path.source].shape[:2], path.channels[1]))
        return found

    def _by_tables(self, rows: list[Tensor], tensors: Sequence[Tensor], tables: Sequence[Table]) -> list[Tensor]:
        """The same where the sites are no grid: neighbours are gathered first."""
        kernels = [self._of_paths(own) for own in rows]  # (out, in, D + 1) of each sublattice and path
        found: dict[int, Tensor] = {}
        for number, values in enumerate(tensors):
            used = [k for k, path in enumerate(self.paths) if path.source == number]
            if not used:
                continue
            contracted = [
                torch.cat([own[k] for k in used]).flatten(1) @ table.gather(values.mT).flatten(1, 2)
                for own, table in zip(kernels, tables, strict=True)
            ]  # (components, out of these paths, n) of each sublattice
            split = torch.cat(contracted, -1).split([self.paths[k].channels[1] for k in used], 1)
            found |= {k: part.mT.contiguous() for k, part in zip(used, split, strict=True)}
        return [found[k] for k in range(len(self.paths))]


CONVOLUTIONS = {1: conv1d, 2: conv2d, 3: conv3d}

LANES = 16
"""Numbers that a CPU multiplies at once."""


class _Periodic(Function):
    """Periodic convolution; its derivative by the values is one, with the kernel turned round."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, kernel: Tensor, reach: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(values, kernel)
        ctx.reach = reach
        return _convolved(wrapped(values.movedim(1, -1), reach, 1).movedim(-1, 1), kernel)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        values, kernel = ctx.saved_tensors
        reach, n = ctx.reach, len(ctx.reach)
        by_values = by_kernel = None
        if ctx.needs_input_grad[0]:
            by_values = _Periodic.apply(gradient, kernel.flip(tuple(range(2, 2 + n))).transpose(0, 1), reach)
        if ctx.needs_input_grad[1]:
            by_kernel = torch.ops.aten.convolution_backward(
                gradient, wrapped(values, reach), kernel, None,
                [1] * n, [0] * n, [1] * n, False, [0] * n, 1, (False, True, False),
            )[1]  # fmt: skip
        return by_values, by_kernel, None


def _convolved(values: Tensor, kernel: Tensor) -> Tensor:
    """Convolution of values (batch, in, *grid) that lie in memory with the channels last.

    Where the channels of one site do not fill the lanes of a CPU, sites next to each other are taken as more channels
    of one: a wider kernel, partly zeros, which moves on by as many sites. The result in memory is the same.
    """
    n_out, _, *box = kernel.shape
    sites, length = 1, values.shape[-1] - box[-1] + 1
    while values.device.type == "cpu" and 2 * sites * n_out <= LANES and length % (2 * sites) == 0:
        sites *= 2
    last = kernel.movedim(1, -1)
    wide = torch.stack([pad(last, (0, 0, site, sites - 1 - site)) for site in range(sites)]).flatten(0, 1)
    strides = (*(1 for _ in box[:-1]), sites)
    found = CONVOLUTIONS[len(box)](values, wide.movedim(-1, 1), stride=strides).movedim(1, -1)
    return found.reshape(*found.shape[:-2], length, n_out).movedim(-1, 1)


def _weight_classes(shells: Sequence[int], ends: Sequence[int], tied: bool) -> list[int]:
    """Number of the weight of the site itself (0) and of each displacement."""
    if not tied:
        return list(range(len(shells) + 1))
    kinds = sorted(set(zip(shells, ends, strict=True)))
    return [0, *(1 + kinds.index(kind) for kind in zip(shells, ends, strict=True))]
