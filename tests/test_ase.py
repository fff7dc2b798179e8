"""What ASE does with our atoms and calculators: its trajectories and databases, its file formats and names."""

import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint

import ase.db
import numpy as np
import pytest
from ase.calculators.calculator import get_calculator_class
from ase.calculators.mixing import SumCalculator
from ase.gui.images import Images
from ase.io import formats, iread, read, write
from ase.optimize import BFGS
from pages import ROOT, blocks, page
from test_parameters import plain_calculators
from test_potentials import ForeignCalculator, lattice

from ase_klm import (
    ECNNCalculator,
    ExchangeCalculator,
    KLMError,
    KondoEDCalculator,
    MagNetCalculator,
    SpinCalculator,
    calculators,
    data,
    get_magnetic_forces,
    get_moments,
    lattices,
    potentials,
    set_moments,
    textures,
)

SPRINGS = potentials.LatticeEnergy({1: 5.0})


def network_calculators():
    return {"ecnn": ECNNCalculator(), "magnet": MagNetCalculator("cri3-model")}


def a_structure(name, rng):
    if name == "ecnn":
        atoms = lattices.square((20, 20))
        textures.uniform(atoms)
    elif name == "magnet":
        atoms = lattices.cri3_monolayer((2, 2))
        set_moments(atoms, 3.0 * (atoms.symbols == "Cr"))
        atoms.rattle(0.01, rng=rng)
    else:
        atoms = lattice(rng)
        atoms.rattle(0.01, rng=rng)
    return atoms


NAMES = [*plain_calculators(), "ecnn", "magnet"]


@pytest.mark.filterwarnings("ignore::ase_klm.KLMWarning")
@pytest.mark.parametrize("name", NAMES)
def test_trajectories_and_databases_keep_calculators(name, tmp_path, monkeypatch, rng):
    """.traj by an optimizer and by hand, .json, extxyz, both databases: whatever keeps parameters gives them back."""
    monkeypatch.chdir(tmp_path)
    atoms = a_structure(name, rng)
    calculator = (plain_calculators() | network_calculators())[name]
    if name in ("spin", "exchange", "kondoed"):  # which count shells, and these atoms are displaced
        calculator = calculator.on_lattice(lattice(rng))
    atoms.calc = calculator
    energy = atoms.get_potential_energy()
    if "forces" in calculator.results:
        BFGS(atoms, trajectory="b.traj", logfile=None).run(steps=1, fmax=1e-9)
        energy = atoms.get_potential_energy()
        assert read("b.traj").get_potential_energy() == energy
    for file in ("a.traj", "a.json", "a.extxyz"):
        write(file, atoms)
        found = read(file)
        np.testing.assert_allclose(get_moments(found), get_moments(atoms), atol=5e-9)
        assert found.get_potential_energy() == pytest.approx(energy, abs=1e-7)
    kept = [read("a.traj").calc.parameters]
    for file in ("a.json", "b.json", "b.db"):
        database = ase.db.connect(file)
        if file.startswith("b"):
            database.write(atoms)
        kept.append(database.get(1).calculator_parameters)
        assert database.get(1).calculator == name.replace("pairs", "exchange").replace("hopping", "kondoed")
    for parameters in kept:
        rebuilt = calculators.from_dict(parameters)
        assert rebuilt.todict() == calculator.todict()
    assert rebuilt.get_potential_energy(atoms) == pytest.approx(energy, abs=1e-7)


def test_calculators_of_other_packages_and_functions_can_be_written(tmp_path, rng):
    """Writing never fails; reading the calculator back says what to do."""
    atoms = lattice(rng)
    for calculator in (
        SpinCalculator(potentials.Foreign(ForeignCalculator()) + potentials.Zeeman((0, 0, 1))),
        ExchangeCalculator({1: lambda r: -0.1 * np.outer(r, r)}),
        SumCalculator([ExchangeCalculator({1: -0.1}), ExchangeCalculator({2: -0.1})]),
    ):
        atoms.calc = calculator
        atoms.get_potential_energy()
        write(tmp_path / "a.traj", atoms)
        found = read(tmp_path / "a.traj")
        assert found.get_potential_energy() == atoms.get_potential_energy()
        with pytest.raises(KLMError, match="what to do"):
            calculators.from_dict(found.calc.parameters)


