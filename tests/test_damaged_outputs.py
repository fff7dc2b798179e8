"""Output that a killed job, a full column or an editor damaged: frames are complete and right, or counted drops."""

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


# What was found, one by one ------------------------------------------------------------------------------------------

MANY = 5


def spins(n_atoms=MANY, listed=None, row_of=None):
    """OUTCAR of DeltaSpin with one iron atom and others; `row_of(i)` replaces row i of the table of moments."""
    listed = range(n_atoms) if listed is None else listed
    vectors = [np.array([0.1 * i, 0, 2.5]) for i in range(n_atoms)]

    def table(head, scale, change=None):
        rows = [f"{i + 1:6d}   Fe  1  1  1" + "".join(f"{x:18.10f}" for x in scale * vectors[i]) + "\n" for i in listed]
        for i in range(len(rows)):
            rows[i] = (change and change(i)) or rows[i]
        return f"   ion elem cx cy cz   {head}x   {head}y   {head}z\n-----------\n" + "".join(rows) + "\n"

    positions = [np.array([i, 0.5 * i, 0.1]) for i in range(n_atoms)]
    lines = "".join(
        "".join(f"{x:13.5f}" for x in p) + "   " + "".join(f"{0.1 * x:14.6f}" for x in p) + "\n" for p in positions
    )
    return (
        f" POTCAR:    PAW_PBE Fe_pv 06Sep2000\n   ions per type =    {n_atoms}\n DeltaSpin constraint setup\n"
        f"   Constrained atoms : {len(listed)} / {n_atoms}\n"
        "---- Ionic step 1 ----\n DeltaSpin final status\n SCF convergence : reached\n Moment constraint : reached\n"
        + table("M", 1.0, row_of)
        + table("MF", 0.01)
        + " magnetic force = spin_lambda for L=E+lambda.(M-M_target)\n      direct lattice vectors\n"
        + "".join("".join(f"{x:13.9f}" for x in (*row, *(row / 64))) + "\n" for row in 8 * np.eye(3))
        + "\n POSITION      TOTAL-FORCE (eV/Angst)\n ----------\n"
        + lines
        + " ----------\n  free  energy   TOTEN  =       -12.25 eV\n"
    )


def test_a_row_of_spins_that_touch(tmp_path):
    """Numbers that fill their columns are told apart by their sign or their ten decimals."""
    path = tmp_path / "OUTCAR"
    for row in ("     3   Fe  1  1  1   -12.3450000000-6789.0123456789-1000.5000000000\n",
                "     3   Fe  1  1  1   -12.3450000000 6789.0123456789-1000.5000000000\n",
                "     3   Fe  1  1  1   -12.34500000006789.0123456789    -1000.5000000000\n"):  # fmt: skip
        path.write_text(spins(row_of=lambda i, row=row: row if i == 2 else None))
        (frame,) = data.read(path)
        assert np.abs(frame.moments[2]).tolist() == [12.345, 6789.0123456789, 1000.5]
        assert frame.moments[4] == pytest.approx([0.4, 0, 2.5])


@pytest.mark.parametrize(
    "row",
    [
        "     3   Fe  1  1  1******************      0.0000000000      2.5000000000\n",
        "     3   Fe  1  1  1         0.2000000               NaN      2.5000000000\n",
        "     3   Fe  1  1  1         0.2000000      2.5000000000\n",
        "     4   Fe  1  1  1      0.2000000000      0.0000000000      2.5000000000\n",
        "     3   Fe  1  1  1      0.2000000000-0.00.0000000000        2.5000000000\n",
        "what is this\n",
        "\n",
    ],
)
def test_a_row_of_spins_that_cannot_be_read(tmp_path, row):
    """Today's later atoms had zero moments and magnetic forces."""
    (tmp_path / "OUTCAR").write_text(spins(row_of=lambda i: row if i == 2 else None))
    with pytest.raises(KLMError, match=r"no usable frame[^!]*1 (cut short|with numbers that cannot be read)"):
        data.read(tmp_path / "OUTCAR")


