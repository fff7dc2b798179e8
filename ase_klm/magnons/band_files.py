"""Magnon bands as JSON that needs no explanation, written in one go.

=================  =====================================================================================
key                value
=================  =====================================================================================
``format``         "ase_klm magnon bands", version 1
``units``          of every quantity in the file
``path``           as it was asked for, such as "GMKG"
``special_points`` list of ``label``, ``index`` in q, ``distance`` along the path, and ``q``
``distance``       along the path, rad/Å, shape (n_q,)
``q``              in units of the reciprocal vectors of the cell, shape (n_q, 3)
``structure``      ``file``, ``symbols``, ``cell`` (Å), ``pbc``, ``positions`` (Å)
``models``         a list: ``name``; ``model``, its parameters; ``method``; ``supercell``; ``moments`` (μB) that its
                   bands belong to; ``energies`` (eV, ascending, shape (n_q, modes)); and, if asked for,
                   ``density_of_states``: ``energies`` (eV), ``values`` (modes per eV and cell), ``mesh``, ``width``
``provenance``     ``package``, ``version``, ``command``, ``date``
=================  =====================================================================================
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ase.spectrum.band_structure import BandStructure

from ase_klm.data.frames import checked_path
from ase_klm.errors import KLMError
from ase_klm.files import written_atomically
from ase_klm.magnons.magnons import Magnons
from ase_klm.moments import get_moments
from ase_klm.validate import Array

UNITS = {
    "energies": "eV",
    "q": "reciprocal vectors of the cell, phase exp(2 pi i q.R)",
    "distance": "rad/Å",
    "cell": "Å",
    "positions": "Å",
    "moments": "μB",
    "values": "modes per eV and cell",
    "width": "eV",
}


@dataclass(frozen=True)
class DensityOfStates:
    """Modes per eV and cell, on a mesh of q, with lines of a Gaussian width.

    Attributes
    ----------
    energies, values : ndarray
        eV and 1/eV, shape (n,).
    mesh : tuple of int
    width : float
        Standard deviation, eV.
    """

    energies: Array
    values: Array
    mesh: tuple[int, ...]
    width: float

    @classmethod
    def of(cls, magnons: Magnons, mesh: Sequence[int], points: int = 400) -> "DensityOfStates":
        """On a mesh, with a hundredth of the highest energy as the width."""
        raw = magnons.get_dos(mesh)
        highest = float(raw.get_energies().max())
        width = highest / 100 if highest > 0 else 1e-6
        grid = raw.sample_grid(points, xmin=0.0, xmax=highest + 4 * width, width=width)
        return cls(grid.get_energies(), grid.get_weights(), tuple(int(n) for n in mesh), width)


@dataclass(frozen=True)
class ModelBands:
    """What one model gives on the path.

    Attributes
    ----------
    name : str
    model : dict
        Its parameters, for JSON.
    magnons : Magnons
    bands : BandStructure
        eV.
    density : DensityOfStates, optional
    """

    name: str
    model: dict[str, Any]
    magnons: Magnons
    bands: BandStructure
    density: DensityOfStates | None = None


def write_bands(path: str | Path, models: Sequence[ModelBands], structure: str = "", command: str = "") -> None:
    """Write the bands of one model or several on one path; an existing file is replaced.

    Parameters
    ----------
    path : str or Path
        Ends in ``.json``.
    models : sequence of ModelBands
        On the same path.
    structure, command : str
        Where the structure came from, and what was typed, for the record.
    """
    file = checked_path(path)
    if file.suffix != ".json":
        raise KLMError(f"{path} is not named .json", "bands are written as JSON", "use a name such as bands.json")
    if not file.absolute().parent.is_dir():
        raise KLMError(f"{path} cannot be written", f"there is no folder {file.parent}", "create it first")
    band_path = models[0].bands.path
    atoms = models[0].magnons.atoms
    distance, places, labels = band_path.get_linear_kpoint_axis()
    told = {
        "format": {"name": "ase_klm magnon bands", "version": 1},
        "units": UNITS,
        "path": band_path.path,
        "special_points": _special_points(band_path, distance, places, labels),
        "distance": distance.tolist(),
        "q": band_path.kpts.tolist(),
        "structure": {
            "file": structure,
            "symbols": atoms.get_chemical_symbols(),
            "cell": atoms.cell.tolist(),
            "pbc": atoms.pbc.tolist(),
            "positions": atoms.positions.tolist(),
        },
        "models": [_model(one) for one in models],
        "provenance": {
            "package": "ase_klm",
            "version": version("ase_klm"),
            "command": command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }
    with written_atomically(file) as temporary:
        temporary.write_text(_text(told) + "\n", encoding="utf-8")


def _model(one: ModelBands) -> dict[str, Any]:
    magnons = one.magnons
    told: dict[str, Any] = {
        "name": one.name,
        "model": one.model,
        "method": magnons.method,
        "supercell": None if magnons.supercell is None else list(magnons.supercell),
        "moments": get_moments(magnons.atoms).tolist(),
        "energies": one.bands.energies[0].tolist(),
    }
    if one.density is not None:
        told["density_of_states"] = {
            "energies": one.density.energies.tolist(),
            "values": one.density.values.tolist(),
            "mesh": list(one.density.mesh),
            "width": one.density.width,
        }
    return told


def _special_points(band_path: Any, distance: Array, places: Array, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Each corner with its number in q; where the path jumps, two follow each other at one distance."""
    found, start = [], 0
    for place, label in zip(places.tolist(), labels, strict=True):
        point = np.asarray(band_path.special_points[label])
        index = start + int(np.argmin(np.abs(distance[start:] - place)))
        if index + 1 < len(distance) and np.linalg.norm(band_path.kpts[index] - point) > 1e-6:
            index += 1
        found.append({"label": label, "index": index, "distance": place, "q": band_path.kpts[index].tolist()})
        start = index
    return found


def _text(value: Any, indent: str = "") -> str:
    """JSON with a line for each key, and for each row of an array."""
    deeper = indent + " "
    if isinstance(value, dict) and value:
        lines = [f"{deeper}{json.dumps(key)}: {_text(part, deeper)}" for key, part in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], list | dict):
        return "[\n" + ",\n".join(deeper + _text(part, deeper) for part in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)
