"""Parameters of every potential, function and calculator: written, read again, shown and described."""

import json
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.lj import LennardJones
from ase.io import jsonio
from hypothesis import given, settings
from hypothesis import strategies as st
from test_potentials import ForeignCalculator, Quartic, lattice, terms

from ase_klm import (
    ECNNCalculator,
    ExchangeCalculator,
    KLMError,
    KondoEDCalculator,
    MagNetCalculator,
    SpinCalculator,
    calculators,
    get_moments,
    lattices,
    models,
    potentials,
    set_moments,
)
from ase_klm.models.files import load
from ase_klm.potentials import cri3
from ase_klm.potentials.base import same
from ase_klm.potentials.parameters import Parametrised

PAIR = potentials.Exponential(-0.01, 1.2, 0.4)
FUNCTIONS = {
    "BetheSlater": potentials.BetheSlater(0.02, 0.3, 1.9),
    "Exponential": PAIR,
    "Table": potentials.Table([1.0, 1.5, 2.0], [0.3, 0.1, 0.0]),
    "Tapered": potentials.Tapered(PAIR, 1.0, 3.0),
    "Morse": potentials.Morse(0.3, 1.1, 0.4),
    "Spring": potentials.Spring(2.0, [1.0, 1.1]),
}
BOND_TERMS = {
    "DMAlongBond": potentials.DMAlongBond(PAIR),
    "DMAcrossBond": potentials.DMAcrossBond(PAIR, (0, 1, 1)),
    "DMThroughAtom": potentials.DMThroughAtom(PAIR, "Cr"),
    "Kitaev": potentials.Kitaev(PAIR, np.array([(0, 1, 1), (1, 0, 1), (1, 1, 0.0)])),
    "KitaevThroughLigands": potentials.KitaevThroughLigands(PAIR, "I"),
    "AxialExchange": potentials.AxialExchange(PAIR, (1, 0, 0)),
    "SingleIonAnisotropy": cri3.SingleIonAnisotropy(1e-3),
    "TwoIonAnisotropy": cri3.TwoIonAnisotropy(PAIR),
}


def potentials_that_can_be_read():
    rng = np.random.default_rng(0)
    listed = {name: term for name, term in terms(rng, 18).items() if not isinstance(term, Quartic)}
    shells = {1: [PAIR, BOND_TERMS["DMAlongBond"], BOND_TERMS["Kitaev"]], 2: FUNCTIONS["Table"]}
    return listed | {
        "moving exchange": potentials.ExchangeOfDistance(shells, FUNCTIONS["Tapered"], 3.0),
        "lattice": potentials.LatticeEnergy({1: 5.0, 2: FUNCTIONS["Morse"]}, {1: 0.1}, FUNCTIONS["Tapered"], 3.0),
        "lengths": potentials.MomentLengths(rng.uniform(1, 2, 18), 0.5),
        "sum": listed["Kondo"] + listed["Zeeman"] + listed["exchange by bonds"],
        "weighted": potentials.Scaled(listed["exchange by bonds"], -0.5),
    }


READABLE = potentials_that_can_be_read()


def subclasses(kind):
    for derived in kind.__subclasses__():
        yield derived
        yield from subclasses(derived)


def through_json(values):
    return json.loads(json.dumps(values))


def through_ase(values):
    """ASE turns lists of numbers into arrays, and texts of digits into integer keys."""
    return jsonio.decode(jsonio.encode(values))


def assert_same(a, b):
    assert type(a) is type(b)
    for entry in fields(a):
        if entry.init:
            assert same(getattr(a, entry.name), getattr(b, entry.name)), entry.name


def test_every_class_of_the_package_is_covered():
    """A new term, function or rule for bonds gets an example above, or a reason here."""
    examples = [*READABLE.values(), *FUNCTIONS.values(), *BOND_TERMS.values(), potentials.ExponentialHopping(1, 1, 1)]
    covered = {type(example).__name__ for example in examples}
    elsewhere = {"CrI3Exchange", "CrI3Lattice", "Network", "Atomistic", "Foreign"}  # in tests of their own below
    interfaces = {"Potential", "DistanceFunction", "BondTerm"}
    known = {kind.__name__ for kind in subclasses(Parametrised) if kind.__module__.startswith("ase_klm.")}
    assert known == covered | elsewhere | interfaces


@pytest.mark.parametrize("way", [through_json, through_ase])
@pytest.mark.parametrize("name", READABLE)
def test_potentials_come_back(name, way, rng):
    """Equal parameters, equal energies; written again, equal texts."""
    potential = READABLE[name]
    found = potentials.from_dict(way(potential.todict()))
    assert type(found) is type(potential)
    assert found.todict() == potential.todict()
    assert repr(found) == repr(potential)
    for one, other in zip(getattr(potential, "terms", [potential]), getattr(found, "terms", [found]), strict=True):
        assert_same(one, other)
    atoms = lattice(rng)
    before, after = (p.bind(atoms).evaluate() for p in (potential, found))
    assert torch.equal(before.energy, after.energy)
    assert torch.equal(before.magnetic_forces, after.magnetic_forces)


