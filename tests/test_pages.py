"""Pages of the documentation as their readers would follow them; those of magnons and training have their own tests."""

import re

import matplotlib as mpl
import numpy as np
import pytest
from ase.build import bulk

mpl.use("Agg")

from pages import ROOT, blocks, page, section

from ase_klm import SpinCalculator, get_magnetic_forces, textures


def test_atoms_and_spins_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, names = page("docs/spin_lattice.md"), {}
    state = np.random.get_state()  # noqa: NPY002, ASE's FrechetCellFilter draws from it
    for block in blocks(text, "python"):
        exec(block, names)
    np.random.set_state(state)  # noqa: NPY002
    assert names["dynamics"].nsteps == 300
    assert names["anneal"].temperature_K == pytest.approx(100)
    assert names["anneal"].nsteps == 300
    assert len(names["magnons"].q) == len(names["phonons"].q)
    atoms = bulk("Fe", "bcc", a=2.8665, cubic=True).repeat(2)
    textures.uniform(atoms, length=2.2, noise=0.3, seed=1)
    atoms.calc = SpinCalculator(names["model"])
    assert np.abs(get_magnetic_forces(atoms)).max() > 0
    for picture in re.findall(r"\(images/(\w+\.png)\)", text):
        assert (ROOT / "docs" / "images" / picture).stat().st_size < 150_000


def test_readme_on_potentials(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(section(page("README.md"), "Potentials of atoms and moments"), "python")
    exec(block, {})
