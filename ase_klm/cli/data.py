"""Data sets of DFT labels: look at them before training, and convert files of VASP, ABACUS and DeePMD-kit.

ase-klm data check train.npz --picture check.png
ase-klm data convert run1/OUTCAR run2/OUTCAR set.npz

Both say which moment was taken, the sign of the magnetic forces, and how many frames were left out.
"""

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from ase_klm.choices import FORMATS, OWN_FORMATS
from ase_klm.cli.outputs import PICTURES, check_outputs
from ase_klm.errors import KLMWarning

if TYPE_CHECKING:
    from ase_klm.data import Frame, Report
    from ase_klm.data.about import About

_FRAMES = (".npz", ".extxyz", ".traj", ".db")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the two tasks."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    tasks = parser.add_subparsers(dest="task", required=True, metavar="TASK")
    check = tasks.add_parser("check", help="counts, ranges, duplicates, outliers, slope of energy on work")
    check.add_argument("files", type=Path, nargs="+", metavar="FILE", help="files or folders, taken together")
    check.add_argument("--picture", type=Path, metavar="PNG", help="the same as a picture: .png, .pdf or .svg")
    convert = tasks.add_parser("convert", help="write .npz, .extxyz or .traj")
    convert.add_argument("files", type=Path, nargs="+", metavar="IN", help="files or folders, joined in this order")
    convert.add_argument("output", type=Path, metavar="OUT", help="ends in .npz, .extxyz or .traj")
    known = ", ".join([*dict.fromkeys(OWN_FORMATS.values()), *FORMATS])
    for task in (check, convert):
        task.add_argument("--format", help=f"of the files read: {known}; default from name and contents")
        task.add_argument("--structure", type=Path, help="POSCAR, STRU, ... where a file has no structure in it")
        task.add_argument(
            "--transverse-only",
            action="store_true",
            default=None,
            help="magnetic forces are known across the moments only, though the file does not say so",
        )
        task.add_argument("--overwrite", action="store_true", help="the file to write, if it is there already")


def run(options: argparse.Namespace) -> None:
    """Read, then check or write."""
    if options.task == "check":
        check_outputs({"--picture": options.picture}, {"--picture": PICTURES}, options.overwrite, options.files)
        _check(options)
    else:
        from ase_klm.data.frames import checked_frames_path

        checked_frames_path(options.output, must_exist=False)
        check_outputs({"OUT": options.output}, {"OUT": _FRAMES}, options.overwrite)
        _convert(options)


def interrupted(_options: argparse.Namespace) -> str:
    """What is kept: a file is written in one go, at the end."""
    return "nothing was written; the same command starts anew"


def _check(options: argparse.Namespace) -> None:
    from ase_klm import data

    frames, abouts = _read(options)
    report = data.check(frames)
    if options.picture is not None:
        _draw(report, options.picture)
    for about in abouts:
        print(about)
    print(report)
    if options.picture is not None:
        print(options.picture)


def _convert(options: argparse.Namespace) -> None:
    from ase_klm import data

    frames, abouts = _read(options)
    output: Path = options.output
    data.write(output, frames)
    for about in abouts:
        print(about)
    print(f"{output}: {len(frames)} frames")


def _draw(report: "Report", picture: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from ase_klm import plot

    figure = plot.labels(report)[0].figure
    figure.savefig(picture, dpi=150)


def _read(options: argparse.Namespace) -> "tuple[list[Frame], list[About]]":
    """Frames of all files; what was left out is in the texts, so it is not warned of as well."""
    from ase_klm import data

    frames: list[Frame] = []
    abouts: list[About] = []
    for file in options.files:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*are left out", category=KLMWarning)
            found = data.read(file, options.format, options.structure, options.transverse_only)
        frames += found
        abouts.append(found.about)
    return frames, abouts
