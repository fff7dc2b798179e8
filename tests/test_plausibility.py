"""Numbers in another unit are doubted, with the value and what was probably meant; legitimate ones are not."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase import units as ase_units
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from ase_klm import (
    ExchangeCalculator,
    KLMError,
    KLMWarning,
    LLGDynamics,
    SpinCalculator,
    get_moments,
    lattices,
    potentials,
    set_moments,
    textures,
    units,
)
from ase_klm.data.sampling import sample
from ase_klm.dynamics import SpinLatticeDynamics
from ase_klm.plausibility import RULES, doubts_about, doubts_about_structure, nearest_neighbours
from ase_klm.potentials.base import doubts_of

quick = settings(derandomize=True, deadline=None, max_examples=60)


def square(length=1.0, **options):
    atoms = lattices.square((3, 3), **options)
    textures.random(atoms, seed=1, length=length)
    return atoms


def doubts(potential, atoms=None):
    atoms = square() if atoms is None else atoms
    return list(doubts_of(potential, atoms)) + list(doubts_about_structure(atoms))


def kondo(t=1.0, J=1.0, **options):
    given_mu = "mu" in options
    return potentials.Kondo({1: t}, J, **({} if given_mu else {"filling": 0.4}), **options)


ABSURD = {
    "kelvin for electrons": (lambda: kondo(temperature=300.0), "temperature of 300 eV", "0.02585 eV"),
    "nitrogen for electrons": (lambda: kondo(J=7.0, temperature=77.0), "temperature of 77 eV", "0.006635 eV"),
    "hopping in meV": (lambda: kondo(t=1000.0), "hopping of 1000 eV", "give 1 eV"),
    "J in meV": (lambda: kondo(J=-700.0), "J of 700 eV", "give 0.7 eV"),
    "mu in meV": (lambda: kondo(mu=-3500.0), "mu of 3500 eV", "give 3.5 eV"),
    "exchange in meV": (lambda: potentials.Exchange({1: -10.0}), "shell 1 of 10 eV", "give 0.01 eV"),
    "a bond in meV": (
        lambda: potentials.Exchange(bonds=[(0, 1, (0, 0, 0), np.diag([1.0, 2.0, 21.6]))]),
        "of 21.6 eV",
        "0.0216 eV",
    ),
    "exchange of distance in meV": (
        lambda: potentials.ExchangeOfDistance({1: potentials.Exponential(10.0, 1.0, 0.4)}),
        "exchange at 1 Å of 10 eV",
        "0.01 eV",
    ),
    "anisotropy in μeV": (lambda: potentials.UniaxialAnisotropy(200.0), "anisotropy of 200 eV", "0.2 eV"),
    "tesla": (lambda: potentials.Exchange({1: 0.01}) + potentials.Zeeman((0, 3, 4)), "field of 5 eV/μB", "0.0002894"),
    "tesla on electrons": (lambda: kondo() + potentials.Zeeman((0, 0, -5)), "field of 5 eV/μB", "5 T"),
    "a cutoff in nm": (
        lambda: potentials.ExchangeOfDistance(function=potentials.Exponential(0.01, 1.0, 0.4), cutoff=0.5),
        "cutoff of 0.5 Å",
        "give 5 Å",
    ),
    "a preferred length in J/T": (
        lambda: potentials.MomentLengths(2.2 * 9.274e-24, 1.0), "preferred length of 2.04e-23", "2.2 μB"
    ),
    "no electron": (lambda: potentials.Kondo({1: 1.0}, 1.0, filling=0.01), "rounds to no electron", "0.0555556"),
    "no hole": (lambda: potentials.Kondo({1: 1.0}, 1.0, filling=0.99), "all states filled", "0.944444"),
}  # fmt: skip


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_parameters(case):
    build, what, meant = ABSURD[case]
    found = doubts(build())
    assert len(found) == 1
    assert what in found[0].what
    assert meant in found[0].remedy


STRUCTURES = {
    "moments in J/T": (lambda: square(9.274e-24), "moment of 9.274e-24 μB", "give 1 μB"),
    "moments of a cell": (lambda: square(200.0), "moment of 200 μB", "check its unit"),
    "positions in nm": (lambda: square(a=0.287), "neighbours of 0.287 Å", "give 2.87 Å"),
    "positions in metres": (
        lambda: Atoms("Fe2", [(0, 0, 0), (0, 0, 2e-10)], cell=3e-10 * np.eye(3), pbc=True), "within 3e-10 Å", "1e10"
    ),
    "one place": (lambda: square() + square()[4:5], "atoms 4 and 9 are 0 Å apart", "get_duplicate_atoms"),
    "all twice": (lambda: square() + square(), "are 0 Å apart", "remove one"),
}  # fmt: skip


@pytest.mark.parametrize("case", STRUCTURES)
def test_absurd_structures(case):
    build, what, meant = STRUCTURES[case]
    (found,) = doubts_about_structure(build())
    assert what in found.what
    assert meant in found.remedy


def test_an_atom_on_both_faces_of_a_skewed_cell(rng):
    """The usual slip with coordinates 0 and 1, which no distance within the cell shows."""
    for _ in range(20):
        cell = 3 * np.eye(3) + rng.uniform(-1, 1, (3, 3))
        cell[1] += 3 * cell[0]
        face = np.array([rng.integers(2), rng.integers(2), 1.0])
        scaled = [(0, 0, 0), (0.5, 0.5, 0.5), face * (1 - 1e-4)]
        atoms = Atoms("Fe3", scaled_positions=scaled, cell=cell, pbc=True)
        (found,) = doubts_about_structure(atoms)
        assert found.what.startswith(("atoms 0 and 2", "atoms 2 and 0"))
        atoms.pbc = False
        assert not list(doubts_about_structure(atoms))


@quick
@given(st.data())
def test_nearest_neighbours_are_those_of_all_images(choice):
    rng = np.random.default_rng(choice.draw(st.integers(0, 10**6)))
    cell = 4 * np.eye(3) + rng.uniform(-1.5, 1.5, (3, 3))
    atoms = Atoms("Fe5", rng.uniform(-5, 5, (5, 3)), cell=cell, pbc=rng.random(3) < 0.6)
    i, j, distance, _ = nearest_neighbours(atoms)
    assert np.array_equal(i, np.arange(5))
    images = np.stack(np.meshgrid(*[np.arange(-6, 7) if p else [0] for p in atoms.pbc]), -1).reshape(-1, 3) @ cell
    vectors = atoms.positions[:, None, None] - atoms.positions[None, :, None] + images
    lengths = np.linalg.norm(vectors, axis=-1)
    lengths[lengths < 1e-9] = np.inf
    assert distance.min() == pytest.approx(lengths.min())
    closest = int(distance.argmin())
    assert lengths[i[closest], j[closest]].min() == pytest.approx(lengths.min())


def test_a_lattice_of_one_site():
    for build in (lattices.chain, lattices.triangular, lattices.simple_cubic):
        assert nearest_neighbours(build()).distance == pytest.approx([1.0])
    assert nearest_neighbours(Atoms("Fe", [(0, 0, 0)])) is None
    assert not list(doubts_about_structure(Atoms("Fe", [(0, 0, 0)], magmoms=[1.0])))


scales = st.floats(0.001, 1.0)


@quick
@given(t=st.floats(0.01, 50.0), ratio=st.floats(0.1, 10.0), thermal=st.floats(0.0, 2.0), mu=st.floats(-8, 8))
def test_electrons_in_any_unit_of_energy_are_not_doubted(t, ratio, thermal, mu):
    J = min(t * ratio, 100.0)
    atoms = square()
    assert not doubts(kondo(t, J, temperature=thermal * t), atoms)
    assert not doubts(potentials.Kondo({1: t, 2: -0.3 * t}, -J, mu=mu * t, temperature=thermal * t), atoms)


@quick
@given(M=st.floats(1e-6, 5.0), K=st.floats(0, 1.0), field=st.floats(0.0, 8.0), length=st.floats(0.01, 10.0))
def test_spin_models_in_any_unit_of_energy_are_not_doubted(M, K, field, length):
    """Up to the saturation field of an antiferromagnet."""
    model = potentials.Exchange({1: M, 2: -0.5 * M}) + potentials.UniaxialAnisotropy(K * M)
    assert not doubts(model + potentials.Zeeman((0, 0, field * M)), square(length))
    assert not doubts(model + potentials.Zeeman((0, 0, 100 * units.TESLA)), square(length))


@quick
@given(factor=st.floats(1.01, 1e6), quantity=st.sampled_from(sorted(RULES)))
def test_every_rule_has_two_sides(factor, quantity):
    rule = RULES[quantity]
    inside = [x for x in (rule.least, rule.most) if 0 < x < np.inf]
    assert inside
    assert not list(doubts_about(quantity, [0.0, *inside, *(-x for x in inside)]))
    for outside in ([rule.most * factor] if rule.most < np.inf else []) + ([rule.least / factor] if rule.least else []):
        (found,) = doubts_about(quantity, [inside[0], -outside])
        assert f"{outside:.4g} {rule.unit}" in found.what
        if rule.other_unit:
            assert f"give {outside * rule.factor:.4g} {rule.unit}" in found.remedy
        assert rule.most == np.inf or not list(doubts_about(quantity, outside, limit=outside)) or outside < rule.least


@quick
@given(filling=st.floats(0, 1), sizes=st.tuples(st.integers(1, 5), st.integers(1, 3)))
def test_fillings(filling, sizes):
    atoms = lattices.chain(sizes[0])
    textures.random(atoms, seed=1)
    states = 2 * sizes[0] * sizes[1]
    found = doubts(potentials.Kondo({1: 1.0}, 1.0, filling=filling, kpts=(sizes[1], 1, 1)), atoms)
    assert bool(found) == (filling not in (0, 1) and round(filling * states) in (0, states))
    if found:
        proposed = float(found[0].remedy.split("filling = ")[1].split(";")[0])
        assert round(proposed * states) in (1, states - 1)


@pytest.mark.parametrize("build", [lambda: bulk("Fe", cubic=True), lambda: lattices.cri3_monolayer((2, 2))])
def test_materials_are_not_doubted(build):
    atoms = build()
    set_moments(atoms, np.where(atoms.numbers[:, None] > 50, 1e-9, 2.2) * (0, 0, 1.0))  # what DFT leaves on iodine
    model = potentials.Exchange({1: -0.0216}) + potentials.UniaxialAnisotropy(5e-5)
    assert not doubts(model + potentials.Zeeman((0, 0, 10 * units.TESLA)), atoms)


def recorded(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message).split("\n")[0] for w in caught if w.category is KLMWarning], caught


def test_a_calculator_tells_once_and_where():
    atoms = square()
    atoms.calc = calc = ExchangeCalculator({1: 10.0}, field=(0, 0, 0.1))

    def use():
        atoms.get_potential_energy()
        for number in range(3):  # other moments, another field, moved atoms, another structure
            set_moments(atoms, get_moments(atoms)[::-1].copy())
            atoms.get_potential_energy()
            calc.set(field=(0, 0, 0.1 * number))
            atoms.get_potential_energy()
            atoms.rattle(0.001, seed=number)
            atoms.get_potential_energy()
        LLGDynamics(atoms, timestep=1e-3, gamma=1.0).run(2)
        calc.calculate(square()[:6])

    texts, caught = recorded(use)
    assert texts == ["the exchange of shell 1 of 10 eV is implausible"]
    assert caught[0].filename == __file__
    assert "get_potential_energy" in Path(__file__).read_text().splitlines()[caught[0].lineno - 1]
    texts, _ = recorded(lambda: (calc.set(shells={1: 20.0}), atoms.get_potential_energy()))
    assert texts == ["the exchange of shell 1 of 20 eV is implausible"]


def test_the_warning_names_a_way_to_silence_it():
    atoms = square()
    atoms.calc = SpinCalculator(potentials.Exchange({1: 10.0}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", category=KLMWarning)
        atoms.get_potential_energy()
    assert not caught


def test_baths_fields_and_masses_of_dynamics():
    def llg(**options):
        atoms = square()
        atoms.calc = ExchangeCalculator({1: 0.01})
        return recorded(lambda: LLGDynamics(atoms, timestep=0.01 * ase_units.fs, seed=1, **options))[0]

    assert llg(kT=300.0) == ["the kT of 300 eV is implausible"]
    assert llg(temperature_K=0.0259) == ["the temperature_K of 0.0259 K is implausible"]
    assert llg(field=(0, 0, 5.0)) == ["the applied field of 5 eV/μB is implausible"]
    assert llg(kT=0.0259) == llg(temperature_K=300) == llg(temperature_K=0) == llg(field=(0, 0, 5 * units.TESLA)) == []
    assert llg(gamma=1.0, kT=1.0) == []

    def coupled(mass, **options):
        atoms = square()
        atoms.set_masses([mass] * len(atoms))
        atoms.calc = ExchangeCalculator({1: potentials.Exponential(-0.01, 1.0, 0.4)})
        return recorded(lambda: SpinLatticeDynamics(atoms, 0.01 * ase_units.fs, seed=1, **options))[0]

    assert coupled(55.8) == []
    assert coupled(9.27e-26) == ["the mass of 9.27e-26 u is implausible"]
    assert coupled(55.8, spin_temperature_K=0.03, damping=0.1) == ["the spin_temperature_K of 0.03 K is implausible"]


def test_a_sampling_tells_once(tmp_path, capfd):
    """Not again for each configuration, nor in each process."""
    sampling = {"seed": 1, "hopping": {1: 1.0}, "J": 1.0, "filling": 0.48, "temperature": 300.0, "progress": False}
    for workers in (1, 2):
        texts, _ = recorded(lambda n=workers: sample(square(), tmp_path / f"{n}.npz", 2, workers=n, **sampling))
        assert texts == ["the temperature of 300 eV is implausible"]
    assert "implausible" not in capfd.readouterr().err


def test_a_cell_in_metres_is_an_error():
    atoms = bulk("Fe", cubic=True)
    textures.uniform(atoms, (0, 0, 1))
    atoms.set_cell(atoms.cell * 1e-10, scale_atoms=True)
    atoms.calc = ExchangeCalculator({1: -0.02})
    with pytest.warns(KLMWarning, match="multiply them by 1e10"), pytest.raises(KLMError, match="volume"):
        atoms.get_potential_energy()
