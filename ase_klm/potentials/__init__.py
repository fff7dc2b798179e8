"""One file a physical term of the energy; terms add up with ``+``."""

from ase_klm.potentials.anisotropy import UniaxialAnisotropy
from ase_klm.potentials.atomistic import Atomistic
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Sum
from ase_klm.potentials.exchange import Exchange
from ase_klm.potentials.foreign import Foreign, potential_of
from ase_klm.potentials.kondo import ExponentialHopping, Kondo
from ase_klm.potentials.network import Network
from ase_klm.potentials.zeeman import Zeeman

__all__ = [
    "Atomistic",
    "BoundPotential",
    "Evaluation",
    "Exchange",
    "ExponentialHopping",
    "Foreign",
    "Kondo",
    "Network",
    "Potential",
    "Sum",
    "UniaxialAnisotropy",
    "Zeeman",
    "potential_of",
]
