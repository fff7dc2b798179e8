"""Training: losses against numbers made by hand, symmetries, resuming to the same bits, files of weights."""

import contextlib
import itertools
import json
import math
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from safetensors.torch import save_file
from torch import nn

from ase_klm import (
    KLMError,
    KondoEDCalculator,
    data,
    get_moments,
    interrupts,
    lattices,
    plot,
    set_moments,
    testing,
    textures,
)
from ase_klm.calculators import SpinCalculator
from ase_klm.cli import main
from ase_klm.cli.trainings import trainer_from
from ase_klm.data import Frame
from ase_klm.models import files
from ase_klm.models.base import FARTHEST, LocalNetwork
from ase_klm.models.chebyshev import ChebyshevNetwork
from ase_klm.nn.symmetry import site_permutations
from ase_klm.potentials.network import Network
from ase_klm.training import (
    Loss,
    Modern,
    Paper,
    Trainer,
    Values,
    averages,
    curves,
    errors_of,
    evaluate,
    predict,
    split,
)
from ase_klm.training import trainer as trainer_module
from ase_klm.training.augmentation import permuted, random_rotations, rotated
from ase_klm.training.lattices import grouped


@files.register
class Toy(LocalNetwork):
    """E_i = perceptron(m_i·Σ m_j): a Heisenberg model is within its reach."""

    def __init__(self, lattice, width=4):
        super().__init__(lattice)
        self.width = width
        self.direct = nn.Linear(1, 1, bias=False)
        self.perceptron = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, 1))

    @property
    def hyperparameters(self):
        return {"width": self.width}

    @property
    def reach(self):
        return 1

    def site_terms(self, moments, placed):
        x = (moments * moments[..., placed.neighbours[0], :].sum(-3)).sum(-1, keepdim=True) / 4
        return (self.direct(x) + self.perceptron(x))[..., 0]


@files.register
class PreparingToy(Toy):
    """Insists on its configurations as they were prepared."""

    def prepare(self, moments, placed):
        return moments.clone()

    def energies(self, placed, moments, positions=None, cells=None, prepared=None):
        assert len(prepared) == len(moments)
        assert all(torch.equal(kept, m.detach()) for kept, m in zip(prepared, moments, strict=True))
        return super().energies(placed, moments)


def heisenberg(number, size=(4, 4), seed=0, J=0.3):
    """Frames of E = J Σ e_i·e_j over nearest neighbours, by hand."""
    frames = []
    for i in range(number):
        atoms = lattices.square(size)
        textures.random(atoms, seed=100 * seed + i)
        m = get_moments(atoms).reshape(*size, 3)
        around = sum(np.roll(m, shift, axis) for shift in (1, -1) for axis in (0, 1))
        atoms.calc = SinglePointCalculator(atoms, energy=0.5 * J * float((m * around).sum()))
        atoms.set_array("magnetic_forces", -J * around.reshape(-1, 3), float, (3,))
        frames.append(Frame(atoms))
    return frames


def network(kind=Toy, seed=1, **hyperparameters):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind.for_atoms(lattices.square((4, 4)), **hyperparameters)


def trainer(directory, model=None, train=None, **options):
    options = {"epochs": 3, "progress": False, "seed": 3} | options
    train = heisenberg(6) if train is None else train
    return Trainer(network() if model is None else model, train, heisenberg(3, seed=1), directory, **options)


# --- losses and errors


def weighted(energy, magnetic_forces, transverse, **options):
    return Loss(energy=energy, magnetic_forces=magnetic_forces, transverse=transverse, **options)


