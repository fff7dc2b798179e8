"""Quantum and thermal corrections of linear spin-wave theory: zero-point energy and shorter moments.

With modes a = U α + V α† and energies ω,

    E = E_classical + ½ Σ_q (Σ_n ω_qn - tr A_q),    <a†_i a_i> = Σ_qn [abs(U)² n_B(ω) + abs(V)² (1 + n_B(ω))],

per cell, where A is the normal part of H and n_B the Bose occupation; moments are shorter by g <a†a>.
(P. W. Anderson, Phys. Rev. 86, 694 (1952); T. Oguchi, Phys. Rev. 117, 117 (1960).)

Goldstone modes make integrands singular at Γ. Meshes are shifted off it by half a step, and the values of three meshes,
kpts, 2 kpts and 3 kpts, are extrapolated: around a singularity of degree s, abs(q)^s, the error of a mesh of step h in
d dimensions is a series in h^(d+s), h^(d+s+2), ... (J. N. Lyness, Math. Comput. 30, 1 (1976)), with s = 1, -1, and -2
for the energy, moments at T = 0, and moments at T > 0. Where d+s = 0 and modes are gapless the integral does not exist
(Mermin and Wagner); values that disagree raise a warning. Modes that are soft along whole lines converge more slowly,
and of a spiral in the rotating frame only meshes that hold its k are extrapolated.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from ase_klm.dynamics.parameters import thermal_energies
from ase_klm.electrons.hamiltonian import monkhorst_pack_gamma
from ase_klm.errors import KLMError, warn
from ase_klm.magnons.bogoliubov import normal_modes
from ase_klm.magnons.magnons import Magnons, checked_mesh
from ase_klm.magnons.topology import WITHOUT_NORM
from ase_klm.moments import directions, get_moments
from ase_klm.units import G_ELECTRON
from ase_klm.validate import Array

UNCERTAIN = 0.01
"""Relative difference of two extrapolations above which there is a warning."""

KPTS = {1: 48, 2: 12, 3: 6}
"""Default smallest mesh, by the number of periodic directions."""

AT_ONCE = 2**21
"""Matrix elements of the modes that are formed together."""


def zero_point_energy(magnons: Magnons, kpts: Sequence[int] | None = None) -> float:
    """Energy of the zero-point motion, ½ Σ_q (Σ_n ω - tr A), eV a cell; it adds to the classical energy.

    It is negative, or zero where no mode mixes creation and annihilation, as in a ferromagnet with an easy axis.
    On-site anisotropies are taken as classical, without the order of their operators.

    Parameters
    ----------
    kpts : tuple of int, optional
        The smallest of three meshes; see the head of this file. Multiples of 6 suit most structures.
    """

    def correction(q: Array) -> Array:
        diagonal = np.einsum("qii->qi", magnons.form.at(q)).real[:, : magnons.form.n_modes]
        return 0.5 * (magnons.frequencies(q).sum(1) - diagonal.sum(1))[:, None]

    scale = float(magnons.frequencies(np.full(3, 0.5) * magnons.atoms.pbc).max())
    return float(_zone_average(magnons, kpts, correction, 1, 1e-6 * scale)[0])


def moment_reduction(
    magnons: Magnons,
    kpts: Sequence[int] | None = None,
    temperature_K: float | None = None,
    kT: float | None = None,
) -> Array:
    """By how much moments are shorter, g <a†a>, μB, shape (N,), at T = 0 or at a low temperature.

    Divided by g = 2 it is the reduction of a spin, ΔS. Changes of direction are of the next order.

    Parameters
    ----------
    kpts : tuple of int, optional
        The smallest of three meshes; see the head of this file. Multiples of 6 suit most structures.
    temperature_K, kT : float, optional
        Temperature in kelvin, or kT in eV.
    """
    thermal = float(thermal_energies(temperature_K, kT, 1)[0])
    n = magnons.form.n_modes

    def reduction(q: Array) -> Array:
        energies = magnons.frequencies(q)
        T = np.abs(normal_modes(magnons.form.at(q))[:, :, :n]) ** 2
        _check_norms(T, q)
        occupation = np.zeros_like(energies)
        if thermal > 0:
            occupation = 1 / np.expm1(np.clip(energies / thermal, 1e-12, 600.0))
        return G_ELECTRON * np.einsum("qin,qn->qi", T[:, :n], occupation) + G_ELECTRON * np.einsum(
            "qin,qn->qi", T[:, n:], 1 + occupation
        )

    lengths = np.linalg.norm(get_moments(magnons.atoms), axis=1)
    found = np.zeros(len(lengths))
    found[magnons.form.sites] = _zone_average(magnons, kpts, reduction, -2 if thermal > 0 else -1, 1e-6 * lengths.max())
    worst = int((found - lengths).argmax())
    if found[worst] > lengths[worst]:
        warn(
            f"fluctuations shorten the moment of atom {worst} by {found[worst]:.2g} μB, "
            f"more than its {lengths[worst]:.2g} μB",
            "linear spin-wave theory does not hold: the order melts, or the temperature is too high",
            "lower the temperature; at T = 0 look for modes that cost almost nothing",
        )
    return found


def magnetisation(
    magnons: Magnons,
    temperature_K: float | None = None,
    kT: float | None = None,
    kpts: Sequence[int] | None = None,
) -> Array:
    """Mean moment of the magnetic atoms at a low temperature, zero-point motion included, shape (3,), μB an atom.

    It is that of `analysis.magnetisation` with moments shorter by `moment_reduction`, whose parameters these are.
    """
    moments = get_moments(magnons.atoms)
    shorter = moment_reduction(magnons, kpts, temperature_K, kT)[:, None] * directions(moments)
    return np.asarray((moments - shorter)[magnons.form.sites].mean(0))


def _zone_average(
    magnons: Magnons, kpts: Sequence[int] | None, of: Callable[[Array], Array], degree: int, negligible: float
) -> Array:
    """Mean over the zone of what `of` gives, (n_q, k), extrapolated, shape (k,).

    Parameters
    ----------
    degree : int
        Of the singularity at Goldstone modes.
    negligible : float
        Size below which differences between meshes do not matter.
    """
    pbc = magnons.atoms.pbc
    dimensions = int(pbc.sum())
    smallest = np.array(checked_mesh((KPTS.get(dimensions, 1),) * 3 if kpts is None else kpts, pbc))
    if dimensions == 0:
        return _mean(magnons, smallest, np.zeros(3), of)
    values = np.array([_mean(magnons, np.where(pbc, m * smallest, 1), pbc / 2, of) for m in (1, 2, 3)])
    first = dimensions + degree
    if first > 0 and _singular_points_on(smallest, magnons):
        h = 1 / np.arange(1, 4)
        basis = np.stack([h**0, h**first, h ** (first + 2)], axis=1)
        result = np.linalg.solve(basis, values)[0]
        other = np.linalg.solve(basis[1:, :2], values[1:])[0]
    else:
        other, result = values[1:]
    off = float(np.abs(result - other).max())
    if off > UNCERTAIN * float(np.abs(result).max()) and off > negligible:
        shown = ", ".join(f"{np.abs(value).max():.4g}" for value in values)
        warn(
            f"the average over the zone has not converged: {shown} on three meshes from kpts = {smallest.tolist()}",
            "gapless modes make it diverge in this dimension"
            if first <= 0
            else "features are finer than the mesh, as at low temperatures, or modes are soft away from Γ",
            "in one dimension, and in two at T > 0, add the anisotropy or field that opens a gap; "
            "else take a larger kpts",
        )
    return result


def _mean(magnons: Magnons, sizes: Array, shift: Array, of: Callable[[Array], Array]) -> Array:
    q = monkhorst_pack_gamma(sizes.tolist()) + shift / sizes
    batch = max(1, AT_ONCE // (2 * magnons.form.n_modes) ** 2)
    edges = [*range(0, len(q), batch), len(q)]
    return np.sum([of(q[a:b]).sum(0) for a, b in pairwise(edges)], axis=0) / len(q)


def _singular_points_on(sizes: Array, magnons: Magnons) -> bool:
    """Whether Γ-centred meshes hold the Goldstone modes: those of a spiral are at its k."""
    if magnons.spiral is None:
        return True
    waves = np.asarray(magnons.spiral[0], dtype=float) * sizes
    return bool(np.abs(waves - waves.round()).max() < 1e-6)


def _check_norms(squares: Array, q: Array) -> None:
    sizes = squares.sum(1).max(1)
    worst = int(sizes.argmax())
    if sizes[worst] > WITHOUT_NORM:
        raise KLMError(
            f"at q = {q[worst].round(6).tolist()} there is a zero mode without norm",
            "on a mesh that avoids Γ, moments with such modes fluctuate without limit",
            "add what lifts them (anisotropy, further exchange), or choose another kpts if they are single points",
        )