@pytest.mark.parametrize("name", [*FUNCTIONS, *BOND_TERMS])
def test_functions_and_rules_for_bonds_come_back(name):
    thing = (FUNCTIONS | BOND_TERMS)[name]
    found = potentials.from_dict(through_json(thing.todict()))
    assert_same(thing, found)
    if name in FUNCTIONS:
        r = torch.linspace(0.9, 2.5, 2, dtype=torch.float64)
        assert torch.equal(thing(r), found(r))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=9, max_size=9),
    st.floats(1e-3, 1e3),
    st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3), st.floats(-1, 1)), max_size=4),
)
def test_numbers_come_back_to_the_last_bit(matrix, number, bonds):
    M = np.reshape(matrix, (3, 3))
    exchange = potentials.Exchange(
        {1: number, 3: M + M.T}, [(i, i + 1, (n, 0, 0), J * M) for i, n, J in bonds], site_fields=M[0]
    )
    function = potentials.Exponential(number, number, number)
    for thing in (exchange, function, potentials.UniaxialAnisotropy(M[0], axis=(0, 0, 1)) + exchange):
        assert potentials.from_dict(through_json(thing.todict())).todict() == thing.todict()


def test_the_material_model_comes_back():
    atoms = lattices.cri3_monolayer()
    set_moments(atoms, 3.0 * (atoms.symbols == "Cr"))
    model = potentials.cri3_model()
    found = potentials.from_dict(through_json(model.todict()))
    assert found.bind(atoms).evaluate().energy == model.bind(atoms).evaluate().energy


# Calculators.


def plain_calculators():
    return {
        "spin": SpinCalculator(READABLE["sum"]),
        "exchange": ExchangeCalculator({1: -0.01, 2: PAIR}, bonds=[(0, 1, (0, 0, 0), np.eye(3))], field=(0, 0, 0.1)),
        "pairs": ExchangeCalculator(function=PAIR, cutoff=2.5, field=np.full((18, 3), 0.1)),
        "kondoed": KondoEDCalculator({1: 1.0}, 2.0, filling=np.float64(0.3), temperature=0.1, kpts=np.array([2, 1, 1])),
        "hopping": KondoEDCalculator(
            potentials.ExponentialHopping(1.0, 1.15, 0.5, (2.0, 2.4)), 2.0, mu=-1.0, temperature=0.1, cutoff=2.5
        ),
    }


@pytest.mark.parametrize("way", [through_json, through_ase])
@pytest.mark.parametrize("name", plain_calculators())
def test_calculators_come_back(name, way, rng):
    calculator, atoms = plain_calculators()[name], lattice(rng)
    found = calculators.from_dict(way(calculator.todict()))
    assert type(found) is type(calculator)
    assert found.todict() == calculator.todict()
    assert repr(found) == repr(calculator)
    assert found.get_potential_energy(atoms) == calculator.get_potential_energy(atoms)


@pytest.mark.filterwarnings("ignore::ase_klm.KLMWarning")
def test_networks_come_back_by_name_and_checksum(tmp_path):
    atoms = lattices.square((20, 20))
    set_moments(atoms, [(0, 0, 1.0)] * 400)
    packaged = ECNNCalculator("kondo-square", field=(0, 0, 0.1), filling=0.47)
    values = through_json(packaged.todict())
    assert values["model"]["network"] == "kondo-square"
    found = calculators.from_dict(values)
    assert found.get_potential_energy(atoms) == packaged.get_potential_energy(atoms)
    values["model"]["sha256"] = "0" * 64
    with pytest.raises(KLMError, match="not the network that was used"):
        calculators.from_dict(values)
    network = load("kondo-square")
    models.save(tmp_path / "mine.safetensors", network)
    own = ECNNCalculator(tmp_path / "mine.safetensors")
    assert calculators.from_dict(through_json(own.todict())).todict() == own.todict()
    with torch.no_grad():
        next(network.parameters()).mul_(1.01)  # trained further: the name of the file is no longer its name
    with pytest.raises(KLMError, match=r"weights of this ChebyshevNetwork are not kept[^$]*models\.save"):
        calculators.from_dict(ECNNCalculator(network).todict())


def test_networks_of_atoms_come_back():
    calculator = MagNetCalculator("cri3-model")
    found = calculators.from_dict(through_json(calculator.todict()))
    assert found.todict() == calculator.todict()
    assert "cri3-model" in found.describe()


def strength(r):
    return -0.1 * np.outer(r, r)


@dataclass(frozen=True)
class MyFunction(potentials.DistanceFunction):
    """M(r) = scale/r."""

    scale: float

    def __call__(self, r):
        return self.scale / r


@dataclass(frozen=True, eq=False)
class OnALattice(potentials.Potential):
    """E = 0: a potential that knows a structure."""

    lattice: Atoms

    def bind(self, atoms, device="cpu"):
        raise NotImplementedError


