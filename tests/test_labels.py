"""Labels belong to their frame: computed moments, one energy, names that disagree, calculators that moved on."""

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given
from hypothesis import strategies as st
from test_bad_input import quick
from test_readers import output

from ase_klm import KLMError, KLMWarning, data, get_moments, lattices, set_moments, textures
from ase_klm.analysis import trajectories
from ase_klm.calculators import ExchangeCalculator
from ase_klm.data.readers import aliases

CELL = 3 * np.eye(3)
GUESS = np.array([[0, 0, 5.0], [0, 0, -5.0]])
FOUND = np.array([[0.3, 0, 2.2], [0.1, 0.2, -2.1]])
FIELDS = np.array([[0.01, 0, 0], [0, 0.02, 0]])
FORCES = np.array([[0.1, 0, 0.2], [-0.1, 0, -0.2]])
NAMES = ["set.traj", "set.extxyz", "set.npz"]
OF_ASE = ["set.traj", "set.extxyz"]


def iron(guess=None, **results):
    """Two iron atoms with a guess in ASE's place and results as ASE's calculators leave them."""
    atoms = Atoms("Fe2", [(0, 0, 0), (1.5, 1.5, 1.5)], cell=CELL, pbc=True)
    if guess is not None:
        atoms.set_initial_magnetic_moments(guess)
    if results:
        atoms.calc = SinglePointCalculator(atoms)
        atoms.calc.results |= results
    return atoms


def from_ase(path, *frames):
    """Frames that ASE wrote, as we read them."""
    ase.io.write(path, frames)
    return data.read(path)


# Moments -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_ASE)
@pytest.mark.parametrize(
    ("guess", "found", "right"),
    [
        (GUESS, FOUND, FOUND),  # without collinear axes
        (GUESS[:, 2], FOUND[:, 2], FOUND * [0, 0, 1]),  # collinear, as of most calculations
        (GUESS, FOUND[:, 2], FOUND * [0, 0, 1]),
        (GUESS, np.zeros(2), np.zeros((2, 3))),  # it turned out non-magnetic
        (None, FOUND, FOUND),
        (FOUND + 1e-7, FOUND, FOUND),  # constrained
        (FOUND, None, FOUND),  # ours
    ],
)
def test_computed_moments_are_read(tmp_path, name, guess, found, right):
    results = {"energy": -8.0, "magmom": 0.1} | ({} if found is None else {"magmoms": found})
    (frame,) = frames = from_ase(tmp_path / name, iron(guess, **results))
    assert frame.moments == pytest.approx(right, abs=1e-6)
    assert frame.energy == -8.0
    assert ("the guess, is not read" in frames.about.moments) == (guess is not None and np.max(guess) > 4)
    (given,) = ase.io.read(tmp_path / name, ":")  # read by ASE, written and checked by us
    data.write(tmp_path / "again.npz", given)
    assert data.read(tmp_path / "again.npz")[0].moments == pytest.approx(right, abs=1e-6)
    assert (data.check([given]).missing["moments"] == ()) == bool(np.any(right))


@pytest.mark.parametrize("name", ["set.json", "set.db"])
@pytest.mark.parametrize("collinear", [True, False])
def test_data_bases_of_ase(tmp_path, name, collinear):
    guess, found = (GUESS[:, 2], FOUND[:, 2]) if collinear else (GUESS, FOUND)
    path = tmp_path / name
    frames = from_ase(path, *[iron(guess, energy=-8.0 - i, forces=FORCES, magmoms=found) for i in range(2)])
    assert frames.about.format == "ase-db"
    assert [frame.energy for frame in frames] == [-8.0, -9.0]
    assert frames[1].moments == pytest.approx(FOUND * [0, 0, 1] if collinear else FOUND)
    assert frames[1].forces == pytest.approx(FORCES)
    (tmp_path / name).write_text("{} no data base")
    with pytest.raises(KLMError, match=r"cannot be read|no format known"):
        data.read(tmp_path / name)


