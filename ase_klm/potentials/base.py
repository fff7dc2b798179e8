"""Potentials and what binding makes of them: Atoms → ``potential.bind(atoms)`` → ``bound.evaluate(...)``.

A *potential* holds parameters only. *Binding* does once what does not change from step to step. A *bound potential*
implements either `energy` in differentiable torch, from which this base class derives magnetic forces, forces, stress
and Hessian-vector products, or `_evaluate` itself.

Axes: moments and positions (..., N, 3), cells (..., 3, 3), energies (...). The leading axes are replicas; parameters
such as a field broadcast over them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from ase_klm.errors import KLMError
from ase_klm.graphs import with_complete_cell
from ase_klm.moments import get_moments, is_magnetic
from ase_klm.plausibility import Doubt
from ase_klm.potentials.parameters import Parametrised, described, parameters_of
from ase_klm.potentials.second_derivatives import SecondDerivatives
from ase_klm.supercells import Repetitions, checked_lattice, placed_on, tiled, undistorted
from ase_klm.validate import checked_array, checked_atoms

Structures = Atoms | Sequence[Atoms]

UNITS = "E in eV, lengths in Å, moments m in μB; magnetic forces -∂E/∂m in eV/μB, forces -∂E/∂r in eV/Å"


@dataclass(frozen=True)
class Evaluation:
    """What a potential gives for one set of moments, positions and cells; None where it cannot.

    Attributes
    ----------
    energy : Tensor
        eV, shape (...).
    magnetic_forces : Tensor
        -∂E/∂m, eV/μB, shape (..., N, 3), zero on non-magnetic atoms.
    forces : Tensor or None
        eV/Å, shape (..., N, 3).
    stress : Tensor or None
        eV/Å³, shape (..., 3, 3), symmetric.
    extras : dict
        Further results by name, tensors of shape (...).
    """

    energy: Tensor
    magnetic_forces: Tensor
    forces: Tensor | None = None
    stress: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)

    def __add__(self, other: "Evaluation") -> "Evaluation":
        def total(a: Tensor | None, b: Tensor | None) -> Tensor | None:
            return None if a is None or b is None else a + b

        return Evaluation(
            self.energy + other.energy,
            self.magnetic_forces + other.magnetic_forces,
            total(self.forces, other.forces),
            total(self.stress, other.stress),
            self.extras | other.extras,
        )


class Potential(Parametrised, ABC):
    """Parameters of a term of the energy. Terms add up: ``kondo + zeeman + anisotropy``."""

    per_replica: ClassVar[tuple[str, ...]] = ()
    """Names of the parameters that may differ between replicas, each an array that broadcasts over moments."""

    per_site: ClassVar[Mapping[str, int]] = {}
    """Parameters that may be arrays with a value for each site → their axis of sites, counted from the end."""

    uses_lattice: ClassVar[bool] = True
    """Whether binding finds shells, or names sites: on its `lattice` if it has that field, else on the structure given.
    False for what depends on moments and distances at the time alone."""

    @abstractmethod
    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundPotential":
        """Prepare evaluation for a structure, or for several replicas of one lattice along a batch axis."""

    @property
    def counts_shells(self) -> bool:
        """Whether bonds are found on the structure that this is bound to, and must be found anew when atoms move."""
        return self.uses_lattice and getattr(self, "lattice", None) is None

    def _keep_lattice(self) -> None:
        """Keep a checked copy of `lattice`, where one is given: for the `__post_init__` of potentials that have it."""
        lattice = getattr(self, "lattice", None)
        if lattice is not None:
            object.__setattr__(self, "lattice", checked_lattice(lattice))

    def on_lattice(self, lattice: Atoms | None) -> "Potential":
        """The same with its shells counted, and its sites named, on a lattice; one that it has already stays."""
        if lattice is None or not self.uses_lattice or getattr(self, "lattice", self) is not None:
            return self
        twin = copy(self)
        object.__setattr__(twin, "lattice", checked_lattice(lattice))
        return twin

    def geometry(self, atoms: Atoms) -> tuple[np.ndarray, ...]:
        """What binding takes from positions and cell: bound once, it serves all structures where this is the same.

        Raises
        ------
        KLMError
            When the structure does not repeat the lattice.
        """
        if self.counts_shells:
            return atoms.positions.copy(), atoms.cell.array.copy()
        if not self.uses_lattice:
            return ()
        repetitions, images = placed_on(self.lattice, atoms)  # type: ignore[attr-defined]
        return np.array(repetitions), images

    @property
    def force_scale(self) -> float:
        """About the largest magnetic force that this term gives, eV/μB, by its parameters; 0 where it is not known."""
        return 0.0

    def doubts(self, atoms: Atoms, force_scale: float) -> Iterator[Doubt]:
        """What looks like another unit, or like a mistake, on this structure; see `plausibility`.

        Parameters
        ----------
        force_scale : float
            That of all terms together.
        """
        return iter(())

    def repeated(self, atoms: Atoms, repetitions: Repetitions) -> "Potential":
        """The same energy for the supercell ``atoms.repeat(repetitions)`` of a structure that this can be bound to.

        Here, parameters named in `per_site` are repeated. Potentials whose parameters name atoms, or belong to them in
        another way, override it; those that find everything on the structure need nothing.

        Raises
        ------
        KLMError
            When the parameters cannot be repeated.
        """
        changed = {}
        for name, axis in self.per_site.items():
            values = np.asarray(getattr(self, name))
            if values.ndim >= -axis and values.shape[axis] == len(atoms):
                changed[name] = tiled(values, axis, repetitions)
        found = replace(self, **changed) if changed else self  # type: ignore[type-var]
        lattice = getattr(self, "lattice", None)
        if lattice is None or not self.uses_lattice:
            return found
        twin = copy(found)  # with a lattice in the order and the images of these atoms
        object.__setattr__(twin, "lattice", undistorted(atoms, lattice).followed)
        return twin

    def describe(self) -> str:
        """The terms, with their formulas and parameters, and the units, as text to print."""
        terms = terms_of(self)
        names = " + ".join(type(term).__name__ for term in terms)
        return "\n\n".join([f"E = {names}\n{UNITS}", *(described(term, parameters_of(term)) for term in terms)])

    def __add__(self, other: "Potential") -> "Potential":
        if not isinstance(other, Potential):
            raise KLMError(
                f"{type(other).__name__} cannot be added to a potential",
                "a sum consists of potentials",
                "wrap ASE calculators by potentials.Foreign(calc)",
            )
        return Sum((self, other))

    def __radd__(self, other: object) -> "Potential":
        return self if other == 0 else NotImplemented  # so that sum(potentials) works


class BoundPotential:
    """A potential prepared for one lattice: `n_atoms` atoms, `magnetic` (N,) bool, and the tensors bound to.

    Parameters
    ----------
    atoms : Atoms or sequence of Atoms
        One structure, or replicas of one lattice: same species, periodicity and magnetic sites.
    device : str
        Device of all tensors, which are float64.
    """

    turns_spins: bool = True
    """Whether the energy depends on directions of moments; else the magnetic forces are along them or zero."""

    def __init__(self, atoms: Structures, device: str = "cpu") -> None:
        several: list[Any] = list(atoms) if isinstance(atoms, list | tuple) else [atoms]
        replicas = [checked_atoms(replica) for replica in several]
        _check_replicas(replicas)
        self.device = checked_device(device)
        self.reference = with_complete_cell(replicas[0])
        self.n_atoms = len(self.reference)
        self.magnetic = self.tensor(is_magnetic(replicas[0]))
        single = not isinstance(atoms, list | tuple)

        def stack(arrays: list[Any]) -> Tensor:
            return self.tensor(arrays[0] if single else np.stack(arrays))

        self.moments = stack([get_moments(a) for a in replicas])
        self.positions = stack([a.positions for a in replicas])
        self.cell = stack([with_complete_cell(a).cell.array for a in replicas])

    def tensor(self, values: Any) -> Tensor:
        """Copy to the device; floating numbers as float64."""
        tensor = torch.tensor(np.asarray(values), device=self.device)
        return tensor.to(torch.float64) if tensor.is_floating_point() else tensor

    def move_to(self, positions: Tensor, cell: Tensor) -> None:
        """Take other positions (..., N, 3) and cells (..., 3, 3) as the present ones; bonds stay as they are."""
        self.positions, self.cell = positions, cell

    def energy(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        """Energy in eV, shape (...), differentiable in all three."""
        raise NotImplementedError

    @property
    def interaction_range(self) -> float | None:
        """Distance, Å, beyond which second derivatives are zero; None where it is not known."""
        return None

    @property
    def differentiable(self) -> bool:
        """Whether `energy` is given as differentiable torch."""
        return type(self).energy is not BoundPotential.energy

    @property
    def twice_differentiable(self) -> bool:
        """Whether Hessian-vector products are exact, not differences of magnetic forces."""
        own = type(self).hessian_vector_product is not BoundPotential.hessian_vector_product
        return own or self.differentiable

    def evaluate(
        self,
        moments: Tensor | None = None,
        positions: Tensor | None = None,
        cell: Tensor | None = None,
        *,
        atomic: bool = True,
    ) -> Evaluation:
        """Energy and its gradients; what is not given is taken as at binding.

        Parameters
        ----------
        atomic : bool
            Whether forces and stress are wanted too; spin dynamics at rest on a lattice leaves them out.
        """
        return self._evaluate(
            self.moments if moments is None else moments,
            self.positions if positions is None else positions,
            self.cell if cell is None else cell,
            atomic,
        )

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        """By automatic differentiation of `energy`; potentials without a differentiable energy override this."""
        m = moments.detach().requires_grad_()
        variables = [m]
        if atomic:
            x, strain, positions, cell = _strained(positions, cell)
            variables += [x, strain]
        with torch.enable_grad():
            energy = self.energy(m, positions, cell)
            gradients = torch.autograd.grad(energy.sum(), variables, allow_unused=True, materialize_grads=True)
        magnetic_forces = torch.where(self.magnetic[:, None], -gradients[0], 0.0)
        if not atomic:
            return Evaluation(energy.detach(), magnetic_forces)
        return Evaluation(energy.detach(), magnetic_forces, -gradients[1], _stress(gradients[2], cell))

    def forces(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor | None:
        """Those of `evaluate` to the last bit, eV/Å, (..., N, 3); potentials override it where they cost less."""
        return self.evaluate(moments, positions, cell).forces

    def effective_field(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        """The magnetic forces of `evaluate`, eV/μB, (..., N, 3); potentials override it where they cost less."""
        return self.evaluate(moments, positions, cell, atomic=False).magnetic_forces

    def hessian_vector_product(self, moments: Tensor, vectors: Tensor) -> Tensor:
        """Σ_j (∂²E/∂m_i ∂m_j) v_j, shape (..., N, 3), in eV/μB² times the unit of `vectors`.

        By automatic differentiation where `energy` is differentiable, else by central differences of the magnetic
        forces.
        """
        if self.differentiable:
            return self.hessian(moments)(vectors)
        return hessian_by_differences(self, moments, vectors)

    def hessian(self, moments: Tensor) -> Callable[[Tensor], Tensor]:
        """The Hessian as a function of vectors: energy and gradient of a differentiable `energy` are formed once."""
        if not self.differentiable:
            return partial(self.hessian_vector_product, moments)
        m = moments.detach().requires_grad_()
        with torch.enable_grad():
            energy = self.energy(m, self.positions, self.cell)
            (gradient,) = torch.autograd.grad(energy.sum(), m, create_graph=True)

        def product(vectors: Tensor) -> Tensor:
            if not gradient.requires_grad:  # an energy linear in the moments
                return torch.zeros_like(vectors)
            (found,) = torch.autograd.grad(gradient, m, vectors, retain_graph=True, materialize_grads=True)
            return torch.where(self.magnetic[:, None], found, 0.0)

        return product

    def site_hessian(self, moments: Tensor) -> Tensor | None:
        """Blocks ∂²E/∂m_i ∂m_i, shape (..., N, 3, 3), eV/μB²; None where they are not at hand."""
        return None

    def second_derivatives(self, moments: Tensor) -> SecondDerivatives | None:
        """∂²E/∂m_i ∂m_j of the periodic crystal at moments (N, 3), exactly; None where they are not at hand."""
        return None

    def no_atomic_forces(self, moments: Tensor, atomic: bool) -> tuple[Tensor | None, Tensor | None]:
        """Forces and stress of an energy that does not depend on where the atoms are: zero."""
        if not atomic:
            return None, None
        return torch.zeros_like(moments), moments.new_zeros((*moments.shape[:-2], 3, 3))


@dataclass(frozen=True)
class Sum(Potential):
    """Sum of potentials; it gives what all its terms give. Sums among the terms are taken apart: it is flat."""

    terms: tuple[Potential, ...]

    @property
    def uses_lattice(self) -> bool:  # type: ignore[override]
        return any(term.uses_lattice for term in self.terms)

    @property
    def counts_shells(self) -> bool:
        return any(term.counts_shells for term in self.terms)

    def on_lattice(self, lattice: Atoms | None) -> "Potential":
        terms = tuple(term.on_lattice(lattice) for term in self.terms)
        return self if all(new is old for new, old in zip(terms, self.terms, strict=True)) else Sum(terms)

    def geometry(self, atoms: Atoms) -> tuple[np.ndarray, ...]:
        return tuple(part for term in self.terms for part in term.geometry(atoms))

    @property
    def force_scale(self) -> float:
        return sum(term.force_scale for term in self.terms)

    def doubts(self, atoms: Atoms, force_scale: float) -> Iterator[Doubt]:
        for term in self.terms:
            yield from term.doubts(atoms, force_scale)

    def __post_init__(self) -> None:
        terms = tuple(self.terms)
        if not terms or not all(isinstance(term, Potential) for term in terms):
            raise KLMError(
                f"terms = {self.terms!r} are no potentials", "a sum has a term at least", "e.g. Sum((exchange, field))"
            )
        object.__setattr__(self, "terms", tuple(term for part in terms for term in terms_of(part)))

    def repeated(self, atoms: Atoms, repetitions: Repetitions) -> "Sum":
        return Sum(tuple(term.repeated(atoms, repetitions) for term in self.terms))

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.terms))

    def bind(self, atoms: Structures, device: str = "cpu") -> "BoundSum":
        return BoundSum([term.bind(atoms, device) for term in self.terms], atoms, device)


class BoundSum(BoundPotential):
    """Bound terms, evaluated together."""

    def __init__(self, terms: Sequence[BoundPotential], atoms: Structures, device: str) -> None:
        super().__init__(atoms, device)
        self.terms = list(terms)

    def move_to(self, positions: Tensor, cell: Tensor) -> None:
        super().move_to(positions, cell)
        for term in self.terms:
            term.move_to(positions, cell)

    def _evaluate(self, moments: Tensor, positions: Tensor, cell: Tensor, atomic: bool) -> Evaluation:
        first, *rest = (term._evaluate(moments, positions, cell, atomic) for term in self.terms)
        return sum(rest, start=first)

    def forces(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor | None:
        found = [term.forces(moments, positions, cell) for term in self.terms]
        known = [forces for forces in found if forces is not None]
        return sum(known[1:], start=known[0]) if len(known) == len(found) else None

    def effective_field(self, moments: Tensor, positions: Tensor, cell: Tensor) -> Tensor:
        first, *rest = (term.effective_field(moments, positions, cell) for term in self.terms)
        return sum(rest, start=first)

    @property
    def twice_differentiable(self) -> bool:
        return all(term.twice_differentiable for term in self.terms)

    def hessian_vector_product(self, moments: Tensor, vectors: Tensor) -> Tensor:
        return sum(
            (term.hessian_vector_product(moments, vectors) for term in self.terms), start=torch.zeros_like(moments)
        )

    def site_hessian(self, moments: Tensor) -> Tensor | None:
        blocks = [term.site_hessian(moments) for term in self.terms]
        known = [block for block in blocks if block is not None]
        return sum(known[1:], start=known[0]) if len(known) == len(blocks) else None


def stacked(potentials: Sequence[Potential]) -> Potential:
    """One potential for several replicas, from one potential each.

    Parameters named in `per_replica` are stacked along a batch axis; all others must be equal.

    Raises
    ------
    KLMError
        When the potentials differ in anything else.
    """
    first = potentials[0]
    if any(type(p) is not type(first) or len(terms_of(p)) != len(terms_of(first)) for p in potentials):
        raise _unequal_replicas("the kinds of their potentials")
    if isinstance(first, Sum):
        return Sum(tuple(stacked(terms) for terms in zip(*map(terms_of, potentials), strict=True)))
    if not is_dataclass(first):
        if any(p is not first for p in potentials):
            raise _unequal_replicas(type(first).__name__)
        return first
    changed = {}
    for entry in fields(first):
        values = [getattr(p, entry.name) for p in potentials]
        if all(same(value, values[0]) for value in values):
            continue
        if entry.name not in first.per_replica:
            raise _unequal_replicas(f"{type(first).__name__}.{entry.name}")
        changed[entry.name] = np.stack(np.broadcast_arrays(*map(np.atleast_2d, values)))
    return replace(first, **changed) if changed else first


def _unequal_replicas(difference: str) -> KLMError:
    return KLMError(
        "these replicas cannot run in one batch",
        f"they differ in {difference}; only fields may differ from replica to replica",
        "give all replicas the same calculator parameters, or run them one after the other",
    )


def same(a: Any, b: Any) -> bool:
    """Whether two parameters are equal; arrays, containers and functions with parameters by what they hold."""
    if isinstance(a, Parametrised) and is_dataclass(a) and type(a) is type(b):
        return a is b or same(parameters_of(a), parameters_of(b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(np.asarray(a), np.asarray(b))
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a is b or a == b)


def frozen_array(values: Any, name: str, unit: str) -> np.ndarray:
    """Read-only float64 copy of finite numbers, so that a parameter cannot change behind a calculator's back."""
    if isinstance(values, str):
        raise KLMError(
            f"{name} = {values!r} is a text",
            f"it must be numbers{f' in {unit}' if unit else ''}",
            f"a direction is a vector, e.g. {name}=(0, 0, 1)",
        )
    try:
        rank = np.ndim(values)
    except ValueError:
        rank = 0  # ragged: checked_array explains
    array = checked_array(values, (None,) * rank, name, unit)
    array.setflags(write=False)
    return array


