"""What spectra S_ab(q, ω) of trajectories share: amplitudes of waves, Welch's method, quantum intensities.

    S_ab(q, ω) = (1/2πħN) ∫dt exp(+iωt) <x_a(q, 0)* x_b(q, t)>,     x(q, t) = Σ_j x_j(t) exp(2πi q·r_j)

estimated by windows of the trajectory, one FFT in time for each q, and the mean of the periodograms: P. D. Welch, IEEE
Trans. Audio Electroacoust. 15, 70 (1967), doi:10.1109/TAU.1967.1161901. Vectors x_j are the moments
(`dynamical_structure_factor.py`, which explains the sign of ω) or the velocities (`velocity_spectrum.py`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import exprel

from ase_klm import units
from ase_klm.analysis.correlations import Correlations
from ase_klm.analysis.wave_vectors import SupercellWaves
from ase_klm.errors import KLMError
from ase_klm.validate import Array, checked_number

BLOCK_BYTES = 2**26
"""Temporary arrays are kept below about this."""
SHORTEST = 8
"""Frames in a window."""


@dataclass(frozen=True)
class Spectrum(Correlations):
    """S_ab(q, ω) at a list of wave vectors; what the attributes are is said by the classes made from it."""

    q: Array
    energies: Array
    tensor: NDArray[np.complex128]
    cell: Array
    resolution: float

    def quantum(self, kT: float | None = None, temperature_K: float | None = None) -> Self:
        """Classical intensities turned into quantum ones, times βω/(1 - exp(-βω)).

        Classical waves have kT/ω quanta where quantum ones have n(ω); the factor makes kT/ω into n + 1 at ω > 0
        (creation), and n at ω < 0. Exact for magnons and phonons that do not interact. The sum rule changes with it.

        Parameters
        ----------
        kT, temperature_K : float
            Temperature of the run, in eV or in K; one of the two.

        Returns
        -------
        Spectrum
            Of the same kind, with detailed balance, S(q, ω) = exp(βω) S(-q, -ω).
        """
        factor = 1 / exprel(-self.energies / _thermal_energy(kT, temperature_K))
        return replace(self, tensor=self.tensor * factor[:, None, None])


@dataclass(frozen=True)
class Welch:
    """How a spectrum is estimated.

    Parameters
    ----------
    window : str or None
        Taper in time, by its name in SciPy.
    segments : int
        Windows that are averaged; they overlap by half of their length, or without a taper stand side by side.
    """

    window: str | None
    segments: int

    def __post_init__(self) -> None:
        segments = self.segments
        if isinstance(segments, bool) or not isinstance(segments, int | np.integer) or segments < 1:
            raise KLMError(f"segments = {segments!r} is no number of windows", "it must be an integer >= 1", "e.g. 4")
        self.taper(SHORTEST)

    def taper(self, length: int) -> Array:
        """The window as numbers, shape (length,)."""
        if self.window is None:
            return np.ones(length)
        try:
            if not isinstance(self.window, str):  # SciPy would take a number for a Kaiser window
                raise TypeError("a window has a name")
            from scipy.signal import get_window  # scipy.signal takes half a second

            return np.asarray(get_window(self.window, length), dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise KLMError(
                f"window = {self.window!r} is not known",
                str(error),
                'use "hann", "blackmanharris", another window of scipy.signal.windows without parameters, or None',
            ) from None

    def length(self, frames: int) -> int:
        """Frames in a window."""
        length = frames // self.segments if self.window is None else 2 * frames // (self.segments + 1)
        if length < SHORTEST:
            raise KLMError(
                f"{frames} frame{'s are' if frames > 1 else ' is'} too few for {self.segments} "
                f"window{'s' * (self.segments > 1)}",
                f"a spectrum needs windows of at least {SHORTEST} frames, and many more to be of use",
                "give the whole trajectory, or fewer segments",
            )
        return length

    def energies(self, length: int, step: float) -> tuple[Array, float]:
        """Energies of a window, ascending, and its noise bandwidth, in eV; the time between frames in ħ/eV."""
        spacing = 2 * np.pi / (length * step)
        taper = self.taper(length)
        resolution = spacing * length * (taper**2).sum() / taper.sum() ** 2
        return np.asarray((np.arange(length) - length // 2) * spacing), float(resolution)

    def tensor(
        self, groups: Sequence[Sequence[NDArray[np.complex128]]], length: int, energies: Array, n_atoms: int
    ) -> NDArray[np.complex128]:
        """S_ab (n_q, n_w, 3, 3) of amplitudes (n_q, t, 3) in pieces that follow each other; groups of atoms add up."""
        frames, n_q = sum(piece.shape[1] for piece in groups[0]), len(groups[0][0])
        taper = self.taper(length)
        starts = np.linspace(0, frames - length, self.segments).round().astype(np.int64)
        norm = self.segments * length * (taper**2).sum() * n_atoms * (energies[1] - energies[0])
        tensor = np.zeros((n_q, length, 3, 3), dtype=np.complex128)
        for block in blocks(n_q, 48 * frames + 240 * length):
            for pieces in groups:
                series = np.concatenate([piece[block] for piece in pieces], axis=1)  # (q, t, 3)
                for start in starts:
                    part = series[:, start : start + length] * taper[:, None]
                    lines = np.fft.ifft(part, axis=1, norm="forward")  # Σ_t exp(+iωt)
                    tensor[block] += np.einsum("qwa,qwb->qwab", lines.conj(), lines)
            tensor[block] = np.fft.fftshift(tensor[block], axes=1) / norm
        return tensor


def amplitudes(vectors: Array, scaled: Array, q: Array) -> NDArray[np.complex128]:
    """x(q, t) = Σ_j x_j exp(2πi q·r_j) of vectors (n, N, 3), shape (n_q, n, 3).

    The scaled positions have shape (n, N, 3), or (1, N, 3) where they are the same in all frames.
    """
    found = np.empty((len(q), len(vectors), 3), dtype=np.complex128)
    for block in blocks(len(q), 24 * vectors.shape[1]):
        for number, sites in enumerate(scaled):
            frames = slice(None) if len(scaled) == 1 else slice(number, number + 1)
            angles = 2 * np.pi * sites @ q[block].T  # (site, q)
            # the vectors are real: two real products cost half of a complex one
            rows = vectors[frames].transpose(0, 2, 1).reshape(-1, len(sites))  # (t and component, site)
            found[block, frames].real = (rows @ np.cos(angles)).T.reshape(angles.shape[1], -1, 3)
            found[block, frames].imag = (rows @ np.sin(angles)).T.reshape(angles.shape[1], -1, 3)
    return found


def checked_waves(waves: SupercellWaves, q: ArrayLike | None) -> Array:
    """The wave vectors that are asked for, by default those of the first Brillouin zone, shape (n_q, 3)."""
    if q is None and len(waves.periodic) == 0:
        raise KLMError("the structure is not periodic", "it has no wave vectors of its own", "give q=, and cell=")
    wave_vectors = waves.first_zone() if q is None else waves.checked(q)
    if len(wave_vectors) == 0:
        raise KLMError("there are no wave vectors", f"q has shape {wave_vectors.shape}", "give at least one")
    return wave_vectors


def blocks(number: int, bytes_each: int) -> Iterator[slice]:
    """Slices of so many things that stay below `BLOCK_BYTES`."""
    size = max(1, BLOCK_BYTES // bytes_each)
    for start in range(0, number, size):
        yield slice(start, min(start + size, number))


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
