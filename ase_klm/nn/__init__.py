"""Layers of the networks: what lives on a lattice, and products of spin tensors."""
