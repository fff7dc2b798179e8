"""Spin lattices as ASE Atoms: energies, forces and magnetic forces from itinerant electrons, exchange and networks."""

from ase_klm import analysis, data, lattices, plot, potentials, testing, textures, units
from ase_klm.calculators import (
    ECNNCalculator,
    ExchangeCalculator,
    KondoEDCalculator,
    MagNetCalculator,
    SpinCalculator,
)
from ase_klm.dynamics import LLGDynamics, SpinLatticeDynamics, suggest_timestep
from ase_klm.errors import KLMError, KLMWarning
from ase_klm.magnons import Magnons
from ase_klm.moments import get_magnetic_forces, get_moments, rotate_moments, set_moments
from ase_klm.relaxation import SpinLatticeFilter, SpinMinimizer

__version__ = "0.1.0"

__all__ = [
    "ECNNCalculator",
    "ExchangeCalculator",
    "KLMError",
    "KLMWarning",
    "KondoEDCalculator",
    "LLGDynamics",
    "MagNetCalculator",
    "Magnons",
    "SpinCalculator",
    "SpinLatticeDynamics",
    "SpinLatticeFilter",
    "SpinMinimizer",
    "analysis",
    "data",
    "get_magnetic_forces",
    "get_moments",
    "lattices",
    "plot",
    "potentials",
    "rotate_moments",
    "set_moments",
    "suggest_timestep",
    "testing",
    "textures",
    "units",
]
