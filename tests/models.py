"""Models that several tests use."""

import numpy as np

from ase_klm import SpinCalculator, lattices
from ase_klm.potentials import Exchange, UniaxialAnisotropy, Zeeman

TESLA = 5.7883817555e-5  # eV/μB, Spirit's value


def chiral_bond(r):
    """-10 meV e_i·e_j + D·(e_i × e_j), D = 3 meV z × r/abs(r)."""
    x, y, z = 3e-3 * np.cross((0, 0, 1), r / np.linalg.norm(r))
    return -10e-3 * np.eye(3) + np.array([(0, z, -y), (-z, 0, x), (y, -x, 0)])


def chiral_magnet(size):
    """Spirit's reference model on a square lattice: J = 10, D = 3, K = 0.5 meV, B = 5 T; set moments of 2 μB."""
    atoms = lattices.square((size, size))
    atoms.calc = SpinCalculator(Exchange({1: chiral_bond}) + UniaxialAnisotropy(0.5e-3) + Zeeman((0, 0, 5 * TESLA)))
    return atoms
