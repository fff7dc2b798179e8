"""Suzuki-Trotter splitting of coupled atoms and spins over sublattices that do not interact among themselves
(J. Tranchida, S. J. Plimpton, P. Thibaudeau, A. P. Thompson, J. Comput. Phys. 372, 406 (2018),
doi:10.1016/j.jcp.2018.06.042; Krech, Bunker, Landau, Comput. Phys. Commun. 111, 1 (1998),
doi:10.1016/S0010-4655(98)00009-5).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_klm.dynamics.coupled import CoupledEquations
from ase_klm.dynamics.coupled_state import CoupledState
from ase_klm.dynamics.couplings import Couplings
from ase_klm.dynamics.equation import Equation
from ase_klm.dynamics.sublattices import Sublattices
from ase_klm.errors import KLMError
from ase_klm.potentials.base import BoundPotential
from ase_klm.vectors import directions, dot, turned


class SuzukiTrotter:
    """Half a kick, half a sweep over the colours, drift, half a sweep in reverse, half a kick; order 2, reversible.

    In a sweep the spins of one colour turn about fields that stand still, since they do not act on each other. Each
    turn conserves the energy; the whole map conserves phase-space volume and is its own inverse under time reversal,
    so the energy oscillates and does not drift. On-site terms e·A·e turn all spins at once about the principal axes of
    A, where the frequency a (n·e) is constant, half before and half after the turns about the fields of the others.

    With a bath, a spin makes the two turns of semi-implicit B in the field of the others and of A, with damping and
    noise. The matrices at the new positions serve the sweep back of this step and the sweep forth of the next.
    """

    name = "suzuki-trotter"
    reference = "Tranchida et al., J. Comput. Phys. 372, 406 (2018)"
    order = 2
    stretches = 2

    def __init__(self) -> None:
        self._arranged: _Arranged | None = None

    def step(self, state: CoupledState, time: float, equations: CoupledEquations) -> None:
        step = equations.timestep
        if not equations.moving:
            m = self._sweep(state.moments, state, time + step / 4, equations, forth=True)
            state.advance(self._sweep(m, state, time + 3 * step / 4, equations, forth=False))
            return
        half_kick = step / 2 * equations.inverse_mass
        v = torch.addcmul(state.velocities, half_kick, state.forces())
        m = self._sweep(state.moments, state, time + step / 4, equations, forth=True)
        middle = state.positions + step / 2 * v
        v = equations.bath(v)
        state.place(middle + step / 2 * v)
        m = self._sweep(m, state, time + 3 * step / 4, equations, forth=False)
        state.advance(m)
        state.velocities = torch.addcmul(v, half_kick, state.forces())

    def _sweep(self, m: Tensor, state: CoupledState, time: float, equations: CoupledEquations, forth: bool) -> Tensor:
        """Moments half a step on at fixed positions."""
        self._arranged = arranged = _arrange(state, equations, self._arranged)
        lattice, onsite = arranged.lattice, arranged.onsite
        order, colours = lattice.order, range(len(lattice.rows))
        length, e = state.length[order], directions(m[order])
        fields = arranged.couplings.site_fields(state.length, equations.field(time))[order]
        equation = equations.spins(length, equations.timestep / 2)
        noise, rate = equations.noise(length), equation.rate[order]
        conserving = noise is None and not equation.damping
        own_axes = onsite.axes if onsite is not None and conserving else []
        by_slope = rate / torch.where(length > 0, length, 1.0)
        e = _turned_about(own_axes, e, by_slope)
        for colour in colours if forth else reversed(colours):
            rows = lattice.rows[colour]
            gradient = lattice.gradient(colour, e) - fields[rows]
            if conserving:
                e[rows] = turned(e[rows], by_slope[rows] * gradient)
            else:
                own = Equation(length[rows], rate[rows], equation.damping)
                A = None if onsite is None else onsite.matrices[rows]
                e[rows] = _damped(e[rows], gradient, A, own, None if noise is None else noise[rows])
        e = _turned_about(own_axes[::-1], e, by_slope)
        return torch.where(equations.turning, (length * e)[lattice.rank], m)


@dataclass(frozen=True)
class _Arranged:
    """What is known of a bound potential at some positions; `ends` tell whether its bonds are still the same."""

    bound: BoundPotential
    positions: Tensor
    couplings: Couplings
    ends: tuple[Tensor, ...]
    lattice: Sublattices
    onsite: "_Onsite | None"


def _arrange(state: CoupledState, equations: CoupledEquations, last: _Arranged | None) -> _Arranged:
    if last is not None and last.bound is not state.bound:
        last = None
    if last is not None and last.positions is state.positions:
        return last
    couplings = checked_couplings(state.bound) if last is None else last.couplings
    ends, matrices = couplings.bonds(state.positions, state.cell)
    same_bonds = last is not None and all(a is b for a, b in zip(ends, last.ends, strict=True))
    if last is None or not same_bonds or not last.lattice.takes(matrices):
        i, j = (torch.cat([*ends[k::2], state.moments.new_zeros(0, dtype=torch.int64)]) for k in (0, 1))
        lattice = Sublattices(i, j, matrices, equations.turning[:, 0])
    else:
        lattice = last.lattice
    lattice.set(matrices)
    onsite = _Onsite.of(lattice.onsite(matrices), None if last is None else last.onsite)
    return _Arranged(state.bound, state.positions, couplings, ends, lattice, onsite)


@dataclass(frozen=True)
class _Onsite:
    """On-site terms e·A·e in the order of colours, as two axes a site at most: A = Σ_k a_k n_k n_kᵀ + constant."""

    matrices: Tensor  # (N, 3, 3)
    axes: list[tuple[Tensor, Tensor]]  # a (N, 1) and n (N, 3), eV

    @classmethod
    def of(cls, matrices: Tensor | None, last: "_Onsite | None") -> "_Onsite | None":
        if matrices is None or (last is not None and torch.equal(matrices, last.matrices)):
            return None if matrices is None else last
        values, vectors = torch.linalg.eigh(matrices)
        axes = [(values[:, [k]] - values[:, [1]], vectors[:, :, k].contiguous()) for k in (0, 2)]
        rounding = 1e-12 * values.abs().max()
        return cls(matrices, [(a, n) for a, n in axes if a.abs().max() > rounding])


def _turned_about(axes: list[tuple[Tensor, Tensor]], e: Tensor, by_slope: Tensor) -> Tensor:
    """After half a turn about the own axes, one after the other; a turn is `by_slope` times ∂E/∂e."""
    for strength, n in axes:
        e = turned(e, by_slope * strength * dot(n, e) * n)
    return e


def _damped(e: Tensor, gradient: Tensor, A: Tensor | None, equation: Equation, noise: Tensor | None) -> Tensor:
    """The same with damping and noise: by the field at the start, and then by that at the middle of this turn."""

    def axis(e: Tensor) -> Tensor:
        slope = gradient if A is None else gradient + 2 * (A @ e[..., None])[..., 0]
        field = -slope / equation.length
        return equation.axis(e, field if noise is None else field + noise)

    middle = directions(e + turned(e, axis(e)))
    return turned(e, axis(middle))


def checked_couplings(bound: BoundPotential) -> Couplings:
    """The couplings of a potential that can be swept.

    Raises
    ------
    KLMError
        When a spin's field is not linear in the others.
    """
    found = Couplings.of(bound)
    if found is None:
        raise KLMError(
            'integrator="suzuki-trotter" cannot turn single spins of this potential',
            "a term of it is not bilinear in spins, so each turn would cost an evaluation of the whole",
            'use integrator="sib", or leave it to "auto"',
        )
    return found
