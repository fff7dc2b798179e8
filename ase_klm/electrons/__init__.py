"""Electrons on a lattice: tight-binding Hamiltonians, diagonalisation, occupations. No ASE, no dynamics."""
