"""Dynamical structure factor of linear spin-wave theory: what neutrons see of magnons.

    S_ab(q, ω) = (1/2πħN) ∫dt exp(-iωt) <m_a(q, 0)† m_b(q, t)>,     m(q) = Σ_j m_j exp(2πi q·r_j)

with ω the energy, r_j the true positions, and N magnetic atoms; ω > 0 creates a magnon of wave vector q. Mode n of
`Magnons.modes`, which moves atom i of n_c in a cell by Re[δm_ni exp(2πi q·R - iωt)], has

    A_n(q) = Σ_i F_i exp(2πi q·r_i) δm_ni(q)*,     S_ab = (1/n_c) Σ_n A_na(q)* A_nb(q) (n(ω_n) + 1) δ(ω - ω_n(q))
                                                        + (1/n_c) Σ_n A_na(-q) A_nb(-q)* n(ω_n) δ(ω + ω_n(-q)),

F the magnetic form factors and n the occupation of Bose. In the lab, a spiral has branches at the energies of q, q + k
and q - k of the rotating frame. (S. Toth, B. Lake, J. Phys.: Condens. Matter 27, 166002 (2015), section 3.)
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ase_klm import graphs, units
from ase_klm.analysis.correlations import Correlations
from ase_klm.dynamics.parameters import thermal_energies
from ase_klm.errors import KLMError
from ase_klm.images import upright_cell
from ase_klm.magnons.form_factors import FormFactor, form_factors
from ase_klm.magnons.magnons import Magnons
from ase_klm.validate import Array, checked_array, checked_number

ZERO_ENERGY = 1e-7
"""Energies below this fraction of `QuadraticForm.scale` are those of zero modes."""
LARGEST_NORM = 1e4
"""Modes with more bosons than this, Σ abs(T)², are zero modes without a norm."""
BLOCK_BYTES = 2**26
"""Temporary arrays are kept below about this."""
SIGMA = 1 / np.sqrt(8 * np.log(2))
"""Standard deviation of a Gaussian in units of its full width at half maximum."""


@dataclass(frozen=True)
class MagnonSpectrum(Correlations):
    """S_ab(q, ω) of magnons, with lines of a finite width; the fields are those of ``DynamicalStructureFactor``.

    Attributes
    ----------
    q : ndarray
        In units of the reciprocal vectors of `cell`, shape (n_q, 3).
    energies : ndarray
        ω, eV, shape (n_w,).
    tensor : ndarray
        μB²/eV for each magnetic atom, Hermitian in its last axes, shape (n_q, n_w, 3, 3).
    cell : ndarray
        The lattice vectors that q refers to, Å, shape (3, 3).
    width : float
        Of the lines, full width at half maximum, eV.
    """

    q: Array
    energies: Array
    tensor: NDArray[np.complex128]
    cell: Array
    width: float


@dataclass(frozen=True)
class ModeIntensities(Correlations):
    """Energies and intensities of sharp lines: S_ab(q, ω) = Σ_l tensor_l δ(ω - energies_l).

    Attributes
    ----------
    q : ndarray
        In units of the reciprocal vectors of `cell`, shape (n_q, 3).
    energies : ndarray
        eV, shape (n_q, lines): one line a mode; three for a spiral (q, q + k, q - k); and at a temperature as many
        at negative energies, the absorption of magnons.
    tensor : ndarray
        μB² for each magnetic atom, Hermitian in its last axes, shape (n_q, lines, 3, 3). Zero for zero modes.
    cell : ndarray
        The lattice vectors that q refers to, Å, shape (3, 3).
    """

    q: Array
    energies: Array
    tensor: NDArray[np.complex128]
    cell: Array

    def broadened(self, energies: ArrayLike, width: float) -> MagnonSpectrum:
        """Lines turned into Gaussians of a full width at half maximum, eV, at energies in eV, shape (n_w,)."""
        levels, fwhm = _checked_energies(energies), _checked_width(width)
        tensor = np.zeros((len(self.q), len(levels), 9), dtype=np.complex128)
        flat = self.tensor.reshape(*self.energies.shape, 9)
        for block in _blocks(len(self.q), 16 * self.energies.shape[1] * len(levels)):
            tensor[block] = _gaussians(self.energies[block], levels, fwhm).swapaxes(1, 2) @ flat[block]
        return MagnonSpectrum(self.q, levels, tensor.reshape(len(self.q), len(levels), 3, 3), self.cell, fwhm)


def structure_factor(
    magnons: Magnons,
    q: ArrayLike,
    energies: ArrayLike,
    width: float,
    temperature_K: float | None = None,
    kT: float | None = None,
    form_factor: FormFactor | Mapping[str, FormFactor] | None = None,
    cell: ArrayLike | None = None,
) -> MagnonSpectrum:
    """S(q, ω) of one magnon, with lines of a given width.

    >>> path = atoms.cell.bandpath("GMKG", npoints=200)
    >>> energies = np.linspace(0, 0.03, 300)
    >>> spectrum = structure_factor(Magnons(atoms), path.kpts, energies, width=5e-4)
    >>> plot.spectrum(path.get_linear_kpoint_axis()[0], energies, spectrum.perpendicular())

    Parameters
    ----------
    magnons : Magnons
    q : array_like
        In units of the reciprocal vectors of `cell`, shape (n_q, 3) or (3,). It may lie beyond the first zone, where S
        differs with several atoms in a cell, and have components along open directions.
    energies : array_like
        ω, eV, shape (n_w,).
    width : float
        Full width at half maximum of the Gaussian lines, eV.
    temperature_K, kT : float, optional
        Temperature of the magnons, in K or eV; default 0. Lines at ω > 0 get n + 1, those at ω < 0 n: detailed balance
        S_ab(-q, -ω) = exp(-ω/kT) S_ba(q, ω) holds line by line, before broadening.
    form_factor : str, callable or mapping, optional
        F(abs(q)): an ion such as "Cr3" (<j0>, needs the library periodictable), a function of abs(q) in rad/Å that
        takes and returns shape (n_q,), or one of these for each chemical symbol. Default 1.
    cell : array_like, optional
        Lattice vectors that q refers to, Å, shape (3, 3), such as the chemical cell of an antiferromagnet. Default:
        the cell of `magnons.atoms`, as for ``magnons.frequencies(q)``, with open vectors put upright; give one for q
        along a direction without vector.

    Returns
    -------
    MagnonSpectrum

    Raises
    ------
    KLMError
        When input is wrong, or the texture is unstable.

    Notes
    -----
    Only fluctuations across the moments are here: neither Bragg peaks nor pairs of magnons. Modes of zero energy are
    left out, as their intensity belongs to the Bragg peak: Goldstone modes at their wave vector, in an antiferromagnet
    where the energy is below about 1e-4 of the largest, and whole bands if these are flat at zero. Near the Bragg peaks
    of an antiferromagnet the intensity grows as 1/ω, as it should.

    The constant (γ r_0/2)² and k'/k of the cross section of neutrons are not included.
    """
    levels, fwhm = _checked_energies(energies), _checked_width(width)
    return mode_intensities(magnons, q, temperature_K, kT, form_factor, cell).broadened(levels, fwhm)


def mode_intensities(
    magnons: Magnons,
    q: ArrayLike,
    temperature_K: float | None = None,
    kT: float | None = None,
    form_factor: FormFactor | Mapping[str, FormFactor] | None = None,
    cell: ArrayLike | None = None,
) -> ModeIntensities:
    """Energies and intensities of the lines of S(q, ω); for parameters see :func:`structure_factor`.

    Of lines at one energy only the sum has a meaning.
    """
    if not isinstance(magnons, Magnons):
        raise KLMError(f"{type(magnons).__name__} is not Magnons", "modes are asked for", "give Magnons(atoms)")
    wave_vectors = checked_array(np.atleast_2d(np.asarray(q, dtype=object)), (None, 3), "q")
    thermal = float(thermal_energies(temperature_K, kT, 1)[0])
    own = upright_cell(graphs.with_complete_cell(magnons.atoms).cell, magnons.atoms.pbc)
    vectors = own if cell is None else _checked_cell(cell)
    points = wave_vectors @ (own @ np.linalg.inv(vectors)).T
    lengths = np.linalg.norm(wave_vectors @ np.linalg.inv(vectors).T, axis=1) * 2 * np.pi
    sites = magnons.form.sites
    factors = form_factors(form_factor, [magnons.atoms.symbols[site] for site in sites], lengths)
    created = _created(magnons, points, factors)
    if thermal == 0:
        return ModeIntensities(wave_vectors, *created, vectors)
    annihilated = _created(magnons, -points, factors)
    more, fewer = (_occupation(levels, thermal)[:, :, None, None] for levels in (created[0], annihilated[0]))
    tensor = np.concatenate([created[1] * (more + 1), annihilated[1].conj() * fewer], axis=1)
    return ModeIntensities(wave_vectors, np.concatenate([created[0], -annihilated[0]], axis=1), tensor, vectors)


def powder_average(
    magnons: Magnons,
    lengths: ArrayLike,
    energies: ArrayLike,
    width: float,
    temperature_K: float | None = None,
    kT: float | None = None,
    form_factor: FormFactor | Mapping[str, FormFactor] | None = None,
    n_directions: int = 500,
) -> Array:
    """Intensity of a powder: what neutrons see, averaged over the directions of q.

    Parameters
    ----------
    magnons : Magnons
    lengths : array_like
        abs(q), rad/Å, shape (n_lengths,).
    energies, width, temperature_K, kT, form_factor
        As for :func:`structure_factor`.
    n_directions : int
        Directions, on a spiral of Fibonacci that covers the sphere evenly; more give smoother spectra.

    Returns
    -------
    ndarray
        Σ_ab (δ_ab - q_a q_b/q²) S_ab, μB²/eV for each magnetic atom, shape (n_lengths, n_w).
    """
    radii = checked_array(lengths, (None,), "lengths", "rad/Å")
    if radii.min(initial=0) < 0:
        raise KLMError(f"lengths holds {radii.min():g}", "abs(q) is not negative", "give lengths in rad/Å")
    levels, fwhm = _checked_energies(energies), _checked_width(width)
    directions = _sphere(n_directions)
    intensity = np.zeros((len(radii), len(levels)))
    for number, radius in enumerate(radii):
        lines = mode_intensities(magnons, radius / (2 * np.pi) * directions, temperature_K, kT, form_factor, np.eye(3))
        weights = lines.perpendicular()
        for block in _blocks(n_directions, 16 * lines.energies.shape[1] * len(levels)):
            shapes = _gaussians(lines.energies[block], levels, fwhm)
            intensity[number] += np.tensordot(weights[block], shapes, axes=2) / n_directions
    return intensity


def _created(magnons: Magnons, points: Array, factors: Array) -> tuple[Array, NDArray[np.complex128]]:
    """Energies (n_q, lines) and tensors (n_q, lines, 3, 3) of magnons that q creates at T = 0."""
    atoms, form = magnons.atoms, magnons.form
    cell = upright_cell(graphs.with_complete_cell(atoms).cell, atoms.pbc)
    places = atoms.positions[form.sites] @ np.linalg.inv(cell)
    bosons_of = units.G_ELECTRON * np.linalg.norm(form.moments[form.sites], axis=1)  # abs(δm)² = g abs(m) Σ abs(T)²
    in_lattice = np.where(atoms.pbc, points, 0.0)
    branches = _branches(magnons)
    energies = np.zeros((len(points), len(branches), form.n_modes))
    tensor = np.zeros((*energies.shape, 3, 3), dtype=np.complex128)
    for block in _blocks(len(points), 16 * (8 * form.n_modes**2 + 3 * form.n_modes * len(atoms))):
        phases = factors[block] * np.exp(2j * np.pi * points[block] @ places.T)
        for number, (shift, projector) in enumerate(branches):
            levels, moved = magnons.modes(in_lattice[block] + shift)
            moved = moved[:, :, form.sites]
            bosons = ((np.abs(moved) ** 2).sum(-1) / bosons_of).sum(-1)
            kept = (levels > ZERO_ENERGY * form.scale) & (bosons < LARGEST_NORM)
            moved[~kept] = 0
            amplitudes = np.einsum("ab,qi,qnib->qna", projector, phases, moved.conj(), optimize=True)
            energies[block, number] = levels
            tensor[block, number] = np.einsum("qna,qnb->qnab", amplitudes.conj(), amplitudes) / form.n_modes
    lines = len(branches) * form.n_modes
    return energies.reshape(-1, lines), tensor.reshape(-1, lines, 3, 3)


def _branches(magnons: Magnons) -> list[tuple[Array, NDArray[np.complex128]]]:
    """Shifts of q and matrices P, with m(q) = Σ P m'(q + shift) for moments m' in the frame that turns with a spiral.

    A rotation by φ about n is n nᵀ + P exp(iφ) + P* exp(-iφ), with P = ½ (1 - n nᵀ - i [n]×). Where q + k and q - k are
    the same wave vector their amplitudes add up, not their intensities.
    """
    if magnons.spiral is None:
        return [(np.zeros(3), np.eye(3, dtype=complex))]
    k, n = (np.asarray(vector, dtype=float) for vector in magnons.spiral)
    n = n / np.linalg.norm(n)
    along = np.outer(n, n).astype(complex)
    turning = (np.eye(3) - along - 1j * np.cross(n, np.eye(3)).T) / 2
    branches: list[tuple[Array, NDArray[np.complex128]]] = []
    for shift, projector in ((np.zeros(3), along), (k, turning), (-k, turning.conj())):
        for number, (other, known) in enumerate(branches):
            if np.abs(shift - other - (shift - other).round()).max() < 1e-9:
                branches[number] = other, known + projector
                break
        else:
            branches.append((shift, projector))
    return branches


def _gaussians(centres: Array, energies: Array, width: float) -> Array:
    """Of area 1, shape (..., n_w)."""
    sigma = SIGMA * width
    away = (energies - centres[..., None]) / sigma
    return np.asarray(np.exp(-(away**2) / 2) / (np.sqrt(2 * np.pi) * sigma))


def _occupation(energies: Array, kT: float) -> Array:
    """Of Bose, n = 1/(exp(ω/kT) - 1); zero where ω is zero."""
    ratio = np.where(energies > 0, energies, np.inf) / kT
    return np.asarray(np.exp(-ratio) / -np.expm1(-ratio))


def _sphere(number: Any) -> Array:
    """Directions that cover the sphere evenly, shape (number, 3)."""
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise KLMError(f"n_directions = {number!r} cannot be used", "it must be an integer >= 1", "for instance 500")
    z = 1 - (2 * np.arange(number) + 1) / number
    angles = np.pi * (3 - np.sqrt(5)) * np.arange(number)  # the golden angle
    across = np.sqrt(1 - z**2)
    return np.stack([across * np.cos(angles), across * np.sin(angles), z], axis=1)


def _blocks(number: int, bytes_each: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // bytes_each)
    for start in range(0, number, size):
        yield slice(start, min(start + size, number))


def _checked_energies(energies: ArrayLike) -> Array:
    levels = checked_array(energies, (None,), "energies", "eV")
    if not len(levels):
        raise KLMError("there are no energies", "energies has shape (0,)", "for instance np.linspace(0, 0.1, 200)")
    return levels


def _checked_width(width: Any) -> float:
    return checked_number(width, "width", "eV, full width at half maximum", above=0)


def _checked_cell(cell: ArrayLike) -> Array:
    vectors = checked_array(cell, (3, 3), "cell", "Å")
    if abs(np.linalg.det(vectors)) < 1e-9 * np.linalg.norm(vectors, axis=1).prod():
        raise KLMError(
            "cell does not span space",
            f"its vectors {vectors.tolist()} lie in one plane",
            "give three independent lattice vectors; along open directions any vector across the others",
        )
    return vectors
