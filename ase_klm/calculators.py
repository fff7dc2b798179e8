"""The ASE faces: Atoms → potential.bind(atoms) → bound.evaluate → results.

`SpinCalculator` serves any potential; the others spell out the parameters of a common one. ASE's trajectories and
databases keep their parameters, and `from_dict` makes a calculator of these again.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.mixing import LinearCombinationCalculator
from ase.dft.kpoints import BandPath
from ase.outputs import Properties, all_outputs
from ase.spectrum.band_structure import BandStructure
from ase.stress import full_3x3_to_voigt_6_stress

from ase_klm.errors import KLMError
from ase_klm.models.files import load
from ase_klm.moments import get_moments, is_magnetic
from ase_klm.plausibility import doubts_about_structure, tell
from ase_klm.potentials.atomistic import Atomistic
from ase_klm.potentials.base import BoundPotential, Evaluation, Potential, checked_device, doubts_of, same
from ase_klm.potentials.exchange import Bond, Exchange
from ase_klm.potentials.exchange_of_distance import ExchangeOfDistance, follows_distance
from ase_klm.potentials.functions_of_distance import DistanceFunction
from ase_klm.potentials.kondo import BoundKondo, Kondo
from ase_klm.potentials.network import Network
from ase_klm.potentials.parameters import call, defaults_of, shown
from ase_klm.potentials.serialisation import called, known_class, read, written
from ase_klm.potentials.trained import network_potential
from ase_klm.potentials.zeeman import Zeeman
from ase_klm.supercells import checked_lattice
from ase_klm.validate import Array, checked_number


class SpinCalculator(Calculator):
    """ASE calculator of a potential.

    Results: `energy` and `free_energy` (eV; the potential whose gradients the forces are), `magnetic_forces`
    (-∂E/∂m, eV/μB, shape (N, 3)), and `forces` (eV/Å) and `stress` (eV/Å³, Voigt) where the potential gives them;
    all from one evaluation, as float64 NumPy arrays.

    The energy depends on the atoms that are given, not on what was calculated before. Neighbour shells are counted on
    `lattice`, else on the structure that is given, where displaced atoms make them ambiguous.

    Parameters
    ----------
    potential : Potential
        For instance ``Exchange({1: -0.01}) + Zeeman((0, 0, 1e-3))``.
    lattice : Atoms, optional
        Undistorted cell on which shells are counted, and whose indices explicit bonds use. The calculator then serves
        every repetition of it (``lattice.repeat(...)``), displaced or strained too. Terms with a lattice of their own
        keep it.
    device : str
        Where torch works, "cpu" or "cuda".
    """

    implemented_properties = ["energy", "free_energy", "magnetic_forces", "forces", "stress"]

    def __init__(self, potential: Potential, lattice: Atoms | None = None, device: str = "cpu") -> None:
        super().__init__()
        if not isinstance(potential, Potential):
            raise KLMError(
                f"{type(potential).__name__} is not a potential",
                "SpinCalculator serves potentials of ase_klm.potentials and their sums",
                "build one, e.g. potentials.Zeeman(field); ASE calculators become one by potentials.Foreign(calc)",
            )
        self.device = str(checked_device(device))
        self._lattice = None if lattice is None else checked_lattice(lattice)
        self.told: set[str] = set()  # warnings that are not repeated
        self.potential = potential

    @property
    def lattice(self) -> Atoms | None:
        """The cell on which shells are counted."""
        return self._lattice

    @property
    def potential(self) -> Potential:
        """The potential on the lattice; setting it discards results."""
        return self._potential

    @potential.setter
    def potential(self, potential: Potential) -> None:
        self._given, self._potential = potential, potential.on_lattice(self.lattice)
        self._bound: BoundPotential | None = None
        self._bonded: _Bonded | None = None
        self._doubted: Array | None = None  # species of which potential and structure were looked at
        self.reset()

    def on_lattice(self, lattice: Atoms) -> Self:
        """A copy whose shells are counted on this lattice."""
        twin = copy(self)
        twin._lattice = checked_lattice(lattice)
        SpinCalculator.potential.fset(twin, self._given)  # type: ignore[attr-defined]
        return twin

    def bound(self, atoms: Atoms) -> BoundPotential:
        """The potential bound to these atoms, kept while its bonds are those of the structure that is given."""
        potential = self.potential
        if self._bound is None or self._bonded is None or not self._bonded.serves(potential, atoms):
            if self._doubted is None or not np.array_equal(self._doubted, atoms.numbers):
                self._doubted = atoms.numbers.copy()
                tell(chain(doubts_about_structure(atoms), doubts_of(potential, atoms)), self.told)
            bonded = _Bonded.of(potential, atoms)
            self._bound, self._bonded = potential.bind(atoms, self.device), bonded
        return self._bound

    def get_magnetic_moments(self, atoms: Atoms | None = None) -> Array:
        """The moments, which are variables here: μB, shape (N, 3).

        Not among the results, as ASE's database, graphical interface and `Properties` take one number an atom there.
        """
        return get_moments(self._seen(atoms))

    def get_magnetic_moment(self, atoms: Atoms | None = None) -> Array:
        """Sum of the moments, μB, shape (3,)."""
        return self.get_magnetic_moments(atoms).sum(axis=0)

    def _seen(self, atoms: Atoms | None) -> Atoms:
        structure = self.atoms if atoms is None else atoms
        if structure is None:
            raise KLMError("there is no structure yet", "nothing was calculated", "pass atoms=")
        return structure

    def _get_name(self) -> str:
        """As ASE's other calculators: "exchange", "kondoed"; by it `ase.calculators.calculator` finds the class."""
        return type(self).__name__.lower().removesuffix("calculator")

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        """Class and parameters as JSON holds them, for `from_dict`; the device is not among them."""
        found = {"class": "SpinCalculator", "potential": written(self._given)}
        return found if self.lattice is None else found | {"lattice": written(self.lattice)}

    def __repr__(self) -> str:
        lattice = "" if self.lattice is None else f", lattice={shown(self.lattice)}"
        return f"SpinCalculator({self._given!r}{lattice})"

    def describe(self) -> str:
        """The terms of the potential, with their formulas and parameters, and the units, as text to print."""
        return f"{type(self).__name__} on {self.device}: {self.potential.describe()}"

    def export_properties(self) -> Properties:
        """Results in ASE's own list of properties; `magnetic_forces` is not among them."""
        return Properties({name: value for name, value in self.results.items() if name in all_outputs})

    def __getstate__(self) -> dict[str, Any]:
        # bound again when needed; not all of its tensors can be copied
        return self.__dict__ | {"_bound": None, "_bonded": None}

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        super().calculate(atoms, properties, system_changes)
        structure: Atoms = self.atoms  # type: ignore[assignment]
        bound = self.bound(structure)
        state = BoundPotential(structure, self.device)
        self.results = _results(bound.evaluate(state.moments, state.positions, state.cell), structure)

    def remember(self, atoms: Atoms, found: Evaluation) -> None:
        """Take what a tool has evaluated for the present state of the atoms, so that asking for it costs nothing."""
        self.atoms = atoms.copy()
        self.results = _results(found, atoms)


