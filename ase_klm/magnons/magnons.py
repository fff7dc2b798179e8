"""Magnons: normal modes of small deviations from a stationary spin texture.

Energies follow from second derivatives of any potential, by linear spin-wave theory with moments abs(m) = g S μB; see
`quadratic_form.py` and `bogoliubov.py`. The shape of the tool is that of `ase.phonons.Phonons`.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.dft.kpoints import BandPath
from ase.spectrum.band_structure import BandStructure
from numpy.typing import ArrayLike

from ase_klm.choices import METHODS
from ase_klm.electrons.hamiltonian import monkhorst_pack_gamma
from ase_klm.errors import KLMError, warn
from ase_klm.images import reduced
from ase_klm.magnons.bogoliubov import Factor, factor, mode_energies, normal_modes
from ase_klm.magnons.columns import Columns, columns
from ase_klm.magnons.mode_files import write_mode
from ase_klm.magnons.quadratic_form import QuadraticForm, local_axes
from ase_klm.magnons.rotations import rotation_residuals, sum_rule
from ase_klm.magnons.spiral import rotating_frame
from ase_klm.moments import get_moments, is_magnetic
from ase_klm.plot.magnons import magnon_bands
from ase_klm.potentials.base import BoundPotential, Potential, terms_of
from ase_klm.potentials.foreign import potential_of
from ase_klm.potentials.second_derivatives import SecondDerivatives
from ase_klm.units import G_ELECTRON
from ase_klm.validate import Array, checked_array, checked_atoms, checked_number, checked_repeats

if TYPE_CHECKING:
    from ase.spectrum.dosdata import RawDOSData

ROUNDING = 1e-9
"""Negative curvatures below this fraction of the largest element of H are rounding."""
SLIGHT = 1e-7
"""The same for those that torques, which are left after relaxation, account for."""

EDGE = 1e-3
"""Second derivatives at the edge of a supercell above this fraction of the largest are worth a warning."""


class Magnons:
    """Magnon bands of a structure with a calculator.

    Parameters
    ----------
    atoms : Atoms
        A magnetic unit cell, with moments at a stationary state (relax it with `SpinMinimizer`).
    calc : ase calculator, optional
        Anything with magnetic forces; default ``atoms.calc``.
    supercell : tuple of int, optional
        Repetitions in which moments are turned, for the methods "autograd" and "differences"; it should be longer than
        twice the range of the interaction. A mesh of k-points of the calculator is that of the supercell. Default: what
        a network's range asks for, else (1, 1, 1).
    delta : float
        Angle, rad, by which moments are turned in differences.
    method : str
        "exact": explicit bonds, or linear response of electrons; "autograd": Hessian-vector products; "differences" of
        magnetic forces; "auto": for each term of the energy the first of them that it offers.
    spiral : tuple, optional
        (k, axis): the moments of the cell R are those of `atoms` turned by 2π k·R about the axis. Explicit bonds with
        that symmetry only; energies are those of the rotating frame.
    impose_rotations : bool
        Whether uniform rotations of all moments are made to cost no energy, as in an isotropic model, by least
        changes of the on-site blocks.
    cache : path, optional
        Folder that keeps the forces of each turned moment, so that a run that was cut short goes on.
    fmax : float
        Largest torque abs(m × F), eV, of a state that counts as stationary.

    Raises
    ------
    KLMError
        When the calculator has no magnetic forces, the moments are not stationary, or the method is not offered.
    """

    def __init__(
        self,
        atoms: Atoms,
        calc: Any = None,
        supercell: Sequence[int] | None = None,
        delta: float = 0.01,
        method: str = "auto",
        spiral: tuple[ArrayLike, ArrayLike] | None = None,
        impose_rotations: bool = False,
        cache: str | Path | None = None,
        fmax: float = 1e-5,
    ) -> None:
        self.atoms = checked_atoms(atoms).copy()
        self.atoms.calc = atoms.calc if calc is None else calc
        if method not in METHODS:
            raise KLMError(f"method = {method!r} is unknown", f"there are {', '.join(METHODS)}", 'use method="auto"')
        if not is_magnetic(atoms).any():
            raise KLMError("no atom carries a moment", "there is nothing to excite", "set them with set_moments")
        self.potential: Potential = potential_of(self.atoms)
        self.supercell = self._given = None if supercell is None else _checked_supercell(supercell, atoms)
        self.delta = checked_number(delta, "delta", "rad", above=0)
        self.method, self.spiral, self.impose_rotations = method, spiral, impose_rotations
        self.cache = None if cache is None else Path(cache)
        self.fmax = checked_number(fmax, "fmax", "eV", above=0)
        self._form: QuadraticForm | None = None
        self._columns: list[Columns] = []
        self._warned = False
        self._torque = 0.0

    def run(self) -> "Magnons":
        """Find all second derivatives; later calls do nothing."""
        if self._form is not None:
            return self
        atoms = self.atoms
        moments = get_moments(atoms)
        potential = self.potential
        if self.spiral is not None:
            potential = rotating_frame(potential, atoms, *self.spiral)
        derivatives: list[SecondDerivatives] = []
        forces = np.zeros((len(atoms), 3))
        for term in terms_of(potential):
            found, field = self._second_derivatives(term, local_axes(moments))
            derivatives.append(found)
            forces += field
        self._check_stationary(moments, forces)
        form = QuadraticForm(moments, forces, derivatives)
        self._form = sum_rule(form) if self.impose_rotations else form
        return self

    @property
    def form(self) -> QuadraticForm:
        """The quadratic form of small deviations; `run` is called for it if need be."""
        self.run()
        assert self._form is not None
        return self._form

    def frequencies(self, q: ArrayLike) -> Array:
        """Energies ħω, eV, ascending, shape (n_q, modes), one mode a magnetic atom.

        Parameters
        ----------
        q : array_like
            In units of the reciprocal vectors of the cell, shape (n_q, 3) or (3,).

        Raises
        ------
        KLMError
            When a deviation lowers the energy: then the texture is no minimum, and has no magnons. Curvatures that are
            negative within rounding count as zero, and with a warning those within noise and torques that are left.
        """
        points = self._checked_q(q)
        return mode_energies(self._stable(points, self.form.at(points)).K)

    def modes(self, q: ArrayLike) -> tuple[Array, np.ndarray]:
        """Energies, eV, shape (n_q, modes), and moments of the modes, μB, shape (n_q, modes, N, 3), complex.

        A mode of one quantum at q moves the moment of atom i in the cell R by Re[δm_i exp(2πi q·R - iωt)], in the time
        of a quantum spin. The zero modes of an antiferromagnet have no norm: theirs are large and have no meaning.
        """
        points = self._checked_q(q)
        H = self.form.at(points)
        energies = mode_energies(self._stable(points, H).K)
        n, v = self.form.n_modes, self.form.amplitudes
        T = normal_modes(H)[:, :, :n]
        moved = np.zeros((len(points), n, len(self.atoms), 3), complex)
        moved[:, :, self.form.sites] = np.einsum("qim,ix->qmix", T[:, :n], v.conj()) + np.einsum(
            "qim,ix->qmix", T[:, n:], v
        )
        return energies, moved

    def lowest_curvature(self, q: ArrayLike) -> Array:
        """Lowest eigenvalue of H_q, eV, shape (n_q,): negative where a deviation lowers the energy."""
        return np.asarray(np.linalg.eigvalsh(self.form.at(self._checked_q(q)))[:, 0])

    @property
    def rotation_residuals(self) -> Array:
        """What uniform rotations about x, y and z cost, eV, shape (3,): zero for the Goldstone modes of a model."""
        return rotation_residuals(self.form)

    def get_band_structure(self, path: str | BandPath | None = None, npoints: int = 100) -> BandStructure:
        """Bands along a path of the cell, as ASE's `BandStructure`, in eV.

        Parameters
        ----------
        path : str or BandPath, optional
            For instance "GMKG"; default ASE's path of the cell.
        npoints : int
            Points along it.
        """
        band_path = self._checked_path(path, npoints)
        return BandStructure(band_path, self.frequencies(band_path.kpts)[None], reference=0.0)

    def plot(self, path: str | BandPath | None = None, npoints: int = 100, ax: Any = None) -> Any:
        """Draw the bands along a path, in meV, into `ax` or a new figure; see `plot.magnon_bands`. Returns the axes."""
        return magnon_bands(self.get_band_structure(path, npoints), ax=ax)

    def write_mode(
        self,
        q: ArrayLike,
        mode: int,
        path: str | Path,
        n_images: int = 24,
        amplitude: float = 0.4,
        supercell: Sequence[int] | None = None,
        gif: str | Path | None = None,
    ) -> None:
        """Write one period of a mode as a trajectory; the moments turn as `LLGDynamics` turns them.

        Parameters
        ----------
        q : array_like
            In units of the reciprocal vectors of the cell, shape (3,).
        mode : int
            Its number, in the order of the energies at q.
        path : str or Path
            Ends in ``.traj`` or ``.extxyz``; ``info["time"]`` of the images is in fs.
        n_images : int
            Images of one period; the next one would equal the first.
        amplitude : float
            Largest tilt of a moment, rad.
        supercell : tuple of int, optional
            Cells to show; default the smallest that holds a whole number of waves.
        gif : str or Path, optional
            Also draw the images, of a layer, as an animated GIF.
        """
        write_mode(self, q, mode, path, n_images, amplitude, supercell, gif)

    def get_dos(self, kpts: Sequence[int] = (20, 20, 20)) -> "RawDOSData":
        """Density of states, modes a cell, on a Γ-centred mesh, as ASE's `RawDOSData`: e.g. ``.sample_grid(500)``."""
        from ase.spectrum.dosdata import RawDOSData  # it imports Matplotlib

        mesh = monkhorst_pack_gamma(checked_mesh(kpts, self.atoms.pbc))
        energies = self.frequencies(mesh)
        return RawDOSData(energies.ravel(), np.full(energies.size, 1 / len(mesh)), info={"label": "magnons"})

    def _second_derivatives(self, term: Potential, axes: Array) -> tuple[SecondDerivatives, Array]:
        """Those of one term, and its magnetic forces."""
        device = getattr(self.atoms.calc, "device", "cpu")
        bound = term.bind(self.atoms, device)
        if self.method in ("auto", "exact"):
            known = bound.second_derivatives(bound.moments)
            if known is not None:
                return known, bound.evaluate(atomic=False).magnetic_forces.cpu().numpy()
            if self.method == "exact":
                raise KLMError(
                    f"{type(term).__name__} does not know its second derivatives",
                    "explicit bonds and the electrons of a Kondo lattice do",
                    'use method="auto"',
                )
        if self.method == "autograd" and not bound.twice_differentiable:
            raise KLMError(
                f"{type(term).__name__} is not differentiable twice",
                "it has no Hessian-vector products of its own",
                'use method="auto" or "differences"',
            )
        supercell = self._given or _whole_range(bound, self.atoms)
        cache = None if self.cache is None else self.cache / f"{len(self._columns)}-{type(term).__name__}"
        options = (axes, supercell, self.delta, self.method == "differences", cache, device)
        found, forces = columns(term, self.atoms, *options)
        if _holds_range(bound, self.atoms, supercell):
            found = replace(found, at_the_edge=0.0)  # all is known to be inside
        self.supercell = tuple(np.maximum(supercell, self.supercell or 1).tolist())
        self._columns.append(found)
        return found.blocks, forces

    def _check_stationary(self, moments: Array, forces: Array) -> None:
        torques = np.linalg.norm(np.cross(moments, forces), axis=1)
        worst = int(torques.argmax())
        self._torque = float(torques[worst])
        if self._torque > self.fmax:
            raise KLMError(
                "the moments are not at a stationary state",
                f"the torque abs(m × F) on atom {worst} is {self._torque:.3g} eV, with fmax = {self.fmax:g} eV",
                f"SpinMinimizer(atoms).run(fmax={self.fmax / 10:.0e}) relaxes them; a larger fmax accepts them so",
            )

    def _stable(self, q: Array, H: np.ndarray) -> Factor:
        """The factor of H, if no deviation lowers the energy."""
        found = factor(H)
        worst = int(found.negative.argmin())
        lowest, scale = found.negative[worst], float(np.abs(H).max())
        disturbed = 3 * G_ELECTRON * self._torque
        if -lowest <= max(ROUNDING * scale, min(disturbed, SLIGHT * scale)):
            return found
        where = f"q = {q[worst].round(6).tolist()}"
        noise = max((max(c.asymmetry, c.step_error) for c in self._columns), default=0.0)
        noise *= 3 * float((np.abs(self.form.amplitudes) ** 2).sum(1).max())
        if -lowest <= max(noise, disturbed):
            warn(
                f"at {where} a deviation lowers the energy by {-lowest:.2g} eV, which is taken for noise",
                f"torques of {self._torque:.2g} eV are left, and second derivatives are known to {noise:.2g} eV, by "
                "those that should be equal and by two steps delta",
                "relax further, compute more accurately, or use impose_rotations=True if the model is isotropic",
            )
            return found
        vector = np.abs(found.vectors[worst]).reshape(2, -1).sum(0)
        atom = int(self.form.sites[vector.argmax()])
        raise KLMError(
            f"the texture is unstable: at {where} a deviation lowers the energy",
            f"the lowest curvature there is {lowest:.3g} eV, where the largest element of H is {scale:.3g} eV, "
            f"in a mode that is largest on atom {atom}",
            "relax a supercell that holds this q from a disturbed start; lowest_curvature(q) shows other wave vectors",
        )

    def _checked_q(self, q: ArrayLike) -> Array:
        points = checked_array(np.atleast_2d(np.asarray(q, dtype=object)), (None, 3), "q")
        out_of_plane = np.abs(points[:, ~self.atoms.pbc]).max(initial=0.0)
        if out_of_plane > 1e-12:
            raise KLMError(
                "q has a component along a direction that is not periodic",
                f"pbc = {self.atoms.pbc.tolist()}",
                "set that component to 0, or make the direction periodic",
            )
        self.run()
        self._check_supercell(points)
        return points

    def _check_supercell(self, q: Array) -> None:
        """Warn, once, of wave vectors between those of a supercell that is too small."""
        for found in self._columns:
            if self._warned or found.at_the_edge <= EDGE:
                continue
            waves = q * np.array(found.supercell)
            between = np.abs(waves - waves.round()).max(1) > 1e-6
            if not between.any():
                continue
            self._warned = True
            warn(
                f"the supercell {found.supercell} is smaller than twice the range",
                f"at its edge second derivatives are {found.at_the_edge:.2g} of the largest, so that energies between "
                f"its wave vectors, e.g. at q = {q[between][0].round(4).tolist()}, are interpolated",
                "take a larger supercell, or trust only q whose product with it is integer",
            )

    def _checked_path(self, path: str | BandPath | None, npoints: int) -> BandPath:
        if isinstance(path, BandPath):
            return path
        try:
            found = self.atoms.cell.bandpath(path, npoints=npoints, pbc=self.atoms.pbc)
            if len(found.kpts) == 0:
                raise ValueError("there is no point on it")
            return found
        except (KeyError, ValueError, AssertionError, IndexError) as error:
            raise KLMError(
                f"path = {path!r} cannot be read",
                f"{error} is no special point of this cell" if isinstance(error, KeyError) else str(error),
                f"name {_special_points(self.atoms)}, with a comma at a jump, or pass an ase BandPath",
            ) from None


