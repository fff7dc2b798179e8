"""One file a physical term of the energy; terms add up with ``+``."""

from ase_klm.potentials.anisotropy import UniaxialAnisotropy
from ase_klm.potentials.atomistic import Atomistic
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Sum
from ase_klm.potentials.bond_terms import (
    AxialExchange,
    BondTerm,
    DMAcrossBond,
    DMAlongBond,
    DMThroughAtom,
    Kitaev,
    KitaevThroughLigands,
)
from ase_klm.potentials.cri3 import CrI3Exchange, CrI3Lattice, cri3_model
from ase_klm.potentials.exchange import Exchange
from ase_klm.potentials.exchange_of_distance import ExchangeOfDistance
from ase_klm.potentials.foreign import Foreign, potential_of
from ase_klm.potentials.functions_of_distance import BetheSlater, DistanceFunction, Exponential, Table, Tapered
from ase_klm.potentials.kondo import ExponentialHopping, Kondo
from ase_klm.potentials.lattice_energy import LatticeEnergy, Morse, Spring
from ase_klm.potentials.moment_lengths import MomentLengths
from ase_klm.potentials.network import Network
from ase_klm.potentials.scaled import Scaled
from ase_klm.potentials.serialisation import from_dict
from ase_klm.potentials.trained import network_potential
from ase_klm.potentials.zeeman import Zeeman

__all__ = [
    "Atomistic",
    "AxialExchange",
    "BetheSlater",
    "BondTerm",
    "BoundPotential",
    "CrI3Exchange",
    "CrI3Lattice",
    "DMAcrossBond",
    "DMAlongBond",
    "DMThroughAtom",
    "DistanceFunction",
    "Evaluation",
    "Exchange",
    "ExchangeOfDistance",
    "Exponential",
    "ExponentialHopping",
    "Foreign",
    "Kitaev",
    "KitaevThroughLigands",
    "Kondo",
    "LatticeEnergy",
    "MomentLengths",
    "Morse",
    "Network",
    "Potential",
    "Scaled",
    "Spring",
    "Sum",
    "Table",
    "Tapered",
    "UniaxialAnisotropy",
    "Zeeman",
    "cri3_model",
    "from_dict",
    "network_potential",
    "potential_of",
]