def test_loss_against_numbers_by_hand():
    e = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    none = torch.zeros(2, 3, dtype=torch.float64)
    labels = Values.of(torch.tensor([1.0], dtype=torch.float64), e, magnetic_forces=none)
    fields = torch.tensor([[0.3, 0.0, 0.4], [0.2, 0.1, 0.0]], dtype=torch.float64)
    predicted = Values.of(torch.tensor([1.5], dtype=torch.float64), e, magnetic_forces=fields)
    # energy 0.5² = 0.25; field (0.09 + 0.16 + 0.04 + 0.01)/6 = 0.05; across 0.3 and 0.1: (0.09 + 0.01)/6
    assert float(weighted(1, 0, 0)(predicted, labels)) == pytest.approx(0.25)
    assert float(weighted(0, 1, 0)(predicted, labels)) == pytest.approx(0.05)
    assert float(weighted(0, 0, 1)(predicted, labels)) == pytest.approx(0.1 / 6)
    assert float(weighted(2, 3, 4)(predicted, labels)) == pytest.approx(0.5 + 0.15 + 0.4 / 6)
    # along the spins 0.4 and 0.2, which are components of their own
    assert float(Loss(energy=0, magnetic_forces=0, transverse=0, longitudinal=1)(predicted, labels)) == pytest.approx(
        0.1
    )
    found = errors_of(predicted, labels)
    assert found.longitudinal == pytest.approx(0.1**0.5)
    assert (found.energy, found.magnetic_forces, found.transverse) == pytest.approx((0.5, 0.05**0.5, (0.1 / 6) ** 0.5))
    assert found.correlation == 0.0  # nothing to correlate with
    twice = Values.of(labels.energy_densities, e, magnetic_forces=2 * fields)
    assert errors_of(twice, predicted).correlation == pytest.approx(1.0)
    shifted = Values.of(
        labels.energy_densities, e, magnetic_forces=fields - 7 * e
    )  # what is along the spins does not turn them
    assert errors_of(shifted, predicted).transverse == pytest.approx(0.0, abs=1e-15)
    assert errors_of(shifted, predicted).correlation == pytest.approx(1.0)


def test_several_lattices_are_one_set():
    model = network().double()
    small, large = heisenberg(2), heisenberg(3, size=(6, 4))
    predicted, labels = predict(model, small + large)
    assert predicted.energy_densities.shape == (5,)
    assert labels.magnetic_forces.shape == predicted.magnetic_forces.shape == (2 * 16 + 3 * 24, 3)
    parts = [errors_of(*predict(model, frames)).magnetic_forces ** 2 for frames in (small, large)]
    assert evaluate(model, small + large).magnetic_forces ** 2 == pytest.approx(
        (32 * parts[0] + 72 * parts[1]) / 104, rel=1e-6
    )


def test_predictions_are_those_of_the_calculator():
    model, frame = network().double(), heisenberg(1)[0]
    predicted, _ = predict(model, [frame])
    atoms = frame.atoms.copy()
    atoms.calc = SpinCalculator(Network(model))
    testing.check(atoms)
    assert float(predicted.energy_densities[0]) == pytest.approx(atoms.get_potential_energy() / 16)
    assert predicted.magnetic_forces.numpy() == pytest.approx(atoms.calc.results["magnetic_forces"])


def test_the_field_is_taken_off_the_labels():
    frame = heisenberg(1)[0]
    atoms = frame.atoms.copy()
    field = np.array([0.1, 0.0, -0.2])
    energy = frame.energy - float((frame.moments @ field).sum())
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    atoms.arrays["magnetic_forces"] += field
    atoms.info["hamiltonian"] = json.dumps({"field": field.tolist()})
    with_field, without = (grouped([one], torch.float64)[0].labels for one in (Frame(atoms), frame))
    assert with_field.energies.numpy() == pytest.approx(without.energies.numpy(), abs=1e-12)
    assert with_field.magnetic_forces.numpy() == pytest.approx(without.magnetic_forces.numpy(), abs=1e-12)


# --- symmetries

COUNTS = {
    "square": (lattices.square((4, 4)), 8),
    "oblong": (lattices.square((6, 4)), 4),
    "triangular": (lattices.triangular((5, 5)), 12),
    "magnetic cell": (lattices.triangular_magnetic_cell(), 12),
    "honeycomb": (lattices.honeycomb((3, 3)), 12),
    "kagome": (lattices.kagome((3, 3)), 12),
    "chain": (lattices.chain(6), 2),
    "cubic": (lattices.simple_cubic((3, 3, 3)), 48),
    "bcc": (lattices.body_centred_cubic((2, 2, 2)), 48),
}


