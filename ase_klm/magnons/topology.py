"""Berry curvature and Chern numbers of magnon bands in a plane of wave vectors, and the thermal Hall effect.

T. Fukui, Y. Hatsugai, H. Suzuki, J. Phys. Soc. Jpn. 74, 1674 (2005), with links in the metric η = (1, -1) of bosons
(R. Shindou, R. Matsumoto, S. Murakami, J. Ohe, Phys. Rev. B 87, 174427 (2013)):

    U_d(q) = det <u_n(q)|η|u_m(q+d)> up to its size, n and m in a group of bands,
    F d²q = arg U_1(q) U_2(q+d1) U_1(q+d2)* U_2(q)*,    C = (1/2π) ∫ F d²q,

that is F = 2 Im <∂_x u|η|∂_y u> = 2 Im Σ_m≠n <n|∂_x H|m><m|∂_y H|n>/(ω_n - ω_m)² (Kubo, without pairs), with x, y
counter-clockwise as seen from the `normal` of the plane: from +z for a layer in xy, else from the side of positive z,
then y, then x component, whatever the order, signs and skewness of the cell vectors. This is the sign of Fukui,
Hatsugai and Suzuki, C = (1/2πi) ∫ ∇×<u|∇u>; the curvature Ω = ∇×i<u|∇u> of semiclassical dynamics is -F. Bloch
functions carry the positions of the atoms, exp(2πi q·r_j): Chern numbers do not ask for that, curvatures and the
thermal Hall effect do. Plaquettes span the shortest steps of the mesh, so that they are the same in all cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import units
from numpy.typing import NDArray
from scipy.special import spence

from ase_klm.dynamics.parameters import thermal_energies
from ase_klm.electrons.hamiltonian import monkhorst_pack_gamma
from ase_klm.errors import KLMError, warn
from ase_klm.graphs import with_complete_cell
from ase_klm.images import reduced, upright_cell, upward
from ase_klm.magnons.bogoliubov import normal_modes
from ase_klm.magnons.magnons import Magnons
from ase_klm.units import KB
from ase_klm.validate import Array, checked_array, checked_number

Groups = tuple[tuple[int, ...], ...]

TOUCHING = 1e-5
"""Gaps below this fraction of the highest energy count as touching bands."""

WITHOUT_NORM = 3e4
"""Modes u†u beyond this, where u†ηu = 1, are those of zero modes without norm."""


@dataclass(frozen=True)
class BerryCurvature:
    """Curvature of bands, or of groups of bands, on a mesh.

    Attributes
    ----------
    q : ndarray
        Centres of the plaquettes, fractional, shape (n_q, 3).
    curvature : ndarray
        F, mean over a plaquette, Å², shape (n_q, groups); of a group the sum over its bands.
    flux : ndarray
        F times the area of a plaquette, rad, from -π to π, shape (n_q, groups).
    groups : tuple
        The bands of each group, counted from 0 by their energy.
    normal : ndarray
        The side of the plane from which signs are seen: a unit vector of positive z, else y, else x component, (3,).
    """

    q: Array
    curvature: Array
    flux: Array
    groups: Groups
    normal: Array

    @property
    def chern_numbers(self) -> NDArray[np.int64]:
        """(1/2π) ∫ F d²q, integers of shape (groups,)."""
        return (self.flux.sum(0) / (2 * np.pi)).round().astype(np.int64)


def chern_numbers(
    magnons: Magnons,
    mesh: Sequence[int] = (24, 24),
    bands: Sequence[int | Sequence[int]] | None = None,
    plane: Sequence[int] | None = None,
    at: float = 0.0,
    shift: Sequence[float] = (0.0, 0.0),
) -> NDArray[np.int64]:
    """Chern numbers of bands; parameters, signs and errors are those of `berry_curvature`.

    Returns
    -------
    ndarray
        Integers, shape (groups,). They add up to 0 over all bands. Signs are seen from ``berry_curvature(...).normal``.
    """
    return berry_curvature(magnons, mesh, bands, plane, at, shift).chern_numbers


def berry_curvature(
    magnons: Magnons,
    mesh: Sequence[int] = (24, 24),
    bands: Sequence[int | Sequence[int]] | None = None,
    plane: Sequence[int] | None = None,
    at: float = 0.0,
    shift: Sequence[float] = (0.0, 0.0),
) -> BerryCurvature:
    """Berry curvature in a plane of wave vectors; see the head of this file for its sign.

    Parameters
    ----------
    mesh : tuple of int
        Steps along both reciprocal vectors. Γ-centred multiples of 6 hold the points where bands of most lattices
        would touch.
    bands : sequence, optional
        Bands, or groups of touching ones, e.g. ``[0, (1, 2)]``; default each band for itself.
    plane : tuple of int, optional
        Two of the reciprocal vectors, default the first two along which the structure is periodic.
    at : float
        Component of q along the third one.
    shift : tuple of float
        Shift of the mesh in steps; (0.5, 0.5) avoids Γ.

    Raises
    ------
    KLMError
        When the structure is not periodic in the plane, bands touch, or the mesh holds a zero mode without norm, such
        as an antiferromagnet has at Γ.
    """
    axes = _checked_plane(magnons, plane)
    sizes, steps = _checked_mesh(mesh, axes)
    third = 3 - sum(axes)
    offset = np.zeros(3)
    offset[third] = checked_number(at, "at")
    offset[list(axes)] = checked_array(shift, (2,), "shift") / np.array(mesh)
    q = monkhorst_pack_gamma(sizes) + offset
    energies = magnons.frequencies(q)
    groups = _checked_groups(bands, magnons.form.n_modes)
    _check_gaps(energies, q, groups)
    modes = normal_modes(magnons.form.at(q))[:, :, : magnons.form.n_modes]
    _check_norms(modes, q)
    grid = modes.reshape(*sizes, *modes.shape[1:])
    cell = upright_cell(with_complete_cell(magnons.atoms).cell, magnons.atoms.pbc)
    reciprocal = 2 * np.pi * np.linalg.inv(cell).T
    edges, numbers = reduced(steps @ reciprocal)  # of the plaquettes, rad/Å, and in steps of the mesh
    shifts = np.zeros((2, 3), dtype=np.int64)
    shifts[:, axes] = numbers
    # modes are periodic in q without these
    phases = np.exp(-1j * (magnons.atoms.positions[magnons.form.sites] @ edges.T))
    flux = np.stack([_fluxes(grid[..., list(group)], shifts, phases.T) for group in groups], axis=1)
    across = np.cross(*edges)
    normal = upward(across)
    flux *= np.sign(across @ normal)
    _check_flux(flux, q)
    return BerryCurvature(q + (numbers @ steps).sum(0) / 2, flux / np.linalg.norm(across), flux, groups, normal)


def thermal_hall_conductivity(
    magnons: Magnons,
    temperature_K: float | None = None,
    kT: float | None = None,
    mesh: Sequence[int] = (48, 48),
    shift: Sequence[float] = (0.0, 0.0),
) -> float:
    """Thermal Hall conductivity κ_xy of a layer, W/K, at a temperature in kelvin or kT in eV.

    κ_xy = (kB² T/ħ) Σ_n ∫ d²q/(2π)² c2(n_B) F_n,    c2(ρ) = (1+ρ) log²((1+ρ)/ρ) - log²ρ - 2 Li2(-ρ),

    where j_x = -κ_xy ∂_y T, with x, y counter-clockwise as seen from ``berry_curvature(...).normal``, +z for a layer in
    xy; divided by the distance of layers it is that of a crystal, W/(K m).
    (R. Matsumoto, S. Murakami, Phys. Rev. Lett. 106, 197202 (2011); where the number of magnons is not conserved
    R. Matsumoto, R. Shindou, S. Murakami, Phys. Rev. B 89, 054420 (2014).)

    Raises
    ------
    KLMError
        When the structure is not periodic in exactly two directions; and as in `berry_curvature`.
    """
    if magnons.atoms.pbc.sum() != 2:
        raise KLMError(
            "the thermal Hall conductivity is that of a layer",
            f"this structure is periodic in {magnons.atoms.pbc.sum()} directions",
            "average c2 times berry_curvature(..., at=...) over planes of a crystal",
        )
    thermal = _temperature(temperature_K, kT)
    try:
        found = berry_curvature(magnons, mesh, shift=shift)
    except _TouchingBandsError as touching:
        raise KLMError(
            touching.what,
            touching.why,
            "take the smallest magnetic cell, as a supercell folds bands onto each other; "
            "where they touch in that too, what parts them decides: a field, an anisotropy",
        ) from None
    weights = _c2(magnons.frequencies(found.q) / thermal)
    temperature = thermal / KB
    return float(units._k**2 * temperature / units._hbar * (weights * found.flux).sum() / (2 * np.pi) ** 2)


def _c2(x: Array) -> Array:
    """c2(n_B) as a function of ε/kT; from π²/3 at 0 it falls to 0."""
    x = np.clip(x, 1e-9, 600.0)
    occupation, log = 1 / np.expm1(x), np.log(-np.expm1(-x))  # log ρ = -(x + log)
    return occupation * x**2 - 2 * x * log - log**2 - 2 * spence(1 + occupation)


def _temperature(temperature_K: float | None, kT: float | None) -> float:
    thermal = float(thermal_energies(temperature_K, kT, 1)[0])
    if thermal == 0:
        raise KLMError("no temperature is given", "nothing is excited at 0 K", "give temperature_K= in K or kT= in eV")
    return thermal


def _fluxes(u: NDArray[np.complex128], shifts: NDArray[np.int64], phases: NDArray[np.complex128]) -> Array:
    """Angle of the product of links around each plaquette, shape (n_q,).

    Parameters
    ----------
    u : ndarray
        Modes of a group on the mesh, shape (n1, n2, n3, 2 sites, bands).
    shifts : ndarray
        Both edges of the plaquettes in steps of the mesh, shape (2, 3).
    phases : ndarray
        exp(-i edge·r) of the sites, shape (2, sites).
    """
    metric = np.repeat([1.0, -1.0], phases.shape[1])

    def at(values: NDArray[np.complex128], edge: int) -> NDArray[np.complex128]:
        return np.roll(values, tuple(-shifts[edge]), axis=(0, 1, 2))

    def links(edge: int) -> NDArray[np.complex128]:
        weights = metric * np.tile(phases[edge], 2)
        return np.linalg.det(u.conj().swapaxes(-1, -2) @ (weights[:, None] * at(u, edge)))

    one, two = links(0), links(1)
    return np.angle(one * at(two, 0) * at(one, 1).conj() * two.conj()).ravel()


def _checked_plane(magnons: Magnons, plane: Sequence[int] | None) -> tuple[int, int]:
    periodic = np.flatnonzero(magnons.atoms.pbc).tolist()
    if len(periodic) < 2:
        raise KLMError(
            "Chern numbers need a plane of wave vectors",
            f"the structure is periodic in {len(periodic)} directions, pbc = {magnons.atoms.pbc.tolist()}",
            "take a structure that is periodic in two or three",
        )
    chosen = periodic[:2] if plane is None else list(plane)
    if len(chosen) != 2 or chosen[0] == chosen[1] or not set(chosen) <= set(periodic):
        raise KLMError(
            f"plane = {plane!r} cannot be used",
            f"it names two of the periodic directions {periodic}, counted from 0",
            "for instance plane=(0, 1)",
        )
    return min(chosen), max(chosen)


def _checked_mesh(mesh: Sequence[int], axes: tuple[int, int]) -> tuple[tuple[int, ...], Array]:
    """Sizes along all three directions, and the two steps, fractional, (2, 3)."""
    good = len(mesh) == 2 and all(isinstance(n, int | np.integer) and n >= 3 for n in mesh)
    if not good:
        raise KLMError(
            f"mesh = {mesh!r} cannot be used", "it takes two integers, 3 or more", "for instance mesh=(24, 24)"
        )
    sizes = [1, 1, 1]
    steps = np.zeros((2, 3))
    for number, (axis, n) in enumerate(zip(axes, mesh, strict=True)):
        sizes[axis], steps[number, axis] = int(n), 1 / n
    return tuple(sizes), steps


def _checked_groups(bands: Sequence[int | Sequence[int]] | None, n_modes: int) -> Groups:
    given = range(n_modes) if bands is None else bands
    groups = tuple((int(g),) if isinstance(g, int | np.integer) else tuple(int(b) for b in g) for g in given)
    for group in groups:
        consecutive = len(group) > 0 and group == tuple(range(group[0], group[-1] + 1))
        if not consecutive or group[0] < 0 or group[-1] >= n_modes:
            raise KLMError(
                f"bands {group} are no group",
                f"a group holds bands next to each other, of 0 to {n_modes - 1}",
                "for instance bands=[0, (1, 2)]",
            )
    return groups


class _TouchingBandsError(KLMError):
    """Bands have no curvature of their own."""


def _check_gaps(energies: Array, q: Array, groups: Groups) -> None:
    """Groups must be apart from the bands below and above them."""
    gaps = np.diff(energies, axis=1)
    touching = gaps.min(0, initial=np.inf) < TOUCHING * energies.max()
    edges = {band for group in groups for band in (group[0] - 1, group[-1]) if 0 <= band < len(touching)}
    met = sorted(band for band in edges if touching[band])
    if not met:
        return
    where = int(gaps[:, met[0]].argmin())
    apart = np.split(np.arange(energies.shape[1]), np.flatnonzero(~touching) + 1)
    proposed = ", ".join(f"({', '.join(map(str, g))})" if len(g) > 1 else str(g[0]) for g in apart)
    raise _TouchingBandsError(
        f"bands {met[0]} and {met[0] + 1} touch, so that neither has a Chern number of its own",
        f"their distance is {gaps[where, met[0]]:.2g} eV at q = {q[where].round(6).tolist()}",
        f"take them together: bands=[{proposed}]",
    )


def _check_norms(modes: NDArray[np.complex128], q: Array) -> None:
    sizes = (np.abs(modes) ** 2).sum(1).max(1)
    worst = int(sizes.argmax())
    if sizes[worst] > WITHOUT_NORM:
        raise KLMError(
            f"at q = {q[worst].round(6).tolist()} there is a zero mode without norm",
            "links need normalised modes, which Goldstone modes of an antiferromagnet are not",
            "shift the mesh off it, e.g. shift=(0.5, 0.5)",
        )


def _check_flux(flux: Array, q: Array) -> None:
    worst = np.unravel_index(np.abs(flux).argmax(), flux.shape)
    if abs(flux[worst]) > 0.8 * np.pi:
        warn(
            f"the Berry flux through the plaquette at q = {q[worst[0]].round(4).tolist()} is {flux[worst]:.2f}",
            "near π it is not certain: the mesh is too coarse, or bands touch between its points",
            "take a denser mesh until the Chern numbers stay, and look at the gap there",
        )
