"""One entrance for all files with labels: this package's own, other people's extended xyz, output of DFT codes."""

from pathlib import Path

import numpy as np
from ase import Atoms

from ase_klm.data import readers, sets
from ase_klm.data.about import TRANSVERSE, About
from ase_klm.data.frames import ONE_BY_ONE, Frame, Frames, checked_frames_path, checked_path, images
from ase_klm.data.readers import aliases
from ase_klm.errors import KLMError
from ase_klm.validate import checked_array


def read(
    path: str | Path,
    format: str | None = None,  # noqa: A002, as in ASE
    structure: str | Path | Atoms | None = None,
    transverse_only: bool | None = None,
) -> Frames:
    """All frames of a file.

    Parameters
    ----------
    path : str or Path
        A ``.traj`` or ``.extxyz`` file, a data set in ``.npz``, ASE's ``.json`` or ``.db``, a ``vasprun.xml``, a folder
        of DeePMD-kit spin data, or the output of VASP or ABACUS with constrained moments (a file, which may be
        compressed, or the folder it is in).
    format : str, optional
        ``npz``, ``traj``, ``extxyz``, ``ase`` (what else ``ase.io.read`` takes), ``deepmd``, ``vasp5-deltaspin``,
        ``vasp6-deltaspin``, ``vasp-constrained`` or ``abacus-deltaspin``. Default: from name and contents.
    structure : str, Path or Atoms, optional
        Where an output file does not hold the structure: a POSCAR, STRU, ... Default: the one beside the file.
    transverse_only : bool, optional
        Whether magnetic forces are known across the moments only. Default: as the file says; without a word, in full.

    Returns
    -------
    Frames
        A list; its ``about`` states which moment was taken, the sign of the magnetic forces, and what was left out.

    Raises
    ------
    KLMError
        When the file does not exist, is of another kind, or is damaged, or a label is not finite.
    """
    file = checked_path(path)
    known = [*readers.OWN.values(), readers.BY_ASE, *readers.FORMATS]
    if format is not None and (not isinstance(format, str) or format not in known):
        raise readers.unknown(file, format)
    if format in readers.OWN.values() or (format is None and file.suffix in readers.OWN and not file.is_dir()):
        structures, about = _own(checked_frames_path(file, endings=None if format else (*ONE_BY_ONE, ".npz")), format)
    else:
        if not file.exists():
            raise KLMError(
                f"{path} cannot be read",
                "there is no such file or folder, and the name is neither a .traj nor an .extxyz nor an .npz file",
                "check the name and the folder",
            )
        name, file = (format, file) if format is not None else readers.recognise(file)
        if name == readers.BY_ASE:
            structures, about = _own(file, name)
        elif name == readers.ase_database.NAME:
            structures, about = _in_our_names(readers.read(name, file)[0], name, file)
        else:
            structures, about = readers.read(name, file, structure)
            for atoms in structures:
                atoms.info["source"] = about.source
        about.warn_of_dropped(len(structures))
    for number, atoms in enumerate(structures):
        if transverse_only is not None and "magnetic_forces" in atoms.arrays | atoms.info:
            atoms.info.pop("mag_forces_part", None)
            atoms.info |= {"mag_forces_part": TRANSVERSE} if transverse_only else {}
        _check_labels(atoms, number, file)
    return Frames((Frame(atoms) for atoms in structures), about)


def _own(file: Path, name: str | None) -> tuple[list[Atoms], About]:
    """Structures of this package's own files, of others' extended xyz, and of what else ASE reads."""
    kind = name or readers.OWN[file.suffix]
    if kind == "npz":
        return sets.load(file), About(kind, str(file))
    return _in_our_names(list(images(file, kind)), kind, file)


def _in_our_names(structures: list[Atoms], kind: str, file: Path) -> tuple[list[Atoms], About]:
    """The same structures, with labels that had other names in their places, and what these were."""
    used: dict[str, str] = {}
    for number, atoms in enumerate(structures):
        found = aliases.resolve_frame(atoms, number, file)
        if found:
            names = [f"{quantity} from {alias}" for quantity, alias in found.items() if quantity != alias]
            meant = ", taken as -dE/dm in eV/uB" if "magnetic forces" in found else ""
            atoms.info.setdefault("source", f"{kind}: {', '.join(names)}{meant}")
            used |= found
    moments = f"column {used['moments']}, μB" if "moments" in used else ""
    fields = f"column {used['magnetic forces']}, taken as -∂E/∂m in eV/μB" if "magnetic forces" in used else ""
    notes = tuple(f"{name} from {used[name]}" for name in ("energy", "forces") if name in used)
    if kind in (readers.BY_ASE, readers.ase_database.NAME):
        notes += ("read by ASE, which does not say whether calculations converged",)
    return structures, About(kind, str(file), moments, fields, notes=notes)


def _check_labels(atoms: Atoms, number: int, path: Path) -> None:
    """Drop labels that are NaN throughout; raise a `KLMError` where only some of their numbers are."""
    part = atoms.info.get("mag_forces_part", TRANSVERSE)
    if part != TRANSVERSE:
        raise KLMError(
            f"frame {number} of {path} has mag_forces_part = {part!r}",
            f"the one part that can be known alone is {TRANSVERSE!r}",
            "leave it out where magnetic forces are known in full",
        )
    results = {} if atoms.calc is None else atoms.calc.results
    places = [
        ("energy", results),
        ("free_energy", results),
        ("forces", results),
        ("magnetic_forces", atoms.arrays),
        ("magnetic_forces", atoms.info),
    ]
    for name, place in places:
        values = np.asarray(place[name]) if place.get(name) is not None else None
        if values is not None and values.ndim and "energy" in name:
            checked_array(values, (), f"{name} of frame {number} of {path}", "eV")
        if values is None or values.dtype.kind not in "iuf" or np.isfinite(values).all():
            continue
        if np.isnan(values).all():
            del place[name]
            continue
        raise KLMError(
            f"{name} of frame {number} of {path} hold NaN or infinity",
            f"{(~np.isfinite(values)).sum()} of {values.size} numbers are not finite",
            "a label that is missing is NaN throughout, or left out; mend or leave out this frame",
        )
