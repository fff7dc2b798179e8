"""Magnetisation: the mean moment."""

import numpy as np
from ase import Atoms

from ase_klm.errors import KLMError
from ase_klm.moments import get_moments
from ase_klm.validate import Array


def magnetisation(atoms: Atoms) -> Array:
    """Mean moment of the magnetic atoms, M = (1/N) Σ m, shape (3,), in μB a magnetic atom.

    Raises
    ------
    KLMError
        When no atom carries a moment.
    """
    moments = get_moments(atoms)
    moments = moments[moments.any(axis=1)]
    if len(moments) == 0:
        raise no_moments()
    return np.asarray(moments.mean(axis=0))


def no_moments() -> KLMError:
    """The error of all quantities that need moments."""
    return KLMError(
        "no atom carries a magnetic moment",
        "atoms.arrays['initial_magmoms'] is missing or zero",
        "set moments first, e.g. set_moments(atoms, m), or a texture such as textures.random(atoms, seed=1)",
    )
