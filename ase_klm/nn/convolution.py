"""Convolution of spherical tensors on a lattice, coupled to the spin of the centre.

    out_lo(r) = Σ_paths CG [ Σ_d W_path,d h_li(r + d) ] ⊗ Y_lf(S_r),    path = (li, lf, lo), lf = 0, 1

The neighbours are contracted with the weights first, in one matrix product for each degree, and coupled to the spin
afterwards: as many operations as neighbours less than coupling them one by one. (Y. Miyazaki, arXiv:2305.03804, eq. 5.)
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from e3nn import o3
from torch import Tensor, nn

from ase_klm.nn.harmonics import coupled, coupling
from ase_klm.nn.lattice import LatticeStars
from ase_klm.nn.neighbourhoods import Neighbourhoods


class Path(NamedTuple):
    """Numbers of the irreps that are coupled, and the degree of the spin tensor."""

    source: int
    spin: int
    target: int


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
        self.source, self.target = source, target
        self.paths = [
            Path(i, f, o)
            for i, (_, left) in enumerate(source)
            for f, (_, right) in enumerate(spin)
            for o, (_, out) in enumerate(target)
            if out in left * right
        ]
        self.degrees = [irrep.l for _, irrep in spin]
        self.classes = [_weight_classes(star.shells, star.ends, tied) for star in lattice.stars]
        self.weights = nn.ParameterList()  # sublattice by sublattice, one a path: (out, in, class)
        for classes in self.classes:
            for path in self.paths:
                shape = (target[path.target].mul, source[path.source].mul, max(classes) + 1)
                self.weights.append(nn.Parameter(torch.randn(shape)))

    def path_weights(self, sublattice: int) -> list[Tensor]:
        """Weights of each path as they enter, (out, in, D + 1), normalised by the number of terms of each output."""
        classes = self.classes[sublattice]
        first = sublattice * len(self.paths)
        return [
            self.weights[first + number][..., classes] / self._fan_in(path.target, len(classes)) ** 0.5
            for number, path in enumerate(self.paths)
        ]

    def _fan_in(self, target: int, displacements: int) -> int:
        return sum(self.source[path.source].mul * displacements for path in self.paths if path.target == target)

    def _coupling(self, path: Path, like: Tensor) -> Tensor:
        degrees = self.source[path.source].ir.l, self.degrees[path.spin], self.target[path.target].ir.l
        return coupling(*degrees, like.dtype, like.device)

    def forward(self, tensors: Sequence[Tensor], spins: Sequence[Tensor], places: Neighbourhoods) -> list[Tensor]:
        """Tensors (channels, 2 l + 1, n) of all irreps of `source` to those of `target`; spins (2 l + 1, n)."""
        replicas = tensors[0].shape[-1] // len(places)
        parts = []
        start = 0
        for sublattice in range(len(self.classes)):
            weights = self.path_weights(sublattice)
            sums: list[Tensor | None] = [None] * len(self.target)
            count = replicas * len(places.sites.members[sublattice])
            own = slice(start, start + count)
            start += count
            for number, values in enumerate(tensors):
                used = [k for k, path in enumerate(self.paths) if path.source == number]
                if not used:
                    continue
                components = values.shape[1]
                table = places.tables(components, replicas)[sublattice]
                around = table.gather(values.flatten(1)).flatten(0, 1)  # (channels · (D + 1), components · n)
                kernel = torch.cat([weights[k].flatten(1) for k in used])
                contracted = (kernel @ around).view(-1, components, count)
                for k, part in zip(used, contracted.split([len(weights[k]) for k in used]), strict=True):
                    path = self.paths[k]
                    if self.degrees[path.spin] > 0:
                        part = coupled(part, spins[path.spin][:, own], self._coupling(path, values))
                    sums[path.target] = part if sums[path.target] is None else sums[path.target] + part
            parts.append(sums)
        if len(parts) == 1:
            return parts[0]
        return [torch.cat(stretch, -1) for stretch in zip(*parts, strict=True)]


def _weight_classes(shells: Sequence[int], ends: Sequence[int], tied: bool) -> list[int]:
    """Number of the weight of the site itself (0) and of each displacement."""
    if not tied:
        return list(range(len(shells) + 1))
    kinds = sorted(set(zip(shells, ends, strict=True)))
    return [0, *(1 + kinds.index(kind) for kind in zip(shells, ends, strict=True))]
