"""Training of networks of atoms and moments: masks against sums written out, resuming, files, and bad data."""

import dataclasses
import functools
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from pages import ROOT, blocks, page
from torch import nn

from ase_klm import KLMError, MagNetCalculator, data, get_magnetic_forces, plot, set_moments
from ase_klm.cli import main
from ase_klm.cli.trainings import trainer_from
from ase_klm.data import Frame
from ase_klm.models import files
from ase_klm.models.atomic import AtomicNetwork
from ase_klm.models.magnet import MagNet
from ase_klm.training import (
    Loss,
    Modern,
    PlateauAdam,
    Trainer,
    Values,
    curves,
    errors_of,
    evaluate,
    predict,
)
from ase_klm.training.dataset import Batch
from ase_klm.training.derivatives import derivatives
from ase_klm.training.loss import Spreads
from ase_klm.training.problem import Problem
from ase_klm.training.structures import labels_of, turned
from ase_klm.training.terms import TERMS

CUTOFF = 4.0
GIVEN = ("energy", "forces", "magnetic_forces")


class Exchange(AtomicNetwork):
    """E_i = Σ_j (1 - r²/c²)³ (0.3 Z_i + 0.4 m_i·m_j) + 0.03 m_i⁴: the labels."""

    hyperparameters, reach = property(lambda self: {"species": list(self.species), "cutoff": self.cutoff}), 1

    def invariants(self, graph, vectors, moments):
        near = (1 - vectors.square().sum(-1) / self.cutoff**2).clamp_min(0) ** 3
        pairs = near * (moments[graph.i] * moments[graph.j]).sum(-1)
        rows = torch.stack([near, pairs], 1)
        return rows.new_zeros(len(graph), 2).index_add(0, graph.i, rows), moments.square().sum(-1)

    def site_terms(self, graph, vectors, moments):
        sums, square = self.invariants(graph, vectors, moments)
        return sums @ sums.new_tensor([0.3, 0.4]) * (1 + graph.species) + 0.03 * square**2


@files.register
class Pairs(Exchange):
    """The same invariants and the species in a perceptron: Exchange is within its reach."""

    def __init__(self, species, cutoff, width=8):
        super().__init__(species, cutoff)
        self.width = width
        self.direct = nn.Linear(6, 1, bias=False)
        self.perceptron = nn.Sequential(nn.Linear(6, width), nn.SiLU(), nn.Linear(width, 1))

    @property
    def hyperparameters(self):
        return {"species": list(self.species), "cutoff": self.cutoff, "width": self.width}

    def site_terms(self, graph, vectors, moments):
        sums, square = self.invariants(graph, vectors, moments)
        kind = graph.species[:, None].to(sums)
        known = torch.cat([sums, kind * sums, square[:, None], kind], 1)
        return (self.direct(known) + self.perceptron(known))[:, 0]


TEACHER = Exchange(("Ni", "O"), CUTOFF).double()


def structure(seed, n=4):
    """Atoms in a skewed cell, oxygen without moments."""
    rng = np.random.default_rng(seed)
    points = np.array([(0, 0, 0), (0.5, 0.5, 0), (0.5, 0, 0.5), (0, 0.5, 0.5), (0.5, 0.5, 0.5)])[:n]
    atoms = Atoms([28, 28, 8, 28, 8][:n], scaled_positions=points, cell=4.2 * np.eye(3), pbc=True)
    atoms.cell += rng.normal(scale=0.1, size=(3, 3))
    atoms.positions += rng.normal(scale=0.1, size=(n, 3))
    moments = rng.normal(size=(n, 3))
    moments *= rng.uniform(0.8, 1.2, (n, 1)) / np.linalg.norm(moments, axis=1, keepdims=True)
    moments[atoms.numbers == 8] = 0.0
    set_moments(atoms, moments)
    return atoms


def labelled(atoms, energy=None, forces=None, magnetic_forces=None):
    atoms.calc = SinglePointCalculator(atoms)
    for name, value in zip(GIVEN, (energy, forces, magnetic_forces), strict=True):
        if value is not None:
            atoms.calc.results[name] = value
    return Frame(atoms)


