"""Topological charge Q = (1/4π) ∫ e·(∂x e × ∂y e) of a planar texture.

By solid angles of the spins on counter-clockwise triangles of neighbours (Berg, Lüscher, Nucl. Phys. B 190, 412):
tan(Ω/2) = e1·(e2 × e3) / (1 + e1·e2 + e2·e3 + e3·e1), Q = Σ Ω/4π. On a periodic lattice Q is an integer.
"""

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray

from ase_klm.analysis.triangulation import triangulate
from ase_klm.errors import KLMError
from ase_klm.moments import directions, get_moments
from ase_klm.validate import Array, checked_array, checked_number


def solid_angles(moments: ArrayLike, triangles: NDArray[np.int64]) -> Array:
    """Signed solid angle of the three directions on each triangle.

    Parameters
    ----------
    moments : array_like
        Shape (..., N, 3), of any length, not zero on the triangles.
    triangles : ndarray
        Indices, shape (n_triangles, 3), see :func:`triangulate`.

    Returns
    -------
    ndarray
        In -2π...2π, shape (..., n_triangles).
    """
    e1, e2, e3 = np.moveaxis(directions(moments)[..., triangles, :], -2, 0)  # each (..., triangle, 3)
    volume = (e1 * np.cross(e2, e3)).sum(axis=-1)
    cosines = (e1 * e2).sum(axis=-1) + (e2 * e3).sum(axis=-1) + (e3 * e1).sum(axis=-1)
    return np.asarray(2 * np.arctan2(volume, 1 + cosines))


def topological_charge(atoms: Atoms, per: float | None = None, triangles: NDArray[np.int64] | None = None) -> float:
    """Topological charge: an integer on a lattice that is periodic in two directions.

    A skyrmion that points down in a background that points up has charge -1; see ``textures.skyrmion``.

    Parameters
    ----------
    atoms : Atoms
        Magnetic atoms in one plane; the others do not count.
    per : float, optional
        Number of magnetic sites that the charge is given for: 48 gives the charge of the magnetic cell of the
        triangular skyrmion crystals, 1 the density. Default: all.
    triangles : ndarray, optional
        From :func:`triangulate`, to reuse it for the frames of a trajectory.

    Raises
    ------
    KLMError
        As :func:`triangulate`, and when `per` is not positive or triangles and atoms do not fit.
    """
    moments, triangles = _checked(atoms, triangles)
    total = float(solid_angles(moments, triangles).sum() / (4 * np.pi))
    if per is None:
        return total
    return total * checked_number(per, "per", "number of sites", above=0) / int(moments.any(axis=1).sum())


def topological_charge_density(atoms: Atoms, triangles: NDArray[np.int64] | None = None) -> Array:
    """Topological charge of each site, shape (N,): a third of each triangle that it belongs to.

    The sum is the :func:`topological_charge`; parameters and errors are the same.
    """
    moments, triangles = _checked(atoms, triangles)
    thirds = solid_angles(moments, triangles) / (12 * np.pi)
    return np.asarray(np.bincount(triangles.ravel(), np.repeat(thirds, 3), len(atoms)), dtype=np.float64)


def _checked(atoms: Atoms, triangles: NDArray[np.int64] | None) -> tuple[Array, NDArray[np.int64]]:
    moments = get_moments(atoms)
    if triangles is None:
        return moments, triangulate(atoms)
    corners = checked_array(triangles, (None, 3), "triangles")
    triangles = corners.astype(np.int64)
    outside = (corners != triangles) | (corners < 0) | (corners >= len(atoms))
    if triangles.size and (outside.any() or not moments[triangles].any(axis=-1).all()):
        raise KLMError(
            "the triangles do not belong to these atoms",
            "a corner is not one of the magnetic atoms",
            "call triangulate(atoms) for this structure",
        )
    return moments, triangles
