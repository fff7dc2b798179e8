"""Frames: structures with moments, energies, forces and magnetic forces, read from and written to files."""

from ase_klm.data.frames import Frame, FrameWriter, read, write
from ase_klm.data.sampling import sample

__all__ = ["Frame", "FrameWriter", "read", "sample", "write"]