def test_atoms_that_are_not_constrained_are_not_listed(tmp_path):
    (tmp_path / "OUTCAR").write_text(spins(listed=[0, 2, 4]))
    (frame,) = data.read(tmp_path / "OUTCAR")
    assert frame.moments.any(axis=1).tolist() == [True, False, True, False, True]
    lost = spins(listed=[0, 2, 4]).replace("Constrained atoms : 3", "Constrained atoms : 4")
    (tmp_path / "OUTCAR").write_text(lost)
    with pytest.raises(KLMError, match="no usable frame"):
        data.read(tmp_path / "OUTCAR")


def test_forces_with_van_der_waals_correction(tmp_path):
    """Nine columns: forces are the middle ones, whatever the last three hold."""
    whole = spins()
    place = whole.index("TOTAL-FORCE (eV/Angst)\n")
    head, table = whole[:place], whole[place:]
    rows = table.splitlines(keepends=True)
    rows[0] = "TOTAL-FORCE (eV/Angst),         FORCE-w/o vdW (eV/Angst)\n"
    for i in range(2, 2 + MANY):
        other = "      7.000000           NaN**************" if i % 2 else 3 * f"{7.0:14.6f}"
        rows[i] = f"{rows[i][:-1]}   {other}\n"
    (tmp_path / "OUTCAR").write_text(whole)
    (right,) = data.read(tmp_path / "OUTCAR")
    (tmp_path / "OUTCAR").write_text(head + "".join(rows))
    (frame,) = data.read(tmp_path / "OUTCAR")
    assert np.array_equal(frame.forces, right.forces)
    assert np.array_equal(frame.atoms.positions, right.atoms.positions)
    assert frame.forces[4] == pytest.approx([0.4, 0.2, 0.01])


def test_real_forces_with_van_der_waals_correction():
    """The same run's vasprun.xml has the same numbers; here energies differ by the entropy."""
    path = output("vasp_vdw_nine_columns_Ge") / "OUTCAR.Ge.vdw"
    text = blocks.read_text(path)
    ((_, step),) = vasp_files.ionic_steps(text)
    atoms, energy, forces = vasp_files.ionic_step(step, vasp_files.species(text, path))
    same = ase.io.read(path.with_name("vasprun.Ge.vdw.xml"), format="vasp-xml")
    assert forces == pytest.approx(same.get_forces(), abs=1e-6)  # six decimals
    assert atoms.positions == pytest.approx(same.positions, abs=1e-5)
    assert energy == -33.36815582
    assert data.Frame(same).energy == pytest.approx(energy, abs=1e-8)


@pytest.mark.parametrize("name", ["running_scf.log", "log.txt"])
def test_a_table_of_forces_that_is_too_short(tmp_path, name):
    text = folder_of(tmp_path, name)
    if name == "running_scf.log":
        lines = text.splitlines(keepends=True)
        text = "".join(line for line in lines if not line.lstrip().startswith("O1"))
    else:
        text = re.sub(r"(Atomic Force:\n).*\n", r"\1 0.1 0.2 0.3\n", text)
    assert text != OUTPUTS.get(name)
    (tmp_path / name).write_text(text)
    with pytest.raises(KLMError, match=r"no usable frame[^!]*[13] cut short"):
        data.read(tmp_path / name, structure=STRUCTURE if name == "log.txt" else None)


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", "crlf"])
@pytest.mark.parametrize("name", sorted(FRAMES))
def test_compressed_files_and_line_ends(tmp_path, name, ending):
    text = folder_of(tmp_path, name)
    whole, _ = read(tmp_path / name)
    for file in [path for path in tmp_path.iterdir() if path.name != "STRU"]:
        raw = file.read_bytes()
        if ending == "crlf":
            file.write_bytes(raw.replace(b"\n", b"\r\n"))
            continue
        pack = {".gz": gzip, ".bz2": bz2, ".xz": lzma}[ending].compress
        file.with_name(file.name + ending).write_bytes(pack(raw))
        file.unlink()
    path = tmp_path / (name if ending == "crlf" else name + ending)
    frames, _ = read(path)
    assert [frame.energy for frame in frames] == [frame.energy for frame in whole]
    assert np.array_equal(frames[-1].magnetic_forces, whole[-1].magnetic_forces)
    if name != "log.txt":
        assert len(data.read(tmp_path)) == len(whole)  # found in its folder
    if ending != "crlf":
        path.write_bytes(path.read_bytes()[:-20])
        assert read(path)[0] == []
    assert text