def frames_of(number, seed=0, n=4, model=TEACHER, rigid=False):
    found = []
    for i in range(number):
        atoms = structure(1000 * seed + i, n)
        if rigid:
            atoms.positions, atoms.cell = structure(0, n).positions, structure(0, n).cell
        graph = model.place([atoms])
        x, cell, m = (
            torch.tensor(v) for v in (atoms.positions, atoms.cell.array[None], atoms.get_initial_magnetic_moments())
        )
        x.requires_grad_()
        m.requires_grad_()
        energy = model.energies(graph, m, x, cell).sum()
        by_x, by_m = torch.autograd.grad(energy, (x, m))
        by_m[torch.tensor(atoms.numbers == 8)] = 0.0
        found.append(labelled(atoms, float(energy.detach()), -by_x.numpy(), -by_m.numpy()))
    return found


def network(kind=Pairs, seed=1, **hyperparameters):
    return kind.seeded(seed, ("Ni", "O"), CUTOFF, **hyperparameters)


def trainer(directory, model=None, train=None, valid=None, **options):
    options = {"epochs": 3, "progress": False, "seed": 3} | options
    train = frames_of(6) if train is None else train
    valid = frames_of(3, seed=1) if valid is None else valid
    return Trainer(network() if model is None else model, train, valid, directory, **options)


def incomplete():
    """Six frames of which each lacks something else."""
    frames = frames_of(3) + frames_of(3, seed=2, n=5)
    results = [frame.atoms.calc.results for frame in frames]
    del results[0]["energy"]
    results[1]["energy"] = math.nan
    del results[1]["forces"]
    results[2]["forces"][1] = math.nan
    results[2]["magnetic_forces"][0, 2] = math.nan
    frames[3].atoms.info["mag_forces_part"] = "transverse"
    results[3]["magnetic_forces"] += 7.0 * frames[3].moments  # means nothing
    del results[4]["magnetic_forces"]
    return frames


# --- losses and measures


def values(energies, forces, magnetic_forces, directions, transverse_only):
    energies, forces, magnetic_forces, directions = (
        torch.tensor(a, dtype=torch.float64) for a in (energies, forces, magnetic_forces, directions)
    )
    only = torch.tensor(transverse_only)
    return Values.of(energies, directions, forces=forces, magnetic_forces=magnetic_forces, transverse_only=only)


def weighted(energy, forces, magnetic_forces, transverse, **options):
    weights = {"energy": energy, "forces": forces, "magnetic_forces": magnetic_forces, "transverse": transverse}
    return Loss(**weights, **options)


def units(energy, forces, magnetic_forces, transverse):
    return Spreads(energy=energy, forces=forces, magnetic_forces=magnetic_forces, transverse=transverse)


def test_loss_against_numbers_by_hand():
    nan, none = math.nan, [math.nan] * 3
    e = [[0.0, 0, 1], [1, 0, 0], [0, 0, 0]]
    labels = values([1.0, nan], [[0.0] * 3, none, [0.0] * 3], [[0.0] * 3, [0.0] * 3, none], e, [False, True, False])
    found = values(
        [1.5, 9.0], [[1.0, 2, 2], [9.0] * 3, [0.0] * 3], [[0.3, 0, 0.4], [7.0, 0.1, 0], [9.0] * 3], e, [False] * 3
    )
    squares, one = functools.partial(weighted, huber=math.inf), Spreads()
    # forces (1 + 4 + 4)/6; magnetic forces (0.09 + 0.16 + 0.01)/6, across 0.1/6
    assert float(squares(1, 0, 0, 0)(found, labels, one)) == pytest.approx(0.25)
    assert float(squares(0, 1, 0, 0)(found, labels, one)) == pytest.approx(1.5)
    assert float(squares(0, 0, 1, 0)(found, labels, one)) == pytest.approx(0.26 / 6)
    assert float(squares(0, 0, 0, 1)(found, labels, one)) == pytest.approx(0.1 / 6)
    spreads = units(0.2, 0.3, 0.5, 0.7)
    terms = 2 * 0.25 / 0.2**2 + 3 * 1.5 / 0.3**2 + 4 * 0.26 / 6 / 0.5**2 + 5 * 0.1 / 6 / 0.7**2
    assert float(squares(2, 3, 4, 5)(found, labels, spreads)) == pytest.approx(terms)
    assert float(weighted(1, 0, 0, 0, huber=0.1)(found, labels, one)) == pytest.approx(0.09)  # 2 · 0.1 · 0.5 - 0.1²
    quality = errors_of(found, labels)
    assert quality.energy == pytest.approx(0.5)
    assert quality.forces == pytest.approx(1.5**0.5)
    assert quality.magnetic_forces == pytest.approx((0.25 / 3) ** 0.5)  # only the first is known as a whole
    assert quality.transverse == pytest.approx((0.1 / 6) ** 0.5)
    assert "500 meV/atom" in str(quality)
    nothing = values([nan], [none], [none], [[0, 0, 0]], [False])
    assert not errors_of(nothing, nothing).numbers
    assert all(
        math.isnan(getattr(errors_of(nothing, nothing), term.name)) for term in TERMS if term.name != "electrons"
    )


