"""Single-q spirals in the rotating frame, where they are uniform.

The moments of the cell R are those of the home cell turned by 2π k·R about an axis. If the energy does not change under
rotations about it, e_i·M·e_j becomes e_i·[M Rot(2π k·R)]·e_j on the moments of the home cell: a model of one cell,
whatever k. (S. Toth, B. Lake, J. Phys.: Condens. Matter 27, 166002 (2015), section 2.3.)
"""

from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from ase_klm.errors import KLMError
from ase_klm.potentials.anisotropy import UniaxialAnisotropy
from ase_klm.potentials.base import Potential, Sum, terms_of
from ase_klm.potentials.exchange import Exchange
from ase_klm.potentials.scaled import Scaled
from ase_klm.potentials.zeeman import Zeeman
from ase_klm.validate import Array, checked_array


def rotating_frame(potential: Potential, atoms: Atoms, k: ArrayLike, axis: ArrayLike) -> Potential:
    """The potential of the home cell in the frame that turns by 2π k·R about the axis.

    Raises
    ------
    KLMError
        When a term is not made of explicit bonds, or changes under rotations about the axis.
    """
    wave = checked_array(k, (3,), "k of the spiral")
    n = checked_array(axis, (3,), "axis of the spiral")
    if not np.linalg.norm(n) > 0:
        raise KLMError("the axis of the spiral is zero", "moments turn about it", "for instance axis=(0, 0, 1)")
    n = n / np.linalg.norm(n)
    if np.any(wave[~atoms.pbc] != 0):
        raise KLMError(
            f"k = {wave.tolist()} of the spiral runs along a direction that is not periodic",
            f"pbc = {atoms.pbc.tolist()}",
            "set it to 0 there",
        )
    return Sum(tuple(_turned(term, atoms, wave, n) for term in terms_of(potential)))


def _turned(term: Potential, atoms: Atoms, k: Array, n: Array) -> Potential:
    if isinstance(term, Exchange):
        i, j, cells, matrices = term.explicit_bonds(atoms)
        _check_invariant(matrices, n, "an exchange matrix")
        onsite, site_fields = term.site_terms(atoms)
        if onsite is not None:
            _check_invariant(onsite, n, "onsite")
        if site_fields is not None:
            _check_along(site_fields, n, "site_fields")
        rotations = Rotation.from_rotvec(2 * np.pi * (cells @ k)[:, None] * n).as_matrix()
        bonds = list(zip(i.tolist(), j.tolist(), cells.tolist(), matrices @ rotations, strict=True))
        return Exchange(bonds=bonds, onsite=onsite, site_fields=site_fields)
    if isinstance(term, Scaled):
        return Scaled(_turned(term.potential, atoms, k, n), term.factor)
    if isinstance(term, UniaxialAnisotropy):
        _check_along(term.axis, n, "the axis of the anisotropy")
        return term
    if isinstance(term, Zeeman):
        _check_along(term.field, n, "the field")
        return term
    raise KLMError(
        f"{type(term).__name__} has no rotating frame",
        "spirals are turned bond by bond",
        "use a supercell that holds a whole period, without spiral=",
    )


def _check_invariant(matrices: Any, n: Array, name: str) -> None:
    turn = Rotation.from_rotvec(n).as_matrix()  # by one radian, of which no multiple is a full turn
    change = np.abs(turn @ matrices @ turn.T - matrices).max(initial=0.0)
    if change > 1e-6 * max(np.abs(matrices).max(initial=0.0), 1e-300):
        raise _not_symmetric(name, n)


def _check_along(vectors: Any, n: Array, name: str) -> None:
    across = np.linalg.norm(np.cross(vectors, n), axis=-1)
    if np.any(across > 1e-6 * np.linalg.norm(vectors, axis=-1)):
        raise _not_symmetric(name, n)


def _not_symmetric(name: str, n: Array) -> KLMError:
    return KLMError(
        f"{name} changes under rotations about {n.round(6).tolist()}",
        "a spiral is uniform in the rotating frame only if the energy does not",
        "use a supercell that holds a whole period, without spiral=",
    )