# Databases.


@pytest.mark.parametrize("ending", ["db", "json"])
def test_databases_of_ase_are_read(ending, tmp_path, rng):
    """Vector, scalar and no moments, in one file."""
    structures = [lattice(rng), lattice(rng)[:5], lattices.chain(3)]
    del structures[1].arrays["initial_magmoms"]
    structures[1].set_initial_magnetic_moments(np.arange(5.0))
    structures[0].calc = ExchangeCalculator({1: -0.1})
    energy = structures[0].get_potential_energy()
    with ase.db.connect(tmp_path / f"a.{ending}") as database:
        for number, atoms in enumerate(structures):
            database.write(atoms, number=number)
    frames = data.read(tmp_path / f"a.{ending}")
    for frame, atoms in zip(frames, structures, strict=True):
        np.testing.assert_array_equal(frame.moments, get_moments(atoms))
        np.testing.assert_array_equal(frame.atoms.positions, atoms.positions)
    assert frames[0].energy == energy
    assert frames[2].energy is None
    assert frames[1].atoms.info["number"] == 1


def test_a_database_that_ase_reads_too(tmp_path, rng):
    atoms = lattice(rng)
    atoms.calc = KondoEDCalculator({1: 1.0}, 2.0, mu=-1.0, temperature=0.1)
    atoms.get_potential_energy()
    atoms.info |= {"kind": "random", "step": 4, "object": object()}
    data.write(tmp_path / "a.db", [atoms, lattice(rng)])
    first, second = data.read(tmp_path / "a.db")
    np.testing.assert_array_equal(first.moments, get_moments(atoms))
    np.testing.assert_array_equal(first.magnetic_forces, get_magnetic_forces(atoms))
    np.testing.assert_array_equal(first.forces, atoms.get_forces())
    assert (first.energy, first.step) == (atoms.get_potential_energy(), 4)
    assert calculators.from_dict(first.atoms.calc.parameters).todict() == atoms.calc.todict()
    assert second.energy is None
    plain = read(tmp_path / "a.db", ":")
    np.testing.assert_array_equal(plain[0].get_forces(), atoms.get_forces())
    row = ase.db.connect(tmp_path / "a.db").get(1)
    np.testing.assert_array_equal(row.data["moments"], get_moments(atoms))
    data.write(tmp_path / "a.db", atoms)
    assert len(data.read(tmp_path / "a.db")) == 1


@pytest.mark.parametrize("text", [b"SQLite format 3\0 and nothing else", b'{"1": {"nextid": 2}, "nextid": 2}'])
def test_damaged_databases_are_refused(text, tmp_path):
    (tmp_path / "a.db").write_bytes(text)
    with pytest.raises(KLMError, match="database"):
        data.read(tmp_path / "a.db")


def test_what_ase_does_with_vector_moments(tmp_path, monkeypatch):
    """The page's examples run, and ASE still fails as the page says; where it does not any more, mend the page."""
    monkeypatch.chdir(tmp_path)
    python = blocks(page("docs/ase.md"), "python")
    assert len(python) >= 4
    names = {}
    for block in python:
        exec(block, names)


# The plug-in.