def over_moments(array: np.ndarray, bound: BoundPotential, name: str) -> Tensor:
    """The parameter as a tensor that broadcasts against moments (..., N, 3)."""
    target = (*bound.moments.shape[:-2], bound.n_atoms, 3)
    try:
        fits = array.shape[-1:] == (3,) and np.broadcast_shapes(array.shape, target) == target
    except ValueError:
        fits = False
    if not fits:
        raise KLMError(
            f"{name} has shape {array.shape}, which does not fit moments of shape {tuple(bound.moments.shape)}",
            "it must broadcast against them",
            f"give shape (3,) for all sites, ({bound.n_atoms}, 3) for each site, or (replicas, 1, 3) for each replica; "
            "those of a cell that was repeated must be repeated too",
        )
    return bound.tensor(array)


def checked_device(device: str) -> torch.device:
    """The torch device of that name.

    Raises
    ------
    KLMError
        When torch does not know it, or the machine does not have it.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise KLMError(
            f"device = {device!r} cannot be used",
            str(error).splitlines()[0],
            'use device="cpu", or "cuda" where torch.cuda.is_available()',
        ) from None
    return found


def terms_of(potential: Potential) -> tuple[Potential, ...]:
    """The terms of a sum, or the potential itself."""
    return potential.terms if isinstance(potential, Sum) else (potential,)


def doubts_of(potential: Potential, atoms: Atoms) -> Iterator[Doubt]:
    """All doubts of a potential, a sum or not, about itself on a structure."""
    return potential.doubts(atoms, potential.force_scale)


def _check_replicas(replicas: list[Atoms]) -> None:
    if not replicas or len(replicas[0]) == 0:
        raise KLMError("there are no atoms", "the structure or the list of replicas is empty", "build a lattice first")
    first = replicas[0]
    for number, atoms in enumerate(replicas[1:], start=1):
        for what, equal in (
            ("species", np.array_equal(atoms.numbers, first.numbers)),
            ("periodicity", np.array_equal(atoms.pbc, first.pbc)),
            ("magnetic sites", np.array_equal(is_magnetic(atoms), is_magnetic(first))),
        ):
            if not equal:
                raise KLMError(
                    f"replica {number} is not a replica of the first",
                    f"the {what} differ",
                    "replicas share one lattice and differ in directions, positions, field and temperature only",
                )


def hessian_by_differences(bound: BoundPotential, moments: Tensor, vectors: Tensor) -> Tensor:
    """Σ_j (∂²E/∂m_i ∂m_j) v_j from central differences of the magnetic forces, displacing no moment by over 1e-4 μB."""
    step = 1e-4 / vectors.abs().amax(dim=(-2, -1), keepdim=True).clamp_min(1e-300)
    ahead = bound.evaluate(moments + step * vectors, atomic=False).magnetic_forces
    behind = bound.evaluate(moments - step * vectors, atomic=False).magnetic_forces
    return (behind - ahead) / (2 * step)


def gradients_by_position(
    energy: Callable[[Tensor, Tensor], Tensor], positions: Tensor, cell: Tensor
) -> tuple[Tensor, Tensor]:
    """Forces (..., N, 3), eV/Å, and stress (..., 3, 3), eV/Å³, of an energy (...) of positions and cell."""
    x, strain, positions, cell = _strained(positions, cell)
    with torch.enable_grad():
        by_position, by_strain = torch.autograd.grad(energy(positions, cell).sum(), (x, strain), materialize_grads=True)
    return -by_position, _stress(by_strain, cell)


def _strained(positions: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Variables of the atomic gradients: positions x, strain ε, and the positions and cell that they give."""
    x = positions.detach().requires_grad_()
    strain = cell.new_zeros(cell.shape).requires_grad_()
    with torch.enable_grad():
        deformation = torch.eye(3, dtype=cell.dtype, device=cell.device) + (strain + strain.mT) / 2
        return x, strain, x @ deformation, cell.detach() @ deformation


def _stress(energy_by_strain: Tensor, cell: Tensor) -> Tensor:
    return energy_by_strain / torch.linalg.det(cell.detach()).abs()[..., None, None]
