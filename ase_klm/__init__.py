"""tmp."""

from ase_klm import lattices, potentials, testing, textures, units
from ase_klm.calculators import ExchangeCalculator, KondoEDCalculator, SpinCalculator
from ase_klm.errors import KLMError, KLMWarning
from ase_klm.moments import get_magnetic_forces, get_moments, rotate_moments, set_moments
