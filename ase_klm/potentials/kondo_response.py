"""Second derivatives of the energy of a Kondo lattice by its moments.

Moments enter H linearly, as fields b_i = (J/2) m_i on the electrons, so that Φ(q) is (J/2)² times the response of
:class:`ase_klm.electrons.response.SpinResponse`, and nothing else.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ase_klm.electrons.response import SpinResponse
from ase_klm.potentials.second_derivatives import SecondDerivatives, require_memory_at


@dataclass(frozen=True)
class KondoSecondDerivatives(SecondDerivatives):
    """Exact linear response at any q.

    On the k-mesh, i.e. for q = (i/n1, j/n2, l/n3), it is the second derivative of the energy of the n-fold supercell.
    Off the mesh the states that are filled on the mesh respond with those at k+q and k-q, which are diagonalised. For
    gapped levels, or a temperature above their spacing, this is the smooth continuation; for a metal at T = 0 it
    depends on the mesh, and is no smooth function of q.

    At fixed filling and T > 0 the chemical potential follows a change of the moments at q = 0, and only there, which
    adds a positive term of rank one: for a metal Φ(0) is not the limit of Φ(q) for q → 0. The term acts along the spins
    of the electrons at the Fermi level, i.e. along the moments of a collinear texture, whose magnons do not feel it;
    and it vanishes for uniform rotations. At fixed mu there is no such term.

    Attributes
    ----------
    response : SpinResponse
    magnetic : ndarray
        bool, shape (N,); rows and columns of the others are zero.
    periodic : ndarray
        bool, shape (3,); components of q along other directions have no meaning, and are ignored.
    J : float
        eV.
    """

    response: SpinResponse
    magnetic: NDArray[np.bool_]
    periodic: NDArray[np.bool_]
    J: float

    def at(self, q: NDArray[np.float64]) -> NDArray[np.complex128]:
        n, axes = len(self.magnetic), np.arange(3)
        require_memory_at(n, len(q))
        sites = np.flatnonzero(self.magnetic)
        found = np.zeros((len(q), n, 3, n, 3), dtype=complex)
        for one, into in zip(np.where(self.periodic, q, 0.0), found, strict=True):
            into[np.ix_(sites, axes, sites, axes)] = (self.J / 2) ** 2 * self.response.at(one).cpu().numpy()
        return found