def test_vasprun(tmp_path):
    path = output("vasp_vdw_nine_columns_Ge") / "vasprun.Ge.vdw.xml"
    (frame,) = data.read(path)
    assert frame.energy == pytest.approx(-33.36815582, abs=1e-8)  # the free energy, not -33.36836054
    assert frame.forces[0] == pytest.approx([-0.05644767, 0.10894589, 0.29689164])


def test_moments_without_an_axis_are_refused(tmp_path):
    tilted = GUESS[:, [2, 0, 1]]
    with pytest.raises(KLMError, match=r"frame 0 of .*set.traj: magmoms holds one number an atom"):
        from_ase(tmp_path / "set.traj", iron(tilted, magmoms=FOUND[:, 2]))


@pytest.mark.parametrize("name", ["spin", "magnetic_moments"])
def test_a_guess_beside_moments_of_unknown_origin(tmp_path, name):
    atoms = iron(GUESS)
    atoms.arrays[name] = FOUND
    with pytest.raises(KLMError, match=f"initial_magmoms and {name} are both there, and differ"):
        from_ase(tmp_path / "set.extxyz", atoms)
    atoms.arrays[name] = GUESS
    assert from_ase(tmp_path / "set.extxyz", atoms)[0].moments == pytest.approx(GUESS)


@pytest.mark.parametrize("total", [0.1, np.array([0.0, 0.1, 0.2])])
def test_totals_are_no_moments(tmp_path, total):
    """A cell's total holds what lies between the atoms, so that it is not compared with their sum."""
    (frame,) = from_ase(tmp_path / "set.traj", iron(magmoms=FOUND, magmom=total))
    assert frame.moments == pytest.approx(FOUND)
    atoms = iron(FOUND, energy=-1.0)
    atoms.info |= {"spin": 1, "REF_magmom": 0.4}
    (frame,) = from_ase(tmp_path / "set.extxyz", atoms)
    assert frame.moments == pytest.approx(FOUND)
    assert frame.atoms.info["spin"] == 1


@pytest.mark.parametrize("where", ["info", "arrays"])
@pytest.mark.parametrize("name", [*aliases.COMPUTED, *aliases.MOMENTS])
def test_every_name_of_moments_in_both_places(name, where):
    atoms = iron()
    getattr(atoms, where)[name] = FOUND
    assert "moments" in aliases.resolve(atoms)
    assert get_moments(atoms).tolist() == FOUND.tolist()
    assert name not in atoms.arrays | atoms.info


# Energies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_ASE)
@pytest.mark.parametrize(
    ("results", "info", "right"),
    [
        ({"energy": -8.0}, {}, -8.0),
        ({"free_energy": -8.1}, {}, -8.1),
        ({"energy": -8.0, "free_energy": -8.1}, {}, -8.1),  # forces are its derivative
        ({"energy": -8.0, "free_energy": np.nan}, {}, -8.0),
        ({"energy": -8.0}, {"REF_energy": -8.000001}, -8.0),  # rounding
        ({"energy": -8.0, "free_energy": -8.1}, {"REF_energy": -8.1}, -8.1),
        ({"energy": -8.0, "free_energy": -8.1}, {"REF_energy": -8.0}, -8.1),
        ({}, {"dft_energy": -8.2}, -8.2),
        ({}, {"REF_free_energy": -8.2}, -8.2),
        ({"energy": -8.0}, {"REF_energy": -8.2}, "energy and REF_energy are both there, and differ"),
        ({"energy": -8.0, "free_energy": -8.0}, {"total_energy": -9.0}, "energy and total_energy are both there"),
        ({"free_energy": -8.0}, {"REF_energy": -9.0}, "free_energy and REF_energy are both there, and differ"),
        ({}, {"REF_energy": -9.0, "dft_energy": -9.1}, "REF_energy and dft_energy are both there, and differ"),
    ],
)
def test_one_energy(tmp_path, name, results, info, right):
    atoms = iron(FOUND, **results)
    atoms.info |= info
    if isinstance(right, str):
        with pytest.raises(KLMError, match=f"frame 1 of .*{name}: {right}") as error:
            from_ase(tmp_path / name, iron(FOUND, energy=-1.0), atoms)
        assert all(f"{value}" in error.value.why for value in list(info.values())[-1:])
        return
    (frame,) = from_ase(tmp_path / name, atoms)
    assert frame.energy == right
    assert data.Frame(frame.atoms).energy == right
    data.write(tmp_path / "again.npz", atoms)
    assert data.read(tmp_path / "again.npz")[0].energy == right


