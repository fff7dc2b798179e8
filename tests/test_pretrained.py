"""The packaged networks: what their cards say, and that they are as good as that on a case solved here."""

import json
import warnings

import numpy as np
import pytest
from ase.data import chemical_symbols

from ase_klm import (
    ECNNCalculator,
    KLMError,
    KLMWarning,
    KondoEDCalculator,
    LLGDynamics,
    MagNetCalculator,
    SpinCalculator,
    get_magnetic_forces,
    get_moments,
    lattices,
    textures,
)
from ase_klm.data.configurations import configure
from ase_klm.models import files
from ase_klm.potentials import cri3_model

NAMES = [name for name in files.available() if "lattice" in files.card(name)]
BUILDERS = {2: lattices.chain, 4: lattices.square, 6: lattices.triangular, 3: lattices.honeycomb}
"""By the number of nearest neighbours."""


def lattice_of(network, cells):
    """A small structure of the network's lattice, or a skip where it is none of the simple ones."""
    stars = network.lattice.stars
    builder = BUILDERS.get(sum(shell == 1 for shell in stars[0].shells))
    if builder is None or len({star.species for star in stars}) > 1:
        pytest.skip("only simple lattices are solved here")
    atoms = builder(size=cells if builder is lattices.chain else (cells, cells), symbol=stars[0].species)
    network.lattice.place(atoms)
    return atoms


@pytest.mark.parametrize("name", NAMES)
def test_cards(name):
    card = files.card(name)
    network = files.load(name)
    assert card["architecture"] == type(network).__name__
    assert card["architecture"] in files.ARCHITECTURES
    assert card["hyperparameters"] == json.loads(json.dumps(network.hyperparameters))
    assert card["units"] == files.UNITS
    assert card["version"]
    assert all(star["species"] in chemical_symbols for star in card["lattice"]["stars"])
    hamiltonian = card["hamiltonian"]
    assert hamiltonian["hopping"]
    assert isinstance(hamiltonian["J"], float)
    assert (hamiltonian.get("filling") is None) != (hamiltonian.get("mu") is None)
    errors = card["errors"]
    assert 0 < errors["transverse"] < errors["magnetic_forces"]
    assert 0 < errors["energy"] < errors["magnetic_forces"]
    assert 0.5 < errors["correlation"] < 1
    assert errors["configurations"] >= 1
    assert card["training"]["configurations"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_those_of_the_card(name):
    card = files.card(name)
    hamiltonian = card["hamiltonian"]
    atoms = lattice_of(files.load(name), 10)
    textures.random(atoms, seed=20261121)
    exact = KondoEDCalculator(
        hopping={int(shell): t for shell, t in hamiltonian["hopping"].items()},
        J=hamiltonian["J"],
        filling=hamiltonian.get("filling"),
        mu=hamiltonian.get("mu"),
        temperature=hamiltonian.get("temperature", 0.0),
        kpts=tuple(3 if periodic else 1 for periodic in atoms.pbc),  # a torus of 30 × 30
    )
    results = []
    for calc in (exact, ECNNCalculator(name)):
        atoms.calc = calc
        results.append((get_magnetic_forces(atoms), atoms.get_potential_energy() / len(atoms)))
    (field, energy), (predicted, predicted_energy) = results
    error = predicted - field
    e = get_moments(atoms)
    across = error - (error * e).sum(1, keepdims=True) * e
    assert (error**2).mean() ** 0.5 < 2 * card["errors"]["magnetic_forces"]
    assert (across**2).mean() ** 0.5 < 2 * card["errors"]["transverse"]
    # one sample, repeated in all directions, scatters more than the independent ones of the card
    assert abs(predicted_energy - energy) < 10 * card["errors"]["energy"]


@pytest.mark.parametrize("name", NAMES)
def test_default_precision_is_enough(name):
    atoms = lattice_of(files.load(name), 12)
    textures.random(atoms, seed=2)
    fields = []
    for dtype in ("float32", "float64"):
        atoms.calc = ECNNCalculator(name, dtype=dtype)
        fields.append(get_magnetic_forces(atoms))
    assert abs(fields[0] - fields[1]).max() < 0.1 * files.card(name)["errors"]["magnetic_forces"]


RANGED = [name for name in NAMES if files.card(name)["architecture"] == "ChebyshevNetwork"]


@pytest.mark.parametrize("name", NAMES)
def test_spins_like_those_of_training_pass_without_a_warning(name):
    atoms = lattice_of(files.load(name), 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed, kind in enumerate(("random", "theta-uniform")):
            configure(atoms, kind, np.random.default_rng(seed))
            atoms.calc = ECNNCalculator(name)
            atoms.get_potential_energy()
        LLGDynamics(atoms, timestep=0.5, damping=1.0, kT=0.05, gamma=1.0, seed=1, progress=False).run(40)


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("name", RANGED)
def test_a_warning_near_the_ferromagnet(name, noise):
    """There the field is wrong by 2 to 80 eV/μB."""
    atoms = lattice_of(files.load(name), 12)
    textures.uniform(atoms)
    textures.add_noise(atoms, noise, seed=1)
    atoms.calc = ECNNCalculator(name)
    with pytest.warns(KLMWarning, match="far from those .* trained on"):
        atoms.get_potential_energy()


def test_cri3_model_is_near_its_teacher():
    """Forces and magnetic forces of a structure like those in training, and what the card says of the labels."""
    card = files.card("cri3-model")
    assert "not density functional theory" in card["labels"]
    assert card["units"] == files.ATOMIC_UNITS
    atoms = lattices.cri3_monolayer((2, 2))
    rng = np.random.default_rng(11)
    textures.random(atoms, length=3.0 * (atoms.symbols == "Cr"), seed=rng)
    atoms.positions += rng.uniform(-0.1, 0.1, (len(atoms), 3))
    found = {}
    for name, calc in (("network", MagNetCalculator("cri3-model")), ("model", SpinCalculator(cri3_model()))):
        atoms.calc = calc
        fields = get_magnetic_forces(atoms)
        e = get_moments(atoms) / 3.0
        across = fields - (fields * e).sum(1, keepdims=True) * e
        found[name] = atoms.get_potential_energy() / len(atoms), atoms.get_forces(), across
    (energy, forces, across), expected = found["network"], found["model"]
    assert abs(energy - expected[0]) < 5 * card["errors"]["energy"]
    for values, given, error in zip((forces, across), expected[1:], ("forces", "transverse"), strict=True):
        assert np.sqrt(np.mean((values - given) ** 2)) < 3 * card["errors"][error]
        assert np.sqrt(np.mean((values - given) ** 2)) < 0.2 * np.sqrt(np.mean(given**2))


def test_networks_in_the_wrong_calculator():
    with pytest.raises(KLMError, match="MagNetCalculator"):
        ECNNCalculator("cri3-model").potential  # noqa: B018
    with pytest.raises(KLMError, match="ECNNCalculator"):
        MagNetCalculator("kondo-square").potential  # noqa: B018
