"""Readers of what DFT codes and other packages write, one format a file.

Each gives frames and an `About` that states which moment it took, the sign of the magnetic forces, and what it left
out. A new one is a module with NAME, FILES, `recognises(text)` and `read(path, structure)`, entered below.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

from ase import Atoms

from ase_klm.choices import OWN_FORMATS
from ase_klm.data.about import About
from ase_klm.data.readers import abacus, ase_database, deepmd, vasp5_deltaspin, vasp6_deltaspin, vasp_constrained
from ase_klm.data.readers.blocks import COMPRESSED, companion, read_text
from ase_klm.errors import KLMError

FORMATS: dict[str, ModuleType] = {
    module.NAME: module for module in (deepmd, vasp6_deltaspin, vasp5_deltaspin, vasp_constrained, abacus, ase_database)
}
OWN = OWN_FORMATS
"""Formats that `ase_klm.data.frames` reads itself, by the ending of the name."""

BY_ASE = "ase"
"""Format of files that ASE reads, whose labels may have any of the names in `aliases`; a vasprun.xml, say."""

_IN_FOLDERS = ("OUTCAR", "OSZICAR", "running_scf.log", "OUT.*/running_scf.log", "*.log", "*.txt")
"""Each may be compressed as well."""
_HEAD, _TAIL = 2**20, 2**20


def recognise(path: Path) -> tuple[str, Path]:
    """Name of the format of a file or folder, and the file to read.

    Raises
    ------
    KLMError
        When none fits.
    """
    if path.is_file() and path.suffix in OWN:
        return OWN[path.suffix], path
    if path.is_file() and path.suffix == ".xml":
        return BY_ASE, path
    if path.is_dir():
        if deepmd.recognises_folder(path):
            return deepmd.NAME, path
        patterns = [pattern + ending for pattern in _IN_FOLDERS for ending in ("", *COMPRESSED)]
        files = [file for pattern in patterns for file in sorted(path.glob(pattern)) if file.is_file()]
    else:
        beside = companion(path, "OUTCAR", "OSZICAR")  # where VASP puts moments and penalty of I_CONSTRAINED_M
        files = [path] + ([beside] if "OUTCAR" in path.name and beside else [])
    for file in files:
        text = _ends(file)
        for name, module in FORMATS.items():
            if module is not deepmd and module.recognises(text):
                return name, file
    raise unknown(path)


def read(name: str, path: Path, structure: Any = None) -> tuple[list[Atoms], About]:
    """Frames of a file in a format of that name."""
    frames, about = FORMATS[name].read(path, structure)
    return frames, about


def unknown(path: Path, name: str | None = None) -> KLMError:
    """The error for a file that is of no known format."""
    known = ", ".join([*dict.fromkeys(OWN.values()), BY_ASE, *FORMATS])
    return KLMError(
        f"{path} is in no format known here" if name is None else f"{name!r} is no format known here",
        f"known are {known}" + ("; neither name nor contents point to one of them" if name is None else ""),
        "name it, if it is one of these: data.read(path, format='vasp6-deltaspin'), or --format; format='ase' takes "
        "what ase.io.read takes, such as an OUTCAR without constrained moments",
    )


def _ends(path: Path) -> str:
    """Beginning and end of a file: formats show in both, and files may be large."""
    try:
        if path.suffix in COMPRESSED or path.stat().st_size <= _HEAD + _TAIL:
            return read_text(path)
        with path.open("rb") as file:
            head = file.read(_HEAD)
            file.seek(-_TAIL, 2)
            return (head + file.read()).decode(errors="replace").replace("\r\n", "\n")
    except OSError as error:
        raise KLMError(f"{path} cannot be read", str(error), "check the name and the folder") from None
