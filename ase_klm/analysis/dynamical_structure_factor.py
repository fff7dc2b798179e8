"""Dynamical structure factor S(q, ω) of trajectories of spin dynamics.

    S_ab(q, ω) = (1/2πħN) ∫dt exp(+iωt) <m_a(q, 0)* m_b(q, t)>,     m(q, t) = Σ_j m_j(t) exp(2πi q·r_j)

with ω the energy, estimated by Welch's method (`spectra.py`).

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

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from ase_klm import units
from ase_klm.analysis.spectra import Spectrum, Welch, amplitudes, checked_waves
from ase_klm.analysis.trajectories import MomentSeries
from ase_klm.analysis.wave_vectors import supercell_waves
from ase_klm.validate import checked_number


@dataclass(frozen=True)
class DynamicalStructureFactor(Spectrum):
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
        frames do not hold their time, as those of LLGDynamics and SpinLatticeDynamics do.
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
    welch = Welch(window, segments)
    series = MomentSeries(trajectory, atoms)
    waves = supercell_waves(series.first, cell)
    wave_vectors = checked_waves(waves, q)
    inverse = np.linalg.inv(waves.primitive)
    at_rest = series.first.positions[series.chosen][None]
    pieces = [
        amplitudes(moments, (at_rest if moving is None else moving) @ inverse, wave_vectors)
        for moments, moving in series.chunks()
    ]
    length = welch.length(sum(piece.shape[1] for piece in pieces))
    energies, resolution = welch.energies(length, series.timestep(timestep, gamma) / hbar)
    tensor = welch.tensor([pieces], length, energies, n_atoms=int(series.chosen.sum()))
    return DynamicalStructureFactor(wave_vectors, energies, tensor, waves.primitive, resolution)
