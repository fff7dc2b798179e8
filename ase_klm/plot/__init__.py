"""Pictures. Every function draws into ``ax`` (new axes by default) and returns it; show or save the figure yourself.

Matplotlib is imported when the first picture is drawn.
"""

from ase_klm.plot.animation import animate
from ase_klm.plot.bands import bands
from ase_klm.plot.colours import spin_colours
from ase_klm.plot.labels import labels
from ase_klm.plot.magnons import magnon_bands
from ase_klm.plot.ovito import write_ovito
from ase_klm.plot.parity import atomic_parity, parity
from ase_klm.plot.spectrum import spectrum
from ase_klm.plot.structure_factor import structure_factor
from ase_klm.plot.texture import texture
from ase_klm.plot.time_series import time_series

__all__ = [
    "animate",
    "atomic_parity",
    "bands",
    "labels",
    "magnon_bands",
    "parity",
    "spectrum",
    "spin_colours",
    "structure_factor",
    "texture",
    "time_series",
    "write_ovito",
]
