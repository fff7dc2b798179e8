"""Atoms and spins as one set of coordinates, which every ASE optimizer can relax.

A spin's coordinates are a vector a perpendicular to its reference direction n, and the logarithm λ of its length in
units of the initial one,

    m = m0 exp(λ) (cos abs(a) n + sin abs(a) a/abs(a)),

the exponential map of the sphere. Nothing has to be brought back to a constraint behind the optimizer's back, and the
generalised forces are the exact -∂E/∂(a, λ). Multiplied by lengths L, the coordinates stand beside positions in Å.

A map of the sphere is distorted far from its centre, by sin abs(a)/abs(a). A spin that has turned by more than 1 rad
gets its present direction as the next n. Its coordinates go on from the values they have, in axes carried along the
great circle to the new n, so that what quasi-Newton methods remember keeps its meaning (parallel transport; W. Huang,
K. A. Gallivan, P.-A. Absil, SIAM J. Optim. 25, 1660).
"""

from collections.abc import Iterator
from pathlib import Path
from time import localtime, strftime
from typing import Any, TextIO

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import Filter, FrechetCellFilter, OptimizableFilter, UnitCellFilter
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from ase_klm.errors import KLMError, warn
from ase_klm.files import writing
from ase_klm.moments import directions, get_magnetic_forces, get_moments, is_magnetic, set_moments
from ase_klm.potentials.base import terms_of
from ase_klm.potentials.foreign import Foreign, potential_of
from ase_klm.potentials.scaled import unscaled
from ase_klm.runs.inputs import checked_logfile, checked_replicas, open_log
from ase_klm.runs.lattice import keep_lattice
from ase_klm.runs.state import check_size
from ase_klm.validate import Array, checked_number

PROBE = {"positions": 1e-3, "directions": 0.05, "lengths": 5e-3}
"""Root mean square displacements (Å, rad, 1) by which stiffnesses are measured."""

FAR = 1.0
"""Rotation, rad, after which a spin gets a new reference direction."""

LARGEST_ROTATION = 0.5
"""Rotation of a spin, rad, that an optimizer's `maxstep` of 0.2 Å allows in one step."""

STIFFNESS = 70.0
"""eV/Å²: what ASE's optimizers assume at first; taken where no atom moves."""

UNHONOURED = ("MirrorForce", "MirrorTorque")
UNHONOURED_IN_CELLS = ("FixBondLengths", "FixBondLength", "FixLinearTriatomic", "FixInternals")


