"""A spin-lattice model of monolayer CrI3: published exchange that follows the atoms, and springs with its phonons.

It is a model to try methods on, with the sizes and symmetries of the material, not a fit to density functional theory.

Exchange is E = Σ M e_i·e_j, every bond once, for unit vectors e: J S·S is (9/4) J e·e with S = 3/2. At the distances of
`lattices.cri3_monolayer`, in meV:

| term | value | source |
|---|---|---|
| J1, J2, J3 | -(9/4) (2.01, 0.16, -0.08) | neutron scattering, L. Chen et al., Phys. Rev. X 8, 041028 (2018) |
| D, second neighbours | (9/4) 0.31 | there; along Keffer's vector by way of the chromium between, ± the normal |
| -λ (e_i·n_i)(e_j·n_j), first ones | λ = (9/4) 0.09 | J. L. Lado, J. Fernández-Rossier, 2D Mater. 4, 035002 (2017) |
| -K (e·n)² | K = (9/4) 0.085 | chosen so that both together give the gap 2 S (0.22 meV) of Chen et al. |

Each n is the normal of the plane through a chromium's three neighbours, so the energy does not change when layer and
moments turn together. Chen et al. measured the bulk; coupling between layers is left out.

With distance, J1 = -16.5 exp(-(r - r1)/2 Å) + 12.0 exp(-(r - r1)/0.4 Å) meV: exchange by way of iodine, and direct
exchange of chromium. Both ranges are chosen, the latter as usual for d states; the amplitudes then follow from J1 and
from its change of sign when two chromium atoms come 0.16 Å closer, the displacement beyond which density functional
theory has it (B. Sadhukhan et al., arXiv:2111.05382). J2, J3, D and λ fall off by exp(-(r - r0)/1 Å), by choice, as
nothing is published that would fix it. How exchange changes with the angle at iodine is left out.

The lattice has springs, with the rest lengths of `lattices.cri3_monolayer`. Their six stiffnesses were fitted here to
the Γ frequencies of density functional theory that L. Tomarchio et al. list (Sci. Rep. 11 (2021), table 2,
doi:10.1038/s41598-021-02918-4), in cm⁻¹:

| | A1g | Eg | A2u | Eu |
|---|---|---|---|---|
| listed | 76, 129 | 50, 102, 108, 241 | 57, 133 | 80, 114, 225 |
| springs | 83, 128 | 53, 95, 111, 236 | 59, 147 | 68, 111, 217 |

Moments prefer m₀ = g S μB = 3 μB; the stiffness of their lengths, 0.5 eV/μB², is chosen.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.lattices import cri3_monolayer
from ase_klm.moments import is_magnetic
from ase_klm.potentials.base import Potential, Structures
from ase_klm.potentials.bond_terms import BondTerm, DMThroughAtom, dyads
from ase_klm.potentials.cri3_layer import HOME, Layer, Way, shifted
from ase_klm.potentials.exchange_of_distance import BoundExchangeOfDistance, Members, Term
from ase_klm.potentials.functions_of_distance import DistanceFunction, Exponential
from ase_klm.potentials.lattice_energy import BoundLatticeEnergy, Pairs, Spring
from ase_klm.potentials.moment_lengths import MomentLengths
from ase_klm.supercells import Undistorted, undistorted

S_SQUARED = 9 / 4
DISTANCES = 3.9647, 6.8670, 7.9293
"""Neighbours of chromium, Å: a/√3, a and 2a/√3."""

J1 = (
    Exponential(-0.0120 - 2.01e-3 * S_SQUARED, DISTANCES[0], 2.0),
    Exponential(0.0120, DISTANCES[0], 0.4),
)
J2 = Exponential(-0.16e-3 * S_SQUARED, DISTANCES[1], 1.0)
J3 = Exponential(0.08e-3 * S_SQUARED, DISTANCES[2], 1.0)
D = Exponential(0.31e-3 * S_SQUARED, DISTANCES[1], 1.0)
TWO_ION = Exponential(-0.09e-3 * S_SQUARED, DISTANCES[0], 1.0)
SINGLE_ION = 0.085e-3 * S_SQUARED

STIFFNESS = {
    "Cr-I": 1.229,
    "Cr-Cr": 0.787,
    "Cr-I next": 1.911,
    "I-I of an edge": 1.593,
    "I-I on one side": 0.276,
    "I-I across": 1.682,
}
"""Springs in eV/Å² by kinds of pairs."""

LENGTH = 3.0
LENGTH_STIFFNESS = 0.5


def cri3_model() -> Potential:
    """The model: exchange, lattice, and lengths of moments. Set moments of about 3 μB on chromium, none on iodine.

    Bonds are told by which atoms share neighbours, so that displaced and strained layers of any size have the same.
    They are found anew when atoms move, unless the calculator has a lattice: ``SpinCalculator(..., lattice=layer)``.

    Examples
    --------
    >>> atoms = lattices.cri3_monolayer((3, 3))
    >>> set_moments(atoms, np.outer(atoms.symbols == "Cr", (0, 0, 3.0)))
    >>> atoms.calc = SpinCalculator(potentials.cri3_model())
    """
    return CrI3Exchange() + CrI3Lattice() + MomentLengths(LENGTH, LENGTH_STIFFNESS)


@dataclass(frozen=True, eq=False)
class CrI3Exchange(Potential):
    """E = Σ_bonds e_i·M(v)·e_j - Σ_i K (e_i·n_i)²: exchange and anisotropy of the chromium moments, every bond once.

    Parameters
    ----------
    lattice : Atoms, optional
        Layer whose bonds are taken, for all structures that repeat it. Default: the structure that this is bound to.
    """

    lattice: Atoms | None = None

    def __post_init__(self) -> None:
        self._keep_lattice()

    def bind(self, atoms: Structures, device: str = "cpu") -> BoundExchangeOfDistance:
        lattice = undistorted(atoms, self.lattice)
        layer = Layer(lattice.atoms)
        _check_moments(atoms if isinstance(atoms, Atoms) else atoms[0])
        first = layer.first_neighbours()
        second = layer.second_neighbours()
        groups: list[tuple[Term, list[Way]]] = [
            *((part, [way[:2] for way in first]) for part in J1),
            (J2, [way[:2] for way in second]),
            (J3, layer.third_neighbours()),
            (DMThroughAtom(D, "Cr"), second),
            (TwoIonAnisotropy(TWO_ION), first),
            (SingleIonAnisotropy(SINGLE_ION), [((c, HOME), (c, HOME), *layer.neighbours[c]) for c in layer.neighbours]),
        ]
        return BoundExchangeOfDistance([_members(term, ways, lattice) for term, ways in groups], atoms, device)


@dataclass(frozen=True, eq=False)
class CrI3Lattice(Potential):
    """E = Σ_pairs ½ k (r - l)²: springs between the atoms, with the lengths l of `lattices.cri3_monolayer`.

    Parameters
    ----------
    lattice : Atoms, optional
        Layer whose bonds are taken, for all structures that repeat it. Default: the structure that this is bound to.
    """

    lattice: Atoms | None = None

    def __post_init__(self) -> None:
        self._keep_lattice()

    def bind(self, atoms: Structures, device: str = "cpu") -> BoundLatticeEnergy:
        lattice, lengths = undistorted(atoms, self.lattice), _rest_lengths()
        pairs = []
        for kind, ways in Layer(lattice.atoms).springs().items():
            group = _members(Spring(STIFFNESS[kind], lengths[kind]), ways, lattice)
            pairs.append(Pairs(Spring(STIFFNESS[kind], lengths[kind]), group.i, group.j, group.cells))
        return BoundLatticeEnergy(pairs, [], atoms, device)


@dataclass(frozen=True)
class SingleIonAnisotropy(BondTerm):
    """-K (e·n)², as a bond of an atom to itself, n the normal of the plane through its three neighbours."""

    constant: float

    def matrices(self, vectors: Tensor) -> Tensor:
        return -self.constant * dyads(_normal(*vectors[..., 1:, :, :].unbind(-3)))


@dataclass(frozen=True)
class TwoIonAnisotropy(BondTerm):
    """-λ (e_i·n_i)(e_j·n_j); the vectors lead to j, to the other two neighbours of i, and to those of j."""

    function: DistanceFunction

    def matrices(self, vectors: Tensor) -> Tensor:
        to_j, *around = vectors.unbind(-3)
        n_i, n_j = _normal(to_j, *around[:2]), _normal(torch.zeros_like(to_j), *around[2:])
        r = torch.linalg.vector_norm(to_j, dim=-1)
        sign = torch.sign((n_i * n_j).sum(-1).detach())  # of either normal is left open
        return (sign * self.function(r))[..., None, None] * n_i[..., :, None] * n_j[..., None, :]


def _normal(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Unit normal of the plane through three points."""
    normal = torch.linalg.cross(b - a, c - a)
    return normal / torch.linalg.vector_norm(normal, dim=-1, keepdim=True)