@dataclass(frozen=True, eq=False)
class _Bonded:
    """What the bonds of a bound potential belong to."""

    atoms: Atoms
    geometry: tuple[Array, ...]

    @classmethod
    def of(cls, potential: Potential, atoms: Atoms) -> "_Bonded":
        return cls(atoms.copy(), potential.geometry(atoms))

    def serves(self, potential: Potential, atoms: Atoms) -> bool:
        """Whether another structure has the same bonds."""
        own = self.atoms
        if not (
            np.array_equal(own.numbers, atoms.numbers)
            and np.array_equal(own.pbc, atoms.pbc)
            and np.array_equal(is_magnetic(own), is_magnetic(atoms))
        ):
            return False
        if np.array_equal(own.positions, atoms.positions) and np.array_equal(own.cell.array, atoms.cell.array):
            return True
        return all(map(np.array_equal, self.geometry, potential.geometry(atoms)))


def _results(found: Evaluation, atoms: Atoms) -> dict[str, Any]:
    """An evaluation of one structure in ASE's terms."""
    energy = float(found.energy)
    results = {"energy": energy, "free_energy": energy, "magnetic_forces": found.magnetic_forces.cpu().numpy()}
    if found.forces is not None:
        results["forces"] = found.forces.cpu().numpy()
    if found.stress is not None and atoms.cell.rank == 3:
        results["stress"] = full_3x3_to_voigt_6_stress(found.stress.cpu().numpy())
    return results | {name: value.item() for name, value in found.extras.items()}