QUANTITIES = {
    "magnetic_forces": aliases.MAGNETIC_FORCES[1:],
    "forces": aliases.FORCES[1:],
}


@pytest.mark.parametrize(("own", "name"), [(own, name) for own, names in QUANTITIES.items() for name in names])
@pytest.mark.parametrize("where", ["info", "arrays"])
def test_every_other_name_of_forces(own, name, where):
    """Alone it is read; beside our own name it must hold the same."""
    for off, both in ((0.0, False), (4e-6, True), (1e-3, True)):
        atoms = iron(FOUND, energy=-8.0)
        if both and own == "forces":
            atoms.calc.results["forces"] = FIELDS
        elif both:
            atoms.info["magnetic_forces"] = FIELDS
        getattr(atoms, where)[name] = FIELDS + off
        if off > 1e-5:
            with pytest.raises(KLMError, match=f"{own} and {name} are both there, and differ") as error:
                aliases.resolve(atoms)
            assert "0.021" in error.value.why
            continue
        assert aliases.resolve(atoms).get("energy") is None
        assert getattr(data.Frame(atoms), own) == pytest.approx(FIELDS, abs=1e-5)
        assert data.Frame(atoms).energy == -8.0
        assert name not in atoms.arrays | atoms.info


@pytest.mark.parametrize("name", OF_ASE)
def test_moments_of_a_trajectory_of_dft(tmp_path, name):
    """Molecular dynamics by ASE: one guess throughout, and moments that were found at every step."""
    found = [FOUND * (1 + 0.1 * step) for step in range(4)]
    ase.io.write(tmp_path / name, [iron(GUESS, energy=-8.0, magmoms=moments) for moments in found])
    ((moments, _),) = trajectories.MomentSeries(tmp_path / name).chunks()
    assert moments == pytest.approx(np.array(found), abs=1e-7)


# Present and other states --------------------------------------------------------------------------------------------


def chain(seed):
    atoms = lattices.chain(4)
    textures.random(atoms, length=1.5, seed=seed)
    return atoms


@pytest.mark.parametrize("name", NAMES)
def test_frames_that_share_a_calculator(tmp_path, name):
    calc = ExchangeCalculator({1: -0.01})
    frames = [chain(seed) for seed in range(3)]
    for atoms in frames:
        atoms.calc = calc
        atoms.get_potential_energy()
    for call in (lambda: data.write(tmp_path / name, frames), lambda: data.check(frames)):
        with pytest.raises(KLMError, match=r"3 frames of .* share one calculator[^!]*a calculator of its own"):
            call()
    assert not (tmp_path / name).exists()
    for atoms in frames:
        atoms.calc = ExchangeCalculator({1: -0.01})
        atoms.get_potential_energy()
    data.write(tmp_path / name, frames)
    energies = [frame.energy for frame in data.read(tmp_path / name)]
    assert energies == pytest.approx([atoms.get_potential_energy() for atoms in frames])
    assert len(set(np.round(energies, 9))) == 3
    data.write(tmp_path / name, [frames[0], frames[0]])  # one structure twice


