"""Dynamics of magnetic moments, alone or with their lattice: equations, integrators, baths."""

from ase_klm.dynamics.llg import INTEGRATORS, LLGDynamics
from ase_klm.dynamics.spin_lattice import SPIN_LATTICE_INTEGRATORS, SpinLatticeDynamics
from ase_klm.dynamics.timestep import suggest_timestep

__all__ = ["INTEGRATORS", "SPIN_LATTICE_INTEGRATORS", "LLGDynamics", "SpinLatticeDynamics", "suggest_timestep"]
