"""Bad input thrown at the public functions: each call works, or raises KLMError with what, why and remedy.

Never another exception, never a NaN result, and after an error the atoms are as they were.
"""

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ase_klm import (
    ExchangeCalculator,
    KLMError,
    KLMWarning,
    KondoEDCalculator,
    LLGDynamics,
    SpinCalculator,
    SpinMinimizer,
    analysis,
    data,
    get_magnetic_forces,
    get_moments,
    graphs,
    lattices,
    plot,
    potentials,
    rotate_moments,
    set_moments,
    textures,
)
from ase_klm.dynamics import suggest_timestep

quick = settings(
    derandomize=True,
    max_examples=25,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

JUNK = (
    None, "", "abc", b"x", True, 0, -1, 3, 1.5, -2.5, 0.0, 1e308, -1e-300, np.nan, np.inf, -np.inf, 1 + 2j, [], (), {},
    {1: 1.0}, {"a": 1}, {1: "x"}, {0: 1.0}, {9: np.nan}, [1, 2], (0, 0, 1), (0, 0, 0), [0, 0, np.nan], ["a", "b", "c"],
    [None, 1, 2], [[1, 2], [3]], (2, 2, 1), (1, -1, 1), (0.5, 1, 1), object(), len, np.zeros(0), np.zeros((4, 3)),
    np.ones((4, 3)), np.full((4, 3), np.nan), np.ones((3, 4)), np.ones((2, 4, 3)), np.eye(3), np.ones(4),
    np.ones((1, 1)), np.array("x"), np.array([1j, 0, 0]), Atoms(), Atoms("Fe"), [Atoms("Fe")], range(3),
)  # fmt: skip

junk = st.sampled_from(JUNK)
numbers = st.one_of(junk, st.floats(), st.integers(-3, 4))


def lattice():
    atoms = lattices.square(size=(2, 2))
    textures.random(atoms, seed=5)
    return atoms


def state(atoms):
    return {name: array.copy() for name, array in atoms.arrays.items()}, atoms.cell.array.copy(), atoms.pbc.copy()


def unchanged(atoms, before):
    arrays, cell, pbc = before
    return (
        atoms.arrays.keys() == arrays.keys()
        and all(np.array_equal(atoms.arrays[name], arrays[name], equal_nan=True) for name in arrays)
        and np.array_equal(atoms.cell.array, cell, equal_nan=True)
        and np.array_equal(atoms.pbc, pbc)
    )


def attempt(call, atoms=None):
    """The result, or None after a well-formed KLMError."""
    before = None if atoms is None else state(atoms)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", KLMWarning)
        try:
            return call()
        except KLMError as error:
            for text in (error.what, error.why, error.remedy):
                assert isinstance(text, str)
                assert text.strip()
            assert before is None or unchanged(atoms, before)
            return None


def finite_moments(atoms):
    return np.isfinite(get_moments(atoms)).all()


TEXTURES = {
    textures.uniform: {"direction": (0, 0, 1)},
    textures.random: {"seed": 1},
    textures.add_noise: {"noise": 0.1, "seed": 1},
    textures.spiral: {"q": (1, 0, 0), "axis": (0, 0, 1), "cone": 90.0, "phase": 0.0},
    textures.skyrmion_crystal: {
        "n_sk": 1,
        "wave_vectors": np.eye(3),
        "amplitudes": (1, 1, 1),
        "phases": (0, 0, 0),
        "magnetisation": 0.3,
    },
    textures.skyrmion: {"radius": 1.0, "centre": (0, 0, 0), "helicity": 0.0, "vorticity": 1, "width": 0.5},
    textures.domain_wall: {"width": 1.0, "position": 0.0, "normal": (1, 0, 0), "kind": "bloch"},
}
COMMON = {"length": 1.0, "noise": 0.0, "seed": 1}


def one_wrong(parameters, draw):
    """The parameters with one of them replaced by something arbitrary."""
    return parameters | {draw(st.sampled_from(sorted(parameters))): draw(numbers)}


@quick
@given(junk)
def test_set_moments(values):
    atoms = lattice()
    attempt(lambda: set_moments(atoms, values), atoms)
    assert finite_moments(atoms)


@quick
@given(junk)
def test_rotate_moments(values):
    atoms = lattice()
    attempt(lambda: rotate_moments(atoms, values), atoms)
    assert finite_moments(atoms)


@pytest.mark.parametrize("texture", TEXTURES, ids=lambda texture: texture.__name__)
@quick
@given(choice=st.data())
def test_textures(texture, choice):
    common = {name: COMMON[name] for name in COMMON if texture not in (textures.random, textures.add_noise)}
    atoms = lattice()
    arguments = one_wrong(common | {"seed": 1} | TEXTURES[texture], choice.draw)
    attempt(lambda: texture(atoms, **arguments), atoms)
    assert finite_moments(atoms)


@pytest.mark.parametrize("texture", TEXTURES, ids=lambda texture: texture.__name__)
def test_textures_of_no_atoms(texture):
    attempt(lambda: texture(Atoms(), **TEXTURES[texture]))


BUILDERS = [
    lattices.chain,
    lattices.square,
    lattices.triangular,
    lattices.triangular_magnetic_cell,
    lattices.honeycomb,
    lattices.kagome,
    lattices.simple_cubic,
    lattices.body_centred_cubic,
    lattices.face_centred_cubic,
]


@quick
@given(st.sampled_from(BUILDERS), st.data())
def test_lattices(build, choice):
    size = 2 if build is lattices.chain else (1, 2, 1) if "cubic" in build.__name__ else (1, 2)
    atoms = attempt(lambda: build(**one_wrong({"size": size, "a": 1.0, "symbol": "Fe"}, choice.draw)))
    assert atoms is None or np.isfinite(atoms.positions).all()


@quick
@given(junk, numbers)
def test_graphs(shells, cutoff):
    atoms = lattice()
    attempt(lambda: graphs.neighbour_shells(atoms, shells), atoms)
    if not (isinstance(cutoff, float | int) and cutoff > 10):  # many neighbours are no error
        attempt(lambda: graphs.bonds_within(atoms, cutoff), atoms)


KONDO = {
    "hopping": {1: 1.0},
    "J": 1.0,
    "filling": 0.3,
    "mu": None,
    "temperature": 0.1,
    "field": (0, 0, 0.1),
    "kpts": (1, 1, 1),
    "cutoff": None,
    "solver": "auto",
    "dtype": "float64",
    "device": "cpu",
}
EXCHANGE = {
    "shells": {1: 0.1},
    "bonds": None,
    "onsite": None,
    "site_fields": None,
    "field": (0, 0, 0.1),
    "device": "cpu",
}


def evaluate(atoms, calculator):
    atoms.calc = calculator
    energy, forces = atoms.get_potential_energy(), get_magnetic_forces(atoms)
    assert np.isfinite(energy)
    assert np.isfinite(forces).all()
    return energy


@settings(quick, max_examples=60)
@given(st.data())
def test_kondo(choice):
    atoms, arguments = lattice(), one_wrong(KONDO, choice.draw)
    attempt(lambda: evaluate(atoms, KondoEDCalculator(**arguments)), atoms)


@settings(quick, max_examples=40)
@given(st.data())
def test_exchange(choice):
    atoms, arguments = lattice(), one_wrong(EXCHANGE, choice.draw)
    attempt(lambda: evaluate(atoms, ExchangeCalculator(**arguments)), atoms)


@quick
@given(numbers, numbers, junk, numbers)
def test_bonds(i, j, cell, matrix):
    atoms = lattice()
    for bond in ((i, 1, (0, 0, 0), 0.1), (0, j, (0, 0, 0), 0.1), (0, 1, cell, 0.1), (0, 1, (0, 0, 0), matrix), i):
        attempt(lambda bond=bond: evaluate(atoms, ExchangeCalculator(bonds=[bond])), atoms)


@quick
@given(st.sampled_from(sorted(KONDO)), numbers)
def test_set(name, value):
    if name == "device":  # fixed at construction
        return
    atoms = lattice()
    calc = KondoEDCalculator(**KONDO)
    reference = evaluate(atoms, calc)
    if attempt(lambda: calc.set(**{name: value}) or True, atoms) is None:
        assert atoms.get_potential_energy() == reference
    else:
        attempt(lambda: evaluate(atoms, calc), atoms)


@quick
@given(numbers, numbers)
def test_potentials(value, other):
    atoms = lattice()
    for build in (
        lambda: potentials.Zeeman(value),
        lambda: potentials.UniaxialAnisotropy(value),
        lambda: potentials.UniaxialAnisotropy(0.1, axis=value),
        lambda: potentials.Foreign(value),
        lambda: potentials.Zeeman((0, 0, 1)) + value,
        lambda: potentials.ExponentialHopping(value, 1.0, 1.0),
        lambda: potentials.ExponentialHopping(1.0, value, other),
        lambda: potentials.ExponentialHopping(1.0, 1.0, 1.0, taper=value),
        lambda: value,
    ):
        attempt(lambda build=build: evaluate(atoms, _calculator(build())), atoms)
    attempt(lambda: SpinCalculator(potentials.Zeeman((0, 0, 1)), device=value))
    attempt(lambda: potentials.Zeeman((0, 0, 1)).bind(value))


def _calculator(potential):
    if isinstance(potential, potentials.ExponentialHopping):
        return KondoEDCalculator(hopping=potential, cutoff=1.2, J=1.0, filling=0.3, temperature=0.1)
    return SpinCalculator(potential)


def test_moments_that_are_missing_or_broken():
    for moments in (None, np.zeros(4), np.full(4, np.nan), np.full((4, 3), np.inf)):
        for calculator in (KondoEDCalculator(**KONDO), ExchangeCalculator(**EXCHANGE)):
            atoms = lattices.square(size=(2, 2))
            if moments is not None:
                atoms.arrays["initial_magmoms"] = moments
            assert attempt(lambda atoms=atoms, calc=calculator: evaluate(atoms, calc), atoms) is None


def test_broken_structures():
    for damage in (
        lambda atoms: atoms.positions.fill(np.nan),
        lambda atoms: atoms.positions.fill(0.0),
        lambda atoms: atoms.cell.array.fill(np.nan),
        lambda atoms: atoms.cell.array.fill(0.0),
        lambda atoms: atoms.cell.array.__setitem__(1, atoms.cell.array[0]),
    ):
        for calculator in (KondoEDCalculator(**KONDO), ExchangeCalculator(**EXCHANGE)):
            atoms = lattice()
            damage(atoms)
            attempt(lambda atoms=atoms, calc=calculator: evaluate(atoms, calc), atoms)
        for quantity in (analysis.topological_charge, analysis.structure_factor, plot.texture):
            atoms = lattice()
            damage(atoms)
            attempt(lambda atoms=atoms, quantity=quantity: quantity(atoms), atoms)


DYNAMICS = {
    "timestep": 0.1,
    "damping": 0.1,
    "temperature_K": None,
    "kT": 0.01,
    "gamma": 1.0,
    "integrator": "sib",
    "seed": 1,
    "trajectory": None,
    "logfile": None,
    "loginterval": 1,
    "restart": None,
    "restart_interval": 100,
    "field": (0, 0, 0.1),
    "pinned": None,
    "steps": 1,
}


@settings(quick, max_examples=80)
@given(choice=st.data())
def test_dynamics(choice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = lattice()
    atoms.calc = ExchangeCalculator(**EXCHANGE)
    arguments = one_wrong(DYNAMICS, choice.draw)
    steps = arguments.pop("steps")

    def run():
        dynamics = LLGDynamics(atoms, **arguments)
        return dynamics.run(steps)

    attempt(run, atoms)
    assert finite_moments(atoms)


@quick
@given(numbers)
def test_dynamics_of_what(atoms):
    attempt(lambda: LLGDynamics(atoms, timestep=0.1))
    attempt(lambda: SpinMinimizer(atoms))
    attempt(lambda: suggest_timestep(atoms))


MINIMIZER = {
    "trajectory": None,
    "logfile": None,
    "memory": 20,
    "max_rotation": 0.5,
    "pinned": None,
    "nudge": None,
    "seed": 1,
    "fmax": 1e-6,
    "steps": 5,
}


@settings(quick, max_examples=60)
@given(choice=st.data())
def test_minimizer(choice, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    atoms = lattice()
    atoms.calc = ExchangeCalculator(**EXCHANGE)
    arguments = one_wrong(MINIMIZER, choice.draw)
    run = {name: arguments.pop(name) for name in ("fmax", "steps")}
    attempt(lambda: SpinMinimizer(atoms, **arguments).run(**run), atoms)
    assert finite_moments(atoms)


def test_tools_without_calculator_or_moments():
    bare, empty = lattice(), lattices.square(size=(2, 2))
    empty.calc = ExchangeCalculator(**EXCHANGE)
    for atoms in (bare, empty, Atoms()):
        for tool in (
            lambda a: LLGDynamics(a, timestep=0.1).run(1),
            lambda a: SpinMinimizer(a).run(steps=1),
            suggest_timestep,
            get_magnetic_forces,
        ):
            with pytest.raises(KLMError):
                tool(atoms)


@settings(quick, max_examples=40)
@given(numbers, numbers)
def test_analysis(first, second):
    atoms = lattice()
    for call in (
        lambda: analysis.topological_charge(atoms, per=first),
        lambda: analysis.topological_charge(atoms, triangles=second),
        lambda: analysis.structure_factor(first),
        lambda: analysis.structure_factor(atoms, cell=second),
        lambda: analysis.structure_factor(atoms, q_max=_moderate(first)),
        lambda: analysis.structure_factor_at(atoms, first),
        lambda: analysis.structure_factor_at(atoms, [(0, 0, 0)], cell=first),
        lambda: analysis.bragg_peaks(first),
        lambda: analysis.bragg_peaks(atoms, number=second),
        lambda: analysis.magnetisation(first),
        lambda: analysis.topological_charge(first),
        lambda: analysis.topological_charge_density(second),
        lambda: analysis.triangulate(first),
    ):
        found = attempt(call, atoms)
        if isinstance(found, analysis.StructureFactor):
            found = found.intensity
        if isinstance(found, float | np.ndarray):
            assert np.isfinite(found).all()


def _moderate(value):
    """A large disc of wave vectors is no error, but takes long."""
    return 1.0 if isinstance(value, float | int) and value > 50 else value


@quick
@given(value=numbers)
def test_data(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    attempt(lambda: data.read(value))
    attempt(lambda: data.write(value, lattice()))
    attempt(lambda: data.write("frames.traj", value))
    attempt(lambda: data.write("frames.extxyz", value))


@quick
@given(content=st.binary(max_size=200), ending=st.sampled_from([".traj", ".extxyz", ".xyz"]))
def test_damaged_files(content, ending, tmp_path):
    path = Path(tmp_path, f"damaged{ending}")
    path.write_bytes(content)
    attempt(lambda: data.read(path))
    attempt(lambda: data.FrameWriter(path, append=True, last_step=1).close())


@settings(quick, max_examples=10)
@given(length=st.integers(0, 3000), ending=st.sampled_from([".traj", ".extxyz"]))
def test_files_cut_short(length, ending, tmp_path):
    path = Path(tmp_path, f"short{ending}")
    data.write(path, [lattice()] * 3)
    path.write_bytes(path.read_bytes()[:length])
    attempt(lambda: data.read(path))


@settings(quick, max_examples=20)
@given(value=numbers)
def test_plot(value, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    atoms = lattice()
    for call in (
        lambda: plot.texture(value),
        lambda: plot.texture(atoms, ax=value) if value is not None else None,
        lambda: plot.structure_factor(value),
        lambda: plot.bands(value),
        lambda: plot.time_series(value),
        lambda: plot.animate(value, "a.gif"),
        lambda: plot.animate([atoms], value),
        lambda: plot.animate([atoms], "a.gif", fps=value),
        lambda: plot.write_ovito(value, "a.extxyz"),
        lambda: plot.write_ovito(atoms, value),
    ):
        attempt(call, atoms)
    plt.close("all")


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_functions_of_the_user_that_fail():
    """Their own error is told, with what they are given and must return."""
    for function, words in (
        (lambda r: np.exp(-r), "NumPy"),
        (lambda r: r.length, "AttributeError"),
        (lambda _: {}[0], "KeyError"),
        (lambda _: 1.0, "one number for each distance"),
    ):
        calc = KondoEDCalculator(function, J=1.0, filling=0.3, temperature=0.1, cutoff=1.2)
        with pytest.raises(KLMError, match=words) as caught:
            evaluate(lattice(), calc)
        assert "torch" in caught.value.remedy
    for function, words in (
        (lambda r: r.length, "AttributeError"),
        (lambda _: None, "shape"),
        (lambda r: r[3], "Index"),
    ):
        with pytest.raises(KLMError, match=words):
            evaluate(lattice(), ExchangeCalculator({1: function}))


@pytest.mark.parametrize("shell", ["J1", 0, -1, 1.5, True, None, (1, 2)])
def test_shell_numbers_are_checked_where_they_are_given(shell):
    for build in (
        lambda: ExchangeCalculator({shell: 0.01}),
        lambda: potentials.ExchangeOfDistance({shell: potentials.Exponential(0.01, 1.0, 1.0)}),
        lambda: KondoEDCalculator({shell: 1.0}, J=1.0, filling=0.3),
    ):
        with pytest.raises(KLMError, match="not a shell number"):
            build()


def test_texts_are_no_directions():
    for build in (lambda: potentials.UniaxialAnisotropy(1e-3, axis="z"), lambda: potentials.Zeeman("z")):
        with pytest.raises(KLMError) as caught:
            build()
        assert "(0, 0, 1)" in caught.value.remedy


@pytest.mark.parametrize("arguments", [{"path": "GZZ"}, {"path": 5}, {"path": "GX", "npoints": "many"}])
def test_paths_of_bands(arguments):
    atoms = lattice()
    atoms.calc = KondoEDCalculator({1: 1.0}, J=1.0, filling=0.3, temperature=0.1)
    with pytest.raises(KLMError, match="cannot be used"):
        atoms.calc.band_structure(atoms, **arguments)


def test_potentials_are_summed_by_sum():
    terms = [potentials.Zeeman((0, 0, 1)), potentials.Exchange({1: 0.1}), potentials.Zeeman((0, 1, 0))]
    atoms = lattice()
    energies = [evaluate(atoms, SpinCalculator(term)) for term in terms]
    assert evaluate(atoms, SpinCalculator(sum(terms))) == pytest.approx(sum(energies), abs=1e-12)
    with pytest.raises(TypeError):
        _ = 1 + terms[0]