@pytest.mark.parametrize("name", COUNTS)
def test_number_of_symmetries(name):
    atoms, count = COUNTS[name]
    found = site_permutations(atoms)
    assert found.shape == (count, len(atoms))
    assert (found[0] == np.arange(len(atoms))).all()
    assert (np.sort(found, axis=1) == np.arange(len(atoms))).all()
    distances = atoms.get_all_distances(mic=True)
    for permutation in found:
        assert distances[permutation][:, permutation] == pytest.approx(distances, abs=1e-9)


def test_symmetries_see_species_and_edges():
    atoms = lattices.square((4, 4))
    atoms.symbols[5] = "Co"
    assert len(site_permutations(atoms)) < 8
    island = lattices.square((4, 4))
    island.pbc = False
    assert len(site_permutations(island)) == 8


def test_kondo_lattice_has_the_symmetries():
    atoms = lattices.square((4, 4))
    textures.random(atoms, seed=2)
    atoms.calc = KondoEDCalculator(hopping={1: 1.0, 2: 0.3}, J=2.0, filling=0.4, temperature=0.1)
    moments, energy = get_moments(atoms), atoms.get_potential_energy()
    forces = atoms.calc.results["magnetic_forces"]
    for permutation in site_permutations(atoms):
        set_moments(atoms, moments[permutation])
        assert atoms.get_potential_energy() == pytest.approx(energy, abs=1e-10)
        assert atoms.calc.results["magnetic_forces"] == pytest.approx(forces[permutation], abs=1e-10)


def test_augmented_labels_are_labels():
    group = grouped(heisenberg(4), torch.float64)[0]
    labels = group.labels
    generator = torch.Generator().manual_seed(1)
    matrices = random_rotations(50, generator)
    assert (matrices @ matrices.mT).numpy() == pytest.approx(np.broadcast_to(np.eye(3), (50, 3, 3)), abs=1e-12)
    assert torch.linalg.det(matrices).numpy() == pytest.approx(np.ones(50))
    operations = torch.as_tensor(site_permutations(group.atoms))
    m, f = permuted(labels.moments, labels.magnetic_forces, operations, generator)
    m, f = rotated(m, f, generator)
    assert not torch.allclose(m, labels.moments)
    grid = m.reshape(-1, 4, 4, 3)
    around = sum(torch.roll(grid, shift, axis) for shift in (1, -1) for axis in (1, 2))
    assert f.numpy() == pytest.approx(-0.3 * around.reshape(-1, 16, 3).numpy(), abs=1e-12)


# --- data


def test_split():
    frames = heisenberg(10)
    for validation, count in ((3, 3), (0.2, 2)):
        train, held = split(frames, validation, seed=1)
        assert (len(train), len(held)) == (10 - count, count)
        assert {id(f) for f in train + held} == {id(f) for f in frames}
    first, again, other = ([id(f) for f in split(frames, 3, seed)[1]] for seed in (1, 1, 2))
    assert first == again != other
    for wrong in (0, 10, -1, 1.5, True, None, "a", math.nan, math.inf):
        with pytest.raises(KLMError):
            split(frames, wrong)


def test_frames_without_labels_are_refused():
    bare = lattices.square((4, 4))
    textures.random(bare, seed=1)
    long = heisenberg(1)[0]
    set_moments(long.atoms, 2 * long.moments)
    other = lattices.triangular((4, 4))
    other.calc = KondoEDCalculator(hopping={1: 1.0}, J=1.0, filling=0.4, temperature=0.1)
    textures.random(other, seed=1)
    other.get_potential_energy()
    for frames in ([Frame(bare)], [long], [Frame(other)], []):
        with pytest.raises(KLMError):
            evaluate(network(), frames)


# --- the loop


