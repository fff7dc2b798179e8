"""Who is bonded to whom in a layer of CrI3, told by which atoms share neighbours and not by distances of shells.

So displaced and strained layers, of any size, have the same bonds as the undistorted one.
"""

from collections import Counter
from collections.abc import Iterable
from itertools import combinations

import numpy as np
from ase import Atoms

from ase_klm.errors import KLMError
from ase_klm.graphs import bonds_within

LONGEST_BOND = 3.7
"""Å; between chromium and iodine, midway between the distances 2.73 and 4.90 of the structure."""

KINDS = "Cr-I", "Cr-Cr", "Cr-I next", "I-I of an edge", "I-I on one side", "I-I across"
"""Pairs of atoms: chromium with its six iodine, with its three neighbours, and with six next iodine, which stand beside
these neighbours; iodine atoms of one octahedron on the edge that it shares with another, above or below it, and else
across it, except for opposite ones."""

Site = tuple[int, tuple[int, int, int]]
"""An atom and its cell."""

Way = tuple[Site, ...]
"""A bond: its two ends, and further atoms that it depends on."""

HOME = (0, 0, 0)


class Layer:
    """Who is bonded to whom: the ligands of each chromium, the metals of each iodine, and what follows from them.

    Raises
    ------
    KLMError
        When there are other atoms than Cr and I, or these are not bonded as in a layer of CrI3.
    """

    def __init__(self, atoms: Atoms) -> None:
        symbols = np.array(atoms.get_chemical_symbols())
        if not set(symbols) == {"Cr", "I"}:
            raise _no_layer(f"it has atoms {', '.join(sorted(set(symbols)))}")
        bonds = bonds_within(atoms, LONGEST_BOND)
        bonds = bonds[symbols[bonds.i] != symbols[bonds.j]]
        self.ligands: dict[int, list[Site]] = {int(c): [] for c in np.flatnonzero(symbols == "Cr")}
        self.metals: dict[int, list[Site]] = {int(x): [] for x in np.flatnonzero(symbols == "I")}
        self._vectors: dict[tuple[int, Site], np.ndarray] = {}
        for i, j, R, v in zip(bonds.i.tolist(), bonds.j.tolist(), bonds.cells.tolist(), bonds.vectors, strict=True):
            for start, end, cell, vector in ((i, j, tuple(R), v), (j, i, (-R[0], -R[1], -R[2]), -v)):
                (self.ligands if start in self.ligands else self.metals)[start].append((end, cell))
                self._vectors[start, (end, cell)] = vector / np.linalg.norm(vector)
        for found, wanted, other in ((self.ligands, 6, "I"), (self.metals, 2, "Cr")):
            for atom, near in found.items():
                if len(near) != wanted:
                    raise _no_layer(
                        f"atom {atom} ({symbols[atom]}) has {len(near)} {other} nearer than {LONGEST_BOND} Å"
                    )
        self.neighbours = {c: list(dict.fromkeys(self._beyond(c, x) for x in self.ligands[c])) for c in self.ligands}
        for c, near in self.neighbours.items():
            if len(near) != 3:
                raise _no_layer(f"chromium {c} shares iodine with {len(near)} others")

    def _beyond(self, c: int, ligand: Site) -> Site:
        """The other metal of a ligand of chromium c."""
        x, cell = ligand
        metals = [shifted(metal, cell) for metal in self.metals[x]]
        return metals[1] if metals[0] == (c, HOME) else metals[0]

    def _around(self, metal: Site) -> list[Site]:
        return [shifted(near, metal[1]) for near in self.neighbours[metal[0]]]

    def shared(self, c: int, neighbour: Site) -> list[Site]:
        """The two ligands between chromium c and a neighbour."""
        return [x for x in self.ligands[c] if self._beyond(c, x) == neighbour]

    def opposite(self, c: int, ligand: Site) -> Site:
        """The ligand of chromium c on the other side of it."""
        direction = self._vectors[c, ligand]
        return min(self.ligands[c], key=lambda x: float(self._vectors[c, x] @ direction))

    def first_neighbours(self) -> list[Way]:
        """Each bond once, with the other neighbours of its first end and those of its second."""
        found = []
        for c, near in self.neighbours.items():
            for end in near:
                if _comes_first((c, HOME), end):
                    others = [other for other in near if other != end]
                    beyond = [other for other in self._around(end) if other != (c, HOME)]
                    found.append(((c, HOME), end, *others, *beyond))
        return found

    def second_neighbours(self) -> list[Way]:
        """Each once, with the chromium between."""
        return [(a, b, (c, HOME)) for c, near in self.neighbours.items() for a, b in combinations(near, 2)]

    def third_neighbours(self) -> list[Way]:
        """Across a hexagon: two ways of three steps lead there."""
        found: list[Way] = []
        for c in self.neighbours:
            start = (c, HOME)
            ends = Counter(
                third
                for first in self._around(start)
                for second in self._around(first)
                for third in self._around(second)
                if second != start and third != first
            )
            found += [(start, end) for end, ways in ends.items() if ways == 2 and _comes_first(start, end)]
        return found

    def springs(self) -> dict[str, list[Way]]:
        """Pairs by kind, each once."""
        found: dict[str, list[Way]] = {kind: [] for kind in KINDS}
        found["Cr-Cr"] = [way[:2] for way in self.first_neighbours()]
        found["I-I of an edge"] = [tuple(self.shared(*_home(*bond))) for bond in found["Cr-Cr"]]
        for c, near in self.neighbours.items():
            found["Cr-I"] += [((c, HOME), x) for x in self.ligands[c]]
            for one, other in combinations([self.shared(c, end) for end in near], 2):
                # of the four pairs, one is opposite, the one without either of its atoms across, two on one side
                u = next(x for x in one if self.opposite(c, x) in other)
                v = self.opposite(c, u)
                (w,), (z,) = ([x for x in one if x != u], [x for x in other if x != v])
                found["I-I across"].append((w, z))
                found["I-I on one side"] += [(u, z), (w, v)]
            for d, cell in near:
                # ligands of a neighbour, neither shared nor opposite to a shared one
                back = shifted((c, HOME), tuple(-n for n in cell))
                between = self.shared(d, back)
                beyond = {*between, *(self.opposite(d, x) for x in between)}
                found["Cr-I next"] += [((c, HOME), shifted(x, cell)) for x in self.ligands[d] if x not in beyond]
        return found


def shifted(site: Site, cell: Iterable[int]) -> Site:
    """The same atom, that many cells further."""
    a, b, c = (n + m for n, m in zip(site[1], cell, strict=True))
    return site[0], (a, b, c)


def _home(start: Site, end: Site) -> tuple[int, Site]:
    return start[0], shifted(end, (-n for n in start[1]))


def _comes_first(start: Site, end: Site) -> bool:
    """Of the two directions of a bond, one."""
    atom, beyond = _home(start, end)
    return (atom, HOME) < beyond


def _no_layer(reason: str) -> KLMError:
    return KLMError(
        "this is no layer of CrI3",
        reason,
        "start from lattices.cri3_monolayer; its atoms may be displaced as long as no bond breaks",
    )
