"""The demo: states that are disturbed until nothing lower is found, what is said of them, and pictures."""

from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ase_klm import ExchangeCalculator, KondoEDCalculator, SpinMinimizer, analysis, data, lattices, textures
from ase_klm.cli import demo


def state(name, energy=-0.28):
    atoms = lattices.triangular_magnetic_cell()
    textures.uniform(atoms) if name == demo.REFERENCE else demo.STARTS[name](atoms)
    return demo.Relaxed(atoms, energy, rounds=1)


@pytest.mark.filterwarnings("ignore:all moments are collinear:ase_klm.KLMWarning")
@pytest.mark.parametrize("exchange", [0.01, -0.01])
def test_a_saddle_is_left(exchange):
    """A ferromagnet is stationary on any chain, and the minimum on a ferromagnetic one only."""
    atoms = lattices.chain(8)
    textures.uniform(atoms)
    atoms.calc = ExchangeCalculator(shells={1: exchange})
    minimizer = SpinMinimizer(atoms)
    rounds = demo.settle(minimizer)
    assert minimizer.energy == pytest.approx(-8 * 0.01, abs=1e-6)
    assert rounds == (2 if exchange > 0 else 1)


@pytest.mark.filterwarnings("ignore:no step lowers the energy:ase_klm.KLMWarning")  # in single precision
def test_a_relaxed_state_stays_when_disturbed_anew(tmp_path):
    """On a coarse mesh, so that it takes seconds; the numbers of the demo itself are in README."""
    found = demo.relax("n_sk = 1", 0.008, 2, tmp_path)
    frames = data.read(tmp_path / "n_sk1_H0.008.traj")
    assert len(frames) > 10
    again = found.atoms.copy()
    again.calc = KondoEDCalculator(**demo.HAMILTONIAN, field=(0, 0, 0.008), kpts=(2, 2, 1), **demo.FAST)
    before = again.get_potential_energy()
    textures.add_noise(again, 0.05, seed=77)
    SpinMinimizer(again).run(fmax=demo.TORQUE, steps=300)
    assert before - again.get_potential_energy() < demo.LOWER * len(again)


def test_what_a_state_became():
    assert state("n_sk = 2").became == "n_sk = 2, 3q"
    assert state("n_sk = 1").became == "n_sk = 1, 3q"
    assert state("helix").became == "helix"
    assert state("ferromagnet").became == "ferromagnet"


def relaxed():
    """At the first field two starts lead to the lowest state."""
    heights = {"n_sk = 2": 0.0, "n_sk = 1": 2e-7, "helix": 1e-4, "ferromagnet": 0.01}
    return {(name, field): state(name, -0.28 + height) for name, height in heights.items() for field in demo.FIELDS}


def test_table():
    lines = demo.table(relaxed()).splitlines()
    rows = [line for line in lines if line.startswith(" 0.0050")]
    assert [("lowest" in row) for row in rows] == [True, True, False, False]
    assert "n_sk = 1     n_sk = 1, 3q" in rows[1]
    assert "(reference)" in rows[3]
    assert "-0.0000" not in "\n".join(lines)
    assert lines[-1] == "at H = 0.008 the lowest state has n_sk = 2"


def test_nothing_is_drawn_between_fields():
    _, ax = plt.subplots()
    states = relaxed()
    demo.draw_energies(states, ax)
    points = [line for line in ax.lines if line.get_marker() != "None"]
    assert len(points) == 3
    for line, name in zip(points, demo.STARTS, strict=False):
        assert line.get_linestyle() == "None"
        np.testing.assert_allclose(line.get_ydata(), 1e3 * (states[name, 0.0].energy + 0.28), atol=1e-9)
        assert np.abs(line.get_xdata() - demo.FIELDS).max() < 0.0015  # nearer to its field than to the next
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "0.005", "0.008"]
    plt.close("all")


def test_film_titles_name_run_field_energy_and_charge():
    atoms = state("n_sk = 2").atoms
    atoms.info["step"] = 7
    title = demo._in_film(data.Frame(atoms), *demo.FILM).info["title"]
    assert title.startswith("from n_sk = 2, H = 0.008 eV")
    assert "step 7" in title
    assert f"= {abs(analysis.topological_charge(atoms, per=48)):.2f}" in title


def test_output_of_the_demo_is_ignored_by_git():
    assert "/ase-klm-demo/" in Path(__file__).parents[1].joinpath(".gitignore").read_text().splitlines()