class SpinLatticeFilter(Filter):
    """Let ASE's optimizers relax positions and moments together: ``BFGS(SpinLatticeFilter(atoms)).run(fmax=0.01)``.

    A run has converged when all forces are below the optimizer's `fmax` (eV/Å), and all magnetic forces below
    `magnetic_fmax`: their part across the moment, and with free magnitudes the whole. The column fmax in an optimizer's
    own log is the former only; the `logfile` of the filter has both. Each evaluation of the optimizer is one of the
    calculator; `moment_scale=None` costs two more at the start.

    Bonds by neighbour shells stay: those of the calculator's lattice, else of the structure at the start; then
    `atoms.calc` becomes a copy of the calculator with that lattice.

    Constraints of ASE (`FixAtoms` and the like) hold for positions. A trajectory of the optimizer has frames with
    moments and magnetic forces, which `ase_klm.data.read` returns. Optimizers that limit the step of each atom by
    `maxstep` (BFGS, LBFGS, MDMin, RFO) turn no spin by more than 0.5 rad at once. `PreconLBFGS` needs ``precon=None``,
    and stops when the forces of `get_forces`, those on spins in eV/Å, are below fmax. `GPMin`, whose kernel has one
    length for all coordinates, needs ``moment_scale=1.0``. `CellAwareBFGS` is for cells alone.

    Parameters
    ----------
    atoms : Atoms or ASE cell filter
        With moments and a calculator that has forces and magnetic forces; changed in place. A cell filter around them,
        e.g. ``FrechetCellFilter(atoms, hydrostatic_strain=True)``, says in which way the cell relaxes.
    cell : bool
        Relax the cell, too: ASE's `FrechetCellFilter`, with strains of the periodic directions only.
    moment_scale : float, optional
        Length L in Å by which a radian, and a unit of ln abs(m), is multiplied. Default: measured, so that spins are as
        stiff as atoms.
    magnitudes : str
        "fixed" or "free": whether lengths of moments relax.
    mask : array_like, optional
        What relaxes: booleans of shape (N,), or (N, 2) for positions and moments apart. Default: all.
    magnetic_fmax : float
        Largest magnetic force at convergence, eV/μB.
    logfile : str, Path or file, optional
        "-" for the terminal. A line a step: time of day, energy (eV), largest force (eV/Å) and magnetic force (eV/μB).

    Attributes
    ----------
    moment_scale : tuple of float
        The lengths L of directions and of ln abs(m), Å.

    Raises
    ------
    KLMError
        When no atom carries a moment, the calculator has no forces, magnetic forces or (with a cell) stress, or a
        constraint cannot be honoured.
    """

    moment_scale: tuple[float, float]
    _axes: Array
    _reference: Array
    _frames: Array
    _turned: Array
    _rotations: Array
    _logarithms: Array
    _length: Array
    _written: Array
    _log: TextIO | None = None

    def __init__(
        self,
        atoms: Atoms | UnitCellFilter,
        cell: bool = False,
        moment_scale: float | None = None,
        magnitudes: str = "fixed",
        mask: ArrayLike | None = None,
        magnetic_fmax: float = 1e-4,
        logfile: str | Path | TextIO | None = None,
    ) -> None:
        if magnitudes not in ("fixed", "free"):
            raise KLMError(f"magnitudes = {magnitudes!r} is unknown", 'known are "fixed" and "free"', "choose one")
        if moment_scale is not None:
            checked_number(moment_scale, "moment_scale", "Å", above=0)
        checked_number(magnetic_fmax, "magnetic_fmax", "eV/μB", above=0)
        checked_logfile(logfile)
        _check_filter(atoms)
        inner = atoms.atoms if isinstance(atoms, UnitCellFilter) else atoms
        structure = checked_replicas(inner)[0] if not isinstance(inner, list | tuple) else _not_atoms(inner)
        if cell and structure is atoms:
            atoms = FrechetCellFilter(structure, mask=_periodic_strains(structure))
        _check_constraints(structure, structure is not atoms)
        super().__init__(structure, indices=range(len(structure)))
        keep_lattice(structure)
        self._began = len(structure)
        self.lattice = atoms
        self.magnitudes, self.magnetic_fmax = magnitudes, magnetic_fmax
        moves = _checked_mask(mask, len(structure))
        self._held = np.zeros(len(self.lattice), dtype=bool)
        self._held[: len(structure)] = ~moves[:, 0]
        self._spins = np.flatnonzero(moves[:, 1] & is_magnetic(structure))
        if self._held.all() and not len(self._spins):
            raise KLMError(
                "nothing is left to relax", "mask holds every atom and every spin", "mask is True for what relaxes"
            )
        self._anchor()
        self.moment_scale = (1.0, 1.0) if moment_scale is None else (float(moment_scale),) * 2
        self._check_results()
        if moment_scale is None:
            self.moment_scale = self._measured_scale()
        self._logged = ""
        if logfile is not None:
            self._log, _ = open_log(logfile, "w")

    @property
    def copy(self) -> Any:
        """Asked for by ASE's cell filters, when they are put around this one: refused."""
        raise KLMError(
            "a cell filter cannot be around a SpinLatticeFilter",
            "it strains atoms, and knows no spins",
            "put it inside: SpinLatticeFilter(FrechetCellFilter(atoms)), or SpinLatticeFilter(atoms, cell=True)",
        )

    @property
    def mask(self) -> Array:
        """Asked for by ASE's `CellAwareBFGS`: refused."""
        raise KLMError(
            "CellAwareBFGS cannot take a SpinLatticeFilter",
            "it takes the last coordinates for those of the cell; here they are those of spins",
            "use another optimizer, e.g. BFGS",
        )

    def __len__(self) -> int:
        return len(self.lattice) + len(self._spins)

    def get_positions(self) -> Array:
        """Coordinates of the lattice, Å, then of the spins, L (a + λ n), shape (rows, 3)."""
        check_size(len(self.atoms), self._began)
        if not np.array_equal(get_moments(self.atoms)[self._spins], self._written):
            self._read()
        direction, length = self.moment_scale
        spins = direction * self._turned + (length * self._logarithms)[:, None] * self._axes
        return np.concatenate([self.lattice.get_positions(), spins])

    def set_positions(self, positions: Array, **kwargs: Any) -> None:
        check_size(len(self.atoms), self._began)
        direction, length = self.moment_scale
        lattice, spins = np.split(np.asarray(positions, dtype=np.float64), [len(self.lattice)])
        along = np.sum(spins * self._axes, axis=1)
        turned = (spins - along[:, None] * self._axes) / direction
        self._rotations += np.einsum("iab,ib->ia", self._frames, turned - self._turned)
        self._turned = turned
        if self.magnitudes == "free":
            self._logarithms = along / length
        self._write()
        present = self.lattice.get_positions()
        self.lattice.set_positions(np.where(self._held[:, None], present, lattice), **kwargs)

    positions = property(get_positions, set_positions, doc="As get_positions.")

    def get_forces(self, **kwargs: Any) -> Array:
        """-∂E/∂(coordinates), eV/Å, shape (rows, 3)."""
        check_size(len(self.atoms), self._began)
        direction, length = self.moment_scale
        torques, stretching = self._spin_forces()
        spins = np.einsum("iab,ia->ib", self._frames, torques) / direction + (stretching / length)[:, None] * self._axes
        forces = np.concatenate([self._lattice_forces(**kwargs), spins])
        if not np.isfinite(forces).all():
            raise KLMError(
                "forces or magnetic forces are not finite",
                "the calculator has returned NaN or infinity",
                "look at its results for the last frame of the trajectory",
            )
        return forces

    @property
    def largest_force(self) -> float:
        """Largest force on the lattice, as ASE's optimizers measure it, eV/Å."""
        return _largest(self._lattice_forces())

    @property
    def largest_magnetic_force(self) -> float:
        """Largest magnetic force that a mobile spin can yield to, eV/μB."""
        forces = get_magnetic_forces(self.atoms)[self._spins]
        if self.magnitudes == "fixed":
            e = directions(get_moments(self.atoms)[self._spins])
            forces -= np.sum(forces * e, axis=1, keepdims=True) * e
        return _largest(forces)

    def iterimages(self) -> Iterator[Atoms]:
        """The atoms with their moments and results, as trajectories keep them."""
        image = self.atoms.copy()
        energy = self.atoms.get_potential_energy()
        forces = self.atoms.get_forces(apply_constraint=False)
        image.calc = SinglePointCalculator(image, energy=energy, free_energy=energy, forces=forces)
        image.info["magnetic_forces"] = get_magnetic_forces(self.atoms)
        yield image

    def __ase_optimizable__(self) -> "OptimizableSpinLattice":
        return OptimizableSpinLattice(self)

    def report(self) -> None:
        """Write a line of the log, once for each state."""
        if self._log is None:
            return
        found = self.atoms.get_potential_energy(), self.largest_force, self.largest_magnetic_force
        line = f"{found[0]:18.8f} {found[1]:14.4e} {found[2]:18.4e}\n"
        if line == self._logged:
            return
        with writing(self._log):
            if not self._logged:
                self._log.write(f"{'':18s} Time          Energy/eV     force/eV/Å magnetic force/eV/μB\n")
            self._log.write(f"SpinLatticeFilter: {strftime('%H:%M:%S', localtime())} {line}")
            self._log.flush()
        self._logged = line

    def get_potential_energy(self, **kwargs: Any) -> float:
        """Energy, eV, with what a cell filter adds for pressure."""
        return float(self.lattice.get_potential_energy(**kwargs))

    def _anchor(self) -> None:
        """Take the present moments as references.

        `_turned` are the coordinates a in the axes of the first n, `_axes`; `_frames` carry them to those of the
        present n, `_reference`, and `_rotations` are the a from there.
        """
        moments = get_moments(self.atoms)[self._spins]
        self._reference = directions(moments)
        self._length = np.linalg.norm(moments, axis=1)
        self._axes = self._reference.copy()
        self._frames = np.tile(np.eye(3), (len(moments), 1, 1))
        self._turned, self._rotations = np.zeros_like(moments), np.zeros_like(moments)
        self._logarithms = np.zeros(len(moments))
        self._written = moments

    def _write(self) -> None:
        """Moments from coordinates."""
        moments = get_moments(self.atoms)
        angle = np.linalg.norm(self._rotations, axis=1, keepdims=True)
        e = np.cos(angle) * self._reference + np.sinc(angle / np.pi) * self._rotations
        moments[self._spins] = (self._length * np.exp(self._logarithms))[:, None] * e
        self._written = moments[self._spins]
        set_moments(self.atoms, moments)
        far = angle[:, 0] > FAR
        turns = Rotation.from_rotvec(np.cross(self._reference[far], self._rotations[far])).as_matrix()
        self._frames[far] = turns @ self._frames[far]
        self._reference[far] = e[far]
        self._rotations[far] = 0.0

    def _read(self) -> None:
        """Coordinates from moments that others have set."""
        moments = get_moments(self.atoms)[self._spins]
        e, lengths = directions(moments), np.linalg.norm(moments, axis=1)
        if not lengths.all():
            raise KLMError(
                "a moment has become zero",
                "a spin without a length has no direction to turn",
                "make a new SpinLatticeFilter for these atoms",
            )
        if self.magnitudes == "fixed":
            self._length = lengths
        else:
            self._logarithms = np.log(lengths / self._length)
        along = np.sum(e * self._reference, axis=1, keepdims=True)
        across = e - along * self._reference
        angle = np.arctan2(np.linalg.norm(across, axis=1, keepdims=True), along)
        axis = np.where(angle > np.pi - 1e-9, _perpendicular(self._reference), directions(across))
        self._turned += np.einsum("iab,ia->ib", self._frames, angle * axis - self._rotations)
        self._rotations = angle * axis
        self._written = moments

    def _spin_forces(self) -> tuple[Array, Array]:
        """-∂E/∂a, shape (n, 3), and -∂E/∂λ, shape (n,), eV."""
        moments = get_moments(self.atoms)[self._spins]
        forces = get_magnetic_forces(self.atoms)[self._spins]
        stretching = np.sum(moments * forces, axis=1) if self.magnitudes == "free" else np.zeros(len(moments))
        work = np.linalg.norm(moments, axis=1, keepdims=True) * forces  # -∂E/∂e
        angle = np.linalg.norm(self._rotations, axis=1, keepdims=True)
        axis = directions(self._rotations)  # of the geodesic, zero at the reference
        along = np.sum(work * self._reference, axis=1, keepdims=True)
        radial = np.sum(work * axis, axis=1, keepdims=True)
        sinc = np.sinc(angle / np.pi)
        torques = sinc * (work - along * self._reference)
        torques += (radial * (np.cos(angle) - sinc) - along * np.sin(angle)) * axis
        return torques, stretching

    def _lattice_forces(self, **kwargs: Any) -> Array:
        return np.where(self._held[:, None], 0.0, self.lattice.get_forces(**kwargs))

    def _check_results(self) -> None:
        """Evaluate the calculator once, where it stands; what it lacks is said before anything is changed."""
        for term in terms_of(potential_of(self.atoms)):  # refuses what has no magnetic forces,
            if isinstance(unscaled(term), Foreign):
                term.bind(self.atoms)  # and what hides them
        for what, ask, remedy in (
            ("forces", self.atoms.get_forces, "take another calculator, or relax the spins alone by SpinMinimizer"),
            ("stress", self.lattice.get_forces, "take another calculator, or leave the cell as it is: cell=False"),
            ("magnetic forces", self.get_forces, "take another calculator"),
        ):
            try:
                ask()
            except (PropertyNotImplementedError, NotImplementedError):
                raise KLMError(
                    f"{type(self.atoms.calc).__name__} gives no {what} of these atoms",
                    "everything that shall relax needs its derivative of the energy",
                    remedy,
                ) from None

    def _measured_scale(self) -> tuple[float, float]:
        """L = sqrt(stiffness of spins / stiffness of atoms), from the answer of all forces to one small displacement.

        The stiffness abs(H v)/abs(v) of a random v is the root mean square eigenvalue of the Hessian H.
        """
        start = self.atoms.positions.copy(), get_moments(self.atoms)
        forces, (torques, stretching) = self._lattice_forces(), self._spin_forces()
        generator = np.random.default_rng(0)
        step = np.zeros((len(self.lattice), 3))
        step[: len(self.atoms)] = PROBE["positions"] * generator.standard_normal((len(self.atoms), 3))
        turn = PROBE["directions"] * generator.standard_normal(self._rotations.shape)
        turn -= np.sum(turn * self._reference, axis=1, keepdims=True) * self._reference
        stretch = PROBE["lengths"] * generator.standard_normal(len(turn)) * (self.magnitudes == "free")
        try:
            self._rotations, self._logarithms = turn, stretch
            self._write()
            positions = self.lattice.get_positions()
            self.lattice.set_positions(positions + np.where(self._held[:, None], 0.0, step))
            moved = (self.atoms.positions - start[0]).ravel()
            forces_there, (torques_there, stretching_there) = self._lattice_forces(), self._spin_forces()
        finally:
            self.atoms.positions[:] = start[0]
            set_moments(self.atoms, start[1])
            self._anchor()
        count = len(self.atoms)
        atom = _stiffness(moved, (forces_there - forces)[:count].ravel())
        direction = _stiffness(turn.ravel(), (torques_there - torques).ravel())
        length = _stiffness(stretch, stretching_there - stretching)
        if not torques.any() and np.sum(turn * torques_there) > 0:
            warn(
                "no torque acts on the moments, and the energy falls when they turn",
                "by symmetry this collinear state is stationary, but it is no minimum",
                "disturb it first: textures.add_noise(atoms, 0.01, seed=1)",
            )
        atom = atom or STIFFNESS
        direction = direction or 0.01 * atom  # where the energy knows no directions, any length will do
        return float(np.sqrt(direction / atom)), float(np.sqrt((length or direction) / atom))


