"""Dynamics of magnetic moments: the Landau-Lifshitz-Gilbert equation, its integrators, its thermostat."""

from ase_klm.dynamics.llg import INTEGRATORS, LLGDynamics
from ase_klm.dynamics.timestep import suggest_timestep

__all__ = ["INTEGRATORS", "LLGDynamics", "suggest_timestep"]
