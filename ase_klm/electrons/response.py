"""Static linear response of the spins of electrons to fields on sites, by sums over states.

For H = H_0 - Σ_i b_i·σ_i the energy has the second derivatives

    Φ_ij(q) = (1/N_k) Σ_k Σ_nm w_nm <n k|σ_i|m k+q> <m k+q|σ_j|n k>,   w_nm = (f_n - f_m)/(ε_n - ε_m) ≤ 0,

by b_i in the home cell and b_j in the cells R, times exp(2πi q·R) and summed over R; w = f' where levels coincide.
(Perturbation theory to second order; for the ferromagnet it gives the magnons of N. Furukawa, J. Phys. Soc. Jpn. 65,
1174 (1996).)

Each pair is shared between its two orders, by 1/(1 + exp((ε_n - ε_m)/kT)), so that the lower level is on the mesh and
the upper one at k+q or at k-q:

    Φ_ij(q) = X_ij(q) + X_ji(-q).

On the mesh this is the sum above, and the derivative of a supercell. Off the mesh it is the response of the states that
are filled on the mesh, and Φ(-q) = Φ(q)* still holds to rounding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import get_blas_funcs
from torch import Tensor

from ase_klm.electrons.hamiltonian import monkhorst_pack_gamma, spin_density
from ase_klm.electrons.occupation import NEGLIGIBLE, Occupation
from ase_klm.errors import KLMError

AT_ONCE = 1_000_000
"""Complex numbers in the largest temporary array."""

ON_MESH = 1e-9
"""Steps of the mesh by which q may miss a point of it and still belong to it."""

TO_CARTESIAN = torch.tensor([[1, 1, 0], [-1j, 1j, 0], [0, 0, 1]], dtype=torch.complex128)
"""(σ_x, σ_y, σ_z) from the products (u* d, d* u, u* u - d* d) of spinors (u, d)."""


@dataclass(frozen=True)
class Levels:
    """Energies, ascending, shape (N_k, 2N), and states as columns, shape (N_k, 2N, 2N)."""

    energies: Tensor
    states: Tensor


def memory_needed(n_kpoints: int, n_sites: int, dtype: torch.dtype) -> float:
    """Bytes for the response of some sites with two states each.

    In units of one Hamiltonian, A = (2 n_sites)² numbers: the states of the mesh and of two shifted ones, one H and the
    states that come of it, A for each k-point; work space 2 A; and six matrices of 3 n_sites rows, complex128. To this
    come a few temporary arrays of `AT_ONCE` numbers.
    """
    one = 4.0 * n_sites**2 * torch.empty((), dtype=dtype).element_size()
    return (5 * n_kpoints + 2) * one + 6 * 16 * (3.0 * n_sites) ** 2 + 24 * AT_ONCE


class SpinResponse:
    """Second derivatives of the energy by fields on sites.

    The levels of the mesh are found once and kept; those of the two shifted meshes of the last q are kept too.

    Parameters
    ----------
    hamiltonian : callable
        H(k), shape (N_k, 2N, 2N), from fractional k-points (N_k, 3).
    mesh : sequence of int
        Γ-centred, (n1, n2, n3).
    occupation : Occupation
    sites : Tensor
        Sites that fields act on, shape (n,).

    Raises
    ------
    KLMError
        When a hard step cuts a degenerate level: there is no second derivative.
    """

    def __init__(
        self, hamiltonian: Callable[[Tensor], Tensor], mesh: Sequence[int], occupation: Occupation, sites: Tensor
    ) -> None:
        self.hamiltonian, self.occupation, self.sites = hamiltonian, occupation, sites
        self.mesh = np.array(mesh)
        self.levels = self._solve(np.zeros(3))
        filled = occupation.fill(self.levels.energies)
        self.mu = float(filled.chemical_potential)
        f = filled.occupations
        if occupation.temperature == 0 and bool(((f > 0) & (f < 1)).any()):
            raise KLMError(
                "the second derivatives of the energy do not exist",
                "at T = 0 the highest occupied level is degenerate with the lowest empty one",
                "use temperature > 0 (kT in eV), another filling or mu, or another k-mesh",
            )
        self._meshes: dict[tuple[float, ...], Levels] = {}

    def at(self, q: NDArray[np.float64]) -> Tensor:
        """Φ(q) at one q, fractional, in 1/eV; complex128, shape (n, 3, n, 3).

        At q = 0 (all three within rounding of an integer), fixed filling and T > 0 it contains the change of μ, which
        the other q do not feel: +S S†/D with D = Σ(-f') and S_i = Σ(-f')<σ_i>.
        """
        offsets = {key: offset for key, offset, _ in map(self._split, (q, -q))}
        self._meshes = {key: self._meshes[key] for key in offsets if key in self._meshes}
        for key in offsets.keys() - self._meshes.keys():
            self._meshes[key] = self._solve(offsets[key]) if any(key) else self.levels
        there = self._one_way(q)
        back = there if _is_integer(2 * q) else self._one_way(-q)
        response = there + back.permute(2, 3, 0, 1)
        if _is_integer(q) and self.occupation.filling is not None and self.occupation.temperature > 0:
            response += self._shift_of_mu()
        return response

    def _solve(self, offset: NDArray[np.float64]) -> Levels:
        """Levels of the mesh moved by `offset`, in steps of the mesh."""
        kpoints = monkhorst_pack_gamma(self.mesh.tolist()) + offset / self.mesh
        return Levels(*torch.linalg.eigh(self.hamiltonian(torch.from_numpy(kpoints).to(self.sites.device))))

    def _split(self, q: NDArray[np.float64]) -> tuple[tuple[float, ...], NDArray[np.float64], NDArray[np.int64]]:
        """The mesh that contains k+q, by name and offset, and the whole steps of q; offset and steps add up to q."""
        steps = q * self.mesh
        whole = np.floor(steps + ON_MESH)
        offset = steps - whole
        offset[np.abs(offset) < ON_MESH] = 0
        return tuple(np.round(offset, 9).tolist()), offset, whole.astype(int)

    def _one_way(self, q: NDArray[np.float64]) -> Tensor:
        """X(q): the lower level of each pair on the mesh, at k, the upper one at k+q."""
        key, _, whole = self._split(q)
        index = np.indices(self.mesh.tolist()).reshape(3, -1) + whole[:, None]
        k_plus_q = np.ravel_multi_index(tuple(index), tuple(self.mesh), mode="wrap")
        where = torch.from_numpy(k_plus_q).to(self.sites.device)
        lower, upper = self.levels, self._meshes[key]
        width = NEGLIGIBLE * self.occupation.temperature
        n_lower = (lower.energies <= self.mu + width).sum(-1)
        n_full = (upper.energies < self.mu - width).sum(-1)[where]
        n_sites, n = len(self.sites), lower.energies.shape[-1]
        largest = max(1, int(n_lower.max()) * (n - int(n_full.min())))
        chunk = max(1, AT_ONCE // (3 * n_sites * largest))
        total = torch.zeros((3 * n_sites,) * 2, dtype=torch.complex128, device=where.device)
        for ks in torch.arange(len(where), device=where.device).split(chunk):
            first, last = int(n_full[ks].min()), int(n_lower[ks].max())
            up = self._spinors(upper, where[ks], slice(first, None))
            rows = max(1, AT_ONCE // (3 * n_sites * max(1, n - first) * len(ks)))
            for start in range(0, last, rows):
                part = slice(start, min(start + rows, last))
                weights = self._weights(
                    lower.energies[ks, part, None].double(), upper.energies[where[ks], None, first:].double()
                )
                total += _gram(_products(self._spinors(lower, ks, part), up, weights.sqrt()))
        return -_to_cartesian(total, n_sites) / len(where)

    def _spinors(self, levels: Levels, ks: Tensor, part: slice) -> Tensor:
        """States on the sites that fields act on, shape (2, n, k, level)."""
        states = levels.states[ks, :, part].unflatten(1, (-1, 2))  # (k, site, spin, level)
        return states[:, self.sites].permute(2, 1, 0, 3).contiguous()

    def _weights(self, lower: Tensor, upper: Tensor) -> Tensor:
        """-w of each pair, as far as it belongs to this order of the two, without cancellation."""
        kT = self.occupation.temperature
        if kT == 0:
            pair = (lower < self.mu) & (upper >= self.mu)
            return torch.where(pair, 1 / torch.where(pair, upper - lower, 1.0), 0.0)
        x, y = (lower - self.mu) / kT, (upper - self.mu) / kT
        # (f(x) - f(y))/(y - x) = sinh(d)/(4 d cosh(x/2) cosh(y/2)), d = (y - x)/2, freed of large exponents
        d = (y - x).abs()
        decay = torch.where(x * y > 0, torch.minimum(x.abs(), y.abs()), 0.0)
        slope = torch.where(d > 0, -torch.expm1(-d) / torch.where(d > 0, d, 1.0), 1.0)
        fermi = torch.sigmoid(x.abs()) * torch.sigmoid(y.abs()) * torch.exp(-decay)
        return torch.sigmoid(y - x) * slope * fermi / kT

    def _shift_of_mu(self) -> Tensor:
        kT = self.occupation.temperature
        x = (self.levels.energies.double() - self.mu) / kT
        slope = torch.sigmoid(x) * torch.sigmoid(-x) / kT  # -f'
        density = slope.sum(-1).mean(0)
        spins = spin_density(self.levels.states, slope).double().mean(0)[self.sites]
        if float(density) < 1e-200:
            return torch.zeros((), dtype=torch.complex128, device=spins.device)
        return torch.einsum("ia,jb->iajb", spins, spins / density).to(torch.complex128)


def _products(lower: Tensor, upper: Tensor, roots: Tensor) -> Tensor:
    """(u* d, d* u, u* u - d* d) of all pairs times the roots of their weights, shape (3 n, k·lower·upper)."""
    u, d = lower.conj()[..., :, None].resolve_conj()  # (site, k, lower, 1)
    up, down = (upper[..., None, :] * roots.to(upper.real.dtype)).unbind(0)  # (site, k, lower, upper)
    products = torch.empty((3, *up.shape), dtype=up.dtype, device=up.device)
    torch.mul(u, down, out=products[0])
    torch.mul(d, up, out=products[1])
    torch.mul(u, up, out=products[2])
    products[2].addcmul_(d, down, value=-1)
    return products.reshape(3 * len(u), -1)


def _gram(rows: Tensor) -> Tensor:
    """B B† of the rows of B, in complex128; on a CPU by the routine that does one triangle only."""
    if rows.device.type != "cpu":
        return (rows @ rows.mH).to(torch.complex128)
    matrix = rows.numpy()
    (herk,) = get_blas_funcs(("herk",), (matrix,))
    upper = torch.from_numpy(herk(1.0, matrix.T, trans=2, lower=1).T)  # BLAS reads columns, and so the conjugate
    return (upper + upper.triu(1).mH).to(torch.complex128)


def _to_cartesian(matrix: Tensor, n_sites: int) -> Tensor:
    """Shape (3 n, 3 n), by products of spinors, to (n, 3, n, 3)."""
    turn = TO_CARTESIAN.to(matrix.device)
    blocks = matrix.view(3, n_sites, 3, n_sites)
    return torch.einsum("ap,piqj,bq->iajb", turn, blocks, turn.conj())


def _is_integer(q: NDArray[np.float64]) -> bool:
    return bool((np.abs(q - np.round(q)) < ON_MESH).all())
