"""Spin lattices as ASE Atoms: energies, forces and magnetic forces from itinerant electrons, exchange and networks.

Names are imported when they are asked for (PEP 562), so that ``import ase_klm`` and ``ase-klm --help`` wait neither for
torch nor for ASE.
"""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from ase_klm.errors import KLMError, KLMWarning

if TYPE_CHECKING:
    from ase_klm import analysis, data, lattices, plot, potentials, testing, textures, units
    from ase_klm.calculators import (
        ECNNCalculator,
        ExchangeCalculator,
        KondoEDCalculator,
        MagNetCalculator,
        NetworkCalculator,
        SpinCalculator,
    )
    from ase_klm.dynamics import LLGDynamics, SpinLatticeDynamics, suggest_timestep
    from ase_klm.magnons import Magnons
    from ase_klm.moments import get_magnetic_forces, get_moments, rotate_moments, set_moments
    from ase_klm.relaxation import SpinLatticeFilter, SpinMinimizer

__version__ = "0.1.0"

__all__ = [
    "ECNNCalculator",
    "ExchangeCalculator",
    "KLMError",
    "KLMWarning",
    "KondoEDCalculator",
    "LLGDynamics",
    "MagNetCalculator",
    "Magnons",
    "NetworkCalculator",
    "SpinCalculator",
    "SpinLatticeDynamics",
    "SpinLatticeFilter",
    "SpinMinimizer",
    "analysis",
    "data",
    "get_magnetic_forces",
    "get_moments",
    "lattices",
    "plot",
    "potentials",
    "rotate_moments",
    "set_moments",
    "suggest_timestep",
    "testing",
    "textures",
    "units",
]

_ROOM = {
    "ECNNCalculator": "calculators",
    "ExchangeCalculator": "calculators",
    "KondoEDCalculator": "calculators",
    "MagNetCalculator": "calculators",
    "NetworkCalculator": "calculators",
    "SpinCalculator": "calculators",
    "LLGDynamics": "dynamics",
    "SpinLatticeDynamics": "dynamics",
    "suggest_timestep": "dynamics",
    "Magnons": "magnons",
    "get_magnetic_forces": "moments",
    "get_moments": "moments",
    "rotate_moments": "moments",
    "set_moments": "moments",
    "SpinLatticeFilter": "relaxation",
    "SpinMinimizer": "relaxation",
}
"""Where the names live that are no rooms themselves."""


def __getattr__(name: str) -> Any:
    """A public name, or a room of the house such as ``ase_klm.dynamics``."""
    if name in _ROOM:
        found = getattr(import_module(f"{__name__}.{_ROOM[name]}"), name)
    elif not name.startswith("_") and find_spec(f"{__name__}.{name}") is not None:
        found = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=import_module(__name__))
    globals()[name] = found  # asked for once only
    return found


def __dir__() -> list[str]:
    """Public names and rooms, for completion, without what this file imports for itself."""
    rooms = (room.name for room in iter_modules(__path__))
    return sorted({*__all__, *rooms, *(name for name in globals() if name.startswith("__"))})
