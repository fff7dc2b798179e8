"""Kondo lattice: itinerant electrons coupled to classical spins, solved by exact diagonalisation.

    H = -Σ_(ij)s t_ij (c†_is c_js + h.c.) - (J/2) Σ_i m_i·(c†_i σ c_i)

with m in units of 1 μB, so that abs(m) = 1 is the usual unit spin. By Hellmann-Feynman F_i = (J/2) <σ_i>, forces and
stress follow from dt/dr and the bond orders. (Y. Miyazaki, Mach. Learn.: Sci. Technol. 4, 045006, arXiv:2305.03804,
where S is our m.)
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.electrons import diagonalisation, response
from ase_klm.electrons.diagonalisation import Eigensystem, diagonalise, seconds_needed
from ase_klm.electrons.hamiltonian import TightBinding, monkhorst_pack_gamma, spin_density
from ase_klm.electrons.occupation import FilledLevels, Occupation
from ase_klm.electrons.response import SpinResponse
from ase_klm.errors import KLMError, warn
from ase_klm.graphs import SkinBonds, checked_shells
from ase_klm.memory import require_memory
from ase_klm.plausibility import Doubt, doubts_about, doubts_about_cutoff, nearest_neighbours
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, Structures, gradients_by_position
from ase_klm.potentials.kondo_response import KondoSecondDerivatives
from ase_klm.potentials.parameters import Parametrised
from ase_klm.supercells import undistorted
from ase_klm.validate import LARGEST, checked_array, checked_number, checked_repeats

Hopping = Mapping[int, float] | Callable[[Tensor], Tensor]
DTYPES = {"float64": torch.complex128, "float32": torch.complex64}
SOLVERS = ("auto", "all", "occupied")
AT_ONCE = 1_000_000
"""Complex numbers in the eigenvectors that are made at once."""

LONG = 600
"""Seconds of one diagonalisation that a user should know of before."""

SMALLER = (
    "a magnetic cell with a k-mesh takes the place of a large torus where the texture is periodic, at k-points times "
    "sites² (lattices.triangular_magnetic_cell, kpts=(n1, n2, 1)); a network takes that of the electrons on a lattice "
    "of any size (ECNNCalculator, if there is one for this Hamiltonian)"
)
"""What fits where exact diagonalisation does not."""


@dataclass(frozen=True)
class ExponentialHopping(Parametrised):
    """t(r) = t0 exp(-(r - r0)/decay), optionally brought smoothly to zero.

    Parameters
    ----------
    t0 : float
        Hopping at the distance r0, eV.
    r0, decay : float
        Å.
    taper : tuple of float, optional
        (r_on, r_off) in Å: a quintic switch takes t from its full value at r_on to zero at r_off, twice continuously
        differentiable. Without it t jumps at the cutoff, which moving atoms notice.
    """

    t0: float
    r0: float
    decay: float
    taper: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        checked_number(self.t0, "t0", "eV")
        checked_number(self.r0, "r0", "Å")
        checked_number(self.decay, "decay", "Å", above=0)
        if self.taper is None:
            return
        on, off = checked_array(self.taper, (2,), "taper", "Å").tolist()
        object.__setattr__(self, "taper", (on, off))
        if not 0 <= on < off:
            raise KLMError(
                f"taper = {self.taper!r} cannot be used",
                "t is brought to zero between two distances, the first one smaller",
                "for instance taper=(2.5, 3.5), in Å",
            )

    def __call__(self, r: Tensor) -> Tensor:
        t = self.t0 * torch.exp(-(r - self.r0) / self.decay)
        if self.taper is None:
            return t
        on, off = self.taper
        x = ((r - on) / (off - on)).clamp(0, 1)
        return t * (1 - x**3 * (10 - 15 * x + 6 * x**2))


@dataclass(frozen=True, eq=False)
class Kondo(Potential):
    """H = -Σ_(ij)s t_ij (c†_is c_js + h.c.) - (J/2) Σ_i m_i·(c†_i σ c_i), m in units of 1 μB.

    Kondo lattice by exact diagonalisation.

    The energy is the potential whose gradients the forces are: E - TS at fixed `filling`, Ω = E - TS - μN at fixed
    `mu`, both per cell. Extras: `chemical_potential`, `gap` and `band_energy` (eV), `number_of_electrons`, `entropy`
    (in units of k).

    Parameters
    ----------
    hopping : mapping or callable
        {shell: t} in eV, shells counted among all atoms; or a function of distance t(r), written in torch (r in Å, any
        shape), with `cutoff`.
    J : float
        eV; may be negative.
    filling : float, optional
        Electrons per state, 0 to 1: round(2 N N_k filling) electrons over the whole mesh.
    mu : float, optional
        Chemical potential, eV. Exactly one of `filling` and `mu`.
    temperature : float
        kT of the electrons, eV. Zero is a hard step.
    kpts : tuple of int
        Γ-centred mesh (n1, n2, n3), also when even; it equals the n-fold supercell of the same texture.
    cutoff : float, optional
        Å; for a function of distance.
    solver : str
        "auto", "all", "occupied": see :func:`ase_klm.electrons.diagonalisation.diagonalise`.
    dtype : str
        "float64", or "float32" for complex64 matrices: half the time, some 1e-5 of accuracy.
    lattice : Atoms, optional
        Cell on which shells are counted, for all structures that repeat it. Default: the structure that this is bound
        to.
    """

    hopping: Hopping
    J: float
    filling: float | None = None
    mu: float | None = None
    temperature: float = 0.0
    kpts: Sequence[int] = (1, 1, 1)
    cutoff: float | None = None
    solver: str = "auto"
    dtype: str = "float64"
    lattice: Atoms | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "hopping", _checked_hopping(self.hopping, self.cutoff))
        object.__setattr__(self, "kpts", checked_repeats(self.kpts, "kpts"))
        checked_number(self.J, "J", "eV")
        Occupation(self.filling, self.mu, self.temperature)
        self._keep_lattice()
        for name, allowed in (("dtype", tuple(DTYPES)), ("solver", SOLVERS)):
            value = getattr(self, name)
            if not isinstance(value, str) or value not in allowed:
                raise KLMError(
                    f"{name} = {value!r} is unknown",
                    f"known are {', '.join(allowed)}",
                    f'for instance {name}="{allowed[0]}"',
                )

    @property
    def uses_lattice(self) -> bool:  # type: ignore[override]
        return not callable(self.hopping)

    @property
    def force_scale(self) -> float:
        return abs(self.J) / 2  # F = (J/2) <σ>

    def doubts(self, atoms: Atoms, force_scale: float) -> Iterator[Doubt]:
        nearest = nearest_neighbours(atoms)
        if callable(self.hopping):
            r = torch.tensor([np.inf if nearest is None else float(np.median(nearest.distance))], dtype=torch.float64)
            t = _called(self.hopping, r)
            hopping = float(t.detach().abs().max()) if isinstance(t, Tensor) else 0.0
        else:
            hopping = max(abs(t) for t in self.hopping.values())
        yield from doubts_about("hopping", hopping)
        yield from doubts_about("Kondo coupling", self.J, "J")
        largest = max(hopping, force_scale)
        yield from doubts_about("electronic temperature", self.temperature, "temperature", limit=3 * largest)
        if self.mu is not None:
            yield from doubts_about("chemical potential", self.mu, "mu", limit=50 * largest)
        if self.cutoff is not None and nearest is not None:
            yield from doubts_about_cutoff(self.cutoff, nearest.distance.min())
        yield from self._doubts_about_filling(len(atoms))

    def _doubts_about_filling(self, n_sites: int) -> Iterator[Doubt]:
        """A filling that rounds to no electron, or to one in every state."""
        states = 2 * n_sites * int(np.prod(self.kpts))
        if self.filling is None or self.filling in (0, 1) or 0 < round(self.filling * states) < states:
            return
        some, one = ("no electron", 1 / states) if self.filling < 0.5 else ("all states filled", 1 - 1 / states)
        yield Doubt(
            f"filling = {self.filling:g} rounds to {some}",
            f"{n_sites} sites and {np.prod(self.kpts)} k-points have {states} states, of which filling is a fraction",
            f"the {'first electron' if self.filling < 0.5 else 'first hole'} comes with filling = {one:.6g}; use a "
            "larger lattice or k-mesh, or mu",
        )

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundKondo":
        return BoundKondo(self, atoms, device)


class BoundKondo(BoundPotential):
    """Kondo Hamiltonians of a lattice, at all k-points and for all replicas in one batch."""

    def __init__(self, kondo: Kondo, atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self.kondo = kondo
        self.occupation = Occupation(kondo.filling, kondo.mu, kondo.temperature)
        reference = atoms if isinstance(atoms, Atoms) else atoms[0]
        if not self.magnetic.any():
            raise KLMError(
                "no atom carries a moment",
                "a Kondo lattice couples electrons to moments, and all are zero",
                "set them, e.g. with textures.random(atoms, seed=1) or set_moments",
            )
        meshed = np.array(kondo.kpts) > 1
        if (meshed & ~reference.pbc).any():
            raise KLMError(
                f"kpts = {tuple(kondo.kpts)} has several points along a non-periodic direction",
                f"pbc = {reference.pbc.tolist()}",
                f"use kpts={tuple(int(n) if p else 1 for n, p in zip(kondo.kpts, reference.pbc, strict=True))}",
            )
        self._check_size()
        self.kpoints = self.tensor(monkhorst_pack_gamma(kondo.kpts))
        if isinstance(kondo.hopping, Mapping):
            lattice = undistorted(atoms, kondo.lattice)
            bonds = lattice.shells(kondo.hopping)
            self._join(bonds.i, bonds.j, lattice.present(bonds.i, bonds.j, bonds.cells))
            self._amplitudes = self.tensor(np.array([kondo.hopping[shell] for shell in bonds.shells.tolist()], float))
            self._hopping_matrix = self.lattice.hopping_matrix(self._amplitudes)
        else:
            self._neighbours = SkinBonds(reference, float(kondo.cutoff))  # type: ignore[arg-type]

    @property
    def memory_needed(self) -> float:
        """Bytes of one evaluation."""
        kondo, n_matrices = self.kondo, self._n_matrices
        on_cpu = self.device.type == "cpu"
        order = 2 * self.n_atoms
        return diagonalisation.memory_needed(n_matrices, order, DTYPES[kondo.dtype], kondo.solver, on_cpu)

    @property
    def _n_matrices(self) -> int:
        """K-points times replicas."""
        return int(np.prod(self.kondo.kpts)) * int(np.prod(self.moments.shape[:-2]))

    def _check_size(self) -> None:
        """Whether an evaluation fits into memory, and into a coffee break."""
        n, order = self._n_matrices, 2 * self.n_atoms
        matrices = f"{f'{n} complex matrices' if n > 1 else 'a complex matrix'} of order {order}"

        def fitting(share: float) -> str:
            n_k = int(np.prod(self.kondo.kpts))
            fewer = f", or these sites with {max(1, int(share * n_k))} k-points" if n_k > 1 else ""
            return f"{max(1, int(share**0.5 * self.n_atoms))} sites with this k-mesh fit{fewer}; {SMALLER}"

        purpose = f"exact diagonalisation of {matrices} ({self.n_atoms} sites, two states each)"
        require_memory(self.memory_needed, purpose, fitting, self.device)
        seconds = seconds_needed(n, order, DTYPES[self.kondo.dtype])
        if self.device.type == "cpu" and seconds > LONG:
            warn(
                f"one evaluation will take about {_duration(seconds)}",
                f"{matrices} must be diagonalised on {torch.get_num_threads()} cores, in a time that grows as order³",
                SMALLER + '; a GPU (device="cuda") or dtype="float32" are faster',
            )

    def _join(self, i: np.ndarray, j: np.ndarray, cells: np.ndarray) -> None:
        self.bonds = self.tensor(i), self.tensor(j), self.tensor(cells)
        self.lattice = self._lattice_at(self.kpoints)

    def _lattice_at(self, kpoints: Tensor) -> TightBinding:
        return TightBinding(self.n_atoms, *self.bonds, kpoints, DTYPES[self.kondo.dtype])

    def amplitudes(self, positions: Tensor, cell: Tensor) -> Tensor:
        """Hopping of each bond, eV, shape (n_bonds,) by shells or (..., n_bonds) by distance."""
        if not callable(self.kondo.hopping):
            return self._amplitudes
        i, j, cells = self.bonds
        vectors = positions[..., j, :] + cells.to(cell.dtype) @ cell - positions[..., i, :]
        r = torch.linalg.vector_norm(vectors, dim=-1)
        t = _called(self.kondo.hopping, r)
        if not isinstance(t, Tensor) or t.shape != r.shape:
            raise KLMError(
                "the hopping function does not return one number for each distance",
                f"for a tensor of shape {tuple(r.shape)} it returned {getattr(t, 'shape', type(t).__name__)}",
                "write it in torch, element by element, e.g. lambda r: torch.exp(-r)",
            )
        t = torch.where(r < self.kondo.cutoff * (1 + 1e-9), t, 0.0)  # type: ignore[operator]
        if not bool((t.detach().abs() <= LARGEST).all()):  # NaN is not, either
            raise KLMError(
                "the hopping function returns NaN, infinity, or huge numbers",
                f"on the distances from {float(r.min()):.4g} to {float(r.max()):.4g} Å",
                "look at its parameters",
            )
        return t

    def _find_bonds(self, positions: Tensor, cell: Tensor) -> None:
        """Of a hopping by distance, where the atoms have moved beyond the skin of the last list."""
        if callable(self.kondo.hopping) and self._neighbours.update(positions, cell):
            self._join(*self._neighbours.bonds)

    def hamiltonian(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        """H(k) of all replicas, shape (..., N_k, 2N, 2N)."""
        if callable(self.kondo.hopping):
            self._find_bonds(positions, cell)
            self._hopping_matrix = self.lattice.hopping_matrix(self.amplitudes(positions, cell))
        coupled = torch.where(self.magnetic[:, None], moments, 0.0)
        return self.lattice.hamiltonian(self._hopping_matrix, coupled, self.kondo.J)

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        H = self.hamiltonian(moments, positions, cell)
        batch = H.shape[:-2]  # replicas and k-points
        system = diagonalise(H.flatten(0, -3), self.kondo.solver)
        filled = self.occupation.fill(system.energies.unflatten(0, batch))
        by_distance = atomic and callable(self.kondo.hopping)
        sigma, order = self._correlations(system, filled, with_bonds=by_distance)
        magnetic_forces = self.kondo.J / 2 * sigma.unflatten(0, batch).mean(-3)
        magnetic_forces = torch.where(self.magnetic[:, None], magnetic_forces, 0.0)
        forces, stress = self.no_atomic_forces(magnetic_forces, atomic)
        if by_distance:
            order = order.unflatten(0, batch).mean(-2)
            forces, stress = gradients_by_position(
                lambda x, h: -2 * (order * self.amplitudes(x, h)).sum(-1),
                positions.expand(*batch[:-1], -1, -1),
                cell.expand(*batch[:-1], -1, -1),
            )
        extras = {
            name: getattr(filled, name)
            for name in ("chemical_potential", "number_of_electrons", "gap", "entropy", "band_energy")
        }
        return Evaluation(filled.energy, magnetic_forces, forces, stress, extras)

    def _correlations(self, system: Eigensystem, filled: FilledLevels, with_bonds: bool) -> tuple[Tensor, Tensor]:
        """<σ_i>, shape (batch, N, 3), and bond orders, shape (batch, n_bonds), of each matrix of the batch."""
        occupations, counts = filled.occupations.flatten(0, -2), filled.n_occupied.flatten().tolist()
        sigma, order = [], []
        at_once = max(1, AT_ONCE // occupations.shape[-1] ** 2)
        for start in range(0, len(counts), at_once):
            block = slice(start, start + at_once)
            states = system.lowest_states(block, counts[block])
            f = occupations[block, : states.shape[-1]]
            sigma.append(spin_density(states, f))
            if with_bonds:
                order += [
                    self.lattice.bond_order(*one, index % len(self.kpoints))
                    for index, one in enumerate(zip(states, f, strict=True), start)
                ]
        return torch.cat(sigma).double(), torch.stack(order).double() if with_bonds else torch.empty(0)

    def levels(self, kpoints: np.ndarray, moments: Tensor, positions: Tensor, cell: Tensor) -> np.ndarray:
        """Energies (eV) at fractional k-points, shape (N_k, 2N)."""
        dtype, order = DTYPES[self.kondo.dtype], 2 * self.n_atoms
        require_memory(
            diagonalisation.memory_needed(len(kpoints), order, dtype, "all"),
            f"diagonalising {len(kpoints)} matrices of order {order}",
            "ask for fewer k-points at a time, or a smaller cell",
            self.device,
        )
        H = self._hamiltonian_at(self.tensor(kpoints), moments, positions, cell)
        return torch.linalg.eigvalsh(H).double().cpu().numpy()

    def _hamiltonian_at(self, kpoints: Tensor, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        """H(k) at other k-points than those of the mesh."""
        self._find_bonds(positions, cell)
        lattice = self._lattice_at(kpoints)
        coupled = torch.where(self.magnetic[:, None], moments, 0.0)
        return lattice.hamiltonian(lattice.hopping_matrix(self.amplitudes(positions, cell)), coupled, self.kondo.J)

    def second_derivatives(self, moments: Tensor) -> KondoSecondDerivatives:
        """∂²E/∂m∂m at any q, for moments of shape (N, 3) and the present positions.

        Raises
        ------
        KLMError
            For several replicas, and at T = 0 where the step cuts a degenerate level.
        """
        m, positions, cell = moments.detach().clone(), self.positions.clone(), self.cell.clone()
        if m.ndim > 2 or positions.ndim > 2 or cell.ndim > 2:
            raise KLMError(
                "second derivatives of a Kondo lattice are for one structure at a time",
                f"moments have the shape {tuple(m.shape)}, positions {tuple(positions.shape)}",
                "bind the replicas one by one",
            )
        sites = self.magnetic.nonzero()[:, 0]
        require_memory(
            response.memory_needed(len(self.kpoints), self.n_atoms, DTYPES[self.kondo.dtype]),
            f"the response of {len(sites)} sites with {len(self.kpoints)} k-points",
            "take a smaller magnetic cell, or fewer k-points with a higher temperature",
            self.device,
        )
        spins = SpinResponse(
            lambda kpoints: self._hamiltonian_at(kpoints, m, positions, cell),
            self.kondo.kpts,
            self.occupation,
            sites,
        )
        periodic = np.asarray(self.reference.pbc, dtype=bool)
        return KondoSecondDerivatives(spins, self.magnetic.cpu().numpy(), periodic, self.kondo.J)


def _called(hopping: Callable[[Tensor], Tensor], r: Tensor) -> Any:
    """What a user's function returns."""
    try:
        return hopping(r)
    except Exception as error:
        raise KLMError(
            "the hopping function fails on a tensor of distances",
            f"{type(error).__name__}: {error}",
            "write it in torch, element by element, e.g. lambda r: torch.exp(-r); NumPy cannot be differentiated",
        ) from error


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds > 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def _checked_hopping(hopping: Any, cutoff: float | None) -> Hopping:
    if callable(hopping):
        checked_number(cutoff, "cutoff of the hopping function", "Å", above=0)
        return hopping
    if not isinstance(hopping, Mapping) or not hopping:
        raise KLMError(
            f"hopping = {hopping!r} is neither shells nor a function",
            "nothing to hop by",
            "give {shell: t}, e.g. hopping={1: 1.0, 3: -0.85}, or a function of distance with cutoff=",
        )
    if cutoff is not None:
        raise KLMError(
            "cutoff is given with hopping by shells",
            "shells are counted, not cut off",
            "drop cutoff, or give hopping as a function of distance",
        )
    checked_shells(hopping)
    for shell, value in hopping.items():
        checked_number(value, f"hopping of shell {shell!r}", "eV")
    return dict(hopping)