@pytest.mark.parametrize(
    "recipe", [Modern(learning_rate=0.03, warmup=5, ema=0.9), Paper(learning_rate=0.1, patience=3)]
)
def test_a_toy_is_learned(tmp_path, recipe):
    run = trainer(tmp_path, recipe=recipe, epochs=25)
    before = evaluate(run.model, heisenberg(3, seed=1))
    after = run.run()
    assert after.magnetic_forces < 0.1 * before.magnetic_forces
    assert after.transverse < 0.1 * before.transverse
    assert after.correlation > 0.99
    assert after == evaluate(files.load(run.best_path), heisenberg(3, seed=1))
    assert after == evaluate(run.model, heisenberg(3, seed=1))
    card = files.card(run.best_path)
    assert card["errors"]["transverse"] == after.transverse
    assert card["training"]["configurations"] == 6


class Killed(Exception):  # noqa: N818, stands for the end of a process
    pass


class KillingLoss(Loss):
    """Ends the process at a call; a class attribute counts, so that the loss itself stays equal."""

    left = math.inf

    def __call__(self, predicted, labels, spreads=None):
        KillingLoss.left -= 1
        if KillingLoss.left < 0:
            raise Killed
        return super().__call__(predicted, labels, spreads)


@pytest.mark.parametrize("recipe", [Modern(batch=2, warmup=3, spin_rotations=True), Paper(patience=1)])
def test_a_killed_training_continues_to_the_same_bits(tmp_path, recipe):
    frames = heisenberg(5) + heisenberg(3, size=(4, 6), seed=2)
    options = {"train": frames, "recipe": recipe, "loss": KillingLoss(), "checkpoint_every": 0.0}
    KillingLoss.left = math.inf
    whole = trainer(tmp_path / "whole", **options)
    expected = whole.run()
    kills = 0
    while True:
        KillingLoss.left = 4
        cut = (
            trainer(tmp_path / "cut", model=network(seed=50 + kills), **options)
            if kills
            else trainer(tmp_path / "cut", **options)
        )
        try:
            found = cut.run()
            break
        except Killed:
            kills += 1
            assert kills < 40
    KillingLoss.left = math.inf
    assert kills > 3
    assert found == expected
    for a, b in zip(whole.model.state_dict().values(), cut.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    rows = [curves.read(tmp_path / name / "curves.csv") for name in ("whole", "cut")]
    for a, b in zip(*rows, strict=True):
        assert {**a, "minutes": 0} == {**b, "minutes": 0}
    assert trainer(tmp_path / "cut", **options).run() == expected  # a finished one is done


def stopped_at(run, line):
    """Run, with a Ctrl-C before the given line that the training executes; lines that were executed."""
    watched = {Path(module.__file__).name for module in (trainer_module, averages, interrupts)}
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        if Path(frame.f_code.co_filename).name not in watched:
            return None
        if event == "line":
            count += 1
            if count == line:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return count


def test_an_interrupted_training_continues_to_the_same_bits(tmp_path, monkeypatch):
    """Ctrl-C at lines of the loop drawn at random, in steps, validations and savings alike."""
    monkeypatch.setattr(curves, "save_picture", lambda *_: None)  # it takes most of the time
    options = {"train": heisenberg(4), "recipe": Modern(batch=2, ema=0.9), "checkpoint_every": 1e9, "epochs": 2}
    whole = trainer(tmp_path / "whole", **options)
    lines = stopped_at(whole.run, -1)
    kept = 0
    for line in np.random.default_rng(1).integers(1, lines, 20):
        directory = tmp_path / str(line)
        with interrupts.noted() as came, contextlib.suppress(KeyboardInterrupt):
            stopped_at(trainer(directory, **options).run, line)
        assert came
        torch.set_grad_enabled(True)  # Ctrl-C may have left torch within a no_grad; a new process begins without
        there = (directory / "checkpoint.safetensors").exists()
        kept += there
        last = trainer(directory, model=network(seed=9) if there else None, **options)
        last.run()
        for a, b in zip(whole.model.state_dict().values(), last.model.state_dict().values(), strict=True):
            assert torch.equal(a, b), line
        rows = [curves.read(where / "curves.csv") for where in (tmp_path / "whole", directory)]
        for a, b in zip(*rows, strict=True):
            assert {**a, "minutes": 0} == {**b, "minutes": 0}, line
    assert kept > 12


def test_another_configuration_is_refused(tmp_path):
    trainer(tmp_path).run()
    for change in (
        {"seed": 4},
        {"epochs": 5},
        {"recipe": Paper()},
        {"recipe": Modern(clip=0.2)},
        {"loss": Loss(energy=2.0)},
        {"train": heisenberg(7)},
        {"model": network(width=5)},
        {"model": network().double()},
    ):
        with pytest.raises(KLMError, match="belongs to another training"):
            trainer(tmp_path, **change).run()
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(KLMError, match="cannot be read as a checkpoint"):
        trainer(tmp_path).run()


def test_time_budget(tmp_path):
    run = trainer(tmp_path, epochs=None, minutes=0.5 / 60)
    run.run()
    rows = curves.read(tmp_path / "curves.csv")
    assert 0.5 <= run.progress.seconds < 5
    assert len(rows) > 2
    assert rows[-1]["learning_rate"] == pytest.approx(0.0, abs=1e-4)
    for wrong in ({"epochs": 3, "minutes": 1.0}, {"epochs": None}, {"epochs": 0}, {"epochs": 1.5}, {"epochs": "a"}):
        with pytest.raises(KLMError):
            trainer(tmp_path, **wrong)


def test_wrong_arguments(tmp_path):
    for wrong in (
        {"recipe": "modern"},
        {"loss": 3},
        {"seed": -1},
        {"seed": "a"},
        {"checkpoint_every": "often"},
        {"train": []},
        {"train": [3]},
        {"model": 3},
        {"device": "abacus"},
        {"initial": "kondo-sqare"},
    ):
        with pytest.raises(KLMError):
            trainer(tmp_path, **wrong)
    for make in (
        lambda: Loss(energy=-1.0),
        lambda: Loss(energy=0, forces=0, magnetic_forces=0, transverse=0),
        lambda: Loss(units="meV"),
        lambda: Loss(huber=0.0),
        lambda: Modern(batch=0),
        lambda: Modern(batch=1.5),
        lambda: Modern(ema=1.0),
        lambda: Modern(betas=(1, 2)),
        lambda: Modern(clip=0),
        lambda: Modern(learning_rate=math.nan),
        lambda: Paper(patience=0),
        lambda: trainer(None),
    ):
        with pytest.raises(KLMError):
            make()
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(KLMError, match="cannot be made"):
        trainer(tmp_path / "file" / "run").run()


def test_prepared_configurations_stay_as_they_are(tmp_path):
    trainer(tmp_path, model=network(PreparingToy), recipe=Modern(batch=4, spin_rotations=True)).run()


class ToldToy(Toy):
    """Takes J from the frames."""

    def place(self, structures, hamiltonian=None):
        return super().place(structures), (hamiltonian or {"J": 0.3})["J"] / 0.3

    def energies(self, placed, moments, positions=None, cells=None, prepared=None):
        return placed[1] * super().energies(placed[0], moments)


def test_networks_that_take_parameters_are_told():
    model, frames = network(ToldToy).double(), [*heisenberg(2), *heisenberg(2, seed=1)]
    for frame, J in zip(frames, (0.3, 0.6, 0.3, 0.6), strict=True):
        frame.atoms.info["hamiltonian"] = json.dumps({"J": J, "field": [0, 0, 0]})
    groups = grouped(frames)
    assert [(len(group), group.hamiltonian) for group in groups] == [(2, {"J": 0.3}), (2, {"J": 0.6})]
    predicted, _ = predict(model, frames)
    single, _ = predict(model, frames[1:2])
    bare = heisenberg(2)[1:]
    assert torch.allclose(predicted.energy_densities[2], single.energy_densities[0])
    assert torch.allclose(2 * predict(model, bare)[0].energy_densities, single.energy_densities)


class RisingLoss(Loss):
    """Becomes infinite in the third epoch."""

    calls = 0

    def __call__(self, predicted, labels, spreads=None):
        RisingLoss.calls += 1
        return super().__call__(predicted, labels, spreads) * (math.nan if RisingLoss.calls > 16 else 1.0)


def test_losses_that_are_not_finite_stop(tmp_path):
    RisingLoss.calls = 0
    run = trainer(tmp_path, loss=RisingLoss())
    with pytest.raises(KLMError, match="not finite"):
        run.run()
    assert all(bool(torch.isfinite(p).all()) for p in run.model.parameters())
    assert math.isfinite(evaluate(files.load(run.best_path), heisenberg(2)).transverse)
    with pytest.raises(KLMError, match="not finite"):
        trainer(tmp_path / "at once", recipe=Modern(learning_rate=1e30, warmup=0, clip=1e30)).run()


def test_the_range_is_that_of_the_last_training_set(tmp_path):
    options = {
        "hamiltonian": {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48},
        "radius": 2,
        "channels": 4,
        "vectors": 2,
    }
    first = trainer(tmp_path / "first", model=network(ChebyshevNetwork, hidden=4, **options), epochs=1)
    first.run()
    frames = heisenberg(3)
    for number, frame in enumerate(frames):
        energy = frame.energy
        textures.uniform(frame.atoms)
        textures.add_noise(frame.atoms, 0.1, seed=number)
        frame.atoms.calc = SinglePointCalculator(frame.atoms, energy=energy)  # any label will do here
    atoms = frames[0].atoms
    second = Trainer(None, frames, frames, tmp_path / "second", epochs=1, initial=first.best_path, progress=False)
    second.run()
    for path, far in ((first.best_path, True), (second.best_path, False)):
        model = files.load(path)
        placed = model.place(atoms)
        with torch.no_grad():
            sums = model.local_terms(torch.tensor(get_moments(atoms), dtype=torch.float32), placed).double().sum(-1)
        assert (float(model.distance(sums, placed)) > FARTHEST) == far


def test_fine_tuning(tmp_path):
    first = trainer(tmp_path / "first", recipe=Modern(learning_rate=0.03, warmup=5, ema=0.9), epochs=20)
    learned = first.run()
    shifted = heisenberg(4, seed=3)
    for frame in shifted:
        frame.atoms.calc.results["energy"] += 16 * 2.0  # 2 eV a site
    run = Trainer(None, shifted, shifted[:1], tmp_path / "second", epochs=1, initial=first.best_path, progress=False)
    assert run.run().energy < 0.1  # the shift is fitted anew
    assert run.model.energy_scale == first.model.energy_scale
    assert files.card(run.best_path)["training"]["initial"] == first.best_path.name
    assert learned.magnetic_forces < 0.05
    with pytest.raises(KLMError, match="do not fit the model"):
        trainer(tmp_path / "third", model=network(width=9), initial=first.best_path)


@settings(max_examples=8, deadline=None)
@given(low=st.floats(-6, 3), decades=st.floats(0.02, 6))
def test_labels_of_logarithmic_axes_do_not_touch(low, decades):
    """However long the axis: two to eight labels, in plain numbers."""
    figure = Figure(figsize=(5.0, 2.0), layout="constrained")
    ax = figure.subplots()
    ax.loglog(*2 * [[10**low, 10 ** (low + decades)]])
    for axis in (ax.xaxis, ax.yaxis):
        curves.few_log_ticks(axis)
    figure.canvas.draw()
    for axis, ends in ((ax.xaxis, ("x0", "x1")), (ax.yaxis, ("y0", "y1"))):
        left, right = sorted(axis.get_view_interval())
        shown = [
            label
            for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            if left <= place <= right
        ]
        assert 2 <= len(shown) <= 8
        boxes = sorted(tuple(getattr(label.get_window_extent(), end) for end in ends) for label in shown)
        assert all(before[1] < after[0] for before, after in itertools.pairwise(boxes))
        assert not any(label.get_text() for label in axis.get_minorticklabels())


def test_curves(tmp_path):
    trainer(tmp_path, epochs=4).run()
    rows = curves.read(tmp_path / "curves.csv")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert [row["step"] for row in rows] == [6, 12, 18, 24]
    assert (tmp_path / "curves.png").stat().st_size > 5000
    above, middle, below = curves.draw(rows).axes
    (loss,), (energy,) = above.get_lines(), middle.get_lines()
    field, torque = below.get_lines()
    assert loss.get_ydata() == pytest.approx([row["training_loss"] for row in rows])
    assert energy.get_ydata() == pytest.approx([1e3 * row["validation_energy"] for row in rows])
    assert field.get_ydata() == pytest.approx([1e3 * row["validation_magnetic_forces"] for row in rows])
    assert torque.get_ydata() == pytest.approx([1e3 * row["validation_transverse"] for row in rows])
    assert (below.get_xscale(), below.get_yscale(), above.get_yscale()) == ("log", "log", "log")
    assert above.get_ylabel() == "training loss"
    assert middle.get_ylabel() == "energy (meV/atom)"
    assert "meV/μ" in below.get_ylabel()
    with pytest.raises(KLMError):
        curves.read(tmp_path / "best.safetensors")


def test_parity():
    predicted, labels = predict(network(), heisenberg(2))
    field, across = plot.parity(predicted.magnetic_forces, labels.magnetic_forces, labels.directions)
    found = errors_of(predicted, labels)
    for panel, error in ((field, found.magnetic_forces), (across, found.transverse)):
        diagonal, *components = panel.get_lines()
        x, y = (np.array([line.get_data()[i] for line in components]) for i in (0, 1))
        assert np.sqrt(np.mean((x - y) ** 2)) == pytest.approx(error, rel=1e-5)
        assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
        assert f"{error:.2e}" in panel.texts[0].get_text()
        assert "eV/μ" in panel.get_xlabel()
    for wrong in ((np.ones((2, 3)), np.ones((3, 3)), np.ones((2, 3))), ([1], [1], [1]), (None, None, None)):
        with pytest.raises(KLMError):
            plot.parity(*wrong)
    import matplotlib.pyplot as plt

    plt.close("all")


# --- files of weights


def test_weights_round_trip(tmp_path):
    path, model = tmp_path / "toy.safetensors", network(width=6).double()
    model.energy_shift.fill_(1.5)
    files.save(path, model, {"hamiltonian": {"J": 7.0}, "errors": {"torque": 0.01}})
    again = files.load(path)
    assert type(again) is Toy
    assert again.lattice == model.lattice
    assert again.hyperparameters == {"width": 6}
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
        assert a.dtype == b.dtype == torch.float64
    card = files.card(path)
    assert (card["hamiltonian"], card["errors"]) == ({"J": 7.0}, {"torque": 0.01})
    assert card["architecture"] == "Toy"
    assert card["units"]["magnetic_forces"] == "eV/μB"
    assert files.load(again) is again
    assert isinstance(files.available(), list)
    for name in files.available():
        assert files.load(name).n_weights > 0


def test_damaged_weights(tmp_path):
    path = tmp_path / "toy.safetensors"
    files.save(path, network())
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    metadata = {"format": files.FORMAT, "card": json.dumps(files.card(path))}
    unknown = {**metadata, "card": json.dumps(files.card(path) | {"architecture": "Tay"})}
    weights = files.read_tensors(path)[0]
    missing = {name: value for name, value in weights.items() if name != "direct.weight"}
    short = files.card(path) | {"sha256": files._checksum(missing)}
    for content in (b"", b"junk", whole[:7], whole[:100], whole[:-5], whole + b"1", bytes(flipped), whole[::-1]):
        path.write_bytes(content)
        with pytest.raises(KLMError, match="cannot be read as a network"):
            files.load(path)
    for tensors, about, message in (
        (weights, None, "cannot be read as a network"),
        (weights, unknown, "is no network that this version knows"),
        (missing, metadata, "cannot be read as a network"),
        (missing, {**metadata, "card": json.dumps(short)}, "do not fit the network Toy"),
        (weights, {**metadata, "card": "[1]"}, "cannot be read as a network"),
    ):
        save_file(tensors, path, about)
        with pytest.raises(KLMError, match=message):
            files.load(path)


def test_wrong_names_of_weights(tmp_path):
    for wrong in ("kondo-sqare", "", tmp_path, tmp_path / "none.safetensors", None, 3, "a\0b.safetensors"):
        with pytest.raises(KLMError):
            files.load(wrong)
        with pytest.raises(KLMError):
            files.card(wrong)
    for wrong in ("toy", 3, tmp_path / "none" / "toy.safetensors"):
        with pytest.raises(KLMError):
            files.save(wrong, network())
    with pytest.raises(KLMError):
        files.save(tmp_path / "toy.safetensors", network(), {"object": object()})


# --- the command line

CONFIGURATION = """
[data]
files = ["frames.traj"]
validation = 2

[model]
architecture = "Toy"
width = 3

[loss]
transverse = 2

[recipe]
learning_rate = 1e-2
betas = [0.9, 0.99]

[run]
directory = "run"
epochs = 2
"""


def test_command_line(tmp_path, capsys):
    data.write(tmp_path / "frames.traj", heisenberg(5))
    path = tmp_path / "toy.toml"
    path.write_text(CONFIGURATION)
    assert main(["train", str(path), "--quiet"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("Toy with", "energy", "magnetic forces", "transverse", "correlation"))
    for name in ("best.safetensors", "checkpoint.safetensors", "curves.csv", "curves.png"):
        assert (tmp_path / "run" / name).is_file()
    path.write_text(
        '[data]\nfiles = "frames.traj"\nvalidation = "frames.traj"\n[model]\nstart = "run/best.safetensors"\n'
        '[recipe]\nname = "paper"\n[run]\ndirectory = "tuned"\nminutes = 0.001\n'
    )
    assert main(["train", str(path), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("old", "new", "hint"),
    [
        ("[loss]", "[los]", "did you mean loss?"),
        ("transverse", "transvers", "did you mean transverse?"),
        ("learning_rate", "learning_rat", "did you mean learning_rate?"),
        ("transverse = 2", "field = 2", "it is called magnetic_forces now"),
        ("transverse = 2", "torque = 2", "it is called transverse now"),
        ("width", "widht", "did you mean width?"),
        ("validation", "validtion", "did you mean validation?"),
        ("epochs", "epoch", "did you mean epochs?"),
        ('"Toy"', '"Tay"', "did you mean 'Toy'?"),
        ('directory = "run"', "", "has no directory"),
        ('files = ["frames.traj"]', "", "has no files"),
        ('files = ["frames.traj"]', "files = 3", "are no files"),
        ("frames.traj", "none.traj", "cannot be read"),
        ("learning_rate = 1e-2", 'learning_rate = "a"', "must be of type float"),
        ("learning_rate = 1e-2", "learning_rate = -1", "learning_rate"),
        ("learning_rate = 1e-2", 'name = "moderm"', "did you mean modern?"),
        ("epochs = 2", "", "epochs or minutes"),
        ("epochs = 2", 'epochs = 2\ndevice = "abacus"', "device"),
        ("epochs = 2", "epochs = 2\nseed = -1", "seed"),
        ("width = 3", 'width = "a"', "cannot be made of"),
        ("[data]", "data", "cannot be read"),
        ("[loss]\ntransverse = 2", "", None),
    ],
)
def test_wrong_configurations(tmp_path, old, new, hint):
    data.write(tmp_path / "frames.traj", heisenberg(4))
    path = tmp_path / "toy.toml"
    assert old in CONFIGURATION
    path.write_text(CONFIGURATION.replace(old, new))
    if hint is None:
        trainer_from(path)
        return
    with pytest.raises(KLMError) as caught:
        trainer_from(path)
    assert hint in str(caught.value)
