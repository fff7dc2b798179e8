"""Positions, velocities and moments of one structure on the device, and the Atoms that show them."""

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from ase_klm.moments import get_moments, set_moments
from ase_klm.potentials.base import Evaluation
from ase_klm.potentials.foreign import potential_of
from ase_klm.runs.state import SpinState, place_of


class CoupledState(SpinState):
    """Moments, positions and velocities, their bound potential, and its evaluation with atomic forces.

    Parameters
    ----------
    atoms : Atoms
        One structure.
    fixed : ndarray
        Atoms that do not move, bool, shape (N,); their velocities are zero.

    Attributes
    ----------
    positions, velocities : Tensor
        Å, and Å per ASE's unit of time, shape (N, 3).
    cell : Tensor
        Å, shape (3, 3).
    """

    positions: Tensor
    velocities: Tensor
    cell: Tensor
    _forces: Tensor | None

    def __init__(self, atoms: Atoms, fixed: NDArray[np.bool_]) -> None:
        self.atoms, self._fixed = atoms, fixed
        super().__init__([atoms], single=True)

    def place(self, positions: Tensor) -> None:
        """Take other positions; the moments may follow with `advance`."""
        self.positions = positions
        self.bound.move_to(positions, self.cell)
        self._evaluation = self._forces = None

    def advance(self, moments: Tensor) -> None:
        super().advance(moments)
        self._forces = None

    def evaluation(self) -> Evaluation:
        """Energy, forces and magnetic forces of the present state."""
        if self._evaluation is None:
            self._evaluation = self.bound.evaluate(self.moments, self.positions, self.cell)
        return self._evaluation

    def forces(self) -> Tensor:
        """Of the present state, eV/Å, shape (N, 3); alone, they cost less than an evaluation."""
        if self._evaluation is not None:
            self._forces = self._evaluation.forces
        elif self._forces is None:
            self._forces = self.bound.forces(self.moments, self.positions, self.cell)
        return self._forces  # type: ignore[return-value]  # checked when the run is made

    def show(self) -> None:
        self.check_size()
        atoms = self.atoms
        atoms.positions[:] = self.positions.cpu().numpy()
        atoms.set_momenta(atoms.get_masses()[:, None] * self.velocities.cpu().numpy(), apply_constraint=False)
        super().show()
        self._remember_shown()

    def synchronise(self) -> bool:
        """As `SpinState` does, with velocities."""
        self.check_size()
        moments, atoms = get_moments(self.atoms), self.atoms
        places, cell, *_ = self._places[0]
        turned = not np.array_equal(moments, self._shown[0])
        pushed = not np.array_equal(atoms.get_momenta(), self._shown_momenta)
        moved = not np.array_equal(atoms.positions, places) or not np.array_equal(atoms.cell.array, cell)
        stale = self._is_stale([moments])
        kept = self.moments, self.length, self.positions, self.velocities
        if stale:
            self._bind()
        elif turned:
            self.set(self.bound.tensor(moments))
        elif pushed:
            self._take_velocities()
        else:
            return False
        # what was not changed stays as it is, to the last bit
        if not turned:
            self.set(*kept[:2])
        if not moved:
            self.place(kept[2])
        if pushed:
            self._take_velocities()
        else:
            self.velocities = kept[3]
        self._shown = [moments]
        self._remember_shown()
        return True

    def bind_anew(self) -> None:
        """Find neighbour lists anew at the present positions, as a continued run does."""
        present = self.atoms.copy()
        present.positions[:] = self.positions.cpu().numpy()
        set_moments(present, self.moments.cpu().numpy())
        self.bound = potential_of(self.atoms).bind(present, str(self.bound.device))
        self.place(self.positions)

    def _bind(self) -> None:
        super()._bind()
        self.positions, self.cell = self.bound.positions, self.bound.cell
        self._take_velocities()
        self._remember_shown()

    def _take_velocities(self) -> None:
        momenta, masses = self.atoms.get_momenta(), self.atoms.get_masses()[:, None]
        free = ~self._fixed[:, None]
        self.velocities = self.bound.tensor(np.divide(momenta, masses, out=np.zeros_like(momenta), where=free))

    def _remember_shown(self) -> None:
        self._places = [place_of(self.atoms)]
        self._shown_momenta = self.atoms.get_momenta()
