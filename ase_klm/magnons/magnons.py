"""Magnons: normal modes of small deviations from a stationary spin texture.

Energies follow from second derivatives of any potential, by linear spin-wave theory with moments abs(m) = g S μB; see
`quadratic_form.py` and `bogoliubov.py`. The shape of the tool is that of `ase.phonons.Phonons`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.dft.kpoints import BandPath
from ase.spectrum.band_structure import BandStructure
from ase.spectrum.dosdata import RawDOSData
from numpy.typing import ArrayLike

from ase_klm.electrons.hamiltonian import monkhorst_pack_gamma
from ase_klm.errors import KLMError, warn
from ase_klm.magnons.bogoliubov import Factor, factor, mode_energies, normal_modes
from ase_klm.magnons.columns import Columns, columns
from ase_klm.magnons.quadratic_form import QuadraticForm, local_axes
from ase_klm.magnons.rotations import rotation_residuals, sum_rule
from ase_klm.magnons.spiral import rotating_frame
from ase_klm.moments import get_moments, is_magnetic
from ase_klm.potentials.base import BoundPotential, Potential, terms_of
from ase_klm.potentials.foreign import potential_of, reference_of
from ase_klm.potentials.second_derivatives import SecondDerivatives
from ase_klm.validate import Array, checked_array, checked_atoms, checked_number

METHODS = ("auto", "exact", "autograd", "differences")
ROUNDING = 1e-9
"""Negative curvatures below this fraction of the largest element of H are rounding."""

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
        self.supercell = None if supercell is None else _checked_supercell(supercell, atoms)
        self.delta = checked_number(delta, "delta", "rad", above=0)
        self.method, self.spiral, self.impose_rotations = method, spiral, impose_rotations
        self.cache = None if cache is None else Path(cache)
        self.fmax = checked_number(fmax, "fmax", "eV", above=0)
        self._form: QuadraticForm | None = None
        self._columns: list[Columns] = []
        self._warned = False

    def run(self) -> "Magnons":
        """Find all second derivatives; later calls do nothing."""
        if self._form is not None:
            return self
        atoms = reference_of(self.atoms)
        moments = get_moments(atoms)
        potential = self.potential
        if self.spiral is not None:
            potential = rotating_frame(potential, atoms, *self.spiral)
        derivatives: list[SecondDerivatives] = []
        forces = np.zeros((len(atoms), 3))
        for term in terms_of(potential):
            found, field = self._second_derivatives(term, atoms, local_axes(moments))
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
            When a deviation lowers the energy: then the texture is no minimum, and has no magnons.
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
        return np.linalg.eigvalsh(self.form.at(self._checked_q(q)))[:, 0]

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

    def get_dos(self, kpts: Sequence[int] = (20, 20, 20)) -> RawDOSData:
        """Density of states, modes a cell, on a Γ-centred mesh: ASE's `RawDOSData`, e.g. ``get_dos().sample_grid(500)``."""
        mesh = monkhorst_pack_gamma([n if periodic else 1 for n, periodic in zip(kpts, self.atoms.pbc, strict=True)])
        energies = self.frequencies(mesh)
        return RawDOSData(energies.ravel(), np.full(energies.size, 1 / len(mesh)), info={"label": "magnons"})

    def _second_derivatives(self, term: Potential, atoms: Atoms, axes: Array) -> tuple[SecondDerivatives, Array]:
        """Those of one term, and its magnetic forces."""
        device = getattr(self.atoms.calc, "device", "cpu")
        bound = term.bind(atoms, device)
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
        if self.method == "autograd" and not bound.differentiable:
            raise KLMError(
                f"{type(term).__name__} is not differentiable twice",
                "its energy is not given in torch",
                'use method="auto" or "differences"',
            )
        supercell = self.supercell or _whole_range(bound, atoms)
        cache = None if self.cache is None else self.cache / type(term).__name__
        found, forces = columns(term, atoms, axes, supercell, self.delta, self.method == "differences", cache, device)
        self.supercell = supercell
        self._columns.append(found)
        return found.blocks, forces

    def _check_stationary(self, moments: Array, forces: Array) -> None:
        torques = np.linalg.norm(np.cross(moments, forces), axis=1)
        worst = int(torques.argmax())
        if torques[worst] > self.fmax:
            raise KLMError(
                "the moments are not at a stationary state",
                f"the torque abs(m × F) on atom {worst} is {torques[worst]:.3g} eV, with fmax = {self.fmax:g} eV",
                f"SpinMinimizer(atoms).run(fmax={self.fmax / 10:.0e}) relaxes them; a larger fmax accepts them as they are",
            )

    def _stable(self, q: Array, H: np.ndarray) -> Factor:
        """The factor of H, if no deviation lowers the energy."""
        found = factor(H)
        worst = int(found.negative.argmin())
        lowest, scale = found.negative[worst], float(np.abs(H).max())
        if -lowest <= ROUNDING * scale:
            return found
        where = f"q = {q[worst].round(6).tolist()}"
        noise = max((c.asymmetry for c in self._columns), default=0.0)
        noise *= 3 * float((np.abs(self.form.amplitudes) ** 2).sum(1).max())
        if -lowest <= noise:
            warn(
                f"at {where} a deviation lowers the energy by {-lowest:.2g} eV, which is taken for noise",
                f"second derivatives that should be equal differ by up to {noise:.2g} eV",
                "compute more accurately, or use impose_rotations=True if the model is isotropic",
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
        edge = max((c.at_the_edge for c in self._columns), default=0.0)
        if self._warned or edge <= EDGE or self.supercell is None:
            return
        waves = q * np.array(self.supercell)
        between = np.abs(waves - waves.round()).max(1) > 1e-6
        if between.any():
            self._warned = True
            warn(
                f"the supercell {self.supercell} is smaller than twice the range",
                f"at its edge second derivatives are {edge:.2g} of the largest, so that energies between its wave "
                f"vectors, e.g. at q = {q[between][0].round(4).tolist()}, are interpolated",
                "take a larger supercell, or trust only q whose product with it is integer",
            )

    def _checked_path(self, path: str | BandPath | None, npoints: int) -> BandPath:
        if isinstance(path, BandPath):
            return path
        try:
            return self.atoms.cell.bandpath(path, npoints=npoints, pbc=self.atoms.pbc)
        except (KeyError, ValueError, AssertionError) as error:
            raise KLMError(
                f"path = {path!r} cannot be read",
                f"{type(error).__name__}: {error}",
                'name special points of the cell, e.g. path="GMKG", or pass an ase BandPath',
            ) from None


def _whole_range(bound: BoundPotential, atoms: Atoms) -> tuple[int, int, int]:
    """The smallest supercell that is longer than twice the range, where that is known."""
    reach = bound.interaction_range
    if reach is None:
        return (1, 1, 1)
    volume = abs(np.linalg.det(bound.reference.cell.array))
    vectors = bound.reference.cell.array
    heights = [volume / np.linalg.norm(np.cross(vectors[a - 2], vectors[a - 1])) for a in range(3)]
    return tuple(
        int(np.floor(2 * reach / height)) + 1 if periodic else 1
        for height, periodic in zip(heights, atoms.pbc, strict=True)
    )  # type: ignore[return-value]


def _checked_supercell(supercell: Any, atoms: Atoms) -> tuple[int, int, int]:
    try:
        sizes = tuple(int(n) for n in supercell)
        good = len(sizes) == 3 and min(sizes) >= 1 and sizes == tuple(supercell)
    except (TypeError, ValueError):
        good = False
    if not good or any(n > 1 and not p for n, p in zip(sizes, atoms.pbc, strict=True)):
        raise KLMError(
            f"supercell = {supercell!r} cannot be used",
            f"it takes three positive integers, 1 where the structure is not periodic (pbc = {atoms.pbc.tolist()})",
            "for instance supercell=(6, 6, 1) for a plane",
        )
    return sizes  # type: ignore[return-value]
