"""Convolution of spherical tensors on a lattice, coupled to the spin of the centre.

    out_lo(r) = Σ_paths CG [ Σ_d W_path,d h_li(r + d) ] ⊗ Y_lf(S_r),    path = (li, lf, lo), lf = 0, 1

The neighbours are contracted with the weights first, in one matrix product for each degree, and coupled to the spin
afterwards: as many operations as neighbours less than coupling them one by one. (Y. Miyazaki, arXiv:2305.03804, eq. 5.)
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from e3nn import o3
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import conv1d, conv2d, conv3d

from ase_klm.errors import KLMError
from ase_klm.nn.grid import Grid, wrapped
from ase_klm.nn.harmonics import coupled, terms
from ase_klm.nn.lattice import LatticeStars
from ase_klm.nn.neighbourhoods import Neighbourhoods


class Path(NamedTuple):
    """Numbers of the irreps that are coupled, their degrees, and the channels before and after."""

    source: int
    spin: int
    target: int
    degrees: tuple[int, int, int]
    channels: tuple[int, int]


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
            Path(i, f, o, (left.l, right.l, out.l), (inputs, outputs))
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

    def path_weights(self, sublattice: int) -> list[Tensor]:
        """Weights of each path as they enter, (out, in, D + 1), normalised by the number of terms of each output."""
        classes = self.classes[sublattice]
        first = sublattice * len(self.paths)
        return [
            self.weights[first + number][..., classes] / self._fan_in(path.target, len(classes)) ** 0.5
            for number, path in enumerate(self.paths)
        ]

    def _fan_in(self, target: int, displacements: int) -> int:
        return sum(path.channels[0] * displacements for path in self.paths if path.target == target)

    def forward(self, tensors: Sequence[Tensor], spins: Sequence[Tensor], places: Neighbourhoods) -> list[Tensor]:
        """Tensors (2 l + 1, channels, n) of all irreps of `source` to those of `target`; spins (2 l + 1, n)."""
        replicas = tensors[0].shape[-1] // len(places)
        weights = [self.path_weights(a) for a in range(len(self.classes))]
        parts: dict[Path, Tensor] = {}
        for number, values in enumerate(tensors):
            used = [k for k, path in enumerate(self.paths) if path.source == number]
            if not used:
                continue
            kernels = [torch.cat([own[k] for k in used]) for own in weights]  # (out, in, D + 1) of each sublattice
            grid = places.sites.grid
            if grid is not None:
                contracted = _on_grid(kernels, values, replicas, grid)
            else:
                contracted = torch.cat(
                    [
                        kernel.flatten(1) @ table.gather(values).flatten(1, 2)
                        for kernel, table in zip(kernels, places.tables(replicas), strict=True)
                    ],
                    -1,
                )
            split = contracted.split([len(weights[0][k]) for k in used], 1)
            parts |= {self.paths[k]: part for k, part in zip(used, split, strict=True)}
        return [self._target(number, parts, spins) for number in range(self.n_targets)]

    def _target(self, number: int, parts: dict[Path, Tensor], spins: Sequence[Tensor]) -> Tensor:
        """Sum of the paths that lead to a target."""
        paths = [path for path in parts if path.target == number]
        return coupled(
            [parts[path] for path in paths],
            [spins[path.spin] if path.degrees[1] > 0 else None for path in paths],
            [terms(*path.degrees) if path.degrees[1] > 0 else () for path in paths],
            paths[0].degrees[2],
        )


CONVOLUTIONS = {1: conv1d, 2: conv2d, 3: conv3d}


def _on_grid(kernels: list[Tensor], values: Tensor, replicas: int, grid: Grid) -> Tensor:
    """Σ_d kernel_d values(r + d) by torch's convolutions: values (components, channels, n) to (components, out, n)."""
    components, n_in, _ = values.shape
    kinds, n_out = len(kernels), len(kernels[0])
    whole = torch.stack(
        [
            torch.cat([kernel, kernel.new_zeros(n_out, n_in, 1)], -1)[..., places.to(kernel.device)]
            for kernel, places in zip(kernels, grid.places, strict=True)
        ]
    )  # (sublattice, out, in, sublattice of the neighbour, *box)
    whole = whole.transpose(2, 3).flatten(2, 3).flatten(0, 1)
    cells = values.reshape(components, n_in, kinds, replicas, *grid.shape).movedim(3, 1).transpose(2, 3)
    found = _Periodic.apply(cells.flatten(2, 3).flatten(0, 1), whole, grid.reach)
    return (
        found.view(components, replicas, kinds, n_out, -1).transpose(2, 3).movedim(1, 3).reshape(components, n_out, -1)
    )


class _Periodic(Function):
    """Periodic convolution; its derivative by the values is one, with the kernel turned round."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, kernel: Tensor, reach: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(values, kernel)
        ctx.reach = reach
        return CONVOLUTIONS[len(reach)](wrapped(values, reach), kernel)

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


def _weight_classes(shells: Sequence[int], ends: Sequence[int], tied: bool) -> list[int]:
    """Number of the weight of the site itself (0) and of each displacement."""
    if not tied:
        return list(range(len(shells) + 1))
    kinds = sorted(set(zip(shells, ends, strict=True)))
    return [0, *(1 + kinds.index(kind) for kind in zip(shells, ends, strict=True))]
