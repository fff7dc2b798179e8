"""Magnon bands of a structure with a model, or with several to compare, as JSON and as a picture.

ase-klm magnons structure.extxyz --model exchange.toml --path GMKG --npoints 200 --output bands.json --picture bands.png

The structure is the last frame of a .traj or .extxyz file, with the moments of a stationary state. A model is a
packaged network (kondo-square), a file of weights (.safetensors), or a TOML file of terms, which add up:

"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from ase_klm import data, plot
from ase_klm.cli import models
from ase_klm.cli.models import calculator_from
from ase_klm.errors import KLMError
from ase_klm.magnons import Magnons
from ase_klm.magnons.band_files import DensityOfStates, ModelBands, write_bands
from ase_klm.magnons.magnons import METHODS
from ase_klm.magnons.structure_factor import structure_factor
from ase_klm.moments import is_magnetic
from ase_klm.plot.magnons import COLOURS
from ase_klm.relaxation import SpinMinimizer
from ase_klm.validate import checked_number

DPI = 160
WIDTH = 0.02
"""Full width of the lines of a spectrum, in units of the highest energy."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (__doc__ or "") + (models.__doc__ or "").split("\n\n", 2)[2]
    parser.add_argument("structure", help=".traj or .extxyz with moments; its last frame is taken")
    parser.add_argument(
        "--model", action="append", required=True, help="network, weights or TOML file; give it again to compare"
    )
    bands = parser.add_argument_group("bands")
    bands.add_argument(
        "--path", help="special points, e.g. GMKG, with a comma at a jump; default ASE's path of the cell"
    )
    bands.add_argument("--npoints", type=int, default=200, help="points along the path (%(default)s)")
    bands.add_argument("--dos", type=int, nargs=3, metavar="N", help="density of states on a mesh N N N of q")
    bands.add_argument("--spectrum", metavar="PNG", help="picture of S(q, ω) of one model, as neutrons see it")
    state = parser.add_argument_group("state and second derivatives")
    state.add_argument("--relax", action="store_true", help="relax the moments first, to a tenth of --fmax")
    state.add_argument("--fmax", type=float, default=1e-5, help="largest torque |m × F| of the state, eV (%(default)s)")
    state.add_argument(
        "--supercell", type=int, nargs=3, metavar="N", help="in which moments are turned; default by range"
    )
    state.add_argument("--method", choices=METHODS, default="auto", help="of second derivatives (%(default)s)")
    state.add_argument("--impose-rotations", action="store_true", help="let uniform rotations cost no energy")
    state.add_argument("--cache", metavar="FOLDER", help="keeps expensive forces, so that a run cut short goes on")
    output = parser.add_argument_group("output")
    output.add_argument("--output", default="magnons.json", metavar="JSON", help="(%(default)s)")
    output.add_argument("--picture", default="magnons.png", metavar="PNG", help="or .pdf, .svg (%(default)s)")
    output.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")


def run(options: argparse.Namespace) -> None:
    """Read, find the bands of each model, write, and say what was written."""
    _check_options(options)
    atoms = _structure(options.structure)
    names = _short_names(options.model)
    found = [_bands(options, atoms, model, name) for model, name in zip(options.model, names, strict=True)]
    write_bands(options.output, found, options.structure, options.command)
    _draw(found, options.picture)
    for one in found:
        energies = 1e3 * one.bands.energies[0]
        modes = energies.shape[1]
        print(
            f"{one.name}: {modes} mode{'s' * (modes > 1)} at {len(energies)} q along {one.bands.path.path}, "
            f"{_range(energies)} meV"
        )
    written = [options.output, options.picture]
    if options.spectrum:
        _draw_spectrum(found[0], options.spectrum)
        written.append(options.spectrum)
    print(f"wrote {', '.join(written)}")


def _range(values: np.ndarray) -> str:
    """Smallest and largest value in six digits of the larger one: rounding about zero is shown as 0."""
    largest = np.abs(values).max()
    decimals = 5 - int(np.floor(np.log10(largest))) if largest > 0 else 0
    low, high = (np.round(value, decimals) + 0.0 for value in (values.min(), values.max()))
    return f"{low:.6g} to {high:.6g}"


def _check_options(options: argparse.Namespace) -> None:
    """What can be known before an expensive calculation starts."""
    for option, name, endings in (
        ("--output", options.output, (".json",)),
        ("--picture", options.picture, (".png", ".pdf", ".svg")),
        ("--spectrum", options.spectrum, (".png", ".pdf", ".svg")),
    ):
        if name is not None and (Path(name).suffix not in endings or not Path(name).absolute().parent.is_dir()):
            raise KLMError(
                f"{option} {name} cannot be written",
                f"it names a file {', '.join(endings)} in a folder that exists",
                f"for instance {option} bands{endings[0]}",
            )
    if options.npoints < 2:
        raise KLMError(f"--npoints {options.npoints} is no path", "it has two points at least", "use 200")
    if options.dos is not None and min(options.dos) < 1:
        raise KLMError(
            f"--dos {options.dos} is no mesh", "its steps are positive integers", "for instance --dos 40 40 1"
        )
    checked_number(options.fmax, "--fmax", "eV", above=0)
    if options.spectrum is not None and len(options.model) > 1:
        raise KLMError(
            "--spectrum shows one model", f"{len(options.model)} were given", "ask for each in a run of its own"
        )


def _structure(path: str) -> Atoms:
    frames = data.read(path)
    if not frames:
        raise KLMError(f"{path} holds no structure", "it is empty", "write one with data.write(path, atoms)")
    atoms = frames[-1].atoms
    if not is_magnetic(atoms).any():
        raise KLMError(
            f"the structure in {path} carries no moments",
            "magnons are small deviations of moments from a texture",
            "set them, e.g. set_moments(atoms, moments), and write it with data.write(path, atoms)",
        )
    atoms.calc = None
    return atoms


def _short_names(given: Sequence[str]) -> list[str]:
    """Names for a legend: without folders and endings, where they stay different."""
    short = [Path(name).stem if Path(name).suffix in (".toml", ".safetensors") else name for name in given]
    return short if len(set(short)) == len(short) else list(given)


def _bands(options: argparse.Namespace, structure: Atoms, model: str, name: str) -> ModelBands:
    atoms = structure.copy()
    atoms.calc, parameters = calculator_from(model, options.device)
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
    bands = magnons.get_band_structure(options.path, options.npoints)
    density = None if options.dos is None else DensityOfStates.of(magnons, options.dos)
    return ModelBands(name, parameters, magnons, bands, density)


def _draw(found: Sequence[ModelBands], path: str) -> None:
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


def _draw_spectrum(one: ModelBands, path: str) -> None:
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
