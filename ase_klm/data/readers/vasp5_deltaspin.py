"""VASP 5 with DeltaSpin (Cai et al.): the log, with the POSCAR beside it.

One line of 3N numbers under each of ``Cartesian Coordinates:``, ``Magnetization:``, ``Atomic Force:`` and
``Magnetic Force:``. The last is -λ, which there is -∂E/∂m.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_klm.data.about import About
from ase_klm.data.readers import blocks, tables
from ase_klm.errors import KLMError
from ase_klm.images import nearest_image
from ase_klm.validate import Array

NAME = "vasp5-deltaspin"
FILES = "log of VASP 5 with DeltaSpin"
_ORDER = ("Energy", "Cartesian Coordinates", "Magnetization", "Atomic Force", "Magnetic Force")
_LINE = re.compile(rf"^ *({'|'.join(_ORDER)}): *\n(.*\n?)", re.MULTILINE)
_SEARCH = "Step (Outer -- Inner)"
_FAR = 1.0  # Å from the POSCAR: another structure, or another order of atoms


def recognises(text: str) -> bool:
    """Whether it is the text of such a file."""
    return "Magnetization Difference from Target:" in text or "Inner optimization for lambda ends" in text


def read(path: Path, structure: Any = None) -> tuple[list[Atoms], About]:
    """Frames whose last search for λ met its criterion.

    Raises
    ------
    KLMError
        When there is none, or the structure is missing or of another calculation.
    """
    text = blocks.read_text(path)
    found = _frames(text)
    sizes = Counter(len(lines["Magnetization"].split()) for _, lines in found if "Magnetization" in lines)
    harvest = blocks.Harvest()
    reference: Atoms | None = None
    for search, lines in found:
        with harvest.frame():
            met = _met(search)
            if met is False:
                raise blocks.Incomplete(blocks.NO_CONSTRAINT)
            energy = _numbers(lines, "Energy", 1)[0]
            if reference is None:
                reference = blocks.structure_of(structure, path, "log", "which atoms and which cell there are")
                blocks.check_count(reference, sizes.most_common(1)[0][0] // 3 if sizes else None, path)
            positions, moments, magnetic_forces = (
                _numbers(lines, name, 3 * len(reference)).reshape(-1, 3)
                for name in ("Cartesian Coordinates", "Magnetization", "Magnetic Force")
            )
            forces = None
            if "Atomic Force" in lines:
                forces = _numbers(lines, "Atomic Force", 3 * len(reference)).reshape(-1, 3)
            here = _placed(reference, positions, path)
            moments, note = blocks.without_induced(moments, magnetic_forces)
            harvest.notes |= {note} if note else set()
            harvest.keep(blocks.labelled(here, moments, energy, forces, magnetic_forces))
            if met is None:
                harvest.notes.add("the log does not say whether the search for λ met its criterion")
    if _SEARCH in text[max((line.end() for line in _LINE.finditer(text)), default=0) :]:
        harvest.dropped[blocks.CUT_SHORT] += 1
    frames = harvest.checked(path, FILES)
    return frames, About(
        NAME,
        str(path),
        "the log's Magnetization, the constrained moment conjugate to λ, μB",
        "the log's Magnetic Force = -λ = -∂E/∂m, eV/μB; zero where unconstrained",
        "the log's Energy, eV",
        dict(harvest.dropped),
        (*sorted(harvest.notes), "cell and species are those of the POSCAR, also where a run changes the cell"),
    )


def _frames(text: str) -> list[tuple[str, dict[str, str]]]:
    """Of each frame the search for λ before it, and the lines under its headings, which stand in one order."""
    frames: list[tuple[str, dict[str, str]]] = []
    end, last = 0, len(_ORDER)
    for found in _LINE.finditer(text):
        heading = _ORDER.index(found.group(1))
        if heading <= last:
            frames.append((text[end : found.start()], {}))
        frames[-1][1][found.group(1)] = found.group(2)
        end, last = found.end(), heading
    return frames


def _numbers(lines: dict[str, str], name: str, count: int) -> Array:
    line = lines.get(name, "")
    if not line.endswith("\n"):
        raise blocks.Incomplete(blocks.CUT_SHORT)
    found = tables.numbers_of(line)
    if len(found) != count:
        raise blocks.Incomplete(blocks.CUT_SHORT)
    return found


def _met(part: str) -> bool | None:
    """Whether the last search for λ before the labels met its criterion; None where the log does not say."""
    ends = part.rfind("Inner optimization for lambda ends")
    last_step = part.rfind(_SEARCH)
    if ends < 0 and last_step < 0:
        return None
    return part.find("Meet convergence criterion", max(last_step, 0)) >= 0


def _placed(reference: Atoms, positions: Array, path: Path) -> Atoms:
    moved = np.linalg.norm(
        nearest_image(positions - reference.positions, reference.cell.array[reference.pbc]), axis=1
    ).max()
    if moved > _FAR:
        raise KLMError(
            f"atoms of {path} are up to {moved:.2f} Å from those of the structure",
            "it is of another calculation, or its atoms are in another order",
            "give the POSCAR of this calculation with structure= or --structure",
        )
    atoms = reference.copy()
    atoms.positions = positions
    return atoms
