"""The bilinear couplings behind a bound potential, for integrators that turn one spin after the other:

E = Σ_bonds e_i·M·e_j - Σ_i f_i·e_i + whatever does not depend on spins,   M = M(positions).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ase_klm.potentials.base import BoundPotential, BoundSum
from ase_klm.potentials.bilinear import BoundBilinear
from ase_klm.potentials.zeeman import BoundZeeman


@dataclass(frozen=True)
class Couplings:
    """Terms of a potential that are bilinear in directions, or linear in moments.

    Attributes
    ----------
    terms : tuple of BoundBilinear
        In eV.
    field : Tensor
        Zeeman field, eV/μB, that broadcasts against moments.
    """

    terms: tuple[BoundBilinear, ...]
    field: Tensor

    @classmethod
    def of(cls, bound: BoundPotential) -> "Couplings | None":
        """Those of a potential; None when another term of it depends on spins."""
        terms = bound.terms if isinstance(bound, BoundSum) else [bound]
        if not all(isinstance(term, BoundBilinear | BoundZeeman) or not term.turns_spins for term in terms):
            return None
        bilinear = tuple(term for term in terms if isinstance(term, BoundBilinear))
        fields = [term.field for term in terms if isinstance(term, BoundZeeman)]
        return cls(bilinear, sum(fields, start=bound.moments.new_zeros(3)))

    def bonds(self, positions: Tensor, cell: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Ends and matrices of all bonds.

        Returns
        -------
        ends : tuple of Tensor
            Of each term i and j, the same objects as long as its bonds are the same.
        matrices : Tensor
            eV, shape (n_bonds, 3, 3), term after term; numbers, shape (n_bonds,), where all are multiples of 1.
        """
        found = [term.bond_strengths(positions, cell) for term in self.terms]
        known = [strengths for strengths in found if strengths is not None]
        if not known or len(known) < len(found):
            known = [term.bond_matrices(positions, cell) for term in self.terms]
        ends = tuple(end for i, j, _ in known for end in (i, j))
        if len(known) == 1:
            return ends, known[0][2]
        return ends, torch.cat([M for _, _, M in known]) if known else positions.new_zeros(0)

    def site_fields(self, length: Tensor, applied: Tensor | None) -> Tensor:
        """Site fields f in eV, shape (N, 3), for moments of the given length (N, 1) in a further field."""
        field = self.field if applied is None else self.field + applied
        found = (length * field).expand(len(length), 3)
        for term in self.terms:
            found = found + term.site_fields
        return found
