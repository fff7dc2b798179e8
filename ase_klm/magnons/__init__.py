"""Magnon bands of anything that has magnetic forces."""

from ase_klm.magnons.corrections import magnetisation, moment_reduction, zero_point_energy
from ase_klm.magnons.magnons import Magnons
from ase_klm.magnons.structure_factor import (
    MagnonSpectrum,
    ModeIntensities,
    mode_intensities,
    powder_average,
    structure_factor,
)
from ase_klm.magnons.topology import BerryCurvature, berry_curvature, chern_numbers, thermal_hall_conductivity

__all__ = [
    "BerryCurvature",
    "MagnonSpectrum",
    "Magnons",
    "ModeIntensities",
    "berry_curvature",
    "chern_numbers",
    "magnetisation",
    "mode_intensities",
    "moment_reduction",
    "powder_average",
    "structure_factor",
    "thermal_hall_conductivity",
    "zero_point_energy",
]
