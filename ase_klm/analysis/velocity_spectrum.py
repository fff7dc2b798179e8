"""Phonon spectrum of a trajectory: power spectrum of the velocities of its atoms by wave vector and energy.

    S_ab(q, ω) = (1/2πħN) Σ_κ ∫dt exp(+iωt) <w_κa(q, 0)* w_κb(q, t)>,     w_κ(q, t) = Σ_l √M_κ v_lκ(t) exp(2πi q·R_lκ)

with ω the energy, κ the atoms of a primitive cell, M_κ their masses, and R_lκ the places of the atoms *at rest*. The
estimate is that of S(q, ω) of the moments (`spectra.py`); squared amplitudes of the atoms of a cell are added, not the
amplitudes as in scattering, so that S is periodic in q and shows every branch at every q: C. Lee, D. Vanderbilt,
K. Laasonen, R. Car, M. Parrinello, Phys. Rev. B 47, 4863 (1993); T. Sun, X. Shen, P. B. Allen, Phys. Rev. B 82, 224304
(2010).

Classical equipartition, <M_j v_ja v_jb> = kT δ_ab, makes the integral over ω kT δ_ab at every q, whatever the forces;
each of the 3n branches of n atoms a cell has kT/n of the trace. Without the masses, atoms of one mass have kT/M.

The sign of ω is that of the moments, whose trajectories are those of spins run backwards: a wave
Re[v exp(2πi q·R + iωt)] has its line at (q, ω), and a mode in which moments and atoms move together is at the same
(q, ω) in both spectra. Without moments S(q, ω) = S(q, -ω) in equilibrium, wherever there is time reversal.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from ase_klm import units
from ase_klm.analysis.spectra import Spectrum, Welch, amplitudes, checked_waves
from ase_klm.analysis.trajectories import VelocitySeries
from ase_klm.analysis.wave_vectors import SupercellWaves, supercell_waves
from ase_klm.errors import KLMError
from ase_klm.images import nearest_image
from ase_klm.validate import Array

SAME_SITE = 0.5
"""Å; atoms this near to a place of the primitive cell sit there."""


@dataclass(frozen=True)
class VelocitySpectrum(Spectrum):
    """S_ab(q, ω) of velocities at a list of wave vectors.

    Attributes
    ----------
    q : ndarray
        In units of the reciprocal vectors of `cell`, shape (n_q, 3).
    energies : ndarray
        ω in eV, ascending, both signs, shape (n_w,).
    tensor : ndarray
        S_ab an atom, Hermitian, shape (n_q, n_w, 3, 3); weighted with masses in eV/eV, else in
        (Å per ASE's unit of time)²/eV.
    cell : ndarray
        The lattice vectors that q refers to, Å, shape (3, 3).
    resolution : float
        Noise bandwidth of the window, eV: a sharp line appears about this wide.
    """

    def longitudinal(self) -> Array:
        """Velocities along q, Σ_ab q_a q_b/q² S_ab, shape (n_q, n_w); at q = 0 a third of the intensity."""
        return self.intensity - self.perpendicular()

    def transverse(self) -> Array:
        """Velocities across q, both polarisations together, shape (n_q, n_w); at q = 0 two thirds of the intensity."""
        return self.perpendicular()


def velocity_spectrum(
    trajectory: Any,
    q: ArrayLike | None = None,
    cell: ArrayLike | None = None,
    timestep: float | None = None,
    window: str | None = "hann",
    segments: int = 1,
    atoms: Atoms | None = None,
    mass_weighted: bool = True,
) -> VelocitySpectrum:
    """Phonon spectrum S(q, ω) of a trajectory at constant temperature, from the velocities of its atoms.

    Beside that of the moments, after ``SpinLatticeDynamics(atoms, ..., trajectory="run.traj")``:

    >>> path = analysis.wave_vector_path(crystal, "GH")
    >>> phonons = analysis.velocity_spectrum("run.traj", q=path.q, atoms=crystal)
    >>> magnons = analysis.dynamical_structure_factor("run.traj", q=path.q, cell=phonons.cell)
    >>> plot.spectrum(path.along, phonons.energies, phonons.transverse(), labels=path.labels, label="")

    Parameters
    ----------
    trajectory : str, Path, sequence of Atoms or frames, or array_like
        A ``.traj`` or ``.extxyz`` file with momenta, of `SpinLatticeDynamics` or of ASE's molecular dynamics, which is
        read piece by piece; its frames, e.g. ``data.read("run.traj")[500:]``; or velocities in Å per ASE's unit of
        time, shape (n_times, N, 3), with `atoms`.
    q : array_like, optional
        Wave vectors of the supercell in units of the reciprocal vectors of `cell`, shape (n_q, 3). Default: those of
        the first Brillouin zone, over which the mean of the intensity is the phonon density of states, times 3 kT.
    cell : array_like, optional
        Primitive lattice vectors, Å, shape (3, 3). Default: those of `atoms`, see ``graphs.primitive_cell``.
    timestep : float, optional
        Time *between frames*, in ASE's unit (``10 * ase.units.fs``). Only needed where frames do not hold it, as those
        of SpinLatticeDynamics do in ``info["time"]``.
    window, segments
        As in ``dynamical_structure_factor``.
    atoms : Atoms, optional
        The crystal at rest: its positions are the places R, its masses count. Default: the first frame, whose
        displacements blur the wave vectors by 2πq·u; where it is warm, give at least `cell`.
    mass_weighted : bool
        Weight with √M, so that each component has kT; False gives the velocities themselves, with kT/M.

    Returns
    -------
    VelocitySpectrum
        Displacements have the spectrum S/ω², in units of (ħ/ω)² times those of S, away from ω = 0.

    Raises
    ------
    KLMError
        When frames are too few, unequal, without velocities, not finite, or not at equal times; when their time is not
        known; when q does not belong to the supercell, or atoms do not sit on the places of its primitive cells.

    Notes
    -----
    Energies reach up to πħ/Δt, with Δt the time between frames, and are as fine as 2πħ/(length of a window). Atoms that
    are held by a constraint count in N. A drift of the whole crystal is a line at ω = 0 of Γ.

    Memory: 48 bytes for each q, frame and atom of a primitive cell, and 144 for each q and energy of the result.
    """
    welch = Welch(window, segments)
    series = VelocitySeries(trajectory, atoms)
    waves = supercell_waves(series.at_rest, cell)
    wave_vectors = checked_waves(waves, q)
    scaled = series.at_rest.positions @ np.linalg.inv(waves.primitive)
    weights = np.sqrt(series.masses)[:, None] if mass_weighted else 1.0
    sites = _sites(series.at_rest, waves)
    groups: list[list[NDArray[np.complex128]]] = [[] for _ in sites]
    for velocities, _ in series.chunks():
        weighted = velocities * weights
        for pieces, members in zip(groups, sites, strict=True):
            pieces.append(amplitudes(weighted[:, members], scaled[None, members], wave_vectors))
    length = welch.length(sum(piece.shape[1] for piece in groups[0]))
    energies, resolution = welch.energies(length, series.timestep(timestep) / units.HBAR)
    tensor = welch.tensor(groups, length, energies, n_atoms=len(series.at_rest))
    return VelocitySpectrum(wave_vectors, energies, tensor, waves.primitive, resolution)


def _sites(atoms: Atoms, waves: SupercellWaves) -> list[NDArray[np.int64]]:
    """Atoms on each place of the primitive cell, by their numbers."""
    cells = round(abs(np.linalg.det(waves.multiple)))
    left = np.arange(len(atoms))
    found = []
    while len(left):
        away = atoms.positions[left] - atoms.positions[left[0]]
        distances = np.linalg.norm(nearest_image(away, waves.primitive[waves.periodic]), axis=1)
        here = (distances < SAME_SITE) & (atoms.numbers[left] == atoms.numbers[left[0]])
        if here.sum() != cells:
            raise KLMError(
                "the atoms do not sit on the places of primitive cells",
                f"{here.sum()} of them are within {SAME_SITE} Å of that of atom {left[0]}, in {cells} cells",
                "give the crystal at rest, atoms=, and the lattice vectors of its primitive cell if they are not found",
            )
        found.append(left[here])
        left = left[~here]
    return found