@pytest.mark.parametrize("change", ["positions", "cell", "moments"])
def test_results_of_another_state_are_left_out(tmp_path, change):
    """Frozen results and what lies in info beside them, of frames that were changed after reading."""
    (tmp_path / "set.npz").unlink(missing_ok=True)
    atoms = iron(FOUND, energy=-8.0, forces=FORCES)
    atoms.info["magnetic_forces"] = FIELDS
    data.write(tmp_path / "set.traj", [atoms, atoms])
    moved, still = data.read(tmp_path / "set.traj")
    if change == "positions":
        moved.atoms.positions[0, 0] += 0.1
    elif change == "cell":
        moved.atoms.set_cell(1.01 * CELL)
    else:
        set_moments(moved.atoms, -FOUND)
    assert (moved.energy, moved.forces, moved.magnetic_forces) == (None, None, None)
    with pytest.warns(KLMWarning, match="labels of 1 of 2 frames .* are left out, the first of frame 0"):
        data.write(tmp_path / "again.npz", [moved, still])
    first, second = data.read(tmp_path / "again.npz")
    assert (first.energy, first.forces, first.magnetic_forces) == (None, None, None)
    assert second.magnetic_forces == pytest.approx(FIELDS)
    with pytest.warns(KLMWarning, match="are left out"):
        assert data.check([moved, still]).missing["energy"] == (0,)


def test_computed_moments_that_were_set_keep_their_labels(tmp_path):
    """What users of ASE do: atoms = read(...); set_moments(atoms, those that were found)."""
    atoms = iron(GUESS, energy=-8.0, magmoms=FOUND)
    set_moments(atoms, FOUND)
    data.write(tmp_path / "set.npz", atoms)
    (frame,) = data.read(tmp_path / "set.npz")
    assert frame.moments.tolist() == FOUND.tolist()
    assert frame.energy == -8.0


@pytest.mark.parametrize("name", OF_ASE)
def test_labels_of_the_start_do_not_follow_a_run(tmp_path, name):
    """A run starts from a frame that was read, with labels in info, as ASE once wrote them, or in arrays."""
    atoms = iron(FOUND)
    atoms.info |= {"magnetic_forces": FIELDS, "energy": -1.0}
    atoms.arrays["forces"] = FORCES
    with data.FrameWriter(tmp_path / name) as writer:
        writer.write(atoms, energy=-2.0, forces=2 * FORCES, magnetic_forces=2 * FIELDS)
        writer.write(atoms)
    first, second = data.read(tmp_path / name)
    assert first.energy == -2.0
    assert first.forces == pytest.approx(2 * FORCES)
    assert first.magnetic_forces == pytest.approx(2 * FIELDS)
    assert (second.energy, second.forces, second.magnetic_forces) == (None, None, None)
    data.write(tmp_path / name, atoms)  # here they are this frame's
    (frame,) = data.read(tmp_path / name)
    assert frame.energy == -1.0
    assert frame.forces == pytest.approx(FORCES)
    assert frame.magnetic_forces == pytest.approx(FIELDS)


# All labels through all files ----------------------------------------------------------------------------------------


@quick
@given(
    st.sampled_from([*NAMES, "set.db"]),
    st.lists(st.tuples(*[st.booleans()] * 4, st.integers(1, 10**6)), min_size=1, max_size=4),
)
def test_labels_come_back_as_they_were(tmp_path_factory, name, frames):
    """Frames that have some labels and lack others."""
    path = tmp_path_factory.mktemp("set") / name
    given_frames = []
    for has_energy, has_forces, has_fields, transverse, seed in frames:
        rng = np.random.default_rng(seed)
        results = ({"energy": 10 * rng.normal()} if has_energy else {}) | (
            {"forces": rng.normal(size=(2, 3))} if has_forces else {}
        )
        atoms = iron(rng.normal(size=(2, 3)), **results)
        if has_fields:
            atoms.info["magnetic_forces"] = rng.normal(size=(2, 3))
            atoms.info |= {"mag_forces_part": "transverse"} if transverse else {}
        given_frames.append(data.Frame(atoms))
    data.write(path, given_frames)
    again = data.read(path)
    assert len(again) == len(given_frames)
    for frame, other in zip(given_frames, again, strict=True):
        assert other.moments == pytest.approx(frame.moments, abs=1e-8)
        assert other.transverse_only == frame.transverse_only
        for label in ("energy", "forces", "magnetic_forces"):
            value = getattr(frame, label)
            assert (value is None) == (getattr(other, label) is None)
            assert value is None or getattr(other, label) == pytest.approx(value, abs=1e-8)
