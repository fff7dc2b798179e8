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
from ase_klm.data.readers import blocks, tables, vasp_files
from ase_klm.errors import KLMError
from ase_klm.validate import Array

NAME = "vasp-constrained"
FILES = "OSZICAR of VASP with I_CONSTRAINED_M"
_SUMMARY = re.compile(r"^ *(\d+) F= *(\S+) E0=.*\n", re.MULTILINE)
_TABLE = re.compile(r"^ *ion +MW_int +M_int *$", re.MULTILINE)
_ROWS = re.compile(rf"{_TABLE.pattern}\n((?: *\d+ +[-+.\d].*\n)*)", re.MULTILINE)
_PENALTY = re.compile(r"E_p = *(\S+)\s")
_ELECTRONS = re.compile(r"^[A-Z]+: +\d+ +(\S+)\s", re.MULTILINE)
_MOMENT_DECIMALS, _FIELD_DECIMALS = 3, 5
TWICE = "with a number of the ionic step that is there twice"
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
    harvest = blocks.Harvest()
    size = _usual_size(text)
    ends = list(_SUMMARY.finditer(text))
    numbers = Counter(_number(end) for end in ends)
    if outcar is not None and len(steps) < len(ends):
        harvest.notes.add("the OUTCAR has fewer ionic steps than the OSZICAR")
    here = None if outcar is not None else _structure(structure, path, len(ends))
    starts = [0, *(end.end() for end in ends)][: len(ends)]
    afters = [*(end.start() for end in ends), len(text)][1:]
    for start, summary, after in zip(starts, ends, afters, strict=True):
        with harvest.frame():
            if numbers[_number(summary)] > 1:
                raise blocks.Incomplete(TWICE)
            before = text[start : summary.start()]
            if here is None:
                atoms, energy, forces = _outcar_step(steps, _number(summary))
            else:
                atoms, energy, forces = here, _energy(before, tables.number(summary.group(2))), None
            blocks.check_count(atoms, size, path)
            moments = _moments(before, len(atoms))
            fields, penalty = _fields(text[summary.end() : after], len(atoms))
            moments, note = blocks.without_induced(moments, fields)
            harvest.notes |= {note} if note else set()
            harvest.keep(blocks.labelled(atoms, moments, energy - penalty, forces, fields, transverse_only=True))
    missing = len(set(steps) - set(numbers)) or int(text.rfind("MW_int") > (ends[-1].end() if ends else 0))
    if missing:
        harvest.dropped[blocks.CUT_SHORT] += missing
    frames = harvest.checked(path, FILES)
    if outcar is None:
        harvest.notes.add(
            "whether the electrons converged is not in an OSZICAR; put the OUTCAR beside it to have it checked"
        )
    return frames, About(
        NAME,
        str(path),
        "MW_int, the smoothed integral in the sphere that the penalty acts on (not M_int, not the OUTCAR's), μB",
        "lambda*MW_perp = -∂E/∂m across the moment only, conjugate to MW_int with factor 1, eV/μB",
        "free energy less the penalty E_p, eV",
        dict(harvest.dropped),
        tuple(sorted(harvest.notes)),
    )


def companion_outcar(path: Path, structure: Any) -> Path | None:
    """The OUTCAR given as the structure, or beside the OSZICAR."""
    if isinstance(structure, str | Path) and "OUTCAR" in Path(structure).name:
        return Path(structure)
    return blocks.companion(path, "OSZICAR", "OUTCAR")


def _structure(structure: Any, path: Path, n_steps: int) -> Atoms:
    if n_steps > 1:
        raise KLMError(
            f"{path} has {n_steps} ionic steps, and one structure cannot belong to all",
            "an OSZICAR does not say where the atoms are",
            "put the OUTCAR of the same run beside it",
        )
    return blocks.structure_of(structure, path, "OSZICAR", "where the atoms are")


Step = tuple[Atoms, float, Array] | str
"""Structure, energy and forces of an ionic step, or the reason why it cannot be used."""


