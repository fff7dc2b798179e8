"""Equivariant convolutional network of spins on a lattice.

Y. Miyazaki, Mach. Learn.: Sci. Technol. 4, 045006 (2023), arXiv:2305.03804, figures 1 and 2. Tensors of the spin
rotation group sit on the sites. Each block convolves them with the neighbours, couples the result to the spin of the
site, and applies a norm activation; the last convolution leaves scalars, from which a small perceptron makes the local
energy. Here spins are odd under time reversal, so that E(-S) = E(S) holds exactly; the published network, which has no
such sign, is ``ECNN(..., irreps="8x0e + 8x1e + 8x2e", time_reversal=False)`` with shells (1, 2): 17,401 weights.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from e3nn import o3
from torch import Tensor, nn
from torch.autograd import Function

from ase_klm.errors import KLMError
from ase_klm.models.base import LocalNetwork
from ase_klm.nn.convolution import LatticeConvolution
from ase_klm.nn.harmonics import SolidHarmonics
from ase_klm.nn.lattice import LatticeStars, Sites
from ase_klm.nn.neighbourhoods import Neighbourhoods


class ECNN(LocalNetwork):
    """Equivariant convolutional network.

    Parameters
    ----------
    lattice : LatticeStars
        Its stars are the kernels of the convolutions.
    irreps : str
        Tensors between the blocks, in e3nn's notation; the parity is the sign under time reversal.
    blocks : int
        Interaction blocks.
    readout : sequence of int
        Hidden widths of the perceptron that follows the last convolution.
    time_reversal : bool
        Whether spins are odd (1o). If not, they are 1e, and the energy need not be even under reversal.
    tied : bool
        One weight a shell: exact point-group symmetry on lattices with one sublattice.
    """

    def __init__(
        self,
        lattice: LatticeStars,
        irreps: str = "8x0e + 8x1o + 8x2e",
        blocks: int = 4,
        readout: Sequence[int] = (4, 2),
        time_reversal: bool = True,
        tied: bool = False,
    ) -> None:
        super().__init__(lattice)
        self.irreps, self.n_blocks, self.readout = _checked_irreps(irreps, time_reversal), blocks, tuple(readout)
        self.time_reversal, self.tied = time_reversal, tied
        parity = -1 if time_reversal else 1
        lmax = self.irreps.lmax
        self.harmonics = SolidHarmonics(lmax)
        source = o3.Irreps([(1, (l, parity**l)) for l in range(lmax + 1)])
        spin = source[:2]
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            self.blocks.append(LatticeConvolution(lattice, source, self.irreps, spin, tied))
            source = self.irreps
        scalars = o3.Irreps([(self.irreps.count("0e"), (0, 1))])
        self.output = LatticeConvolution(lattice, source, scalars, spin, tied)
        widths = [scalars.dim, *self.readout, 1]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.SiLU(), nn.Linear(width, following)]
        self.perceptron = nn.Sequential(*layers[1:])

    @property
    def hyperparameters(self) -> dict[str, Any]:
        return {
            "irreps": str(self.irreps),
            "blocks": self.n_blocks,
            "readout": list(self.readout),
            "time_reversal": self.time_reversal,
            "tied": self.tied,
        }

    @property
    def reach(self) -> int:
        return self.n_blocks + 1

    def tables(self, sites: Sites, hamiltonian: Any = None) -> Neighbourhoods:
        return Neighbourhoods(sites.to(self.energy_shift.device))

    def site_terms(self, moments: Tensor, placed: Neighbourhoods) -> Tensor:
        batch = moments.shape[:-2]
        laid_out = placed.laid_out(moments.reshape(-1, *moments.shape[-2:]))
        tensors = [harmonic[..., None] for harmonic in self.harmonics(laid_out)]  # (2 l + 1, n, channels)
        widest = max(channels for channels, _ in self.irreps)
        spins = [harmonic.expand(-1, -1, widest).contiguous() for harmonic in tensors[:2]]
        for block in self.blocks:
            new = block(tensors, spins, placed)
            skips = [b.shape for b in tensors] == [a.shape for a in new]
            tensors = [norm_activation(a, tensors[number] if skips else None) for number, a in enumerate(new)]
        (scalars,) = self.output(tensors, spins, placed)
        energies = self.perceptron(scalars[0])[:, 0]
        return placed.site_values(energies, len(energies) // len(placed)).view(*batch, -1)


def norm_activation(values: Tensor, skipped: Tensor | None = None) -> Tensor:
    """Swish of the norm, along the tensor, f swish(abs(f)) / abs(f) = f / (1 + exp(-abs(f))), and what skips it.

    Equation 6 of the reference. The norm is rounded off at 1e-3, so that its derivatives exist at zero.

    Parameters
    ----------
    values : Tensor
        Shape (2 l + 1, channels, n).
    skipped : Tensor, optional
        Added to the result; of the same shape.
    """
    return _NormActivation.apply(values, skipped)


class _NormActivation(Function):
    """In few passes over memory."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, skipped: Tensor | None) -> Tensor:
        inverse, scale = _inverse_norm_and_scale(values)
        ctx.save_for_backward(values)
        ctx.known = inverse, scale
        return values * scale if skipped is None else torch.addcmul(skipped, values, scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        (values,) = ctx.saved_tensors
        inverse, scale = _inverse_norm_and_scale(values) if torch.is_grad_enabled() else ctx.known
        along = _summed(gradient, values) * (inverse * scale * (1 - scale))
        by_values = torch.addcmul(gradient * scale, values, along)
        return by_values, gradient if ctx.needs_input_grad[1] else None


def _inverse_norm_and_scale(values: Tensor) -> tuple[Tensor, Tensor]:
    squared = _summed(values, values) + 1e-6
    inverse = squared.rsqrt()
    return inverse, (squared * inverse).sigmoid()


def _summed(a: Tensor, b: Tensor) -> Tensor:
    """Products of two tensors summed over components."""
    total = a[0] * b[0]
    for x, y in zip(a[1:], b[1:], strict=True):
        total = torch.addcmul(total, x, y)
    return total


def _checked_irreps(irreps: str, time_reversal: bool) -> o3.Irreps:
    try:
        found = o3.Irreps(irreps).simplify()
    except ValueError:
        found = o3.Irreps("")
    if found.count("0e") == 0 or found.lmax < 1:
        raise KLMError(
            f"irreps = {irreps!r} cannot be used",
            "scalars 0e for the energy and tensors of degree 1 or more are needed",
            'for instance irreps="8x0e + 8x1o + 8x2e"',
        )
    if not time_reversal and any(irrep.p < 0 for _, irrep in found):
        raise KLMError(
            f"irreps = {irreps!r} are odd under a reversal that the network does not know",
            "time_reversal=False leaves even tensors only",
            'for instance irreps="8x0e + 8x1e + 8x2e"',
        )
    return found
