"""Numbers that were probably given in another unit: where they start, and what was meant.

A limit here is no law. Models are often written in units of their own, with t = 1 or J = 1, and these are never
doubted: what is compared with energies of the same model (temperature, field, chemical potential) is doubted only where
it is far beyond them, and energies themselves only where no solid has them.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from ase_klm import units
from ase_klm.errors import warn
from ase_klm.graphs import with_complete_cell
from ase_klm.moments import get_moments

MU_B = 9.2740100783e-24
"""One μB in J/T."""

MERGED = 0.3
"""Atoms nearer than this fraction of the median distance of neighbours stand in one place."""

PAIRED = 0.02
"""The same for the median distance of second neighbours, where many atoms stand in pairs."""

INTENDED = 'if it is meant so, silence this by warnings.filterwarnings("ignore", category=KLMWarning)'


class Doubt(NamedTuple):
    """A warning that has not been given yet."""

    what: str
    why: str
    remedy: str


class Rule(NamedTuple):
    """What is plausible for the magnitude of a quantity, apart from zero.

    Attributes
    ----------
    unit : str
    least, most : float
        Smaller and larger ones are doubted; `most` gives way to a larger limit that comes from the same model.
    reason : str
        What such a value would mean, or what is usual.
    other_unit, factor : str, float
        The unit that was probably meant, if any, and its size.
    """

    unit: str
    least: float
    most: float
    reason: str
    other_unit: str
    factor: float


RULES = {
    "electronic temperature": Rule("eV", 0, 0.5, "kT beyond the band fills all levels alike", "K", units.KB),
    "hopping": Rule("eV", 0, 100, "bands of solids are some eV wide", "meV", 1e-3),
    "Kondo coupling": Rule("eV", 0, 100, "couplings in solids are some eV", "meV", 1e-3),
    "chemical potential": Rule("eV", 0, 50, "it lies far outside of the bands", "meV", 1e-3),
    "exchange": Rule("eV", 0, 5, "that of solids is below 0.1 eV, and models have J = 1", "meV", 1e-3),
    "anisotropy": Rule("eV", 0, 5, "that of solids is below 0.01 eV, and models have J = 1", "meV", 1e-3),
    "site field": Rule("eV", 0, 5, "that of solids is below 1 eV, and models have J = 1", "meV", 1e-3),
    "field": Rule("eV/μB", 0, 0.1, "it is far stronger than what the moments feel of each other", "T", units.TESLA),
    "moment": Rule("μB", 0, 30, "it is that of one atom, and atoms have 0.01 to 11 μB", "", 1),
    "faint moment": Rule("μB", 1e-6, np.inf, "atoms have moments of 0.01 to 11 μB", "J/T", 1 / MU_B),
    "temperature of a bath": Rule("K", 0.1, np.inf, "classical moments mean little so near to absolute zero", "eV",
                                  1 / units.KB),
    "kT of a bath": Rule("eV", 0, 20, "it is far beyond the energies of moments", "K", units.KB),
    "mass": Rule("u", 0.1, 1000, "atoms have masses of 1 to 300 u", "kg", 1 / 1.66053906660e-27),
    "distance of neighbours": Rule("Å", 0.4, np.inf, "bonds are 0.7 to 5 Å long", "nm", 10.0),
}  # fmt: skip
"""By quantity."""


def doubts_about(quantity: str, values: ArrayLike, name: str = "", limit: float = 0.0) -> Iterator[Doubt]:
    """A doubt if a magnitude among the values lies outside of what its rule finds plausible.

    Parameters
    ----------
    quantity : str
        One of `RULES`.
    values : array_like
        Any shape, in the unit of the rule; zeros are passed over.
    name : str
        What the user calls it; default the quantity.
    limit : float
        A larger value that is still plausible in this model.
    """
    rule = RULES[quantity]
    magnitudes = np.abs(np.asarray(values, dtype=float)).ravel()
    largest, smallest = magnitudes.max(initial=0.0), magnitudes[magnitudes > 0].min(initial=np.inf)
    most = max(rule.most, limit)
    if largest > most:
        bound, value = f"more than {most:.3g} {rule.unit} is doubted", largest
    elif smallest < rule.least:
        bound, value = f"less than {rule.least:.3g} {rule.unit} is doubted", smallest
    else:
        return
    meant = f"if {value:.4g} {rule.other_unit} was meant, give {value * rule.factor:.4g} {rule.unit}"
    yield Doubt(
        f"the {name or quantity} of {value:.4g} {rule.unit} is implausible",
        f"{rule.reason}; {bound}",
        f"{meant if rule.other_unit else f'check its unit, which is {rule.unit}'}; {INTENDED}",
    )


def doubts_about_cutoff(cutoff: float, nearest: float) -> Iterator[Doubt]:
    """A doubt if no pair of atoms is within the cutoff, Å, since the nearest ones are farther apart."""
    if cutoff < nearest:
        yield Doubt(
            f"no two atoms are within the cutoff of {cutoff:.4g} Å",
            f"the nearest ones are {nearest:.4g} Å apart, so that nothing acts between them",
            f"if {cutoff:.4g} nm was meant, give {10 * cutoff:.4g} Å; else a larger one",
        )


def doubts_about_structure(atoms: Atoms) -> Iterator[Doubt]:
    """Atoms in one place, distances that are no Å, and moments that are no μB."""
    lengths = np.linalg.norm(get_moments(atoms), axis=1)
    largest = lengths.max(initial=0.0)  # small ones beside it are what an electronic calculation left
    yield from doubts_about("moment", [largest])
    yield from doubts_about("faint moment", [largest], "moment")
    nearest = nearest_neighbours(atoms)
    if nearest is None:
        return
    i, j, distances, second = nearest
    first, typical = int(distances.argmin()), float(np.median(distances))
    further = float(np.median(second)) if np.isfinite(second).all() else 0.0
    extent = max(np.ptp(atoms.positions, axis=0).max(), *atoms.cell.lengths())
    if extent < 1e-6:
        yield Doubt(
            f"all atoms lie within {extent:.3g} Å",
            "atoms are some Å apart",
            "if positions and cell are in metres, multiply them by 1e10",
        )
    elif distances[first] < max(MERGED * typical, PAIRED * further, 1e-3):
        pair = f"atoms {i[first]} and {j[first]}" if i[first] != j[first] else f"atom {i[first]} and its image"
        yield Doubt(
            f"{pair} are {distances[first]:.3g} Å apart",
            f"other neighbours are {max(typical, further):.4g} Å apart: these two stand in one place, and others "
            "have bonds to both",
            "remove one (ase.geometry.get_duplicate_atoms finds all), or look at the cell: an atom on its face stands "
            "once, not on both faces",
        )
    else:
        yield from doubts_about("distance of neighbours", [typical])


class Nearest(NamedTuple):
    """The nearest atom j, or image, of each atom i, with its distance and that of the next one (Å)."""

    i: NDArray[np.int64]
    j: NDArray[np.int64]
    distance: NDArray[np.float64]
    next_distance: NDArray[np.float64]


def nearest_neighbours(atoms: Atoms) -> Nearest | None:
    """Of each atom; None for a single atom without images.

    It is exact for atoms nearer than most, which is enough to tell what is too near; next ones beyond the faces of the
    cell may be missed, and are infinite without any.
    """
    complete = with_complete_cell(atoms).copy()
    complete.wrap()
    heights = 1 / np.linalg.norm(np.linalg.inv(complete.cell.array), axis=0)
    periodic = np.flatnonzero(atoms.pbc)
    reach = _reach(complete.positions, heights[periodic])
    positions, number = complete.positions, np.arange(len(atoms))
    scaled = complete.get_scaled_positions(wrap=False)
    for axis in periodic:  # a pair across a face has one end near to it
        near = scaled[:, axis] * heights[axis] <= reach
        scaled = np.concatenate([scaled, scaled[near] + np.eye(3)[axis]])
        positions = np.concatenate([positions, positions[near] + complete.cell.array[axis]])
        number = np.concatenate([number, number[near]])
    if len(positions) < 2:
        return None
    distance, partner = cKDTree(positions).query(positions, k=3)
    other = np.where(partner[:, 0] == np.arange(len(positions)), partner[:, 1], partner[:, 0])
    order = np.lexsort((distance[:, 1], number))
    order = order[np.concatenate([[True], np.diff(number[order]) > 0])]  # of an atom and its images the nearest
    return Nearest(number[order], number[other[order]], distance[order, 1], distance[order, 2])


def _reach(positions: NDArray[np.float64], heights: Sequence[float]) -> float:
    """A distance within which most atoms have a neighbour."""
    shortest = float(min(heights, default=np.inf))
    if len(positions) < 2:
        return shortest
    inside = float(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1]))
    return min(1.01 * inside, shortest) if inside > 0 else shortest


def tell(doubts: Iterator[Doubt], told: set[str] | None = None) -> None:
    """Give the warnings that are not among those told already, and add them to these."""
    told = set() if told is None else told
    for doubt in doubts:
        if doubt.what not in told:
            told.add(doubt.what)
            warn(*doubt)
