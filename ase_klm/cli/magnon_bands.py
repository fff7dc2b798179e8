"""The work of ``ase-klm magnons``: structures, bands, pictures."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from ase_klm import data, plot, textures
from ase_klm.choices import OWN_FORMATS
from ase_klm.cli.models import calculator_from
from ase_klm.data.readers.aliases import resolve_frame
from ase_klm.errors import KLMError
from ase_klm.magnons import Magnons
from ase_klm.magnons.band_files import DensityOfStates, ModelBands
from ase_klm.magnons.structure_factor import structure_factor
from ase_klm.moments import is_magnetic, set_moments
from ase_klm.plot.magnons import COLOURS
from ase_klm.relaxation import SpinMinimizer
from ase_klm.validate import checked_number

DPI = 160
WIDTH = 0.02
"""Full width of the lines of a spectrum, in units of the highest energy."""


def structure(path: str, moments: Sequence[str] | None = None) -> Atoms:
    """The last structure of a file, with the moments of the file or those given by element, such as "Cr=3"."""
    atoms = _read(path)
    if moments is not None:
        set_moments(atoms, _by_element(moments, atoms))
    else:
        resolve_frame(atoms, -1, path)  # computed moments before a guess
    if not is_magnetic(atoms).any():
        raise KLMError(
            f"the structure in {path} carries no moments",
            "magnons are small deviations of moments from a texture",
            "give them by element, e.g. --moments Cr=3, or write a structure with moments: data.write(path, atoms)",
        )
    atoms.calc = None
    return atoms


def _read(path: str) -> Atoms:
    if Path(path).suffix in (*OWN_FORMATS, ".db"):
        frames = data.read(path)
        if not frames:
            raise KLMError(f"{path} holds no structure", "it is empty", "write one with data.write(path, atoms)")
        return frames[-1].atoms
    if not Path(path).exists():
        raise KLMError(f"{path} cannot be read", "there is no such file", "check the name and the folder")
    try:
        atoms: Any = ase.io.read(path, index=-1)
    except Exception as error:  # noqa: BLE001, ASE's readers raise what they please
        raise KLMError(
            f"{path} cannot be read as a structure",
            f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",
            "give a file that ase.io.read understands",
        ) from None
    return atoms


def _by_element(words: Sequence[str], atoms: Atoms) -> np.ndarray:
    """Moments (N, 3), μB, from texts such as "Cr=3" or "Cr=0,0,3"."""
    moments = np.zeros((len(atoms), 3))
    for word in words:
        element, _, value = word.partition("=")
        try:
            numbers = [float(x) for x in value.split(",")]
        except ValueError:
            numbers = []
        if element not in atomic_numbers or len(numbers) not in (1, 3):
            raise KLMError(
                f"--moments {word} cannot be read",
                "it is an element and its moment in μB, along z or as a vector",
                "for instance --moments Cr=3, or Cr=3,0,0",
            )
        own = atoms.symbols == element
        if not own.any():
            raise KLMError(
                f"--moments {word} names no atom of the structure", f"it is {atoms.symbols}", "check the element"
            )
        moments[own] = numbers if len(numbers) == 3 else (0.0, 0.0, numbers[0])
    return moments


def bands(options: argparse.Namespace, structure: Atoms, model: str, name: str) -> ModelBands:
    """Those of one model, after relaxation where it is asked for."""
    checked_number(options.fmax, "--fmax", "eV", above=0)
    atoms = structure.copy()
    atoms.calc, parameters = calculator_from(model, options.device)
    if options.nudge is not None:
        checked_number(options.nudge, "--nudge", minimum=0)
        textures.add_noise(atoms, options.nudge, seed=options.seed)
    if options.relax:
        minimizer = SpinMinimizer(atoms)
        minimizer.run(fmax=options.fmax / 10)
        print(f"{name}: relaxed in {minimizer.nsteps} steps to a torque of {minimizer.torque:.2g} eV")
    cache = None if options.cache is None else Path(options.cache) / name.replace("/", "-")
    magnons = Magnons(
        atoms,
        supercell=options.supercell,
        method=options.method,
        impose_rotations=options.impose_rotations,
        cache=cache,
        fmax=options.fmax,
    )
    found = magnons.get_band_structure(options.path, options.npoints)
    density = None if options.dos is None else DensityOfStates.of(magnons, options.dos)
    return ModelBands(name, parameters, magnons, found, density)


def draw(found: Sequence[ModelBands], path: str) -> None:
    """Bands of all models, and their densities of states."""
    import matplotlib.pyplot as plt

    columns = 1 if found[0].density is None else 2
    fig, axes = plt.subplots(
        1,
        columns,
        figsize=(3.4 + 1.6 * columns, 4.2),
        width_ratios=[1.0, 0.35][:columns],
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    names = [one.name for one in found]
    plot.magnon_bands(*(one.bands for one in found), labels=names if len(names) > 1 else None, ax=axes[0, 0])
    for number, one in enumerate(found):
        if one.density is not None:
            colour = COLOURS[number % len(COLOURS)]
            axes[0, 1].plot(one.density.values / 1e3, 1e3 * one.density.energies, color=colour, lw=1)
            axes[0, 1].set(xlabel="density (modes/meV)", xlim=(0, None))
    fig.savefig(path, dpi=DPI)
    plt.close(fig)


def draw_spectrum(one: ModelBands, path: str) -> None:
    """Neutrons see Σ (δ_ab - q_a q_b/q²) S_ab."""
    import matplotlib.pyplot as plt

    along, places, names = one.bands.get_labels()
    highest = float(one.bands.energies.max())
    energies = np.linspace(0, 1.1 * highest, 300)
    seen = structure_factor(one.magnons, one.bands.path.kpts, energies, WIDTH * highest).perpendicular()
    labels = zip(places, names, strict=True)
    ax = plot.spectrum(along, energies, seen, labels, label="$S_\\perp(\\mathbf{q}, \\omega)$ (μ$_\\mathrm{B}^2$/eV)")
    ax.figure.savefig(path, dpi=DPI)
    plt.close(ax.figure)


def energy_range(values: np.ndarray) -> str:
    """Smallest and largest value in six digits of the larger one: rounding about zero is shown as 0."""
    largest = np.abs(values).max()
    decimals = 5 - int(np.floor(np.log10(largest))) if largest > 0 else 0
    low, high = (np.round(value, decimals) + 0.0 for value in (values.min(), values.max()))
    return f"{low:.6g} to {high:.6g}"
