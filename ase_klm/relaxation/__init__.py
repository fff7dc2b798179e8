"""Relaxation of spins; combined relaxation of atoms and spins comes here later."""

from ase_klm.relaxation.minimizer import SpinMinimizer

__all__ = ["SpinMinimizer"]