def _special_points(atoms: Atoms) -> str:
    try:
        return f"some of {', '.join(sorted(atoms.cell.bandpath(npoints=0, pbc=atoms.pbc).special_points))}"
    except (ValueError, AssertionError):  # ASE does not know the lattice
        return "special points of the cell"


def _whole_range(bound: BoundPotential, atoms: Atoms) -> tuple[int, int, int]:
    """A supercell in which no image is closer than twice the range, where that is known: the smaller one of two.

    One has so many cells along each vector that its heights are longer, the other equally many along each vector, for
    the shortest vector of the crystal.
    """
    reach = bound.interaction_range
    if reach is None or not atoms.pbc.any():
        return (1, 1, 1)
    periods = bound.reference.cell.array[atoms.pbc]
    heights = 1 / np.linalg.norm(np.linalg.pinv(periods), axis=0)
    shortest = np.full(len(periods), np.linalg.norm(reduced(periods)[0][0]))
    both = [np.floor(2 * reach / lengths + 1e-6).astype(int) + 1 for lengths in (heights, shortest)]
    sizes = np.ones(3, dtype=int)
    sizes[atoms.pbc] = min(both, key=np.prod)
    return int(sizes[0]), int(sizes[1]), int(sizes[2])


def _holds_range(bound: BoundPotential, atoms: Atoms, supercell: Sequence[int]) -> bool:
    """Whether the images of an atom in the supercell are known to be farther apart than twice the range."""
    reach = bound.interaction_range
    if reach is None:
        return False
    periods = (np.array(supercell)[:, None] * bound.reference.cell.array)[atoms.pbc]
    return not len(periods) or bool(np.linalg.norm(reduced(periods)[0][0]) > (2 + 1e-6) * reach)


def checked_mesh(kpts: Any, pbc: np.ndarray) -> tuple[int, ...]:
    """Steps of a mesh of wave vectors, 1 where the structure is not periodic."""
    return tuple(n if periodic else 1 for n, periodic in zip(checked_repeats(kpts, "kpts"), pbc, strict=True))


def _checked_supercell(supercell: Any, atoms: Atoms) -> tuple[int, int, int]:
    sizes = checked_repeats(supercell, "supercell")
    if any(n > 1 and not periodic for n, periodic in zip(sizes, atoms.pbc, strict=True)):
        raise KLMError(
            f"supercell = {supercell!r} repeats a direction that is not periodic",
            f"pbc = {atoms.pbc.tolist()}",
            "set it to 1 there",
        )
    return sizes
