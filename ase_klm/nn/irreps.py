"""Irreducible representations of rotations, inversion and time reversal, of the lattice and of its spins.

A tensor has a degree l and a parity p under operations of space, and a sign t under time reversal. With spin-orbit
coupling spins rotate with the lattice: the group is O(3) × {1, T}, and a moment is l = 1, p = +1, t = -1. Without it
spin and lattice rotate apart, O(3) × SO(3) × {1, T}: tensors have a second degree s under rotations of all spins, and a
moment is l = 0, s = 1, t = -1. Displacements are l = 1, p = -1, t = +1 in both.

A tensor of (l, s) has (2l + 1)(2s + 1) components, those of s running fastest, in the order and phases of e3nn; its
parity is that of space alone. `Irreps` says how many channels there are of each, written as in
``"32x0e+ + 16x1o+ + 8x0e-s1"``: degree and parity (e, o) as in e3nn, sign under time reversal, then the degree of the
spins where it is not zero.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.nn.harmonics import coupling

Irreps = dict["Irrep", int]
"""Channels of each representation."""

Features = dict["Irrep", Tensor]
"""Tensors of sites, shape (components, n, channels) for each representation."""

_WRITTEN = re.compile(r"(?:(\d+)x)?(\d+)([eo])([+-])(?:s(\d+))?")


class Irrep(NamedTuple):
    """Degree l, parity p, sign t under time reversal, and degree s of the spins."""

    l: int
    p: int
    t: int
    s: int = 0

    @property
    def dim(self) -> int:
        """Number of components."""
        return (2 * self.l + 1) * (2 * self.s + 1)

    def products(self, other: "Irrep") -> list["Irrep"]:
        """What the product of two representations contains."""
        return [
            Irrep(l, self.p * other.p, self.t * other.t, s)
            for l in range(abs(self.l - other.l), self.l + other.l + 1)
            for s in range(abs(self.s - other.s), self.s + other.s + 1)
        ]

    def __str__(self) -> str:
        sign, parity = "+" if self.t > 0 else "-", "e" if self.p > 0 else "o"
        return f"{self.l}{parity}{sign}" + (f"s{self.s}" if self.s else "")


SCALAR = Irrep(0, 1, 1)


def displacement(degree: int) -> Irrep:
    """The representation of Y_degree of a displacement."""
    return Irrep(degree, (-1) ** degree, 1)


@dataclass(frozen=True)
class Symmetry:
    """What an energy of atoms and moments is invariant under, beside operations of space.

    Parameters
    ----------
    spin_orbit : bool
        Whether spins rotate with the lattice; if not, they rotate apart.
    time_reversal : bool
        Whether E(-m) = E(m). It always holds in nature; networks without it are for comparison.
    """

    spin_orbit: bool = True
    time_reversal: bool = True

    def moment(self, degree: int) -> Irrep:
        """The representation of Y_degree of a moment."""
        sign = (-1) ** degree if self.time_reversal else 1
        return Irrep(degree, 1, sign) if self.spin_orbit else Irrep(0, 1, sign, degree)


@cache
def clebsch_gordan(a: Irrep, b: Irrep, c: Irrep) -> Tensor:
    """Coefficients that couple a and b to c, shape (a.dim, b.dim, c.dim), float64; variance 1 couples to variance 1."""
    space, spin = coupling(a.l, b.l, c.l), coupling(a.s, b.s, c.s)
    return torch.einsum("abc,xyz->axbycz", space, spin).reshape(a.dim, b.dim, c.dim)


def parsed(text: str | Mapping[Irrep, int]) -> Irreps:
    """Irreps from their written form.

    Raises
    ------
    KLMError
        When it cannot be read.
    """
    if isinstance(text, Mapping):
        return dict(text)
    found: Irreps = {}
    for entry in _entries(str(text)):
        match = _WRITTEN.fullmatch(entry)
        if match is None:
            raise KLMError(
                f"{text!r} are no irreducible representations",
                f"{entry!r} does not read as channels, degree, parity, sign under time reversal",
                'for instance "32x0e+ + 16x1o+ + 8x1e-", or "8x0e-s1" for spins that rotate apart from the lattice',
            )
        channels, l, parity, sign, s = match.groups()
        irrep = Irrep(int(l), 1 if parity == "e" else -1, 1 if sign == "+" else -1, int(s or 0))
        found[irrep] = found.get(irrep, 0) + int(channels or 1)
    return found


def _entries(text: str) -> list[str]:
    return [entry for entry in re.split(r"\s\+\s|\s*,\s*", text.strip()) if entry]


def written(irreps: Mapping[Irrep, int]) -> str:
    """The written form of irreps."""
    return " + ".join(f"{channels}x{irrep}" for irrep, channels in irreps.items())