class OptimizableSpinLattice(OptimizableFilter):
    """What an optimizer sees of a `SpinLatticeFilter`."""

    filterobj: SpinLatticeFilter
    _gradient: Array | None = None

    def get_gradient(self) -> Array:
        self._gradient = super().get_gradient()
        return self._gradient

    def converged(self, gradient: Array, fmax: float) -> bool:
        """By forces and magnetic forces of the present state, each with its own limit."""
        found = self.filterobj
        found.report()
        return bool(found.largest_force < fmax and found.largest_magnetic_force < found.magnetic_fmax)

    def gradient_norm(self, gradient: Array) -> float:
        """Of forces, the largest on the lattice, eV/Å; of steps, the largest, where 0.5 rad count as 0.2 Å at least.

        ASE asks by the same name how large forces are, for its log, and how long steps are, for their limit.
        """
        lattice, spins = np.split(gradient.reshape(-1, 3), [len(self.filterobj.lattice)])
        if gradient is self._gradient:
            return _largest(lattice)
        weight = max(1.0, 0.2 / (LARGEST_ROTATION * self.filterobj.moment_scale[0]))
        return max(_largest(lattice), weight * _largest(spins))


def _largest(vectors: Array) -> float:
    return float(np.linalg.norm(vectors, axis=1).max(initial=0.0))