class _ParametrisedCalculator(SpinCalculator):
    """A calculator made from keywords; `set` and changes of `parameters` are noticed and discard results."""

    def __init__(self, device: str = "cpu", **parameters: Any) -> None:
        self._chosen = False  # whether somebody has put another potential in the place of that of the parameters
        super().__init__(self._built(parameters), parameters.get("lattice"), device)
        self._keep(parameters)

    @classmethod
    def _built(cls, parameters: Mapping[str, Any]) -> Potential:
        return cls._build(**{name: value for name, value in parameters.items() if name != "lattice"})

    def _keep(self, parameters: Mapping[str, Any]) -> None:
        """Keep the parameters from which the potential was built; the lattice as a copy."""
        self.parameters.update(parameters)
        if "lattice" in self.parameters:
            self.parameters["lattice"] = self._lattice
        self._built_from, self._chosen = _copied(self.parameters), False

    def _take(self, parameters: Mapping[str, Any]) -> None:
        """Build the potential from parameters, and use both."""
        built, lattice = self._built(parameters), parameters.get("lattice")
        self._lattice = None if lattice is None else checked_lattice(lattice)
        self.potential = built
        self._keep(parameters)

    def on_lattice(self, lattice: Atoms) -> Self:
        _ = self.potential  # that of the present parameters
        twin = super().on_lattice(lattice)
        twin.parameters = type(self.parameters)(self.parameters | {"lattice": twin._lattice})
        twin._built_from, twin._chosen = _copied(twin.parameters), self._chosen
        return twin

    @staticmethod
    def _build(**parameters: Any) -> Potential:
        raise NotImplementedError

    def set(self, **parameters: Any) -> dict[str, Any]:
        """Change parameters given at construction, e.g. ``calc.set(field=(0, 0, 0.005))``."""
        changed = {name: value for name, value in parameters.items() if not same(self.parameters.get(name), value)}
        unknown = [name for name in parameters if name not in self.parameters]
        if unknown:
            raise KLMError(
                f"{type(self).__name__} has no parameter {unknown[0]!r}",
                f"it has {', '.join(self.parameters)}",
                "check the spelling; the device is fixed at construction",
            )
        if changed:
            self._take(dict(self.parameters) | changed)
        return changed

    @property
    def potential(self) -> Potential:
        """The potential; built anew when `parameters` were changed behind our back."""
        if not same(dict(self.parameters), self._built_from):
            self._take(dict(self.parameters))
        return self._potential

    @potential.setter
    def potential(self, potential: Potential) -> None:
        SpinCalculator.potential.fset(self, potential)  # type: ignore[attr-defined]
        self._chosen = True

    def todict(self, skip_default: bool = True) -> dict[str, Any]:
        potential = self.potential
        if self._chosen:
            return super().todict()
        parameters = dict(self.parameters)
        if "model" in parameters:  # rather the network than its name: what the name stands for may change
            parameters["model"] = potential.terms[0].model  # type: ignore[attr-defined]
        if parameters.get("lattice", self) is None:
            del parameters["lattice"]
        return {"class": type(self).__name__} | written(parameters)

    def __repr__(self) -> str:
        _ = self.potential
        if self._chosen:
            return super().__repr__()
        return call(type(self).__name__, self.parameters, defaults_of(type(self)))

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        _ = self.potential  # discards results where parameters have changed
        return super().check_state(atoms, tol)


