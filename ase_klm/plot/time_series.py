"""Energy, magnetisation and topological charge against time."""

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ase_klm import analysis
from ase_klm.analysis.frames import structures
from ase_klm.errors import KLMError
from ase_klm.plot.axes import axes
from ase_klm.validate import Array


def time_series(source: Any, ax: Any = None) -> Any:
    """Energy a site, magnetisation and topological charge of a trajectory.

    The charge is left out where it has no meaning (chains, crystals), the energy where frames have none. Time is
    ``info["time"]`` of the frames, in the time unit of the run, else ``info["step"]``, else the number of the frame.

    Parameters
    ----------
    source : str, Path, or sequence of frames
        A trajectory, or its frames.
    ax : sequence of matplotlib.axes.Axes, optional
        One for each of the quantities. Default: a new figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes
        Top down: energy, magnetisation (components, then length), charge.
    """
    frames = read_frames(source)
    times, label = _times(frames)
    quantities: list[tuple[str, Array]] = []
    energies = np.array([stored_energy(atoms) for atoms in frames])
    if np.isfinite(energies).any():
        quantities.append(("$E/N$ (eV)", energies))
    quantities.append(("$M$ (μ$_\\mathrm{B}$)", np.array([analysis.magnetisation(atoms) for atoms in frames])))
    charge = charges(frames)
    if charge is not None:
        quantities.append(("$Q$", charge))
    panels = _panels(ax, len(quantities))
    for panel, (name, values) in zip(panels, quantities, strict=True):
        if values.ndim == 2:
            for component, letter in zip(values.T, "xyz", strict=True):
                panel.plot(times, component, lw=1.2, label=f"$M_{letter}$")
            panel.plot(times, np.linalg.norm(values, axis=1), color="0.2", lw=1.2, ls="--", label="$|M|$")
            panel.legend(ncols=4, fontsize="x-small", frameon=False, handlelength=1.3, columnspacing=1.0)
        else:
            panel.plot(times, values, color="0.15", lw=1.2)
        panel.set_ylabel(name)
        panel.ticklabel_format(axis="y", useOffset=False)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelbottom=panel is panels[-1])
    panels[-1].set_xlabel(label)
    panels[0].figure.align_ylabels(list(panels))
    return panels


def read_frames(source: Any) -> list[Atoms]:
    """Structures of a trajectory file, or of frames."""
    if isinstance(source, str | Path):
        from ase_klm.data import read

        return structures(read(source))
    return structures(source)


def _times(frames: list[Atoms]) -> tuple[Array, str]:
    for key, label in (("time", "time"), ("step", "step")):
        if all(key in atoms.info for atoms in frames):
            return np.array([float(atoms.info[key]) for atoms in frames]), label
    return np.arange(len(frames), dtype=float), "frame"


def stored_energy(atoms: Atoms) -> float:
    """Energy an atom, eV; NaN where it is not stored. Nothing is calculated."""
    energy = atoms.info.get("energy") if atoms.calc is None else atoms.calc.results.get("energy")
    return float("nan") if energy is None else float(energy) / len(atoms)


def charges(frames: list[Atoms]) -> Array | None:
    """Topological charge of each frame of one lattice, shape (n,); None where it has no meaning."""
    try:
        triangles = analysis.triangulate(frames[0])
    except KLMError:
        return None
    return np.array([analysis.topological_charge(atoms, triangles=triangles) for atoms in frames])


def _panels(ax: Any, number: int) -> Any:
    if ax is None:
        import matplotlib.pyplot as plt

        return plt.subplots(
            number, sharex=True, squeeze=False, figsize=(5.0, 1.0 + 1.5 * number), layout="constrained"
        )[1][:, 0]
    panels = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(panels) != number:
        raise KLMError(
            f"{len(panels)} axes were given for {number} quantities",
            "each has its own panel",
            f"make them by plt.subplots({number}), or leave ax out",
        )
    return np.array([axes(panel) for panel in panels], dtype=object)