def _members(term: Term, ways: Sequence[Way], lattice: Undistorted) -> Members:
    """Bonds of a term as arrays, all seen from the home cell of their first end."""
    seen = [[shifted(site, (-n for n in way[0][1])) for site in way] for way in ways]
    atoms = np.array([[site[0] for site in way] for way in seen]).T
    cells = np.array([[site[1] for site in way] for way in seen]).transpose(1, 0, 2)
    others = list(zip(atoms[2:], cells[2:], strict=True))
    return Members(term, atoms[0], atoms[1], cells[1], others).in_images(lattice)


@lru_cache
def _rest_lengths() -> dict[str, float]:
    atoms = cri3_monolayer()
    found = {}
    for kind, ways in Layer(atoms).springs().items():
        lengths = [
            np.linalg.norm(atoms.positions[j] + R_j @ atoms.cell.array - atoms.positions[i] - R_i @ atoms.cell.array)
            for (i, R_i), (j, R_j) in ways
        ]
        found[kind] = float(np.mean(lengths))
    return found


def _check_moments(atoms: Atoms) -> None:
    chromium = np.array(atoms.symbols == "Cr")
    wrong = np.flatnonzero(is_magnetic(atoms) != chromium)
    if len(wrong):
        atom = wrong[0]
        raise KLMError(
            f"atom {atom} ({atoms.symbols[atom]}) {'has no moment' if chromium[atom] else 'has a moment'}",
            "in this model all chromium atoms carry a moment, and iodine carries none",
            'set them, e.g. set_moments(atoms, np.outer(atoms.symbols == "Cr", (0, 0, 3.0)))',
        )
