"""Frames: structures with moments, energies, forces and magnetic forces; read, written, and checked before training."""

from ase_klm.data.about import About
from ase_klm.data.check import check
from ase_klm.data.frames import Frame, Frames, FrameWriter, write
from ase_klm.data.reading import read
from ase_klm.data.report import Report
from ase_klm.data.sampling import sample

__all__ = ["About", "Frame", "FrameWriter", "Frames", "Report", "check", "read", "sample", "write"]
