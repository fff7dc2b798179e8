"""Trajectories that OVITO opens with arrows and colours, without any setting.

OVITO knows per-atom vectors by the names of their columns: ``dipoles`` become arrows (its "Dipole Orientation") and
``color`` the colours of the atoms; ``initial_magmoms``, which ASE needs, would be a mere column of numbers.
"""

from pathlib import Path
from typing import Any

from ase.io import write

from ase_klm.data.frames import checked_path
from ase_klm.errors import KLMError
from ase_klm.moments import directions, get_moments
from ase_klm.plot.colours import spin_colours
from ase_klm.plot.time_series import read_frames


def write_ovito(source: Any, path: str | Path) -> Path:
    """Write moments as arrows, coloured by their direction, into an extended XYZ file for OVITO.

    Parameters
    ----------
    source : str, Path, Atoms, or sequence of frames
        A trajectory, or structures.
    path : str or Path
        File to write, ending in ``.extxyz`` or ``.xyz``.

    Returns
    -------
    Path
        The file; it holds moments (as dipoles, μB), positions and the cell, but no results.

    Raises
    ------
    KLMError
        When the name ends otherwise, or there are no frames.
    """
    path = checked_path(path)
    if path.suffix not in (".extxyz", ".xyz"):
        raise KLMError(
            f"{path} is not named .extxyz", "an extended XYZ file is written", "give a name such as 'run.extxyz'"
        )
    drawn = []
    for atoms in read_frames(source):
        frame = atoms.copy()
        moments = get_moments(atoms)
        for name in set(frame.arrays) - {"numbers", "positions"}:
            del frame.arrays[name]
        frame.arrays["dipoles"] = moments
        colours = spin_colours(directions(moments))
        colours[~moments.any(axis=1)] = 0.7
        frame.arrays["color"] = frame.arrays["vector_color"] = colours.round(4)
        drawn.append(frame)
    write(path, drawn, format="extxyz")
    return path
