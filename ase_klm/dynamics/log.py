"""The log of a run: one line a report, and replica if there are several."""

import math
from pathlib import Path
from typing import Any, TextIO

from ase_klm.errors import KLMError, warn
from ase_klm.files import check_still_there, writing, written_atomically
from ase_klm.runs.inputs import open_log


class Log:
    """A text file of columns, one line a report.

    Parameters
    ----------
    target : str, Path or file object
        "-" is the standard output.
    titles : str
        Its first line.
    last_step : int, optional
        When a run is continued: later lines of the file are dropped, and lines are appended.
    """

    def __init__(self, target: str | Path | TextIO, titles: str, last_step: int | None = None) -> None:
        continues = last_step is not None
        if last_step is not None and isinstance(target, str | Path) and target != "-":
            continues = _drop_later_lines(Path(target), last_step)
        self._file, self._owned = open_log(target, "a" if continues else "w")
        if self._owned:
            self._path = Path(self._file.name).absolute()
        if not continues:
            self._write(titles)

    def close(self) -> None:
        """Close the file if it was opened here."""
        if self._owned:
            with writing(self._file):
                self._file.close()

    def _write(self, line: str) -> None:
        if self._owned:
            check_still_there(self._path)
        with writing(self._file):
            self._file.write(line + "\n")
            self._file.flush()


class SpinLog(Log):
    """Lines of step, time, energy a site, magnetisation, largest torque and spin temperature.

    Parameters
    ----------
    target, last_step
        As in `Log`.
    time_unit, temperature_unit : str
        What stands in the header.
    replicas : bool
        Whether there is a column for the number of the replica.
    """

    def __init__(
        self,
        target: str | Path | TextIO,
        time_unit: str,
        temperature_unit: str,
        replicas: bool,
        last_step: int | None = None,
    ) -> None:
        self.replicas = replicas
        titles = [f"{'# step':>9}", f"time/{time_unit}".rjust(14), *(["replica"] if replicas else [])]
        titles += ["energy/site/eV".rjust(17), *(f"m{axis}/μB".rjust(10) for axis in "xyz")]
        titles += ["torque/eV".rjust(11), f"T_spin/{temperature_unit}".rjust(12)]
        super().__init__(target, " ".join(titles), last_step)

    def line(
        self,
        step: int,
        time: float,
        replica: int,
        energy: float,
        magnetisation: Any,
        torque: float,
        temperature: float | None,
    ) -> None:
        """One line; a temperature of None stays blank."""
        words = [f"{step:9d}", f"{time:14.6f}", *([f"{replica:7d}"] if self.replicas else []), f"{energy:17.10f}"]
        words += [*(f"{component:10.6f}" for component in magnetisation), f"{torque:11.4e}"]
        words += [_temperature(temperature)]
        self._write(" ".join(words).rstrip())


class SpinLatticeLog(Log):
    """Lines of step, time, energies, temperatures of lattice and spins, and magnetisation.

    Parameters
    ----------
    target, last_step
        As in `Log`.
    note : str
        What follows the titles.
    """

    def __init__(self, target: str | Path | TextIO, last_step: int | None = None, note: str = "") -> None:
        titles = [f"{'# step':>9}", "time/fs".rjust(14)]
        titles += [f"E_{kind}/eV".rjust(19) for kind in ("pot", "kin", "tot")]
        titles += ["T_lattice/K".rjust(12), *(f"m{axis}/μB".rjust(10) for axis in "xyz"), "T_spin/K".rjust(12)]
        super().__init__(target, " ".join(titles) + (f"  # {note}" if note else ""), last_step)

    def line(
        self,
        step: int,
        time: float,
        potential: float,
        kinetic: float,
        lattice_temperature: float,
        magnetisation: Any,
        spin_temperature: float | None,
    ) -> None:
        """One line; a spin temperature of None stays blank."""
        words = [f"{step:9d}", f"{time:14.6f}"]
        words += [f"{energy:19.10f}" for energy in (potential, kinetic, potential + kinetic)]
        words += [_temperature(lattice_temperature), *(f"{component:10.6f}" for component in magnetisation)]
        words += [_temperature(spin_temperature)]
        self._write(" ".join(words).rstrip())


def _temperature(value: float | None) -> str:
    return " " * 12 if value is None or not math.isfinite(value) else f"{value:12.6g}"


def _drop_later_lines(path: Path, last_step: int) -> bool:
    """Keep the lines up to a step, replacing the file in one go; False when there is no file."""
    if not path.exists():
        warn(f"{path} does not exist, so it starts here", "the run is continued", "keep log and restart file together")
        return False

    def stays(line: str) -> bool:
        return line.lstrip().startswith("#") or (line.endswith("\n") and int(line.split(maxsplit=1)[0]) <= last_step)

    try:
        kept = [line for line in path.read_text().splitlines(keepends=True) if stays(line)]
    except (OSError, ValueError, IndexError) as error:
        raise KLMError(f"{path} is not a log of this program", str(error), "give another logfile") from None
    with written_atomically(path) as temporary:
        temporary.write_text("".join(kept))
    return True
