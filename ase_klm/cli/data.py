"""Data sets of DFT labels: look at them before training, and convert files of VASP, ABACUS and DeePMD-kit.

ase-klm data check train.npz --picture check.png
ase-klm data convert run1/OUTCAR run2/OUTCAR set.npz

Both say which moment was taken, the sign of the magnetic forces, and how many frames were left out.
"""

import argparse
import warnings
from pathlib import Path

from ase_klm import data
from ase_klm.data import readers
from ase_klm.data.about import About
from ase_klm.errors import KLMError, KLMWarning

_PICTURES = (".png", ".pdf", ".svg")


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
    known = ", ".join([*dict.fromkeys(readers.OWN.values()), *readers.FORMATS])
    for task in (check, convert):
        task.add_argument("--format", help=f"of the files read: {known}; default from name and contents")
        task.add_argument("--structure", type=Path, help="POSCAR, STRU, ... where a file has no structure in it")
        task.add_argument(
            "--transverse-only",
            action="store_true",
            default=None,
            help="magnetic forces are known across the moments only, though the file does not say so",
        )


def run(options: argparse.Namespace) -> None:
    """Read, then check or write."""
    if options.task == "check":
        picture = options.picture
        if picture is not None and (picture.suffix not in _PICTURES or not picture.absolute().parent.is_dir()):
            raise KLMError(
                f"--picture {picture} cannot be written",
                f"it names a file {', '.join(_PICTURES)} in a folder that exists",
                "for instance --picture check.png",
            )
    else:
        data.frames.checked_frames_path(options.output, must_exist=False)
    frames, abouts = _read(options)
    if options.task == "convert":
        data.write(options.output, frames)
        for about in abouts:
            print(about)
        print(f"{options.output}: {len(frames)} frames")
        return
    report = data.check(frames)
    for about in abouts:
        print(about)
    print(report)
    if options.picture is not None:
        _draw(report, options.picture)


def _draw(report: data.Report, picture: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from ase_klm import plot

    figure = plot.labels(report)[0].figure
    figure.savefig(picture, dpi=150)
    print(picture)


def _read(options: argparse.Namespace) -> tuple[list[data.Frame], list[About]]:
    """Frames of all files; what was left out is in the texts, so it is not warned of as well."""
    frames: list[data.Frame] = []
    abouts: list[About] = []
    for file in options.files:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*are left out", category=KLMWarning)
            found = data.read(file, options.format, options.structure, options.transverse_only)
        frames += found
        abouts.append(found.about)
    return frames, abouts
