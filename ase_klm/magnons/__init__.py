"""Magnon bands of anything that has magnetic forces."""

from ase_klm.magnons.magnons import Magnons

__all__ = ["Magnons"]