def _stiffness(displacement: Array, change: Array) -> float:
    size = np.linalg.norm(displacement)
    return float(np.linalg.norm(change) / size) if size > 0 else 0.0


def _perpendicular(vectors: Array) -> Array:
    """Unit vectors perpendicular to unit vectors."""
    axes = np.eye(3)[np.abs(vectors).argmin(axis=1)]
    return directions(np.cross(vectors, axes))


def _not_atoms(given: Any) -> Atoms:
    raise KLMError(f"{type(given).__name__} is not Atoms", "one structure is relaxed", "make a filter for each")


def _check_filter(given: Any) -> None:
    """Of ASE's filters only those of positions and cell can be inside."""
    if isinstance(given, Filter) and not isinstance(given, UnitCellFilter):
        raise KLMError(
            f"{type(given).__name__} cannot be evolved together with spins",
            "of ASE's filters those of the cell are known here: FrechetCellFilter, ExpCellFilter, UnitCellFilter",
            "give the atoms; mask=, FixAtoms and FrechetCellFilter(atoms, mask=...) say what relaxes",
        )


def _checked_mask(mask: ArrayLike | None, n_atoms: int) -> np.ndarray:
    """Whether position and moment of each atom relax, shape (N, 2)."""
    if mask is None:
        return np.ones((n_atoms, 2), dtype=bool)
    given = np.asarray(mask)
    if given.dtype != bool or given.shape not in ((n_atoms,), (n_atoms, 2)):
        raise KLMError(
            f"mask has shape {given.shape} and type {given.dtype}",
            f"it must be boolean, of shape ({n_atoms},), or ({n_atoms}, 2) for positions and moments",
            "True is for what relaxes",
        )
    return np.broadcast_to(given.reshape(n_atoms, -1), (n_atoms, 2)).copy()


