"""Magnon bands of a structure with a model, or with several to compare, as JSON and as a picture.

ase-klm magnons structure.extxyz --model exchange.toml --path GMKG --npoints 200 --output bands.json --picture bands.png
ase-klm magnons POSCAR --moments Cr=3 --model cri3-model

The structure is the last frame of a file, with the moments of a stationary state; files that carry none, such as
POSCAR and CIF, need --moments. A model is a packaged network (kondo-square, cri3-model), a file of weights
(.safetensors), or a TOML file of terms, which add up:

"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from ase_klm.choices import METHODS
from ase_klm.cli import models
from ase_klm.cli.outputs import PICTURES, check_outputs
from ase_klm.errors import KLMError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (__doc__ or "") + "".join((models.__doc__ or "").split("\n\n", 2)[2:])  # none with python -OO
    parser.add_argument("structure", help="what ASE reads (.traj, .extxyz, POSCAR, CIF, ...); its last frame is taken")
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
    state.add_argument(
        "--moments",
        nargs="+",
        metavar="ELEMENT=M",
        help="μB, in place of those in the file: along z, e.g. Cr=3, or a vector, e.g. Cr=3,0,0; zero for all others",
    )
    state.add_argument(
        "--nudge",
        type=float,
        metavar="S",
        help="disturb the directions by S before --relax, so that they leave a saddle: e ← (e + S g)/|e + S g|, "
        "g standard normal",
    )
    state.add_argument("--seed", type=int, default=0, help="of --nudge (%(default)s)")
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
    output.add_argument("--overwrite", action="store_true", help="files that are there already")
    output.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")


def run(options: argparse.Namespace) -> None:
    """Read, find the bands of each model, write, and say what was written."""
    _check_options(options)
    from ase_klm.cli import magnon_bands
    from ase_klm.magnons.band_files import write_bands

    atoms = magnon_bands.structure(options.structure, options.moments)
    names = _short_names(options.model)
    found = [magnon_bands.bands(options, atoms, model, name) for model, name in zip(options.model, names, strict=True)]
    write_bands(options.output, found, options.structure, options.command)
    magnon_bands.draw(found, options.picture)
    written = [options.output, options.picture]
    if options.spectrum:
        magnon_bands.draw_spectrum(found[0], options.spectrum)
        written.append(options.spectrum)
    for one in found:
        energies = 1e3 * one.bands.energies[0]
        modes = energies.shape[1]
        print(
            f"{one.name}: {modes} mode{'s' * (modes > 1)} at {len(energies)} q along {one.bands.path.path}, "
            f"{magnon_bands.energy_range(energies)} meV"
        )
    print(f"wrote {', '.join(written)}")


def interrupted(options: argparse.Namespace) -> str:
    """Forces may be kept; what is written comes at the end."""
    if options.cache is None:
        return "the same command starts anew; with --cache FOLDER it would go on"
    if Path(options.cache).is_dir():
        return f"forces that are known are kept in {options.cache}; the same command goes on from them"
    return "no forces are kept yet; the same command starts anew"


def _check_options(options: argparse.Namespace) -> None:
    """What can be known before an expensive calculation starts."""
    check_outputs(
        {"--output": options.output, "--picture": options.picture, "--spectrum": options.spectrum},
        {"--output": (".json",), "--picture": PICTURES, "--spectrum": PICTURES},
        options.overwrite,
        [options.structure, *options.model],
    )
    if options.npoints < 2:
        raise KLMError(f"--npoints {options.npoints} is no path", "it has two points at least", "use 200")
    if options.dos is not None and min(options.dos) < 1:
        raise KLMError(
            f"--dos {options.dos} is no mesh", "its steps are positive integers", "for instance --dos 40 40 1"
        )
    if options.spectrum is not None and len(options.model) > 1:
        raise KLMError(
            "--spectrum shows one model", f"{len(options.model)} were given", "ask for each in a run of its own"
        )
    if options.nudge is not None and not options.relax:
        raise KLMError(
            f"--nudge {options.nudge:g} leaves moments that are not stationary",
            "magnons are small deviations from a state without torques",
            "add --relax",
        )


def _short_names(given: Sequence[str]) -> list[str]:
    """Names for a legend: without folders and endings, where they stay different."""
    short = [Path(name).stem if Path(name).suffix in (".toml", ".safetensors") else name for name in given]
    return short if len(set(short)) == len(short) else list(given)
