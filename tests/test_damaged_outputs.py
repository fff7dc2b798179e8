"""Output files that a killed job, a full column or an editor damaged: frames are complete and right, or counted drops."""

import bz2
import gzip
import lzma
import re
import warnings

import ase.io
import numpy as np
import pytest
from ase import Atoms
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_input import quick
from test_readers import abacus, deepmd, log5, oszicar, outcar5, outcar6, output

from ase_klm import KLMError, KLMWarning, data
from ase_klm.data.readers import blocks, tables, vasp_files

STRUCTURE = Atoms("FeO", [(0, 0, 0), (2, 2, 2)], cell=[4, 4, 4], pbc=True)
OUTPUTS = {"OUTCAR": outcar6([{}, {}, {}], n_atoms=2), "log.txt": log5([{}, {}, {}]), "OSZICAR": oszicar(3)}
FRAMES = {"OUTCAR": 3, "log.txt": 3, "OSZICAR": 3, "running_scf.log": 1}


def folder_of(tmp_path, name):
    """A calculation whose file of that name is whole; its text."""
    if name == "running_scf.log":
        return abacus(tmp_path).read_text()
    if name == "OSZICAR":
        (tmp_path / "OUTCAR").write_text(outcar5(3))
    (tmp_path / name).write_text(OUTPUTS[name])
    return OUTPUTS[name]


def read(path):
    """Frames and how many were left out; a file without a usable frame is an error of ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", KLMWarning)
        try:
            frames = data.read(path, structure=STRUCTURE if path.name.startswith("log") else None)
        except KLMError as error:
            return [], error
        return frames, frames.about.number_dropped


def cut(text, place, _):
    return text[: place % (len(text) + 1)]


def without_a_line(text, place, _):
    lines = text.splitlines(keepends=True)
    return "".join(line for i, line in enumerate(lines) if i != place % len(lines))


def line_twice(text, place, _):
    lines = text.splitlines(keepends=True)
    i = place % max(len(lines), 1)
    return "".join(lines[: i + 1] + lines[i:])


def number_replaced(text, place, other):
    """A number by something else of the same width."""
    numbers = list(re.finditer(r"[-+]?\d+\.\d+\S*", text))
    if not numbers:
        return text
    found = numbers[place % len(numbers)]
    word = {0: "*" * len(found.group()), 1: "NaN", 2: "", 3: "12.34.5", 4: "1e999"}[other % 5]
    return text[: found.start()] + word.rjust(len(found.group())) + text[found.end() :]


def numbers_that_touch(text, place, _):
    blanks = list(re.finditer(r"(?<=\d) +(?=[-\d])", text))
    if not blanks:
        return text
    found = blanks[place % len(blanks)]
    return text[: found.start()] + text[found.end() :]


DAMAGES = [cut, without_a_line, line_twice, number_replaced, numbers_that_touch]
damage = st.tuples(st.sampled_from(DAMAGES), st.integers(0, 20000), st.integers(0, 4))


@settings(quick, max_examples=150)
@given(st.sampled_from(sorted(FRAMES)), st.lists(damage, min_size=1, max_size=2))
def test_frames_are_whole_and_right_or_counted(tmp_path_factory, name, damages):
    folder = tmp_path_factory.mktemp("run")
    text = folder_of(folder, name)
    path = folder / name
    whole, none = read(path)
    assert (len(whole), none) == (FRAMES[name], 0)
    by_energy = {round(frame.energy, 1): frame for frame in whole}  # a log of ABACUS has it twice, once in seven digits
    for change, place, other in damages:
        text = change(text, place, other)
    path.write_text(text)
    frames, dropped = read(path)
    assert isinstance(dropped, KLMError) or len(frames) + dropped >= 1
    for frame in frames:
        right = by_energy.get(round(frame.energy, 1))
        assert right is not None
        assert frame.energy == pytest.approx(right.energy, abs=0.02 if name == "running_scf.log" else 0)
        assert np.array_equal(frame.atoms.positions, right.atoms.positions)
        assert np.array_equal(frame.atoms.cell, right.atoms.cell)
        assert np.array_equal(frame.moments, right.moments)
        assert np.array_equal(frame.magnetic_forces, right.magnetic_forces)
        assert frame.forces is None or np.array_equal(frame.forces, right.forces)


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_every_cut_is_counted(tmp_path, name):
    """A job that is killed in the middle: frames before it are kept, the one being written is counted."""
    text = folder_of(tmp_path, name)
    whole, _ = read(tmp_path / name)
    for place in range(len(text) // 2, len(text), 97):
        (tmp_path / name).write_text(text[:place])
        frames, dropped = read(tmp_path / name)
        assert [frame.energy for frame in frames] == [frame.energy for frame in whole[: len(frames)]]
        assert not frames or len(frames) + dropped in (len(frames), len(frames) + 1, 3)
        if name != "log.txt" and frames:
            assert len(frames) == 3 or dropped > 0