def test_what_is_no_output_at_all(tmp_path):
    for name in ("empty", "OUTCAR", "set.extxyz", "set.traj", "set.npz", "OUTCAR.gz"):
        (tmp_path / name).write_bytes(b"")
        frames, error = read(tmp_path / name)
        assert frames == [], name
        assert isinstance(error, KLMError) or name == "set.extxyz", name
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
        for form in (None, "traj", "extxyz", "npz", "deepmd", "vasp6-deltaspin", "abacus-deltaspin"):
            with pytest.raises(KLMError):
                data.read(tmp_path / name, format=form)


# DeePMD-kit ----------------------------------------------------------------------------------------------------------


def test_arrays_of_deepmd_in_other_shapes(tmp_path):
    rng = np.random.default_rng(1)
    one = {name: rng.normal(size=(3, 3)) for name in ("coord", "spin", "force", "force_mag")}
    path = deepmd(tmp_path / "one", sets=1, energy=np.array(-3.5), box=4 * np.eye(3), **one)
    (frame,) = data.read(path)
    assert frame.energy == -3.5
    assert np.array_equal(frame.forces, one["force"])
    many = {name: rng.normal(size=(2, 3, 3)) for name in one}
    first, second = data.read(deepmd(tmp_path / "two", sets=1, energy=np.array([[-1.0], [-2.0]]), **many))
    assert (first.energy, second.energy) == (-1, -2)
    assert np.array_equal(second.moments, many["spin"][1])


@pytest.mark.parametrize(
    "wrong",
    [
        {"energy": np.array(-3.5)},  # one for two frames
        {"energy": np.zeros((2, 2))},
        {"energy": np.array(["a", "b"])},
        {"coord": np.array(1.0)},
        {"coord": np.zeros((0, 9))},
        {"force": np.zeros((1, 18))},  # the numbers of two frames, in one row
        {"spin": np.zeros((2, 8))},
        {"force_mag": np.zeros((3, 9))},
        {"real_atom_types": np.full((2, 3), np.nan)},
    ],
)
def test_arrays_of_deepmd_that_do_not_fit(tmp_path, wrong):
    path = deepmd(tmp_path / "system", sets=1, **wrong)
    with pytest.raises(KLMError):
        data.read(path)


# Tables --------------------------------------------------------------------------------------------------------------


@settings(quick, max_examples=100)
@given(st.lists(st.decimals(-99999, 99999, places=5), min_size=1, max_size=5), st.integers(6, 12))
def test_numbers_in_fixed_columns(values, width):
    """Whatever Fortran's Fw.5 writes is read as it was, or not at all."""
    words = [f"{value:{width}.5f}" for value in values]
    line = "".join(word if len(word) <= width else "*" * width for word in words)
    try:
        found = tables.numbers_of(line, decimals=5).tolist()
    except blocks.Incomplete:
        assert "*" in line
        return
    assert found == [float(word) for word in words]


@pytest.mark.parametrize(
    "line", ["1.0 x", "1.0-", "0.5-101 1.0", "1.0 --2.0", "nan", "1e400", "1.2.3", "**** 1.0", "1_0"]
)
def test_what_is_no_number(line):
    with pytest.raises(blocks.Incomplete):
        tables.numbers_of(line)
