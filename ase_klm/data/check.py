"""A look at a data set before anyone trains on it: what is there, what is missing, whether labels belong together."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from ase_klm.data import labels as labelling
from ase_klm.data import work
from ase_klm.data.frames import Frame
from ase_klm.data.report import Histogram, Report, Spread
from ase_klm.errors import KLMError
from ase_klm.moments import directions
from ase_klm.validate import Array, checked_atoms

LABELS = ("energy", "forces", "magnetic_forces")
_PERPENDICULAR = 1e-2  # rms of the part along the moments, relative to that across
_OUTLIER = 8.0  # robust standard deviations
_SAME = 1e-5  # Å, μB


def check(frames: Iterable[Frame | Atoms]) -> Report:
    """Look at frames before training: ranges, missing labels, duplicates, outliers, and the slope of energy on work.

    Parameters
    ----------
    frames : iterable of Frame or Atoms
        For instance those of `read`.

    Returns
    -------
    Report
        ``print(check(frames))`` shows all of it.

    Raises
    ------
    KLMError
        When there are no frames, or moments are not finite.
    """
    several = _frames(frames)
    moments = [frame.moments for frame in several]
    fields = [frame.magnetic_forces for frame in several]
    labels = {name: [getattr(frame, name) for frame in several] for name in LABELS}
    missing = {name: _where(value is None for value in values) for name, values in labels.items()}
    missing["moments"] = _where(not m.any() for m in moments)
    across, along = _parts(moments, fields, [frame.transverse_only for frame in several])
    full = [not frame.transverse_only for frame, field in zip(several, fields, strict=True) if field is not None]
    duplicates = _duplicates(several, moments)
    slope, reason = work.slope(several)
    about = getattr(frames, "about", None)
    lengths = _joined([np.linalg.norm(m, axis=1)[m.any(axis=1)] for m in moments])
    sizes: dict[str, Array] = {
        "energy": np.array([e / len(f.atoms) for e, f in zip(labels["energy"], several, strict=True) if e is not None]),
        "forces": _joined([np.linalg.norm(f, axis=1) for f in labels["forces"] if f is not None]),
        "magnetic": _joined([np.linalg.norm(f, axis=1)[m.any(axis=1)] for f, m in zip(fields, moments, strict=True)
                             if f is not None]),
    }  # fmt: skip
    spreads = {
        "energy per atom": Spread.of(sizes["energy"], "eV"),
        "force on an atom": Spread.of(sizes["forces"], "eV/Å"),
        "length of moments": Spread.of(lengths, "μB"),
        "magnetic force, size": Spread.of(sizes["magnetic"], "eV/μB"),
        "magnetic force across the moment": Spread.of(across, "eV/μB"),
        "magnetic force along the moment": Spread.of(along, "eV/μB"),
    }
    histograms = (
        Histogram.of("tilt from the axis of the frame", _tilts(moments), "degrees", 90.0),
        Histogram.of("forces", sizes["forces"], "eV/Å"),
        Histogram.of("magnetic forces across the moments", across, "eV/μB"),
    )
    return Report(
        number=len(several),
        structures=dict(Counter(frame.atoms.get_chemical_formula() for frame in several).most_common()),
        spreads={name: spread for name, spread in spreads.items() if spread is not None},
        histograms=tuple(histogram for histogram in histograms if histogram is not None),
        missing=missing,
        transverse_only=len(fields) - sum(field is None for field in fields) - sum(full),
        perpendicular=bool(any(full) and across.any() and _rms(along) < _PERPENDICULAR * _rms(across)),
        duplicates=duplicates,
        conflicts=tuple(found for found in duplicates if _differ([labels["energy"][i] for i in found])),
        outliers=_outliers(several, labels, moments),
        slope=slope,
        reason=reason,
        sources=(about,) if about is not None else (),
    )


def _frames(frames: Any) -> list[Frame]:
    single = isinstance(frames, Frame | Atoms)
    try:
        given = [frames] if single else list(frames)
    except TypeError:
        given = [frames]
    structures = [frame.atoms if isinstance(frame, Frame) else checked_atoms(frame) for frame in given]
    if not structures:
        raise KLMError("there are no frames to check", "the list is empty", "data.read gives frames")
    return [Frame(atoms) for atoms in labelling.checked(structures, "the set")]


def _where(gone: Iterable[bool]) -> tuple[int, ...]:
    return tuple(i for i, missing in enumerate(gone) if missing)


def _joined(arrays: Sequence[Array]) -> Array:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def _parts(moments: list[Array], fields: list[Array | None], transverse: list[bool]) -> tuple[Array, Array]:
    """Sizes of magnetic forces across moments, and signed parts along them where these are known."""
    across, along = [], []
    for m, field, only in zip(moments, fields, transverse, strict=True):
        if field is None:
            continue
        magnetic = m.any(axis=1)
        e = directions(m[magnetic])
        part = np.sum(field[magnetic] * e, axis=1)
        across.append(np.linalg.norm(field[magnetic] - part[:, None] * e, axis=1))
        along.append(np.zeros(0) if only else part)
    return _joined(across), _joined(along)


def _tilts(moments: list[Array]) -> Array:
    """Angles, 0 to 90 degrees, from the axis along which Σ (m·n)² of the frame is largest."""
    found = []
    for m in moments:
        e = directions(m[m.any(axis=1)])
        if len(e):
            axis = np.linalg.eigh(e.T @ e)[1][:, -1]
            found.append(np.degrees(np.arccos(np.minimum(np.abs(e @ axis), 1.0))))
    return _joined(found)


def _duplicates(frames: list[Frame], moments: list[Array]) -> tuple[tuple[int, ...], ...]:
    found: dict[Any, list[int]] = {}
    for number, (frame, m) in enumerate(zip(frames, moments, strict=True)):
        atoms = frame.atoms
        parts = (atoms.positions, atoms.cell.array, m)
        rounded = tuple((np.round(part / _SAME) + 0.0).tobytes() for part in parts)
        found.setdefault((atoms.numbers.tobytes(), *rounded), []).append(number)
    return tuple(tuple(numbers) for numbers in found.values() if len(numbers) > 1)


def _differ(energies: list[float | None]) -> bool:
    known = [energy for energy in energies if energy is not None]
    return bool(known) and max(known) - min(known) > 1e-4


def _outliers(frames: list[Frame], labels: dict[str, list[Any]], moments: list[Array]) -> tuple[tuple[int, str], ...]:
    """Frames beyond eight robust standard deviations from the median of their composition."""
    found: list[tuple[int, str]] = []
    formulas = [frame.atoms.get_chemical_formula() for frame in frames]
    quantities = (
        ("energy per atom", "eV", [None if e is None else e / len(f.atoms)
                                   for e, f in zip(labels["energy"], frames, strict=True)]),
        ("largest force", "eV/Å", [_largest(f) for f in labels["forces"]]),
        ("largest magnetic force", "eV/μB", [_largest(f) for f in labels["magnetic_forces"]]),
        ("longest moment", "μB", [_largest(m) for m in moments]),
    )  # fmt: skip
    for formula in set(formulas):
        for name, unit, values in quantities:
            known = [i for i, value in enumerate(values) if value is not None and formulas[i] == formula]
            if len(known) < 10:
                continue
            here = np.array([values[i] for i in known], dtype=np.float64)
            middle = np.median(here)
            width = 1.4826 * np.median(np.abs(here - middle))
            if width <= 1e-3 * np.abs(middle) and name != "energy per atom":
                width = 1e-3 * np.abs(middle)  # constrained lengths hardly vary
            far = np.flatnonzero((np.abs(here - middle) > _OUTLIER * width) & (width > 0))
            found += [(known[k], f"{name} {here[k]:.4g} {unit}, median {middle:.4g}") for k in far]
    return tuple(sorted(found))


def _largest(vectors: Array | None) -> float | None:
    return None if vectors is None or not len(vectors) else float(np.linalg.norm(vectors, axis=1).max())
