"""One contract for networks: losses and errors as they were before it, stress, and a network without an energy."""

import math

import numpy as np
import pytest
import torch
from ase.stress import full_3x3_to_voigt_6_stress
from test_training import heisenberg
from test_training import network as lattice_network
from test_training_atomic import TEACHER, frames_of, incomplete
from test_training_atomic import network as atomic_network
from torch import nn

from ase_klm import (
    ECNNCalculator,
    KLMError,
    KondoEDCalculator,
    MagNetCalculator,
    NetworkCalculator,
    calculators,
    get_magnetic_forces,
    lattices,
    models,
    textures,
)
from ase_klm.data import Frame
from ase_klm.models import files
from ase_klm.models.base import NetworkOnLattice
from ase_klm.models.chebyshev import ChebyshevNetwork
from ase_klm.training import Loss, Modern, Trainer, errors_of, evaluate, predict
from ase_klm.training.dataset import Batch
from ase_klm.training.loss import Spreads
from ase_klm.training.problem import Problem


def generator():
    return torch.Generator().manual_seed(5)


def close(errors, **expected):
    """The numbers of version 0.1, whose sums had another order."""
    assert {name: errors.numbers[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_loss_and_errors_of_spins_are_those_of_version_0_1():
    loss = Loss(energy=2.0, magnetic_forces=3.0, transverse=4.0)
    problem = Problem(lattice_network().double(), heisenberg(5), heisenberg(3, seed=1), loss, Modern())
    found = problem.loss(Batch(0, (0, 2, 3)), generator())
    assert float(found.detach()) == pytest.approx(0.45728165310649405, rel=1e-12)
    validation = problem.validate()
    assert validation.loss == pytest.approx(0.4398318681703252, rel=1e-12)
    assert validation.score == pytest.approx(0.34463214467263337, rel=1e-12)
    close(
        validation.errors,
        energy=0.34293693801033837,
        magnetic_forces=0.1849064181821222,
        transverse=0.15972572649051114,
        correlation=0.9982023451497727,
    )
    problem.calibrate(False)
    assert float(problem.loss(Batch(0, (0, 2, 3)), generator()).detach()) == pytest.approx(
        0.4617965195124506, rel=1e-12
    )
    close(problem.quality(), energy=0.01819724954510216, magnetic_forces=0.2705383709082085)


def test_a_training_of_spins_is_that_of_version_0_1(tmp_path):
    frames = heisenberg(5) + heisenberg(3, size=(4, 6), seed=2)
    recipe = Modern(batch=2, warmup=3, spin_rotations=True)
    options = {"recipe": recipe, "epochs": 3, "seed": 3, "progress": False}
    found = Trainer(lattice_network().double(), frames, heisenberg(3, seed=1), tmp_path, **options).run()
    close(found, energy=0.02756351298413983, magnetic_forces=0.2608613789327498, transverse=0.22480353314168097)


def test_loss_at_chemical_potentials_is_that_of_version_0_1():
    frames = []
    for seed in range(3):
        atoms = lattices.square((4, 4))
        textures.random(atoms, seed=seed)
        atoms.calc = KondoEDCalculator(hopping={1: 1.0}, J=7.0, filling=0.48, temperature=0.1)
        atoms.info["chemical_potential"] = float(atoms.calc.get_property("chemical_potential", atoms))
        frames.append(Frame(atoms))
    hamiltonian = {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48}
    options = {"hamiltonian": hamiltonian, "radius": 2, "channels": 4, "vectors": 2, "hidden": 4}
    model = lattice_network(ChebyshevNetwork, **options).double()
    problem = Problem(model, frames[:2], frames[2:], Loss(), Modern())
    problem.calibrate(False)
    assert float(problem.loss(Batch(0, (0, 1)), generator()).detach()) == pytest.approx(0.37629560509080456, rel=1e-8)
    assert problem.validate().loss == pytest.approx(0.010555478073025518, rel=1e-8)
    close(problem.quality(), energy=0.007744525403833968, transverse=0.03356261791627134)


def test_loss_and_errors_of_atoms_are_those_of_version_0_1():
    loss = Loss(energy=0.5, forces=2.0, magnetic_forces=3.0, transverse=0.7)
    recipe = Modern(spin_rotations=True)
    problem = Problem(atomic_network().double(), incomplete(), frames_of(2), loss, recipe)
    found = problem.loss(Batch(0, (0, 1, 2, 3, 4, 5)), generator())
    assert float(found.detach()) == pytest.approx(1.9903838163407526, rel=1e-12)
    problem.calibrate(False)
    assert float(problem.loss(Batch(0, (5, 2, 3)), generator()).detach()) == pytest.approx(
        1.1418868893318166, rel=1e-12
    )
    assert problem.validate().loss == pytest.approx(1.0880224152109566, rel=1e-12)
    close(
        problem.quality(),
        energy=0.22321722598566912,
        forces=0.04088129305622561,
        magnetic_forces=0.1569133313416535,
        transverse=0.12352716079333871,
        correlation=-0.9999713622766304,
    )


def test_a_training_of_atoms_is_that_of_version_0_1(tmp_path):
    frames = frames_of(4) + frames_of(3, seed=2, n=5)
    recipe = Modern(batch=2, warmup=3, spin_rotations=True)
    options = {"recipe": recipe, "epochs": 3, "seed": 3, "progress": False}
    found = Trainer(atomic_network().double(), frames, frames_of(3, seed=1), tmp_path, **options).run()
    close(found, energy=0.06990650575227257, forces=0.07023261518544308, transverse=0.22680260557176815)


PACKAGED = {
    "kondo-square": (-2150.0534176990996, 5530.99806440318),
    "kondo-square-ecnn": (-2149.8474015231786, 5579.019955632051),
    "kondo-square-published": (-2149.9242057305837, 5526.4580505605045),
    "cri3-model": (0.9919878310188359, 1.0372263758806617),
}
"""Energy, eV, and the sum of the squared magnetic forces, of version 0.1."""


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_networks_are_those_of_version_0_1(name):
    if name == "cri3-model":
        atoms = lattices.cri3_monolayer((2, 2))
        textures.uniform(atoms, (0, 0.6, 0.8))
        atoms.rattle(0.05, seed=1)
        atoms.calc = MagNetCalculator(name, dtype="float64")
        assert np.square(atoms.get_forces()).sum() == pytest.approx(4.933269242034397, rel=1e-9)
    else:
        atoms = lattices.square((24, 24))
        textures.random(atoms, seed=3)
        atoms.calc = ECNNCalculator(name, dtype="float64")
    found = atoms.get_potential_energy(), np.square(get_magnetic_forces(atoms)).sum()
    assert found == pytest.approx(PACKAGED[name], rel=1e-9)
    card = files.card(name)
    assert not {"field", "torque"} & {*card["errors"], *card["training"]["loss"], *card.get("test", {})}
    assert set(card["training"]["loss"]) <= set(vars(Loss()))


# --- stress


def with_stress(number):
    """Frames of the teacher with its stress, by differences of its energy."""
    frames = frames_of(number)
    for frame in frames:
        atoms, matrix = frame.atoms, np.zeros((3, 3))
        for i in range(3):
            for j in range(3):
                energies = []
                for sign in (1, -1):
                    strain = np.zeros((3, 3))
                    strain[i, j] += sign * 0.5e-5
                    strain[j, i] += sign * 0.5e-5
                    moved = atoms.copy()
                    moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
                    x, cell = torch.tensor(moved.positions), torch.tensor(moved.cell.array)[None]
                    energies.append(float(TEACHER.energies(TEACHER.place(atoms), torch.tensor(frame.moments), x, cell)))
                matrix[i, j] = (energies[0] - energies[1]) / 2e-5 / atoms.get_volume()
        atoms.calc.results["stress"] = full_3x3_to_voigt_6_stress(matrix)
    return frames


def test_stress_is_among_the_quantities(tmp_path):
    frames = with_stress(3)
    found, labels = predict(TEACHER, frames)
    assert labels.stress.abs().max() > 1e-2
    assert found.stress.numpy() == pytest.approx(labels.stress.numpy(), abs=1e-7)
    assert evaluate(TEACHER, frames).stress < 1e-7
    model = atomic_network().double()
    before = evaluate(model, frames).stress
    options = {"loss": Loss(energy=0, forces=0, magnetic_forces=0, transverse=0, stress=1.0), "progress": False}
    run = Trainer(model, frames, frames, tmp_path, Modern(learning_rate=0.05, warmup=5), epochs=25, **options)
    assert run.run().stress < 0.5 * before
    assert "stress eV/Å³" in files.card(run.best_path)["errors"]["units"]


# --- units


def test_units_of_the_loss():
    """Absolute weights are those of papers; in spreads errors are divided by the spread of each label."""
    frames = frames_of(4)
    weights = {"energy": 0.5, "forces": 2.0, "magnetic_forces": 3.0, "transverse": 0.7}
    for huber in (math.inf, 0.05):
        spread = Problem(atomic_network().double(), frames, frames, Loss(**weights, huber=huber), Modern())
        plain = Loss(**weights, huber=huber, units="absolute")
        absolute = Problem(atomic_network().double(), frames, frames, plain, Modern())
        assert absolute.spreads == Spreads()
        for problem in (spread, absolute):
            found, given = predict(problem.model, frames)
            energy = (found.energy_densities - given.energy_densities) / problem.spreads.energy
            counted = energy**2
            if huber < math.inf:
                counted = torch.where(energy.abs() < huber, counted, 2 * huber * energy.abs() - huber**2)
            alone = Loss(energy=1.0, forces=0, magnetic_forces=0, transverse=0, huber=huber)
            assert float(alone(found, given, problem.spreads)) == pytest.approx(float(counted.mean()))


def test_spreads_serve_networks_of_spins():
    frames = heisenberg(4)
    problem = Problem(lattice_network().double(), frames, frames, Loss(units="spreads"), Modern())
    densities = np.array([frame.energy / 16 for frame in frames])
    assert problem.spreads.energy == pytest.approx(densities.std())
    assert problem.spreads.magnetic_forces == pytest.approx(
        np.sqrt(np.mean([frame.magnetic_forces**2 for frame in frames])), rel=1e-6
    )


def test_labels_of_spins_may_be_missing():
    frames = heisenberg(4)
    del frames[0].atoms.arrays["magnetic_forces"]
    frames[1].atoms.calc.results.pop("energy")
    frames[2].atoms.info["mag_forces_part"] = "transverse"
    frames[2].atoms.arrays["magnetic_forces"] += 7.0 * frames[2].moments  # means nothing
    model = lattice_network().double()
    problem = Problem(model, frames, heisenberg(2), Loss(), Modern())
    problem.calibrate(False)
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    found, given = predict(model, frames)
    assert given.energy_densities.isfinite().tolist() == [True, False, True, True]
    errors = errors_of(found, given)
    difference = (found.energy_densities - given.energy_densities)[[0, 2, 3]]
    assert errors.energy == pytest.approx(float(difference.square().mean().sqrt()))
    whole = (found.magnetic_forces - given.magnetic_forces).view(4, 16, 3)[[1, 3]]
    assert errors.magnetic_forces == pytest.approx(float(whole.square().mean().sqrt()))
    assert math.isfinite(float(problem.loss(Batch(0, (0, 1, 2, 3)), generator()).detach()))
    assert math.isfinite(float(problem.loss(Batch(0, (1,)), generator()).detach()))


# --- a network without an energy


@files.register
class Turning(NetworkOnLattice):
    """F_i = c Σ_j m_j + d m_i × Σ_j m_j, which is no gradient."""

    gives = "magnetic_forces"
    reach = 1
    hyperparameters = {}

    def __init__(self, lattice):
        super().__init__(lattice)
        self.linear, self.turning = (nn.Parameter(torch.zeros(())) for _ in range(2))

    def magnetic_forces(self, placed, moments, positions=None, cells=None, prepared=None):
        around = moments[..., placed.neighbours[0], :].sum(-3)
        return self.linear * around + self.turning * torch.linalg.cross(moments, around)


def test_a_network_that_gives_magnetic_forces_alone(tmp_path):
    """It is trained, evaluated and kept as all others are."""
    frames, model = heisenberg(6), lattice_network(Turning)
    for frame in frames:
        forces = frame.atoms.arrays["magnetic_forces"]
        frame.atoms.arrays["magnetic_forces"] = forces + np.cross(frame.moments, forces)  # -0.3 of both
    recipe = Modern(learning_rate=0.05, warmup=2, weight_decay=0.0)
    run = Trainer(model, frames[:4], frames[4:], tmp_path, recipe, epochs=40, progress=False)
    errors = run.run()
    assert errors.transverse < 0.02
    assert "energy" not in errors.numbers
    again = models.load(run.best_path)
    assert float(again.linear) == pytest.approx(-0.3, abs=0.02)
    assert float(again.turning) == pytest.approx(-0.3, abs=0.02)
    with pytest.raises(NotImplementedError, match="gives magnetic_forces"):
        model.energies(None, torch.zeros(1, 3))
    with pytest.raises(KLMError, match="not a network"):
        ECNNCalculator(model)


# --- one calculator


def test_one_calculator_serves_all_networks():
    square, film = lattices.square((4, 4)), lattices.cri3_monolayer((1, 1))
    textures.random(square, seed=1)
    textures.uniform(film, (0, 0, 3.0))
    for atoms, kind, name in ((square, ECNNCalculator, "kondo-square"), (film, MagNetCalculator, "cri3-model")):
        found = []
        for calculator in (NetworkCalculator, kind):
            atoms.calc = calculator(name, field=(0, 0, 0.01), dtype="float64")
            found.append((atoms.get_potential_energy(), get_magnetic_forces(atoms)))
        assert found[0][0] == found[1][0]
        assert np.array_equal(found[0][1], found[1][1])
    square.calc = NetworkCalculator("kondo-square", filling=0.47)
    assert calculators.from_dict(square.calc.todict()).parameters["filling"] == 0.47
    expected = ECNNCalculator("kondo-square", filling=0.47).get_potential_energy(square)
    assert square.get_potential_energy() == expected
    for calculator, name, message in (
        (ECNNCalculator, "cri3-model", "not a network of spins"),
        (MagNetCalculator, "kondo-square", "not a network of atoms"),
    ):
        with pytest.raises(KLMError, match=message):
            calculator(name)
    for name in ("cri3-model", "kondo-square-ecnn"):
        with pytest.raises(KLMError, match="does not know filling"):
            NetworkCalculator(name, filling=0.4)