def test_spreads_of_labels():
    nan = [math.nan] * 3
    e = [[0.0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
    fields = [[0.3, 0, 0.4], [0, 0.2, 0], [0, 0, 0.6], nan]
    labels = values([-1.0, -3.0, -1.5], [[3.0, 0, 0], nan, nan, nan], fields, e, [False, True, False, False])
    fractions = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    found = Spreads.of(labels, fractions)
    assert found.energy == pytest.approx((2 * 0.25**2 / 3) ** 0.5)  # two of one species around their mean
    assert found.forces == pytest.approx(3**0.5)
    assert found.magnetic_forces == pytest.approx(((0.09 + 0.16 + 0.04 + 0.36) / 9) ** 0.5)
    assert found.transverse == pytest.approx(((0.09 + 0.04) / 9) ** 0.5)
    nothing = values([math.nan], [nan], [nan], [[0.0, 0, 0]], [False])
    assert Spreads.of(nothing, fractions[:1]) == Spreads(**{term.name: term.finest for term in TERMS})


def by_hand(model, frames, loss, spreads):
    """The loss as in the docstring, frame by frame and atom by atom."""
    energies, forces, magnetic, across = [], [], [], []
    for frame in frames:
        atoms, results = frame.atoms, frame.atoms.calc.results
        x, m = (torch.tensor(v).requires_grad_() for v in (atoms.positions, frame.moments))
        energy = model.energies(model.place([atoms]), m, x, torch.tensor(atoms.cell.array)[None]).sum()
        by_x, by_m = torch.autograd.grad(energy, (x, m), create_graph=True)
        if math.isfinite(results.get("energy", math.nan)):
            energies.append(((energy - results["energy"]) / len(atoms)) ** 2)
        for i in range(len(atoms)):
            if "forces" in results and np.isfinite(results["forces"][i]).all():
                forces += list((-by_x[i] - torch.tensor(results["forces"][i])) ** 2)
            if (
                "magnetic_forces" in results
                and np.isfinite(results["magnetic_forces"][i]).all()
                and frame.moments[i].any()
            ):
                e = torch.tensor(frame.moments[i] / np.linalg.norm(frame.moments[i]))
                error = -by_m[i] - torch.tensor(results["magnetic_forces"][i])
                part = error - (error @ e) * e
                magnetic += list((part if frame.transverse_only else error) ** 2)
                across += list(part**2)

    def mean(squares):
        return sum(squares) / len(squares)

    return (
        loss.energy * mean(energies) / spreads.energy**2
        + loss.forces * mean(forces) / spreads.forces**2
        + loss.magnetic_forces * mean(magnetic) / spreads.magnetic_forces**2
        + loss.transverse * mean(across) / spreads.transverse**2
    )


@pytest.mark.parametrize(
    "make", [network, lambda: network(MagNet, channels=4, sent=2, radial=3)], ids=["pairs", "magnet"]
)
def test_gradients_with_missing_labels_are_those_written_out(make):
    model, frames, loss = make().double(), incomplete(), weighted(0.5, 2.0, 3.0, 0.7, huber=math.inf)
    problem = Problem(model, frames, frames_of(2), loss, Modern())
    weights = list(model.parameters())
    for chosen in ((0, 1, 2, 3, 4, 5), (5, 2, 3)):
        found = problem.loss(Batch(0, chosen), torch.Generator())
        expected = by_hand(model, [frames[i] for i in chosen], loss, problem.spreads)
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
        gradients = [torch.autograd.grad(one, weights, allow_unused=True) for one in (found, expected)]
        for a, b in zip(*gradients, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert a.numpy() == pytest.approx(b.numpy(), rel=1e-9, abs=1e-9 * float(b.abs().max()))
    assert math.isfinite(float(problem.loss(Batch(0, (4,)), torch.Generator()).detach()))
    assert problem.card(problem.quality())["training"]["labels"] == {
        "energies": 4,
        "forces": 4 + 3 + 3 * 5,
        "magnetic forces": 3 + 3 + 2 + 3,
        "magnetic forces across the moment": 3,
    }


def test_predictions_are_those_of_the_calculator():
    model, frames = network().double(), [*frames_of(2), *frames_of(1, n=5)]
    predicted, labels = predict(model, frames)
    atoms = frames[2].atoms.copy()
    atoms.calc = MagNetCalculator(model, dtype="float64")
    assert float(predicted.energy_densities[2]) == pytest.approx(atoms.get_potential_energy() / 5)
    assert predicted.forces[8:].numpy() == pytest.approx(atoms.get_forces(), abs=1e-10)
    magnetic = predicted.magnetic_forces[8:][atoms.numbers == 28]
    assert magnetic.numpy() == pytest.approx(get_magnetic_forces(atoms)[atoms.numbers == 28], abs=1e-10)
    assert labels.magnetic_forces.isnan().any(-1).tolist() == [n == 8 for f in frames for n in f.atoms.numbers]
    assert evaluate(model, frames) == errors_of(predicted, labels)


def test_turned_spins_have_turned_labels():
    frames = frames_of(2) + frames_of(1, n=5)
    every = TEACHER.joined([labels_of(TEACHER, frame, i) for i, frame in enumerate(frames)])
    other = turned(every, torch.Generator().manual_seed(1))
    assert not torch.allclose(other.moments, every.moments)
    found, known = derivatives(TEACHER, other), every.magnetic_forces.isfinite()
    assert found.magnetic_forces[known].numpy() == pytest.approx(other.magnetic_forces[known].numpy(), abs=1e-10)
    assert found.forces.numpy() == pytest.approx(every.forces.numpy(), abs=1e-10)


# --- the loop


@pytest.mark.parametrize(
    "recipe", [Modern(learning_rate=0.1, batch=3, clip=10.0, warmup=5, ema=0.9), PlateauAdam(learning_rate=0.1)]
)
def test_pairs_are_learned(tmp_path, recipe):
    run = trainer(tmp_path, train=frames_of(12), recipe=recipe, epochs=60)
    run.problem.calibrate(False)
    before, after = run.problem.quality(), run.run()
    for name in ("energy", "forces", "magnetic_forces", "transverse"):
        assert getattr(after, name) < 0.6 * getattr(before, name)
    assert after.correlation > 0.99
    assert after == evaluate(files.load(run.best_path), frames_of(3, seed=1))
    card = files.card(run.best_path)
    assert card["errors"]["forces"] == after.forces
    assert (card["training"]["configurations"], card["training"]["atoms"]) == (12, [4])
    assert card["species"] == ["Ni", "O"]


def test_a_small_magnet_learns(tmp_path):
    model = network(MagNet, layers=1, channels=8, sent=4, radial=4, spin_orbit=False)
    options = {
        "recipe": Modern(learning_rate=0.01, batch=3, warmup=5, ema=0.9),
        "loss": Loss(huber=math.inf),
    }
    run = trainer(tmp_path, model=model, train=frames_of(30), epochs=15, **options)
    run.problem.calibrate(False)
    before, after = run.problem.quality(), run.run()
    assert after.energy < 0.6 * before.energy
    assert after.forces < 0.3 * before.forces
    assert after.magnetic_forces < 0.2 * before.magnetic_forces
    assert after.correlation > 0.99


def test_incomplete_labels_are_learned(tmp_path):
    bare = frames_of(2, seed=1)
    for frame in bare:
        del frame.atoms.calc.results["energy"]
    run = trainer(tmp_path, train=incomplete(), valid=bare, recipe=Modern(batch=2, spin_rotations=True))
    found = run.run()
    assert math.isnan(found.energy)
    assert math.isfinite(found.forces)
    assert "energy" not in files.card(run.best_path)["errors"]
    assert run.best_path.exists()
    curves.draw(curves.read(tmp_path / "curves.csv"))


class Killed(Exception):  # noqa: N818, stands for the end of a process
    pass


class KillingLoss(Loss):
    """Ends the process at a call; a class attribute counts, so that the loss itself stays equal."""

    left = math.inf

    def __call__(self, predicted, labels, spreads):
        KillingLoss.left -= 1
        if KillingLoss.left < 0:
            raise Killed
        return super().__call__(predicted, labels, spreads)


@pytest.mark.parametrize("recipe", [Modern(batch=2, warmup=3, spin_rotations=True), PlateauAdam(patience=1, batch=3)])
def test_a_killed_training_continues_to_the_same_bits(tmp_path, recipe):
    options = {"train": frames_of(4) + frames_of(3, seed=2, n=5), "recipe": recipe, "loss": KillingLoss()}
    options["checkpoint_every"] = 0.0
    KillingLoss.left = math.inf
    whole = trainer(tmp_path / "whole", **options)
    expected = whole.run()
    found, kills = None, 0
    while found is None:
        KillingLoss.left = 4
        cut = trainer(tmp_path / "cut", model=network(seed=50 + kills), **options)
        if kills == 0:
            cut = trainer(tmp_path / "cut", **options)
        try:
            found = cut.run()
        except Killed:
            kills += 1
            assert kills < 40
    KillingLoss.left = math.inf
    assert kills > 1
    assert found == expected
    for a, b in zip(whole.model.state_dict().values(), cut.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    rows = [curves.read(tmp_path / name / "curves.csv") for name in ("whole", "cut")]
    for a, b in zip(*rows, strict=True):
        assert {**a, "minutes": 0} == {**b, "minutes": 0}
    with pytest.raises(KLMError, match="belongs to another training"):
        trainer(tmp_path / "cut", **options | {"train": frames_of(6)}).run()


class Fragile(Pairs):
    """Gives no number for moments longer than 2 once it has been asked often enough."""

    asked = 0

    def site_terms(self, graph, vectors, moments):
        Fragile.asked += 1
        long = moments.norm(dim=-1) * self.moment_scales[graph.species] > 2
        return super().site_terms(graph, vectors, moments) + torch.where(long & (Fragile.asked > 12), math.nan, 0.0)


def test_what_is_not_finite_stops_and_is_named(tmp_path):
    files.register(Fragile)
    frames = frames_of(6)
    set_moments(frames[4].atoms, 3 * frames[4].moments)
    frames[4].atoms.calc.atoms = frames[4].atoms.copy()  # the labels stay
    Fragile.asked = 0
    run = trainer(tmp_path, model=network(Fragile), train=frames, recipe=Modern(batch=3), epochs=30)
    with pytest.raises(KLMError, match=r"not finite at step \d+, with frame 4 of the training part"):
        run.run()
    assert run.progress.epoch > 0
    best = files.load(run.best_path).state_dict()
    assert all(torch.equal(value, best[name]) for name, value in run.model.state_dict().items())
    assert all(bool(torch.isfinite(p).all()) for p in run.model.parameters())
    with pytest.raises(KLMError, match="not finite on the validation part"):
        trainer(tmp_path / "b", model=network(Fragile), valid=frames[4:5]).run()


def test_calibration_and_fine_tuning(tmp_path):
    first = trainer(tmp_path / "first", recipe=Modern(learning_rate=0.03, warmup=5, ema=0.9), epochs=10)
    problem = first.problem
    problem.calibrate(False)
    (labels,) = problem.training.placed()
    mean = derivatives(first.model, labels).energy_densities.mean()
    assert float(mean) == pytest.approx(float(labels.energy_densities.mean()), abs=1e-6)
    assert float(first.model.longest_moments[0]) == pytest.approx(
        max(np.linalg.norm(frame.moments, axis=1).max() for frame in frames_of(6))
    )
    learned = first.run()
    shifted = frames_of(4, seed=3)
    for frame in shifted:
        frame.atoms.calc.results["energy"] += 8.0
    options = {"recipe": Modern(learning_rate=1e-5), "epochs": 1, "progress": False, "initial": first.best_path}
    second = Trainer(None, shifted, shifted[:1], tmp_path / "second", **options)
    assert second.run().energy < 5 * learned.energy  # the shifts are fitted anew
    assert torch.equal(second.model.energy_scale, first.model.energy_scale)
    assert torch.equal(second.model.moment_scales, first.model.moment_scales)
    assert not torch.equal(second.model.longest_moments, first.model.longest_moments)
    with pytest.raises(KLMError, match="do not fit the model"):
        trainer(tmp_path / "third", model=network(width=9), initial=first.best_path)


def test_curves(tmp_path):
    trainer(tmp_path).run()
    rows = curves.read(tmp_path / "curves.csv")
    names = ("energy", "forces", "magnetic_forces", "transverse", "longitudinal", "correlation")
    assert list(rows[0]) == [*curves.COLUMNS, *(f"validation_{name}" for name in names)]
    loss, energy, forces, magnetic = curves.draw(rows).axes
    assert energy.get_lines()[0].get_ydata() == pytest.approx([1e3 * row["validation_energy"] for row in rows])
    assert "meV/Å" in forces.get_ylabel()
    assert [line.get_label() for line in magnetic.get_lines()] == ["magnetic forces", "transverse"]
    assert loss.get_ylabel() == "training loss"


# --- what cannot be


def test_wrong_data(tmp_path):
    iron, bare, still, infinite, ragged = (frames_of(1)[0] for _ in range(5))
    iron.atoms.numbers[0] = 26
    bare.atoms.calc = None
    set_moments(still.atoms, np.zeros((4, 3)))
    still.atoms.calc.atoms = still.atoms.copy()  # the labels stay
    infinite.atoms.calc.results["energy"] = math.inf
    ragged.atoms.calc.results["forces"] = np.zeros((3, 3))
    for frame, message in (
        (iron, "frame 1: the model does not know Fe"),
        (bare, "frame 1 has no labels"),
        (still, "frame 1 has magnetic forces but no moments"),
        (infinite, "energy of frame 1 is infinite"),
        (ragged, "forces of frame 1 cannot be used"),
    ):
        with pytest.raises(KLMError, match=message):
            trainer(tmp_path, train=[frames_of(1)[0], frame])
        with pytest.raises(KLMError, match=message):
            evaluate(network(), [frames_of(1)[0], frame])
    frames = frames_of(2)
    for frame in frames:
        del frame.atoms.calc.results["forces"]
    with pytest.raises(KLMError, match="has no forces"):
        trainer(tmp_path, train=frames, loss=weighted(0, 1, 0, 0))
    for wrong in ({"loss": 3}, {"train": []}, {"valid": [3]}, {"model": 3}):
        with pytest.raises(KLMError):
            trainer(tmp_path, **wrong)
    for make in (lambda: Loss(energy=-1.0), lambda: weighted(0, 0, 0, 0), lambda: PlateauAdam(patience=0)):
        with pytest.raises(KLMError):
            make()
    assert not list(tmp_path.iterdir())


# --- the command line

CONFIGURATION = """
[data]
files = ["frames.traj"]
validation = 2

[model]
architecture = "MagNet"
cutoff = 4.0
layers = 1
channels = 4
sent = 2

[loss]
transverse = 2

[recipe]
name = "plateau-adam"
batch = 2

[run]
directory = "run"
epochs = 2
"""


def test_command_line(tmp_path, capsys):
    data.write(tmp_path / "frames.traj", [frame.atoms for frame in frames_of(4) + frames_of(2, n=5)])
    path = tmp_path / "magnet.toml"
    path.write_text(CONFIGURATION)
    assert main(["train", str(path), "--quiet"]) == 0
    text = capsys.readouterr().out
    assert all(
        word in text
        for word in ("MagNet with", "4 frames to train", "eV/atom", "eV/Å", "magnetic forces", "transverse")
    )
    model = files.load(tmp_path / "run" / "best.safetensors")
    assert model.species == ("O", "Ni")
    assert files.card(tmp_path / "run" / "best.safetensors")["training"]["loss"]["transverse"] == 2.0
    path.write_text(
        '[data]\nfiles = "frames.traj"\nvalidation = "frames.traj"\n[model]\nstart = "run/best.safetensors"\n'
        '[loss]\nenergy = 3\n[run]\ndirectory = "tuned"\nepochs = 1\n'
    )
    assert main(["train", str(path), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("transverse = 2", "field = 1", "field is unknown in [loss]"),
        ("channels", "chanels", "did you mean channels?"),
        ("cutoff = 4.0", "cutoff = -1", "cutoff"),
        ("cutoff = 4.0", "shells = [1]", "shells is unknown"),
        ("layers = 1", 'layers = "a"', "cannot be made of"),
        ("cutoff = 4.0", 'species = ["Ni"]', "does not know O"),
        ("plateau-adam", "plateau-adm", "did you mean plateau-adam?"),
    ],
)
def test_wrong_configurations(tmp_path, old, new, hint):
    data.write(tmp_path / "frames.traj", [frame.atoms for frame in frames_of(4)])
    path = tmp_path / "magnet.toml"
    path.write_text(CONFIGURATION.replace(old, new))
    with pytest.raises(KLMError) as caught:
        trainer_from(path)
    assert hint in str(caught.value)


def test_parity_of_atoms():
    panels = plot.atomic_parity(*predict(network(), incomplete()))
    assert [len(panel.lines) for panel in panels] == [2, 4, 4, 4]  # the diagonal and the components
    _, labels = predict(network(), incomplete())
    none = labels.forces * math.nan
    panels = plot.atomic_parity(labels, dataclasses.replace(labels, forces=none))
    assert not panels[1].axison
    assert "RMSE 0 meV/atom" in panels[0].texts[0].get_text()
    with pytest.raises(KLMError, match="2 axes were given for 4"):
        plot.atomic_parity(labels, labels, ax=panels[:2])


def test_label_scale(tmp_path):
    """Energies that are twice what the magnetic forces say: with a scale fitted to the set both are learned."""
    frames = [labelled(f.atoms, 2 * f.energy, None, f.magnetic_forces) for f in frames_of(30, rigid=True)]
    run = trainer(tmp_path, train=frames, valid=frames_of(3), loss=Loss(label_scale="fit"))
    assert run.problem.label_scale == pytest.approx(2.0, abs=0.1)
    run.run()
    assert files.card(run.best_path)["training"]["label_scale"] == round(run.problem.label_scale, 4)
    twice = Problem(TEACHER, frames, frames, Loss(label_scale=0.5), Modern())
    assert twice.quality().magnetic_forces == pytest.approx(rms(frames), rel=1e-9)  # 1 / 0.5 - 1 = 1
    for wrong in (0.0, "slope"):
        with pytest.raises(KLMError, match="label_scale"):
            Loss(label_scale=wrong)
    with pytest.raises(KLMError, match="finds no scale"):
        trainer(tmp_path / "3", train=frames[:1], loss=Loss(label_scale="fit"))


def rms(frames):
    """Of the components of magnetic forces on atoms with moments."""
    components = np.concatenate([f.magnetic_forces[f.moments.any(axis=1)].ravel() for f in frames])
    return np.sqrt(np.mean(components**2))


def test_shifts_keep_their_digits(tmp_path):
    model = network(MagNet, layers=1, channels=4, sent=2, radial=4)
    model.energy_shifts.copy_(torch.tensor([-12345.678901234, -431.123456789]))
    expected = model.energy_shifts.clone()
    files.save(tmp_path / "a.safetensors", model)
    for other in (model.double().float(), files.load(tmp_path / "a.safetensors")):
        assert other.energy_shifts.dtype == torch.float64
        assert torch.equal(other.energy_shifts, expected)
        assert other.dtype == torch.float32


def test_the_page(tmp_path, monkeypatch):
    """docs/magnet.md as its readers would follow it, with less data and in less time."""
    monkeypatch.chdir(tmp_path)
    text = page("docs/magnet.md")
    frames = frames_of(15, rigid=True)
    data.write("nio.npz", frames)
    assert main(["data", "check", "nio.npz", "--picture", "check.png"]) == 0
    (toml,) = blocks(text, "toml")
    Path("nio.toml").write_text(toml.replace("minutes = 30", "minutes = 0.02"), encoding="utf-8")
    assert main(["train", "nio.toml", "--quiet"]) == 0
    write("POSCAR", frames[0].atoms, format="vasp")
    use, python = blocks(text, "python")
    exec(use.replace("fmax=0.01", "fmax=0.01, steps=1"), {"moments": frames[0].moments})
    shutil.rmtree("nio")
    exec(python.replace("minutes=30", "minutes=0.02"), {})
    assert Path("parity.png").exists()
    for picture in re.findall(r"\(images/(\w+\.png)\)", text):
        assert (ROOT / "docs" / "images" / picture).stat().st_size < 150_000
