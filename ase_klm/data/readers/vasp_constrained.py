"""VASP with I_CONSTRAINED_M: the OSZICAR, with OUTCAR or POSCAR beside it.

E = E_0 + E_p, E_p a penalty on the part of the moments across their wanted directions. The block ``lambda*MW_perp``
is -∂E_0/∂m for the smoothed moment MW_int; the part along the moment is not known.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from ase import Atoms

from ase_klm.data.about import About
from ase_klm.data.readers import blocks, vasp_files
from ase_klm.errors import KLMError
from ase_klm.validate import Array

NAME = "vasp-constrained"
FILES = "OSZICAR of VASP with I_CONSTRAINED_M"
_SUMMARY = re.compile(r"^ *\d+ F= *(\S+) E0=.*\n", re.MULTILINE)
_NUMBER = r"([-+]?[.\d]+(?:[ED][-+]?\d+)?)"
_TABLE = re.compile(r"^ *ion +MW_int +M_int *$", re.MULTILINE)
_PENALTY = re.compile(rf"E_p = *{_NUMBER}")
_ELECTRONS = re.compile(rf"^[A-Z]+: +\d+ +{_NUMBER}", re.MULTILINE)
_ROUNDING = 1.01e-8  # of F, which has eight digits, relative


def recognises(text: str) -> bool:
    """Whether it is the text of such a file."""
    return _TABLE.search(text) is not None and "E_p =" in text


def read(path: Path, structure: Any = None) -> tuple[list[Atoms], About]:
    """One frame an ionic step; with an OUTCAR, those whose electrons converged.

    Raises
    ------
    KLMError
        When there is none, or the structure is missing, or moments refer to other axes than x, y and z.
    """
    text = blocks.read_text(path)
    outcar = companion_outcar(path, structure)
    steps = _outcar_steps(outcar)
    _check_axes(path, outcar)
    frames: list[Atoms] = []
    dropped: Counter[str] = Counter()
    notes: set[str] = set()
    ends = list(_SUMMARY.finditer(text))
    if outcar is not None and len(steps) < len(ends):
        notes.add("the OUTCAR has fewer ionic steps than the OSZICAR")
    starts = [0, *(end.end() for end in ends)][: len(ends)]
    afters = [*(end.start() for end in ends), len(text)][1:]
    for i, (start, summary, after) in enumerate(zip(starts, ends, afters, strict=True)):
        moments = _moments(text[start : summary.start()])
        fields = None if moments is None else _fields(text[summary.end() : after], len(moments))
        penalty = _PENALTY.findall(text[summary.end() : after].split("MW_perp")[0])
        if moments is None or fields is None or not penalty:
            dropped[blocks.CUT_SHORT] += 1
            continue
        energy = _energy(text[start : summary.start()], float(summary.group(1)))
        forces = None
        if outcar is not None:
            if i >= len(steps) or steps[i] is None:
                dropped[blocks.CUT_SHORT] += 1
                continue
            converged, here, precise, forces = steps[i]
            if not converged:
                dropped[blocks.NO_SCF] += 1
                continue
            energy = energy if precise is None else precise
        else:
            if len(ends) > 1:
                raise KLMError(
                    f"{path} has {len(ends)} ionic steps, and one structure cannot belong to all",
                    "an OSZICAR does not say where the atoms are",
                    "put the OUTCAR of the same run beside it",
                )
            here = blocks.structure_of(structure, path, "OSZICAR", "where the atoms are")
        blocks.check_count(here, len(moments), path)
        moments, note = blocks.without_induced(moments, fields)
        notes |= {note} if note else set()
        frames.append(blocks.labelled(here, moments, energy - float(penalty[-1]), forces, fields, transverse_only=True))
    if text.rfind("MW_int") > (ends[-1].end() if ends else 0):
        dropped[blocks.CUT_SHORT] += 1
    if not frames:
        raise blocks.none_left(path, FILES, dropped)
    if outcar is None:
        notes.add("whether the electrons converged is not in an OSZICAR; put the OUTCAR beside it to have it checked")
    return frames, About(
        NAME,
        str(path),
        "MW_int, the smoothed integral in the sphere that the penalty acts on (not M_int, not the OUTCAR's), μB",
        "lambda*MW_perp = -∂E/∂m across the moment only, conjugate to MW_int with factor 1, eV/μB",
        "free energy less the penalty E_p, eV",
        dict(dropped),
        tuple(sorted(notes)),
    )


def companion_outcar(path: Path, structure: Any) -> Path | None:
    """The OUTCAR given as the structure, or beside the OSZICAR."""
    if isinstance(structure, str | Path) and "OUTCAR" in Path(structure).name:
        return Path(structure)
    return blocks.companion(path, "OSZICAR", "OUTCAR")


def _outcar_steps(outcar: Path | None) -> list[Any]:
    """Of each ionic step whether its electrons converged, structure, energy and forces; None where it is cut short."""
    if outcar is None:
        return []
    text = blocks.read_text(outcar)
    numbers = vasp_files.species(text, outcar)
    steps = []
    rule = r"-+ Ionic step +\d+ +-+" if "- Ionic step " in text else r"-+ Iteration +\d+\( *1\) +-+"
    for part in re.split(rule, text)[1:]:
        found = vasp_files.ionic_step(part, numbers)
        converged = "aborting loop because EDIFF is reached" in part
        steps.append(None if found is None else (converged, *found))
    return steps


def _moments(part: str) -> Array | None:
    """MW_int of the last table."""
    tables = part.split("MW_int")
    if len(tables) < 2:
        return None
    lines = tables[-1].splitlines()[1:]
    n_atoms = 0
    while n_atoms < len(lines) and lines[n_atoms].split()[:1] == [str(n_atoms + 1)]:
        n_atoms += 1
    found = blocks.indexed_rows([re.sub(r"(?<=\d)-", " -", line) for line in lines], slice(1, 7), n_atoms)
    return found[:, :3] if n_atoms and found is not None and found.shape[1] == 6 else None


def _fields(part: str, n_atoms: int) -> Array | None:
    tables = part.split("lambda*MW_perp")
    if len(tables) < 2:
        return None
    lines = [re.sub(r"(?<=\d)-", " -", line) for line in tables[1].splitlines()[1:]]
    found = blocks.indexed_rows(lines, slice(1, 4), n_atoms)
    return found if found is not None and found.shape == (n_atoms, 3) else None


def _energy(part: str, summary: float) -> float:
    """The last electronic step has four more digits; it is taken where it is the same number."""
    lines = _ELECTRONS.findall(part)
    last = float(lines[-1].replace("D", "E")) if lines else summary
    return last if abs(last - summary) <= _ROUNDING * 10 ** len(str(int(abs(summary)))) else summary


def _check_axes(path: Path, outcar: Path | None) -> None:
    """Raise a `KLMError` where SAXIS turns the axes of the moments."""
    for file in (blocks.companion(path, "OSZICAR", "INCAR"), outcar):
        found = None if file is None else re.search(r"^\s*SAXIS\s*=\s*(.*)$", blocks.read_text(file), re.MULTILINE)
        axis = blocks.numbers_of(" ".join(found.group(1).split()[:3])) if found else None
        if axis is not None and len(axis) == 3 and (axis[:2].any() or axis[2] <= 0):
            raise KLMError(
                f"SAXIS = {found.group(1) if found else ''} in {file}",
                "moments and fields are then printed along other axes than x, y and z",
                "run with SAXIS = 0 0 1, or turn moments and fields and write them as .extxyz",
            )
