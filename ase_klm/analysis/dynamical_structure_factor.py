"""Dynamical structure factor S(q, ω) of trajectories of spin dynamics.

    S_ab(q, ω) = (1/2πħN) ∫dt exp(+iωt) <m_a(q, 0)* m_b(q, t)>,     m(q, t) = Σ_j m_j(t) exp(2πi q·r_j)

with ω the energy, estimated by Welch's method: windows of the trajectory, one FFT in time for each q, mean of the
periodograms (P. D. Welch, IEEE Trans. Audio Electroacoust. 15, 70 (1967), doi:10.1109/TAU.1967.1161901).

The sign of ω
-------------
Quantum mechanically (Squires, Introduction to the Theory of Thermal Neutron Scattering, eq. 4.27; SpinW, Sunny)

    S_ab(q, ω) = (1/2πħN) ∫dt exp(-iωt) <m_a(q, 0)† m_b(q, t)>
               = (1/N) Σ_n <0|m_a(q)†|n> <n|m_b(q)|0> δ(ω - E_n + E_0)      at T = 0,

so that ω > 0 is the creation of a magnon with wave vector q. A spin along z lowers itself by m⁻, and indeed
m⁻(q) = Σ_j m⁻_j exp(2πi q·r_j) makes a magnon of momentum q; its m⁻(q, t) turns as exp(+iωt).

There a spin obeys dS/dt = S × f, while a moment of ours obeys dm/dt = -γ m × B with the *same* direction (e is taken as
the direction of the spin): it precesses the other way round. Each trajectory is that of the spins run backwards, and t
goes to -t: hence exp(+iωt) above. In components, what is created at (q, ω) is

    m⁻(q, ω) = ∫dt exp(+iωt) Σ_j m⁻_j exp(+2πi q·r_j),  or its conjugate  Σ_j ∫dt m⁺_j exp(-i(2πq·r_j + ωt)).

A chain with D z·(e_i × e_j) and a field along z has its line at ω(q) = B + 2D sin 2πq, and a ferromagnet along z has
S_xy = +i S_xx at ω > 0.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray
from scipy.signal import get_window
from scipy.special import exprel

from ase_klm import units
from ase_klm.analysis.correlations import Correlations
from ase_klm.analysis.trajectories import MomentSeries
from ase_klm.analysis.wave_vectors import supercell_waves
from ase_klm.errors import KLMError
from ase_klm.validate import Array, checked_number

BLOCK_BYTES = 2**26
"""Temporary arrays are kept below about this."""
SHORTEST = 8
"""Frames in a window."""


@dataclass(frozen=True)
class DynamicalStructureFactor(Correlations):
    """S_ab(q, ω) at a list of wave vectors.

    Attributes
    ----------
    q : ndarray
        In units of the reciprocal vectors of `cell`, shape (n_q, 3).
    energies : ndarray
        ω in eV, ascending, both signs, shape (n_w,); ω > 0 is the creation of a magnon with wave vector q.
    tensor : ndarray
        S_ab in μB²/eV for each magnetic atom, Hermitian, shape (n_q, n_w, 3, 3). Its integral over energies,
        ``tensor.sum(axis=1) * (energies[1] - energies[0])``, is the tensor of ``structure_factor``, averaged over time.
    cell : ndarray
        The lattice vectors that q refers to, Å, shape (3, 3).
    resolution : float
        Noise bandwidth of the window, eV: a sharp line appears about this wide.
    """

    q: Array
    energies: Array
    tensor: NDArray[np.complex128]
    cell: Array
    resolution: float

    def quantum(self, kT: float | None = None, temperature_K: float | None = None) -> "DynamicalStructureFactor":
        """Classical intensities turned into quantum ones, times βω/(1 - exp(-βω)).

        Classical spin waves have kT/ω quanta where quantum ones have n(ω); the factor makes kT/ω into n + 1 at ω > 0
        (creation), and n at ω < 0. Exact for spin waves that do not interact. The sum rule changes with it.

        Parameters
        ----------
        kT, temperature_K : float
            Temperature of the run, in eV or in K; one of the two.

        Returns
        -------
        DynamicalStructureFactor
            With detailed balance, S(q, ω) = exp(βω) S(-q, -ω).
        """
        factor = 1 / exprel(-self.energies / _thermal_energy(kT, temperature_K))
        return replace(self, tensor=self.tensor * factor[:, None, None])


def dynamical_structure_factor(
    trajectory: Any,
    q: ArrayLike | None = None,
    cell: ArrayLike | None = None,
    timestep: float | None = None,
    gamma: float = units.GAMMA,
    window: str | None = "hann",
    segments: int = 1,
    atoms: Atoms | None = None,
) -> DynamicalStructureFactor:
    """S(q, ω) of a trajectory of spin dynamics at constant temperature.

    After ``LLGDynamics(atoms, ..., trajectory="run.traj")``, or the same in model units,

    >>> path = analysis.wave_vector_path(atoms, "GXMG")
    >>> result = analysis.dynamical_structure_factor("run.traj", q=path.q, segments=4)
    >>> result = analysis.dynamical_structure_factor(
    ...     "run.traj", q=path.q, segments=4, gamma=1.0
    ... )  # a run with gamma=1.0
    >>> plot.spectrum(path.along, result.energies, result.perpendicular(), labels=path.labels)

    Parameters
    ----------
    trajectory : str, Path, sequence of Atoms or frames, or array_like
        A ``.traj`` or ``.extxyz`` file, which is read piece by piece; its frames, e.g. ``data.read("run.traj")[500:]``
        to leave out the approach to equilibrium; or moments in μB, shape (n_times, N, 3), with `atoms`.
    q : array_like, optional
        Wave vectors of the supercell in units of the reciprocal vectors of `cell`, shape (n_q, 3); free along open
        directions. Phases use the true positions: with several sites a cell, S is not periodic in q. Default: those of
        the first Brillouin zone.
    cell : array_like, optional
        Primitive lattice vectors, Å, shape (3, 3). Default: those of the first structure without its moments, see
        ``graphs.primitive_cell``; give them when atoms are displaced.
    timestep : float, optional
        Time *between frames*, in ASE's unit (``10 * ase.units.fs``), or in ħ/eV with ``gamma=1.0``. Only needed where
        frames do not hold their time, as those of LLGDynamics do.
    gamma : float
        As given to LLGDynamics. It tells the unit of time: ħ/eV with ``gamma=1.0``, else ASE's.
    window : str, optional
        Taper in time: "hann", or another of SciPy's windows without parameters; None for none.
    segments : int
        Number of windows that are averaged; they overlap by half, or with ``window=None`` not at all. More give less
        noise (relative error 1/sqrt(segments)) and coarser energies.
    atoms : Atoms, optional
        The structure, where `trajectory` is an array.

    Returns
    -------
    DynamicalStructureFactor

    Raises
    ------
    KLMError
        When frames are too few, unequal, without moments, not finite, or not at equal times; when their time is not
        known; when q does not belong to the supercell.

    Notes
    -----
    Energies reach up to πħ/Δt, with Δt the time between frames; what precesses faster is folded back into this range.
    They are as fine as 2πħ/(length of a window). Lines have a width of about 2αω from the damping α, too.

    With ``gamma=1.0`` a moment of length S precesses as a spin S does; in ASE's units, with g = 2, one of length 2S μB.

    The integral over energies is the equal-time structure factor with the frames weighted by the squares of the
    windows: to rounding with ``window=None, segments=1``, else within the noise.

    Memory: 48 bytes for each q and frame, and 144 for each q and energy of the result; moments are held only in part.
    """
    hbar = 1.0 if checked_number(gamma, "gamma", "1/(eV/μB) per unit of time", above=0) == 1.0 else units.HBAR
    if isinstance(segments, bool) or not isinstance(segments, int | np.integer) or segments < 1:
        raise KLMError(f"segments = {segments!r} is no number of windows", "it must be an integer >= 1", "e.g. 4")
    _taper(window, SHORTEST)
    series = MomentSeries(trajectory, atoms)
    waves = supercell_waves(series.first, cell)
    if q is None and len(waves.periodic) == 0:
        raise KLMError("the structure is not periodic", "it has no wave vectors of its own", "give q=, and cell=")
    wave_vectors = waves.first_zone() if q is None else waves.checked(q)
    if len(wave_vectors) == 0:
        raise KLMError("there are no wave vectors", f"q has shape {wave_vectors.shape}", "give at least one")
    pieces = [_amplitudes(series, *chunk, wave_vectors, waves.primitive) for chunk in series.chunks()]
    frames = sum(piece.shape[1] for piece in pieces)
    # windows that overlap by half of their length, or stand side by side
    length = frames // segments if window is None else 2 * frames // (segments + 1)
    if length < SHORTEST:
        raise KLMError(
            f"{frames} frame{'s are' if frames > 1 else ' is'} too few for {segments} window{'s' * (segments > 1)}",
            f"a spectrum needs windows of at least {SHORTEST} frames, and many more to be of use",
            "give the whole trajectory, or fewer segments",
        )
    step = series.timestep(timestep, gamma)
    taper = _taper(window, length)
    starts = np.linspace(0, frames - length, segments).round().astype(np.int64)
    spacing = 2 * np.pi * hbar / (length * step)
    norm = segments * length * (taper**2).sum() * int(series.magnetic.sum()) * spacing
    tensor = np.zeros((len(wave_vectors), length, 3, 3), dtype=np.complex128)
    for block in _blocks(len(wave_vectors), 48 * frames + 240 * length):
        amplitudes = np.concatenate([piece[block] for piece in pieces], axis=1)  # (q, t, 3)
        for start in starts:
            part = amplitudes[:, start : start + length] * taper[:, None]
            lines = np.fft.ifft(part, axis=1, norm="forward")  # Σ_t exp(+iωt)
            tensor[block] += np.einsum("qwa,qwb->qwab", lines.conj(), lines)
        tensor[block] = np.fft.fftshift(tensor[block], axes=1) / norm
    energies = (np.arange(length) - length // 2) * spacing
    resolution = spacing * length * (taper**2).sum() / taper.sum() ** 2
    return DynamicalStructureFactor(wave_vectors, energies, tensor, waves.primitive, float(resolution))


def _amplitudes(
    series: MomentSeries, moments: Array, positions: Array | None, q: Array, vectors: Array
) -> NDArray[np.complex128]:
    """m(q, t) = Σ_j m_j exp(2πi q·r_j) of a chunk of frames, shape (n_q, n, 3)."""
    found = np.empty((len(q), len(moments), 3), dtype=np.complex128)
    inverse = np.linalg.inv(vectors)
    at_rest = positions is None
    places = series.first.positions[series.magnetic][None] if positions is None else positions
    for block in _blocks(len(q), 24 * moments.shape[1]):
        for number, sites in enumerate(places):
            frames = slice(None) if at_rest else slice(number, number + 1)
            angles = 2 * np.pi * (sites @ inverse) @ q[block].T  # (site, q)
            # moments are real: two real products cost half of a complex one
            rows = moments[frames].transpose(0, 2, 1).reshape(-1, len(sites))  # (t and component, site)
            found[block, frames].real = (rows @ np.cos(angles)).T.reshape(angles.shape[1], -1, 3)
            found[block, frames].imag = (rows @ np.sin(angles)).T.reshape(angles.shape[1], -1, 3)
    return found


def _blocks(number: int, bytes_each: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // bytes_each)
    for start in range(0, number, size):
        yield slice(start, min(start + size, number))


def _taper(window: str | None, length: int) -> Array:
    if window is None:
        return np.ones(length)
    try:
        if not isinstance(window, str):  # SciPy would take a number for a Kaiser window
            raise TypeError("a window has a name")
        return np.asarray(get_window(window, length), dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise KLMError(
            f"window = {window!r} is not known",
            str(error),
            'use "hann", "blackmanharris", another window of scipy.signal.windows without parameters, or None',
        ) from None


def _thermal_energy(kT: float | None, temperature_K: float | None) -> float:
    if (kT is None) == (temperature_K is None):
        raise KLMError(
            "one of kT and temperature_K is needed" if kT is None else "both kT and temperature_K are given",
            "the conversion to quantum intensities depends on the temperature of the run",
            "give temperature_K= in K or kT= in eV",
        )
    if kT is not None:
        return checked_number(kT, "kT", "eV", above=0)
    return units.KB * checked_number(temperature_K, "temperature_K", "K", above=0)
