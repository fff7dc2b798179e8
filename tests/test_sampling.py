"""Data sets: the .npz format, and sets labelled by exact diagonalisation that any number of processes make alike."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from conftest import REFERENCE_DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_input import attempt, junk, quick

from ase_klm import KLMError, KondoEDCalculator, data, get_magnetic_forces, get_moments, lattices, set_moments, textures
from ase_klm.cli import main
from ase_klm.data import sampling
from ase_klm.data.configurations import Quench, configure
from ase_klm.data.sampling import sample

MODEL = {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48, "temperature": 0.05}
ALL_KINDS = ("random", "theta-uniform", "textures", "quench")
SHORT = Quench(snapshots=2, spacing=1)


@pytest.fixture
def square():
    return lattices.square((3, 2))


@pytest.fixture
def labelled(square):
    textures.random(square, seed=1)
    square.calc = KondoEDCalculator(**MODEL)
    square.get_potential_energy()
    square.info["hamiltonian"] = json.dumps({"kind": "kondo", "hopping": {"1": 1.0}, "J": 7.0, "mu": None})
    return square


def equal(first, second, tolerance=0.0):
    return len(first) == len(second) and all(
        a.moments == pytest.approx(b.moments, abs=tolerance)
        and a.magnetic_forces == pytest.approx(b.magnetic_forces, abs=tolerance)
        and a.energy == pytest.approx(b.energy, abs=tolerance)
        and a.atoms.info == b.atoms.info
        for a, b in zip(first, second, strict=True)
    )


# The format ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "tolerance"), [("set.npz", 0), ("set.traj", 0), ("set.extxyz", 1e-8)])
def test_labels_and_hamiltonian_are_read_again(tmp_path, labelled, name, tolerance):
    data.write(tmp_path / name, [labelled] * 2)
    for frame in data.read(tmp_path / name):
        assert frame.moments == pytest.approx(get_moments(labelled), abs=tolerance)
        assert frame.magnetic_forces == pytest.approx(labelled.calc.results["magnetic_forces"], abs=tolerance)
        assert frame.energy == pytest.approx(labelled.calc.results["energy"], abs=1e-12)
        assert frame.atoms.info["hamiltonian"] == labelled.info["hamiltonian"]
        assert frame.hamiltonian == {"kind": "kondo", "hopping": {"1": 1.0}, "J": 7.0, "mu": None}
        assert frame.atoms.cell.array == pytest.approx(labelled.cell.array)
        assert frame.atoms.pbc.tolist() == [True, True, False]
    assert sorted(tmp_path.iterdir()) == [tmp_path / name]  # nothing temporary is left


def test_keys_of_a_set(tmp_path, labelled):
    data.write(tmp_path / "set.npz", [labelled] * 2)
    found = np.load(tmp_path / "set.npz", allow_pickle=False)
    shapes = {"numbers": (6,), "pbc": (3,), "cell": (2, 3, 3), "energy": (2,), "hamiltonian": ()}
    shapes |= dict.fromkeys(("positions", "magmoms", "mag_forces", "forces"), (2, 6, 3))
    assert {name: found[name].shape for name in found.files} == shapes


def test_published_set():
    path = REFERENCE_DATA / "nio_deltaspin" / "valid.npz"
    if not path.exists():
        pytest.skip(f"reference data {path} is not on this machine")
    frames = data.read(path)
    assert len(frames) == 31
    assert frames[3].hamiltonian is None
    assert frames[3].atoms.pbc.all()
    found = np.load(path)
    for key, value in (("magmoms", "moments"), ("mag_forces", "magnetic_forces"), ("forces", "forces")):
        assert np.array_equal(getattr(frames[3], value), found[key][3])


def test_missing_labels_are_none(tmp_path, labelled):
    bare = lattices.square((3, 2))
    textures.random(bare, seed=2)
    data.write(tmp_path / "set.npz", [labelled, bare])
    full, empty = data.read(tmp_path / "set.npz")
    assert full.forces is not None
    assert full.hamiltonian is not None
    assert (empty.energy, empty.forces, empty.magnetic_forces, empty.hamiltonian) == (None,) * 4
    data.write(tmp_path / "bare.npz", bare)
    assert data.read(tmp_path / "bare.npz")[0].magnetic_forces is None


def test_frames_of_one_set_share_species(tmp_path, labelled):
    for other in (lattices.square((3, 2), symbol="Co"), lattices.square((2, 2))):
        with pytest.raises(KLMError, match="different species"):
            data.write(tmp_path / "set.npz", [labelled, other])
    with pytest.raises(KLMError, match="no frames"):
        data.write(tmp_path / "set.npz", [])
    with pytest.raises(KLMError, match="in one go"):
        data.FrameWriter(tmp_path / "set.npz")
    assert not list(tmp_path.iterdir())


BAD = {
    "positions": np.zeros((2, 6, 2)),
    "cell": np.zeros((3, 3)),
    "energy": np.array([0.0, np.inf]),
    "magmoms": np.full((2, 6, 3), np.nan),
    "mag_forces": np.where(np.arange(36).reshape(2, 6, 3) == 20, np.nan, 1.0),  # a label with a hole is no label
    "forces": np.zeros((1, 6, 3)),
    "numbers": np.full(6, 500),
    "pbc": np.ones(2),
    "hamiltonian": np.array("{broken"),
    "kind": np.array([1.0, 2.0]),
}


@pytest.mark.parametrize("key", BAD)
def test_wrong_arrays(tmp_path, labelled, key):
    path = tmp_path / "set.npz"
    data.write(path, [labelled] * 2)
    arrays = dict(np.load(path))
    np.savez(path, **arrays | {key: BAD[key]})
    with pytest.raises(KLMError):
        data.read(path)
    if key not in ("pbc", "forces", "hamiltonian", "kind"):
        np.savez(path, **{name: array for name, array in arrays.items() if name != key})
        with pytest.raises(KLMError, match=f"has no {key}"):
            data.read(path)


def test_nothing_is_unpickled(tmp_path, labelled):
    data.write(tmp_path / "set.npz", labelled)
    arrays = dict(np.load(tmp_path / "set.npz")) | {"hamiltonian": np.array({"kind": "kondo"}, dtype=object)}
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(KLMError, match="cannot be read as a data set"):
        data.read(tmp_path / "set.npz")


@quick
@given(st.integers(0, 4000), st.integers(0, 255))
def test_damaged_sets(tmp_path, position, byte):
    path = Path(tmp_path, "set.npz")
    data.write(path, lattices.square((2, 2)))
    whole = path.read_bytes()
    path.write_bytes(whole[:position])
    attempt(lambda: data.read(path))
    path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
    attempt(lambda: data.read(path))


def test_hamiltonian_that_is_none():
    atoms = Atoms("Fe", info={"hamiltonian": "[1, 2]"})
    with pytest.raises(KLMError, match="is no Hamiltonian"):
        _ = data.Frame(atoms).hamiltonian


# Configurations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "expected"), [("random", 1 / 3), ("theta-uniform", 1 / 2)])
def test_polar_angles(kind, expected):
    atoms = lattices.square((100, 100))
    configure(atoms, kind, np.random.default_rng(1))
    spins = get_moments(atoms)
    assert np.mean(spins[:, 2] ** 2) == pytest.approx(expected, abs=0.015)  # four times 0.35/√10000
    assert np.mean(spins[:, 0] ** 2) == pytest.approx((1 - expected) / 2, abs=0.015)
    assert np.linalg.norm(spins, axis=1) == pytest.approx(1)


LATTICES = [
    lattices.chain(4),
    lattices.square((3, 4)),
    lattices.triangular((6, 6)),
    lattices.triangular_magnetic_cell(),
    lattices.kagome((2, 2)),
    lattices.simple_cubic((2, 2, 2)),
    Atoms("Fe2", [(0, 0, 0), (0, 0, 2)]),
]


@pytest.mark.parametrize("atoms", LATTICES, ids=lambda atoms: f"{atoms.symbols}")
def test_textures_keep_lengths(atoms):
    length = np.arange(len(atoms)) % 3 * 0.7  # zero on some sites
    for seed in range(12):
        set_moments(atoms, length[:, None] * np.array([0, 0, 1.0]))
        configure(atoms, "textures", np.random.default_rng(seed))
        assert np.linalg.norm(get_moments(atoms), axis=1) == pytest.approx(length)


def test_textures_are_ordered_on_the_whole():
    """The strongest Bragg peak of N random spins holds some ln(N)/N of the intensity, that of a texture far more."""
    from ase_klm import analysis

    strongest = []
    for seed in range(20):
        atoms = lattices.triangular((6, 6))
        configure(atoms, "textures", np.random.default_rng(seed))
        found = analysis.structure_factor(atoms).intensity
        strongest.append(found.max() / found.sum())
    assert np.median(strongest) > 0.3


def test_quench_goes_downhill(tmp_path):
    frames = sample(
        lattices.square((4, 4)), tmp_path / "set.npz", 6, seed=1, kinds="quench", quench_plan=Quench(6, 2), **MODEL
    )
    energies = [frame.energy for frame in frames]
    assert np.all(np.diff(energies) < 0)


# Sampling ------------------------------------------------------------------------------------------------------------


def test_any_number_of_workers_gives_the_same_set(tmp_path, square):
    def made(name, count, workers):
        return sample(
            square, tmp_path / name, count, seed=3, kinds=ALL_KINDS, quench_plan=SHORT, workers=workers, **MODEL
        )

    alone, together = made("one.npz", 10, 1), made("two.npz", 10, 2)
    assert equal(alone, together, tolerance=1e-10)  # rounding may differ with the number of threads
    assert [frame.atoms.info["kind"] for frame in alone] == [ALL_KINDS[i % 4] for i in range(10)]
    assert equal(made("more.npz", 5, 1)[:5], alone[:5], tolerance=0)  # a longer set begins as a shorter one


@pytest.mark.parametrize("name", ["set.npz", "set.extxyz"])
def test_labels_are_those_of_the_calculator(tmp_path, square, name):
    model = {"hopping": {1: 1.0, 2: -0.3}, "J": -2.0, "mu": -1.0, "temperature": 0.01, "kpts": (2, 1, 1)}
    frames = sample(square, tmp_path / name, 4, seed=1, kinds=ALL_KINDS, quench_plan=SHORT, **model)
    for frame in frames:
        atoms = lattices.square((3, 2))
        set_moments(atoms, frame.moments)
        there = frame.hamiltonian
        assert there.pop("kind") == "kondo"
        hopping = {int(shell): t for shell, t in there.pop("hopping").items()}
        atoms.calc = KondoEDCalculator(hopping=hopping, **there)
        assert frame.energy == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
        assert frame.magnetic_forces == pytest.approx(get_magnetic_forces(atoms), abs=1e-6)


def test_killed_sampling_goes_on(tmp_path, square, monkeypatch):
    path = tmp_path / "set.npz"
    arguments = {"count": 8, "seed": 3, "kinds": ALL_KINDS, "quench_plan": SHORT} | MODEL
    whole = sample(square, tmp_path / "whole.npz", **arguments)
    carry_out, done = sampling._Plan.carry_out, []

    def killed_after_four(plan, task):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(task)
        return carry_out(plan, task)

    monkeypatch.setattr(sampling._Plan, "carry_out", killed_after_four)
    with pytest.raises(KeyboardInterrupt):
        sample(square, path, **arguments)
    assert not path.exists()
    with pytest.raises(KLMError, match="other parameters: count, seed"):
        sample(square, path, **arguments | {"count": 9, "seed": 4})

    again = []
    monkeypatch.setattr(sampling._Plan, "carry_out", lambda plan, task: again.append(task) or carry_out(plan, task))
    assert equal(sample(square, path, **arguments), whole)
    assert len(done) == 4
    assert len(again) == 3  # seven tasks: the two snapshots are one
    assert not set(done) & set(again)
    assert sorted(file.name for file in tmp_path.glob("set*")) == ["set.npz", "set.npz.recipe.json"]

    again.clear()
    assert equal(sample(square, path, **arguments), whole)  # finished already
    assert not again
    with pytest.raises(KLMError, match="other parameters: hamiltonian"):
        sample(square, path, **arguments | {"J": 6.0})
    with pytest.raises(KLMError, match="other parameters: lattice"):
        sample(lattices.square((2, 3)), path, **arguments)


def test_files_of_others_are_left_alone(tmp_path, labelled):
    path = tmp_path / "set.npz"
    data.write(path, labelled)
    before = path.read_bytes()
    for record in (None, "broken", "[]"):
        if record is not None:
            (tmp_path / "set.npz.recipe.json").write_text(record)
        with pytest.raises(KLMError, match="no readable"):
            sample(labelled, path, 2, seed=1, **MODEL)
    assert path.read_bytes() == before


SAMPLE = MODEL | {"count": 1, "seed": 1, "kinds": "random", "quench_plan": None, "mu": None}


@settings(quick, max_examples=250)
@given(st.sampled_from(sorted([*SAMPLE, "atoms", "path"])), junk)
def test_bad_input(tmp_path, name, value):
    folder = Path(tmp_path, str(len(list(tmp_path.iterdir()))))
    folder.mkdir()
    arguments = {"atoms": lattices.square((2, 2)), "path": folder / "set.npz"} | SAMPLE
    attempt(lambda: sample(**arguments | {name: value}))


def test_errors_say_what_is_wrong(tmp_path, square):
    path = tmp_path / "set.npz"
    for wrong, match in (
        ({"kinds": "helix"}, "no kind of configuration"),
        ({"kinds": ()}, "no kind"),
        ({"count": 0}, "count = 0"),
        ({"workers": 0}, "workers = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"hopping": lambda r: r}, "by neighbour shell"),
        ({"hopping": {-1: 1.0}}, "shell"),
    ):
        with pytest.raises(KLMError, match=match):
            sample(square, path, **SAMPLE | wrong)
    with pytest.raises(KLMError, match="spacing = 0"):
        Quench(spacing=0)
    with pytest.raises(KLMError, match="no kind"):
        configure(square, "quench", np.random.default_rng(1))
    assert not list(tmp_path.iterdir())


LINE = "--lattice square --size 2 2 --hopping 1:1.0 2:-0.2 --J 7 --filling 0.48 --count 3 --seed 1"


def test_command_line(tmp_path, capsys):
    path = tmp_path / "set.npz"
    assert main(["sample", str(path), *LINE.split(), "--kind", "theta-uniform", "random"]) == 0
    assert "3 configurations of 4 sites" in capsys.readouterr().out
    frames = data.read(path)
    assert [frame.atoms.info["kind"] for frame in frames] == ["theta-uniform", "random", "theta-uniform"]
    assert frames[0].hamiltonian["hopping"] == {"1": 1.0, "2": -0.2}
    for wrong, message in (
        ("--lattice hexagonal", "hexagonal is not known"),
        ("--hopping 1=1.0", "cannot be read"),
        ("--hopping 1:1 1:2", "cannot be read"),
        ("--count 0", "count = 0"),
        ("--kind helix", "no kind"),
        ("--size 2", "does not fit this lattice"),
        ("--seed 2 --kind theta-uniform random", "other parameters: seed"),
        ("--mu 1.0", "mu"),
    ):
        assert main(["sample", str(path), *LINE.split(), *wrong.split()]) == 2
        assert message in capsys.readouterr().err
