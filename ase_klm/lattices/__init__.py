"""Builders of spin lattices as ASE `Atoms`; planes lie in xy, chains along x, with vacuum across.

Sites are numbered as by ``Atoms.repeat``: on an Lx × Ly lattice with one site a cell, index = ix·Ly + iy. The atoms
carry no moments yet; `ase_klm.textures` or `set_moments` give them some.
"""

import math

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike

from ase_klm.errors import KLMError
from ase_klm.memory import require_memory

VACUUM = 10.0
"""Length of a non-periodic cell vector in units of the lattice constant."""

BYTES_A_SITE = 100
"""Numbers, positions and moments, with a copy of them."""

CRI3_IODINE = 0.3507, 1.571
"""Iodine of CrI3: distance from the axis of a hexagon in units of a, and height above the chromium plane in Å."""


def chain(size: int | tuple[int] = 1, a: float = 1.0, symbol: str = "Fe") -> Atoms:
    """Chain along x with `size` sites at distance `a` (Å)."""
    return _build([(_checked(a), 0, 0)], [(0, 0, 0)], size, a, symbol)


def square(size: tuple[int, int] = (1, 1), a: float = 1.0, symbol: str = "Fe") -> Atoms:
    """Square lattice of nearest-neighbour distance `a` (Å)."""
    return _build([(_checked(a), 0, 0), (0, a, 0)], [(0, 0, 0)], size, a, symbol)


def triangular(size: tuple[int, int] = (1, 1), a: float = 1.0, symbol: str = "Fe") -> Atoms:
    """Triangular lattice of nearest-neighbour distance `a` (Å): a1 = a x, a2 at 60° to it."""
    return _build(np.array(_triangular_vectors(a)), [(0, 0, 0)], size, a, symbol)


def triangular_magnetic_cell(size: tuple[int, int] = (1, 1), a: float = 1.0, symbol: str = "Fe") -> Atoms:
    """Magnetic cell of the triangular lattice's skyrmion crystals: 48 sites, vectors 4 a1 + 4 a2 and -4 a1 + 8 a2.

    It is the smallest cell in which the three wave vectors of length π/3 along Γ-K fit
    (Miyazaki, arXiv:2305.03804; Ozawa, Hayami, Motome, Phys. Rev. Lett. 118, 147205).
    """
    a1, a2 = _triangular_vectors(a)
    b1, b2 = 4 * a1 + 4 * a2, -4 * a1 + 8 * a2
    points = [i * a1 + j * a2 for i in range(-4, 9) for j in range(13)]
    coordinates = np.linalg.solve(np.array([b1, b2, (0, 0, 1)]).T, np.array(points).T).T
    inside = ((coordinates[:, :2] > -1e-9) & (coordinates[:, :2] < 1 - 1e-9)).all(axis=1)
    return _build([b1, b2], np.array(points)[inside], size, a, symbol)


def honeycomb(size: tuple[int, int] = (1, 1), a: float = 1.0, symbol: str = "Fe") -> Atoms:
    """Honeycomb lattice with two sites a cell, the second at (a1 + a2)/3; `a` (Å) is the lattice constant.

    The nearest-neighbour distance is a/√3.
    """
    a1, a2 = _triangular_vectors(a)
    return _build([a1, a2], [0 * a1, (a1 + a2) / 3], size, a, symbol)


def kagome(size: tuple[int, int] = (1, 1), a: float = 1.0, symbol: str = "Fe") -> Atoms:
    """Kagome lattice with three sites a cell at 0, a1/2 and a2/2; nearest-neighbour distance a/2 (Å)."""
    a1, a2 = _triangular_vectors(a)
    return _build([a1, a2], [0 * a1, a1 / 2, a2 / 2], size, a, symbol)


def simple_cubic(size: tuple[int, int, int] = (1, 1, 1), a: float = 1.0, symbol: str = "Fe") -> Atoms:
    """Simple cubic lattice of lattice constant `a` (Å)."""
    return _build(_checked(a) * np.eye(3), [(0, 0, 0)], size, a, symbol)


def body_centred_cubic(size: tuple[int, int, int] = (1, 1, 1), a: float = 1.0, symbol: str = "Fe") -> Atoms:
    """Body-centred cubic lattice in its cubic cell of two sites; `a` (Å) is the cube's edge."""
    return _build(_checked(a) * np.eye(3), [(0, 0, 0), (a / 2, a / 2, a / 2)], size, a, symbol)