def _outcar_steps(outcar: Path | None) -> dict[int, Step]:
    """Steps of an OUTCAR by their number."""
    if outcar is None:
        return {}
    text = blocks.read_text(outcar)
    numbers = vasp_files.species(text, outcar)
    steps: dict[int, Step] = {}
    for number, part in vasp_files.ionic_steps(text):
        try:
            found: Step = vasp_files.ionic_step(part, numbers)
        except blocks.Incomplete as reason:
            found = str(reason)
        if "aborting loop because EDIFF is reached" not in part and not isinstance(found, str):
            found = blocks.NO_SCF
        steps[number] = found if number not in steps else TWICE
    return steps


def _number(summary: re.Match[str]) -> int:
    return int(summary.group(1)[:9])


def _outcar_step(steps: dict[int, Step], number: int) -> tuple[Atoms, float, Array]:
    found = steps.get(number, blocks.CUT_SHORT)
    if isinstance(found, str):
        raise blocks.Incomplete(found)
    return found


def _moments(part: str, n_atoms: int) -> Array:
    """MW_int of the last electronic step of a piece of text."""
    heads = list(_TABLE.finditer(part))
    after = part[heads[-1].end() + 1 :] if heads else ""
    if not after or re.search("E_p =|<lVp>|DBL", after):  # these come before a table, so that of a later step is lost
        raise blocks.Incomplete(blocks.CUT_SHORT)
    return _rows(after, n_atoms, (6,), _MOMENT_DECIMALS)


def _fields(part: str, n_atoms: int) -> tuple[Array, float]:
    """lambda*MW_perp and the penalty E_p above it, from the text between a summary and the next ionic step."""
    part = part.split("MW_int", maxsplit=1)[0]
    rest = tables.after(part, r"^ *ion +lambda\*MW_perp *\n")
    penalties = _PENALTY.findall(part[: len(part) - len(rest)])
    if len(penalties) != 1:
        raise blocks.Incomplete(blocks.CUT_SHORT)
    return _rows(rest, n_atoms, (3,), _FIELD_DECIMALS), tables.number(penalties[0])


def _rows(text: str, n_atoms: int, sizes: tuple[int, ...], decimals: int) -> Array:
    names, found = tables.rows(text, n_atoms, slice(3), sizes, labels=1, decimals=decimals)
    if tables.numbered(names, n_atoms) != list(range(n_atoms)):
        raise blocks.Incomplete(blocks.CUT_SHORT)
    return found


def _usual_size(text: str) -> int | None:
    """Number of rows of most tables of MW_int."""
    sizes = Counter(rows.count("\n") for rows in _ROWS.findall(text))
    return sizes.most_common(1)[0][0] if sizes else None


def _energy(part: str, summary: float) -> float:
    """The last electronic step has four more digits; it is taken where it is the same number."""
    last = [line for line in _ELECTRONS.findall(part) if line.strip()][-1:]
    try:
        energy = tables.number(last[0]) if last else summary
    except blocks.Incomplete:
        return summary
    return energy if abs(energy - summary) <= _ROUNDING * 10 ** len(str(int(abs(summary)))) else summary


def _check_axes(path: Path, outcar: Path | None) -> None:
    """Raise a `KLMError` where SAXIS turns the axes of the moments."""
    for file in (blocks.companion(path, "OSZICAR", "INCAR"), outcar):
        found = None if file is None else re.search(r"^\s*SAXIS\s*=\s*(.*)$", blocks.read_text(file), re.MULTILINE)
        axis = _axis(found.group(1)) if found else None
        if axis is not None and len(axis) == 3 and (axis[:2].any() or axis[2] <= 0):
            raise KLMError(
                f"SAXIS = {found.group(1) if found else ''} in {file}",
                "moments and fields are then printed along other axes than x, y and z",
                "run with SAXIS = 0 0 1, or turn moments and fields and write them as .extxyz",
            )


def _axis(text: str) -> Array | None:
    try:
        return tables.numbers_of(" ".join(text.split()[:3]))
    except blocks.Incomplete:
        return None
