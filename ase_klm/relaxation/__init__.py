"""Relaxation: of spins, and of atoms and spins together."""

from ase_klm.relaxation.minimizer import SpinMinimizer
from ase_klm.relaxation.spin_lattice_filter import SpinLatticeFilter

__all__ = ["SpinLatticeFilter", "SpinMinimizer"]