class KondoEDCalculator(_ParametrisedCalculator):
    """Kondo lattice solved by exact diagonalisation, with classical spins in a Zeeman field.

    H = -Σ_(ij)s t_ij c†_is c_js - (J/2) Σ_i m_i·(c†_i σ c_i), E = <H> - Σ_i field·m_i; see `potentials.Kondo` for
    the parameters, the meaning of the energy and the further results (`chemical_potential`, `number_of_electrons`,
    `gap`, `entropy`, `band_energy`).

    Parameters
    ----------
    hopping : mapping or callable
        {shell: t} in eV, or a function of distance (with `cutoff`), e.g. `potentials.ExponentialHopping`.
    J : float
        Kondo coupling, eV; may be negative.
    filling, mu : float
        Exactly one: electrons per state (0 to 1), or the chemical potential in eV.
    temperature : float
        Electronic kT, eV.
    field : array_like
        eV/μB, shape (3,), or (N, 3) for each site.
    kpts : tuple
        Γ-centred mesh (n1, n2, n3).
    cutoff : float, optional
        Å, with a hopping function only.
    solver : str
        "auto", "all" eigenpairs in batches, or eigenvectors of "occupied" states only.
    dtype : str
        "float64" or "float32"; the diagonalisation is complex128 or complex64.
    device : str
        "cpu" or "cuda".
    lattice : Atoms, optional
        Undistorted cell on which shells are counted, for every repetition of it, displaced or strained too. Default:
        the structure that is given.
    """

    implemented_properties = [
        *SpinCalculator.implemented_properties,
        "chemical_potential",
        "number_of_electrons",
        "gap",
        "entropy",
        "band_energy",
    ]

    def __init__(
        self,
        hopping: Mapping[int, float] | Callable[..., Any],
        J: float,
        filling: float | None = None,
        mu: float | None = None,
        temperature: float = 0.0,
        field: Any = (0.0, 0.0, 0.0),
        kpts: Sequence[int] = (1, 1, 1),
        cutoff: float | None = None,
        solver: str = "auto",
        dtype: str = "float64",
        device: str = "cpu",
        lattice: Atoms | None = None,
    ) -> None:
        super().__init__(
            device=device,
            hopping=hopping,
            J=J,
            filling=filling,
            mu=mu,
            temperature=temperature,
            field=field,
            kpts=kpts,
            cutoff=cutoff,
            solver=solver,
            dtype=dtype,
            lattice=lattice,
        )

    @staticmethod
    def _build(field: Any = (0.0, 0.0, 0.0), **parameters: Any) -> Potential:
        return Kondo(**parameters) + Zeeman(field)

    def band_structure(self, atoms: Atoms | None = None, path: Any = None, npoints: int = 100) -> BandStructure:
        """Electron bands of the texture as ASE's `BandStructure`, energies in eV from zero, reference at mu.

        Parameters
        ----------
        atoms : Atoms, optional
            Default: those of the last calculation.
        path : str or BandPath, optional
            As in ``atoms.cell.bandpath``, e.g. "GMKG"; default ASE's path of the cell.
        npoints : int
            Points along a path given as a string.
        """
        structure = self._seen(atoms)
        if not isinstance(path, BandPath):
            try:
                path = structure.cell.bandpath(path, npoints, pbc=structure.pbc)
            except (KeyError, ValueError, TypeError) as error:
                known = structure.cell.bandpath(npoints=0, pbc=structure.pbc).special_points
                raise KLMError(
                    f"path = {path!r} with npoints = {npoints!r} cannot be used",
                    f"ASE: {type(error).__name__} {error}",
                    f"name special points of this cell, {', '.join(known)}, e.g. path={''.join(sorted(known)[:2])!r}",
                ) from None
        kondo: BoundKondo = self.bound(structure).terms[0]  # type: ignore[attr-defined]
        state = BoundPotential(structure, self.device)
        energies = kondo.levels(path.kpts, state.moments, state.positions, state.cell)
        return BandStructure(path, energies[None], reference=self.get_property("chemical_potential", structure))


class NetworkCalculator(_ParametrisedCalculator):
    """Any trained network, of spins on a lattice or of atoms and moments, with a Zeeman field.

    The network's card (``models.card``) says for what it was trained, and how large its errors are.

    Parameters
    ----------
    model : str, Path or network
        A packaged name, a file of `ase-klm train`, or a network of `models`.
    field : array_like
        eV/μB, shape (3,), or (N, 3) for each site.
    device : str
        "cpu" or "cuda".
    dtype : str
        "float32" or "float64".
    compile : bool
        Compile the network with `torch.compile` at the first evaluation. It needs a C++ compiler.
    hamiltonian
        Other values of parameters than those of the card, for networks that know them, e.g. ``filling=0.47``.
    """

    _made: ClassVar[Callable[..., Potential]] = staticmethod(network_potential)

    def __init__(
        self,
        model: Any = "kondo-square",
        field: Any = (0.0, 0.0, 0.0),
        device: str = "cpu",
        dtype: str = "float32",
        compile: bool = False,  # noqa: A002, the name that torch gives it
        **hamiltonian: Any,
    ) -> None:
        super().__init__(device=device, model=model, field=field, dtype=dtype, compile=compile, **hamiltonian)

    @classmethod
    def _build(
        cls, model: Any = "kondo-square", field: Any = (0.0, 0.0, 0.0), dtype: str = "float32", **parameters: Any
    ) -> Potential:
        options: dict[str, Any] = {"compile": parameters.pop("compile", False)}
        if dtype not in ("float32", "float64"):
            raise KLMError(f"dtype = {dtype!r} is unknown", "known are float32 and float64", 'e.g. dtype="float32"')
        changed = {name: value for name, value in parameters.items() if value is not None}
        for name, value in changed.items():
            checked_number(value, name, "eV" if name != "filling" else "")
        if len(changed.keys() & {"filling", "mu"}) == 1:
            changed = {"filling": None, "mu": None} | changed
        if changed:
            options["hamiltonian"] = changed
        return cls._made(load(model), dtype=dtype, **options) + Zeeman(field)


