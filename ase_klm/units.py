"""Constants in ASE's units (eV, Å, u) with moments in μB, so that magnetic fields are in eV/μB."""

from ase import units

KB = units.kB
"""Boltzmann constant, eV/K."""

HBAR = units._hbar * units.J * units.s
"""Reduced Planck constant, eV times ASE's unit of time."""

G_ELECTRON = 2.0
"""g-factor: a moment of g S μB is carried by a spin S."""

GAMMA = G_ELECTRON / HBAR
"""Gyromagnetic ratio g/ħ: dm/dt = -GAMMA m × B with m in μB, B in eV/μB and t in ASE's unit of time."""

TESLA = 5.7883818060e-5
"""A magnetic field of one tesla in eV/μB (CODATA 2018)."""

FS = units.fs
"""One femtosecond in ASE's unit of time."""
