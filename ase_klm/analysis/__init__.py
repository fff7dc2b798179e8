"""Quantities of a spin texture: magnetisation, topological charge, structure factors, Bragg peaks; and spectra."""

from ase_klm.analysis.bragg import BraggPeak, bragg_peaks
from ase_klm.analysis.dynamical_structure_factor import DynamicalStructureFactor, dynamical_structure_factor
from ase_klm.analysis.magnetisation import magnetisation
from ase_klm.analysis.planes import MagneticPlane, magnetic_plane
from ase_klm.analysis.structure_factor import StructureFactor, structure_factor, structure_factor_at
from ase_klm.analysis.topology import solid_angles, topological_charge, topological_charge_density
from ase_klm.analysis.triangulation import triangulate
from ase_klm.analysis.velocity_spectrum import VelocitySpectrum, velocity_spectrum
from ase_klm.analysis.wave_vectors import WaveVectorPath, wave_vector_path

__all__ = [
    "BraggPeak",
    "DynamicalStructureFactor",
    "MagneticPlane",
    "StructureFactor",
    "VelocitySpectrum",
    "WaveVectorPath",
    "bragg_peaks",
    "dynamical_structure_factor",
    "magnetic_plane",
    "magnetisation",
    "solid_angles",
    "structure_factor",
    "structure_factor_at",
    "topological_charge",
    "topological_charge_density",
    "triangulate",
    "velocity_spectrum",
    "wave_vector_path",
]