class ECNNCalculator(NetworkCalculator):
    """A trained network of spins on a lattice, with classical spins in a Zeeman field; for lattices of any size.

    Takes the place of `KondoEDCalculator` in a script. The network's card (``models.files.card``) says for which
    lattice and Hamiltonian it was trained, and how large its errors are.

    Parameters
    ----------
    model : str, Path or LatticeNetwork
        A packaged name ("kondo-square", "kondo-square-ecnn"), a file of `ase-klm train`, or a network.
    field : array_like
        eV/μB, shape (3,), or (N, 3) for each site.
    J, filling, mu : float, optional
        Other values than those of the card (eV; electrons per state; eV), for networks that know them: one trained on
        the Chebyshev moments of a Kondo lattice. Far from what it was trained on, it is a guess.
    device : str
        "cpu" or "cuda".
    dtype : str
        "float32" or "float64".
    compile : bool
        Compile the network with `torch.compile` at the first evaluation. It needs a C++ compiler, and pays on GPUs.
    lattice : Atoms, optional
        Undistorted cell on which neighbours are told, for every repetition of it, displaced or strained too. Default:
        the structure that is given.
    """

    _made = Network

    def __init__(
        self,
        model: Any = "kondo-square",
        field: Any = (0.0, 0.0, 0.0),
        J: float | None = None,
        filling: float | None = None,
        mu: float | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        compile: bool = False,  # noqa: A002, the name that torch gives it
        lattice: Atoms | None = None,
    ) -> None:
        super().__init__(model, field, device, dtype, compile, J=J, filling=filling, mu=mu, lattice=lattice)


class MagNetCalculator(NetworkCalculator):
    """A trained network of atoms and moments: energy, forces, stress and magnetic forces of any structure.

    The network's card (``models.card``) says for which species it was trained, and how large its errors are. Moments
    are variables like positions: set them on every magnetic atom, with their length in μB.

    Parameters
    ----------
    model : str, Path or AtomicNetwork
        A packaged name, a file of `ase-klm train`, or a network such as `models.MagNet`.
    device : str
        "cpu" or "cuda".
    dtype : str
        "float32" or "float64".
    compile : bool
        Compile the network with `torch.compile` at the first evaluation. It needs a C++ compiler.
    field : array_like
        eV/μB, shape (3,), or (N, 3) for each site.
    """

    _made = Atomistic

    def __init__(
        self,
        model: Any,
        device: str = "cpu",
        dtype: str = "float32",
        compile: bool = False,  # noqa: A002, the name that torch gives it
        field: Any = (0.0, 0.0, 0.0),
    ) -> None:
        super().__init__(model, field, device, dtype, compile)