@pytest.fixture
def plugged():
    """As after an installation: the entry points of pyproject.toml are known to ASE."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, value in project["entry-points"]["ase.ioformats"].items():
        if name not in formats.ioformats:
            formats.define_external_io_format(EntryPoint(name, value, "ase.ioformats"))


@pytest.mark.parametrize("compressed", [False, True])
def test_ase_reads_data_sets(plugged, compressed, tmp_path, rng):
    structures = [lattice(np.random.default_rng(0)) for _ in range(3)]
    for atoms in structures:
        textures.random(atoms, seed=rng)
        atoms.calc = KondoEDCalculator({1: 1.0}, 2.0, mu=-1.0, temperature=0.1)
        atoms.get_potential_energy()
    file = str(tmp_path / "set.npz")
    data.write(file, structures)
    if compressed:
        arrays = dict(np.load(file))
        np.savez_compressed(file, **dict(sorted(arrays.items())))  # another array comes first
    found = read(file, ":")
    assert len(found) == 3
    for atoms, expected in zip(found, structures, strict=True):
        np.testing.assert_array_equal(get_moments(atoms), get_moments(expected))
        np.testing.assert_array_equal(atoms.arrays["magnetic_forces"], get_magnetic_forces(expected))
        np.testing.assert_array_equal(atoms.get_forces(), expected.get_forces())
        assert atoms.get_potential_energy() == expected.get_potential_energy()
    assert [len(read(file, index)) for index in ("1:", "::2")] == [2, 2]
    np.testing.assert_array_equal(get_moments(read(file)), get_moments(structures[-1]))
    assert len(list(iread(file))) == 3
    images = Images()  # what `ase gui` shows
    images.read([file])
    assert len(images) == 3
    write(str(tmp_path / "other.npz"), found, format="ase-klm")
    np.testing.assert_array_equal(
        data.read(tmp_path / "other.npz")[1].magnetic_forces, get_magnetic_forces(structures[1])
    )


def test_other_archives_are_left_alone(plugged, tmp_path):
    np.savez(tmp_path / "other.npz", spins=np.zeros(3))
    with pytest.raises(formats.UnknownFileTypeError):
        read(tmp_path / "other.npz")


def test_by_its_name_the_format_reads_all_that_we_read(plugged, tmp_path, rng):
    atoms = lattice(rng)
    ase.db.connect(tmp_path / "a.db").write(atoms)
    with pytest.raises(ValueError, match="wrong length"):
        read(tmp_path / "a.db")
    np.testing.assert_array_equal(get_moments(read(str(tmp_path / "a.db"), format="ase-klm")), get_moments(atoms))


def test_calculators_go_by_their_names(plugged):
    for kind in (ExchangeCalculator, KondoEDCalculator, ECNNCalculator, MagNetCalculator):
        name = kind.__name__.removesuffix("Calculator").lower()
        found = get_calculator_class(name)
        assert found.implemented_properties == kind.implemented_properties
        assert issubclass(kind, found)
    calculator = get_calculator_class("kondoed")(hopping={1: 1.0}, J=2.0, mu=0.0)
    assert isinstance(calculator, KondoEDCalculator)
    assert isinstance(calculator, get_calculator_class("kondoed"))
    assert not isinstance(calculator, get_calculator_class("exchange"))
    assert calculator.name == "kondoed"


def test_the_plugin_does_not_import_torch():
    """ASE imports it at every command."""
    code = "import sys, ase_klm.ase_plugin; assert 'torch' not in sys.modules and 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# Moments as ASE asks for them.


@pytest.mark.parametrize("name", NAMES)
def test_get_magnetic_moments(name, rng):
    atoms = a_structure(name, rng)
    atoms.calc = (plain_calculators() | network_calculators())[name]
    np.testing.assert_array_equal(atoms.get_magnetic_moments(), get_moments(atoms))
    np.testing.assert_allclose(atoms.get_magnetic_moment(), get_moments(atoms).sum(0))
    with pytest.raises(KLMError, match="no structure yet"):
        atoms.calc.get_magnetic_moments()


def test_moments_are_asked_without_a_calculation(rng):
    atoms = lattice(rng)
    atoms.calc = ExchangeCalculator({1: -0.1})
    moments = atoms.get_magnetic_moments()
    assert not atoms.calc.results
    moments[:] = 0  # a copy
    assert get_moments(atoms).any()
    atoms.get_potential_energy()
    atoms.calc.export_properties()
    np.testing.assert_array_equal(atoms.calc.get_magnetic_moments(), get_moments(atoms))
