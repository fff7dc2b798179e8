"""Frames: structures with moments, energies, forces and magnetic forces, read from and written to files."""

from ase_klm.data.frames import Frame, FrameWriter, read, write

__all__ = ["Frame", "FrameWriter", "read", "write"]