def face_centred_cubic(size: tuple[int, int, int] = (1, 1, 1), a: float = 1.0, symbol: str = "Fe") -> Atoms:
    """Face-centred cubic lattice in its cubic cell of four sites; `a` (Å) is the cube's edge."""
    half = _checked(a) / 2
    return _build(a * np.eye(3), [(0, 0, 0), (0, half, half), (half, 0, half), (half, half, 0)], size, a, symbol)


def cri3_monolayer(size: tuple[int, int] = (1, 1), a: float = 6.867, vacuum: float = 10.0) -> Atoms:
    """Monolayer of CrI3, two Cr and six I a cell, between layers of `vacuum` (Å) above and below.

    The chromium atoms come first and are numbered as in `honeycomb`; they alone shall get moments, of about 3 μB.

    The layer is that of the low-temperature phase, R-3 with a = 6.867 Å: M. A. McGuire, H. Dixit, V. R. Cooper,
    B. C. Sales, Chem. Mater. 27, 612 (2015). Iodine stands 0.3507 a from the centre of a hexagon and 1.571 Å above or
    below chromium, 2.73 Å away from two of them. These are rounded coordinates of that phase, in which the small turn
    of iodine about the centres is left out; a single layer then has the symmetry D3d.

    Parameters
    ----------
    a : float
        Lattice constant, Å; it scales the plane, not the height.
    """
    a1, a2 = _triangular_vectors(a)
    if not (isinstance(vacuum, int | float | np.number) and not isinstance(vacuum, bool) and 0 < vacuum <= 1e6):
        raise KLMError(f"vacuum = {vacuum!r} is no distance", "it must be a number of Å above 0", "e.g. vacuum=10.0")
    centre, up = 2 / 3 * (a1 + a2), np.array((0.0, 0.0, CRI3_IODINE[1]))
    upper = [centre + CRI3_IODINE[0] * corner + up for corner in (a1, a2 - a1, -a2)]
    lower = [2 * centre - corner for corner in upper]
    one = _build([a1, a2], [0 * a1, (a1 + a2) / 3, *upper, *lower], (1, 1), a, "Cr")
    one.symbols[2:] = "I"
    one.wrap()
    one.center(vacuum, axis=2)
    cells = _build([a1, a2], [0 * a1], size, a, "Cr")
    atoms = one.repeat((len(cells), 1, 1))
    atoms.positions[:] = np.concatenate([one.positions + origin for origin in cells.positions])
    atoms.set_cell([*cells.cell[:2], one.cell[2]])
    order = np.argsort(atoms.numbers != one.numbers[0], kind="stable")
    return atoms[order]


def _triangular_vectors(a: float) -> tuple[np.ndarray, np.ndarray]:
    _checked(a)
    return np.array((a, 0.0, 0.0)), np.array((a / 2, a * np.sqrt(3) / 2, 0.0))


def _checked(a: float) -> float:
    if not (isinstance(a, int | float | np.number) and not isinstance(a, bool) and 1e-3 <= a <= 1e6):
        raise KLMError(
            f"a = {a!r} is not a lattice constant", "it must be a number of Å, from 0.001 to a million", "e.g. a=1.0"
        )
    return a


def _build(vectors: ArrayLike, basis: ArrayLike, size: int | tuple[int, ...], a: float, symbol: str) -> Atoms:
    """Repeat a basis (Å) along one to three lattice vectors (Å), vacuum along the other directions."""
    vectors = np.asarray(vectors, dtype=float)
    dimension = len(vectors)
    sizes = (size,) if np.ndim(size) == 0 else tuple(size)  # type: ignore[arg-type]
    whole = all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 1 for n in sizes)
    if len(sizes) != dimension or not whole:
        raise KLMError(
            f"size = {size!r} does not fit this lattice",
            f"it needs {dimension} positive integers, the number of cells along each lattice vector",
            f"for instance size={(12,) * dimension!r}",
        )
    n_sites = min(len(np.asarray(basis)) * math.prod(np.array(sizes, dtype=object)), 10**18)
    require_memory(
        BYTES_A_SITE * n_sites,
        f"a lattice of {n_sites:.3g} sites",
        "build a smaller one; in periodic boundaries a magnetic cell stands for an infinite lattice",
    )
    cell = np.eye(3) * VACUUM * a
    cell[:dimension] = vectors
    basis = np.asarray(basis, dtype=float)
    pbc = np.arange(3) < dimension
    try:
        atoms = Atoms([symbol] * len(basis), positions=basis, cell=cell, pbc=pbc)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise KLMError(
            f"symbol = {symbol!r} is not a chemical element", "every site is one atom", 'for instance symbol="Fe"'
        ) from None
    return atoms.repeat((*sizes, *(1,) * (3 - dimension)))
