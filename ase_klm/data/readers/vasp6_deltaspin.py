"""VASP 6 with DeltaSpin: moments and Lagrange multipliers of an OUTCAR.

L = E + λ·(M - M_target) is stationary, so that -∂E/∂M = λ: the printed magnetic force is ours, with its sign.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_klm.data.about import About
from ase_klm.data.readers import blocks, vasp_files
from ase_klm.errors import KLMError
from ase_klm.validate import Array

NAME = "vasp6-deltaspin"
FILES = "OUTCAR of VASP 6 with DeltaSpin"
_STATUS = "DeltaSpin final status"


def recognises(text: str) -> bool:
    """Whether it is the text of such a file."""
    return "DeltaSpin constraint setup" in text or _STATUS in text


def read(path: Path, _structure: Any = None) -> tuple[list[Atoms], About]:
    """Frames whose status says reached, from status to status.

    Raises
    ------
    KLMError
        When there is none, or the file is none of this format.
    """
    text = blocks.read_text(path)
    numbers = vasp_files.species(text, path)
    definition = re.search(r"Moment definition\s*:\s*(.*)", text)
    frames: list[Atoms] = []
    dropped: Counter[str] = Counter()
    notes: set[str] = set()
    for part in text.split(_STATUS)[1:]:
        if not re.search(r"Moment constraint\s*:\s*reached\b", part):
            dropped[blocks.NO_CONSTRAINT] += 1
        elif not re.search(r"SCF convergence\s*:\s*reached\b", part):
            dropped[blocks.NO_SCF] += 1
        elif (frame := _frame(part, numbers, notes)) is None:
            dropped[blocks.CUT_SHORT] += 1
        else:
            frames.append(frame)
    if not frames:
        raise blocks.none_left(path, FILES, dropped)
    return frames, About(
        NAME,
        str(path),
        f"VASP's {definition.group(1).strip() if definition else 'constrained moment'}, conjugate to λ, μB",
        "printed λ of L = E + λ·(M - M_target), which is -∂E/∂m, eV/μB; zero where unconstrained",
        "free energy TOTEN, of which forces are the derivative, eV",
        dict(dropped),
        tuple(sorted(notes)),
    )


def _frame(part: str, numbers: NDArray[np.int64], notes: set[str]) -> Atoms | None:
    moments = _table(part, r"Mx\s+My\s+Mz", len(numbers), slice(5, 8))
    forces = _table(part, r"MFx\s+MFy\s+MFz", len(numbers), slice(5, 8))
    if "magnetic force" in part and "spin_lambda for L=E+lambda" not in part:
        raise KLMError(
            "the magnetic forces of this OUTCAR follow another convention than L=E+lambda.(M-M_target)",
            "their sign would be a guess",
            "convert them yourself, and try the sign with ase-klm data check",
        )
    found = vasp_files.ionic_step(part, numbers)
    if moments is None or forces is None or found is None:
        return None
    structure, energy, atomic_forces = found
    moments, note = blocks.without_induced(moments, forces)
    notes |= {note} if note else set()
    return blocks.labelled(structure, moments, energy, atomic_forces, forces)


def _table(part: str, header: str, n_atoms: int, columns: slice) -> Array | None:
    """Rows of ``ion elem cx cy cz x y z``, zero on atoms that are not listed."""
    start = re.search(rf"ion elem cx cy cz\s+{header}.*\n\s*-+\s*\n", part)
    if start is None:
        return None
    found = np.zeros((n_atoms, 3))
    count = 0
    for line in part[start.end() :].splitlines(keepends=True):
        words = line.split()
        if len(words) < columns.stop or not words[0].isdigit() or not line.endswith("\n"):
            break
        try:
            found[int(words[0]) - 1] = [float(word) for word in words[columns]]
        except (ValueError, IndexError):
            return None
        count += 1
    return found if count else None
