"""VASP 6 with DeltaSpin: moments and Lagrange multipliers of an OUTCAR.

L = E + λ·(M - M_target) is stationary, so that -∂E/∂M = λ: the printed magnetic force is ours, with its sign.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from ase_klm.data.about import About
from ase_klm.data.readers import blocks, tables, vasp_files
from ase_klm.errors import KLMError
from ase_klm.validate import Array

NAME = "vasp6-deltaspin"
FILES = "OUTCAR of VASP 6 with DeltaSpin"
_STATUS = "DeltaSpin final status"
_DECIMALS = 10


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
    constrained = re.search(r"Constrained atoms\s*:\s*(\d{1,9})\s*/\s*\d+\s*\n", text)
    n_constrained = int(constrained.group(1)) if constrained else None
    harvest = blocks.Harvest()
    for _, step in vasp_files.ionic_steps(text) or [(1, text)]:
        for part in step.split(_STATUS)[1:] or [""]:
            with harvest.frame():
                harvest.keep(_frame(part, numbers, n_constrained, harvest.notes))
    frames = harvest.checked(path, FILES)
    return frames, About(
        NAME,
        str(path),
        f"VASP's {definition.group(1).strip() if definition else 'constrained moment'}, conjugate to λ, μB",
        "printed λ of L = E + λ·(M - M_target), which is -∂E/∂m, eV/μB; zero where unconstrained",
        "free energy TOTEN, of which forces are the derivative, eV",
        dict(harvest.dropped),
        tuple(sorted(harvest.notes)),
    )


def _frame(part: str, numbers: NDArray[np.int64], n_constrained: int | None, notes: set[str]) -> Atoms:
    if not part:
        raise blocks.Incomplete(blocks.CUT_SHORT)
    if not re.search(r"Moment constraint\s*:\s*reached\b", part):
        raise blocks.Incomplete(blocks.NO_CONSTRAINT)
    if not re.search(r"SCF convergence\s*:\s*reached\b", part):
        raise blocks.Incomplete(blocks.NO_SCF)
    if "magnetic force" in part and "spin_lambda for L=E+lambda" not in part:
        raise KLMError(
            "the magnetic forces of this OUTCAR follow another convention than L=E+lambda.(M-M_target)",
            "their sign would be a guess",
            "convert them yourself, and try the sign with ase-klm data check",
        )
    listed, moments = _table(part, r"Mx\s+My\s+Mz", len(numbers), n_constrained)
    also_listed, forces = _table(part, r"MFx\s+MFy\s+MFz", len(numbers), n_constrained)
    if listed != also_listed and len(numbers) not in (len(listed), len(also_listed)):
        raise blocks.Incomplete(blocks.CUT_SHORT)
    structure, energy, atomic_forces = vasp_files.ionic_step(part, numbers)
    moments, note = blocks.without_induced(moments, forces)
    notes |= {note} if note else set()
    return blocks.labelled(structure, moments, energy, atomic_forces, forces)


def _table(part: str, header: str, n_atoms: int, n_constrained: int | None) -> tuple[list[int], Array]:
    """Listed atoms of rows ``ion elem cx cy cz x y z``, and their vectors; (N, 3), zero on atoms that are not listed.

    The constrained atoms are listed, or all. Where the head does not say how many are constrained, it must be the
    same atoms in both tables.
    """
    body = tables.after(part, rf"ion elem cx cy cz\s+{header}.*\n\s*-+\s*\n")
    names, vectors = tables.rows(body, None, slice(3), (3, 4), labels=5, decimals=_DECIMALS)
    listed = tables.numbered(names, n_atoms)
    if len(listed) not in (n_atoms, len(listed) if n_constrained is None else n_constrained):
        raise blocks.Incomplete(blocks.CUT_SHORT)
    found = np.zeros((n_atoms, 3))
    found[listed] = vectors
    return listed, found