@pytest.mark.parametrize("way", [through_json, through_ase])
def test_structures_come_back(way):
    atoms = lattice(np.random.default_rng(0))
    potential = OnALattice(atoms)
    found = potentials.from_dict(way(potential.todict())).lattice
    assert found == atoms
    np.testing.assert_array_equal(get_moments(found), get_moments(atoms))
    assert repr(potential) == "OnALattice(lattice=<Atoms Fe18>)"


def test_what_files_name_but_do_not_keep():
    """Writing never fails; reading says what to do."""
    for potential, what in [
        (potentials.Exchange({1: strength}), r"Exchange\.shells\[1\] is a Python function, test_parameters\.strength"),
        (potentials.Exchange({1: lambda r: -0.1 * np.outer(r, r)}), "Python function"),
        (potentials.Kondo(lambda r: 1 / r, 1.0, mu=0.0, cutoff=2.0), r"Kondo\.hopping"),
        (potentials.Foreign(ForeignCalculator()), "calculator of another package"),
        (Quartic(), "no potential"),
    ]:
        written = through_json(potential.todict())
        with pytest.raises(KLMError, match=what):
            potentials.from_dict(written)
    mine = potentials.ExchangeOfDistance({1: MyFunction(0.3)})
    assert potentials.from_dict(through_json(mine.todict())).shells[1] == (MyFunction(0.3),)


@pytest.mark.parametrize(
    "values",
    [
        None,
        {},
        {"class": "Zeeman", "fields": 1},
        {"class": "Zeeman"},
        {"class": "os.system"},
        {"class": "Zeeman", "field": "up"},
        {"class": ["Zeeman"]},
        LennardJones(epsilon=1.0).todict(),
    ],
)
def test_other_things_are_refused(values):
    for from_dict in (potentials.from_dict, calculators.from_dict):
        with pytest.raises(KLMError):
            from_dict(values)


def test_a_potential_put_in_by_hand_is_the_one_that_is_written():
    calculator = ExchangeCalculator({1: -1.0})
    calculator.potential = potentials.Zeeman((0, 0, 0.4))
    assert calculator.todict() == {"class": "SpinCalculator", "potential": {"class": "Zeeman", "field": [0, 0, 0.4]}}
    assert repr(calculator) == "SpinCalculator(Zeeman(field=(0, 0, 0.4)))"
    calculator.set(shells={1: -2.0})
    assert repr(calculator) == "ExchangeCalculator(shells={1: -2})"
    calculator.parameters["field"] = (0, 0, 1)
    assert calculator.todict()["field"] == [0, 0, 1]


# Words.


def test_repr_is_short():
    assert repr(potentials.Zeeman((0, 0, 0.005))) == "Zeeman(field=(0, 0, 0.005))"
    exchange = potentials.Exchange({1: -0.0216}, bonds=[(0, 1, (0, 0, 0), 1.0)] * 9, onsite=np.zeros((18, 3, 3)))
    assert repr(exchange) == (
        "Exchange(shells={1: -0.0216}, bonds=[(0, 1, (0, 0, 0), 1), ... 9 entries], onsite=<array (18, 3, 3)>)"
    )
    assert repr(exchange + potentials.Zeeman((0, 0, 1))).endswith(" + Zeeman(field=(0, 0, 1))")
    assert repr(ExchangeCalculator({1: PAIR})) == (
        "ExchangeCalculator(shells={1: Exponential(value=-0.01, r0=1.2, decay=0.4)})"
    )
    assert repr(KondoEDCalculator({1: 1.0}, J=2.0, mu=0.0)) == "KondoEDCalculator(hopping={1: 1}, J=2, mu=0)"
    assert repr(potentials.Exchange({1: strength})) == "Exchange(shells={1: strength})"
    assert all(len(repr(thing)) < 500 for thing in READABLE.values())


@pytest.mark.parametrize("name", READABLE)
def test_descriptions_hold_formula_parameters_and_units(name):
    potential = READABLE[name]
    text = potential.describe()
    for term in getattr(potential, "terms", [potential]):
        assert f"{type(term).__name__}: " in text
        for entry in fields(term):
            if getattr(term, entry.name) is not None:
                assert f"  {entry.name} = " in text
    assert "eV" in text
    assert all(" = " in part.split(": ", 1)[1].split("\n")[0] for part in text.split("\n\n")[1:])  # E = ..., H = ...
    assert max(map(len, text.splitlines())) <= 120


def test_descriptions_name_functions_and_networks():
    text = ExchangeCalculator({1: PAIR}).describe()
    assert "M(r) = M0 exp(-(r - r0)/decay)" in text
    assert "every bond once" in text
    text = ECNNCalculator().describe()
    assert "45821 weights in float32" in text
    assert "J 7.0" in text or "J 7" in text
    assert models.load("kondo-square-ecnn").describe() in ECNNCalculator("kondo-square-ecnn").describe().replace(
        "\n  ", "\n"
    )