def _periodic_strains(atoms: Atoms) -> Array:
    """Strain components that a cell may relax by, shape (3, 3): those of its periodic directions."""
    present = atoms.cell.array[atoms.pbc]
    across = np.abs(present).max(axis=0, initial=0.0) > 1e-8  # Cartesian axes that periodic vectors have a part of
    if atoms.cell.rank < 3 or across.sum() != atoms.pbc.sum():
        raise KLMError(
            "the cell of these atoms cannot be relaxed as it is",
            "its periodic vectors must span as many Cartesian axes, and vectors of vacuum complete the cell",
            "turn the structure, or choose the strains: SpinLatticeFilter(FrechetCellFilter(atoms, mask=...))",
        )
    return np.outer(across, across).astype(float)


def _check_constraints(atoms: Atoms, relaxes_cell: bool) -> None:
    for constraint in atoms.constraints:
        name = type(constraint).__name__
        if name in UNHONOURED or not (hasattr(constraint, "adjust_positions") and hasattr(constraint, "adjust_forces")):
            why = "it turns forces around to climb to a saddle, or does not say how it changes positions and forces"
        elif relaxes_cell and name in UNHONOURED_IN_CELLS:
            why = "it holds lengths or angles, which strains of the cell change"
        else:
            continue
        raise KLMError(
            f"the constraint {name} cannot be honoured",
            why,
            "remove it from atoms.constraints, hold atoms by FixAtoms"
            + (", or use cell=False" if relaxes_cell else ""),
        )