class ExchangeCalculator(_ParametrisedCalculator):
    """Bilinear exchange of directions in a Zeeman field; see `potentials.Exchange` for the parameters.

    E = Σ_bonds e_i·M·e_j + Σ_i e_i·A_i·e_i - Σ_i f_i·e_i - Σ_i field·m_i, every bond once, M > 0 antiferromagnetic.
    Exchange that depends on distance gives atomic forces and stress (`potentials.ExchangeOfDistance`).

    Parameters
    ----------
    shells : mapping, optional
        {shell: M} in eV, shells counted among the magnetic atoms; M a number, a symmetric matrix, or a function of
        the bond vector, found once; or, followed while atoms move, a function of distance such as
        `potentials.Exponential`, a `potentials.Kitaev` or Dzyaloshinskii-Moriya term, or a list of these.
    bonds : sequence, optional
        (i, j, (n1, n2, n3), M) with M in eV.
    onsite, site_fields : array_like, optional
        A, shape (N, 3, 3), and f, shape (N, 3), in eV.
    field : array_like
        eV/μB, shape (3,) or (N, 3) with the atoms of the structure.
    function : DistanceFunction, optional
        Exchange of all magnetic pairs that are nearer than the cutoff, e.g. `potentials.BetheSlater`.
    cutoff : float, optional
        Å, with `function` only.
    device : str
        "cpu" or "cuda".
    lattice : Atoms, optional
        Undistorted cell on which shells are counted, and whose indices `bonds`, `onsite` and `site_fields` use. The
        calculator then serves every repetition of it (``lattice.repeat(...)``), displaced or strained too. Default: the
        structure that is given.
    """

    def __init__(
        self,
        shells: Mapping[int, Any] | None = None,
        bonds: Sequence[Bond] | None = None,
        onsite: Any = None,
        site_fields: Any = None,
        field: Any = (0.0, 0.0, 0.0),
        device: str = "cpu",
        function: DistanceFunction | None = None,
        cutoff: float | None = None,
        lattice: Atoms | None = None,
    ) -> None:
        super().__init__(
            device=device,
            shells=shells,
            bonds=bonds,
            onsite=onsite,
            site_fields=site_fields,
            field=field,
            function=function,
            cutoff=cutoff,
            lattice=lattice,
        )

    @staticmethod
    def _build(
        shells: Any = None,
        field: Any = (0.0, 0.0, 0.0),
        function: DistanceFunction | None = None,
        cutoff: float | None = None,
        **parameters: Any,
    ) -> Potential:
        moving = {}
        if isinstance(shells, Mapping):
            moving = {shell: value for shell, value in shells.items() if follows_distance(value)}
            shells = {shell: value for shell, value in shells.items() if shell not in moving}
        fixed = Exchange(shells, **parameters) + Zeeman(field)
        if not moving and function is None and cutoff is None:
            return fixed
        of_distance = ExchangeOfDistance(moving, function, cutoff)
        if not shells and all(value is None for value in parameters.values()):
            return of_distance + Zeeman(field)
        return of_distance + fixed


def on_lattice(calculator: Any, lattice: Atoms) -> Any:
    """The calculator with its shells counted on a lattice; sums part by part, those of other packages as they are."""
    if isinstance(calculator, SpinCalculator):
        return calculator.on_lattice(lattice)
    if isinstance(calculator, LinearCombinationCalculator):
        parts = [on_lattice(part, lattice) for part in calculator.mixer.calcs]
        return LinearCombinationCalculator(parts, list(calculator.mixer.weights))
    return calculator


def from_dict(values: Mapping[str, Any], device: str = "cpu") -> SpinCalculator:
    """The calculator whose `todict` gave these values, which ASE's trajectories and databases keep.

    Parameters
    ----------
    values : mapping
        ``read("run.traj").calc.parameters``, or ``calculator_parameters`` of a row of a database.
    device : str
        "cpu" or "cuda".

    Raises
    ------
    KLMError
        When they are those of another package's calculator, or hold something that files name but do not keep, such
        as a Python function; see `potentials.from_dict`.
    """
    if not isinstance(values, Mapping) or "class" not in values:
        raise KLMError(
            f"{shown(values)[:80]} are no parameters of a calculator of this package",
            'these are written as {"class": its name, and its parameters}',
            "give read(...).calc.parameters of a .traj file, or calculator_parameters of a row of a database, .json or "
            ".db, that one of them wrote; of ASE's sums, and of calculators of other packages, files keep nothing: "
            "SpinCalculator(potential + ...) is a sum that is kept",
        )
    name = str(values["class"])
    if name == "SpinCalculator":
        potential = read(values.get("potential"), "potential")
        lattice = read(values.get("lattice"), "lattice")
        return SpinCalculator(potential, lattice, device)
    kind = known_class(name, SpinCalculator, "calculator")
    parameters = {str(key): read(value, f"{name}.{key}") for key, value in values.items() if key != "class"}
    return called(kind, parameters | {"device": device})


def _copied(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters with their arrays and containers copied; functions stay as they are."""

    def copy(value: Any) -> Any:
        if isinstance(value, np.ndarray | Atoms):
            return value.copy()
        if isinstance(value, Mapping):
            return {key: copy(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(copy(entry) for entry in value)
        return value

    return {name: copy(value) for name, value in parameters.items()}
