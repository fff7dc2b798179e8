"""What is too large is refused before it is begun, by estimates that agree with what is used."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from ase_klm import (
    ECNNCalculator,
    ExchangeCalculator,
    KLMError,
    KLMWarning,
    KondoEDCalculator,
    graphs,
    lattices,
    memory,
    potentials,
    textures,
)
from ase_klm.cli import main
from ase_klm.data.sampling import sample
from ase_klm.electrons.diagonalisation import seconds_needed
from ase_klm.magnons import Magnons
from ase_klm.potentials import kondo

SQUARE = {"hopping": {1: 1.0}, "J": 7.0, "filling": 0.48}

MEASURE = """
import gc, json, re, sys
import numpy as np
from ase_klm import KondoEDCalculator, ExchangeCalculator, graphs, lattices, textures
from ase_klm.electrons import diagonalisation, response
from ase_klm.magnons import columns
from ase_klm.potentials import exchange
from ase_klm.potentials.kondo import DTYPES

def status(name):
    return 1024 * int(re.search(rf"{name}:\\s+(\\d+)", open("/proc/self/status").read())[1])

def peak(call):
    gc.collect()  # when it happens by itself is chance
    open("/proc/self/clear_refs", "w").write("5")  # forget the highest use so far
    before = status("VmRSS")
    call()
    return status("VmHWM") - before

def calculator(size, mesh=1, **options):
    atoms = lattices.square((size, size))
    textures.random(atoms, seed=1)
    mesh = (mesh, mesh, 1)
    atoms.calc = KondoEDCalculator({1: 1.0}, 7.0, filling=0.48, temperature=0.01, kpts=mesh, **options)
    return atoms

found = {}
for options in ({}, {"solver": "all"}, {"dtype": "float32"}):
    calculator(4, **options).get_potential_energy()
    atoms = calculator(18, **options)
    used = peak(atoms.get_potential_energy)
    found[f"diagonalisation {options}"] = used, atoms.calc.bound(atoms).terms[0].memory_needed
atoms = calculator(12, mesh=4, solver="all")
used = peak(atoms.get_potential_energy)
found["k-mesh"] = used, atoms.calc.bound(atoms).terms[0].memory_needed
kondo = calculator(12).calc.bound(calculator(12)).terms[0]
state = kondo.moments, kondo.positions, kondo.cell
used = peak(lambda: kondo.levels(np.random.default_rng(1).random((16, 3)), *state))
found["levels"] = used, diagonalisation.memory_needed(16, 288, DTYPES["float64"], "all")
kondo = calculator(9, mesh=2).calc.bound(calculator(9, mesh=2)).terms[0]
used = peak(lambda: kondo.second_derivatives(kondo.moments).at(np.array([[0.1, 0.2, 0.0]])))
found["response"] = used, response.memory_needed(4, 81, DTYPES["float64"])
cubic = lattices.face_centred_cubic((5, 5, 5))
used = peak(lambda: graphs.bonds_within(cubic, 2.6))
found["bonds"] = used, graphs.BYTES_A_BOND * graphs.expected_bonds(cubic, 2.6)
cubic = lattices.face_centred_cubic((10, 10, 10))
textures.random(cubic, seed=1)
bonds = graphs.neighbour_shells(cubic, [1])
used = peak(lambda: ExchangeCalculator({1: 1.0}).bound(cubic))
found["exchange"] = used, exchange.BYTES_A_BOND * len(bonds)
print(json.dumps(found))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of memory is read from /proc")
def test_estimates_agree_with_what_is_used():
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}  # freed arrays go back
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    ratios = {name: used / needed for name, (used, needed) in json.loads(done.stdout).items()}
    assert all(1 / 1.6 < ratio < 1.5 for ratio in ratios.values()), ratios


@pytest.fixture
def little(monkeypatch):
    """A machine with 150 MB left."""
    monkeypatch.setattr(memory, "available_memory", lambda _="cpu": 1.5e8)


@pytest.mark.parametrize("size", [300, 1000])
def test_a_large_kondo_lattice_is_refused_at_once(size):
    atoms = lattices.square((300, 300))
    textures.random(atoms, seed=1)
    atoms.calc = KondoEDCalculator(**SQUARE, kpts=(size // 300, 1, 1))
    start = time.process_time()
    with pytest.raises(KLMError, match="order 180000") as caught:
        atoms.get_potential_energy()
    assert time.process_time() - start < 5
    assert "TB of memory" in caught.value.what
    assert "available" in caught.value.why
    for word in ("sites", "k-mesh", "network", "ECNNCalculator"):
        assert word in caught.value.remedy
    if size > 300:
        assert "with 1 k-points" in caught.value.remedy


def test_what_fits_does_fit(little):
    atoms = lattices.square((40, 40))
    textures.random(atoms, seed=1)
    with pytest.raises(KLMError, match="1600 sites") as caught:
        KondoEDCalculator(**SQUARE).bound(atoms)
    sites = int(caught.value.remedy.split()[0])
    assert 600 < sites < 1600
    for length, fits in ((sites, True), (sites + 8, False)):
        chain = lattices.chain(length)
        textures.random(chain, seed=1)
        if fits:
            KondoEDCalculator(**SQUARE).bound(chain)
        else:
            with pytest.raises(KLMError, match="of memory"):
                KondoEDCalculator(**SQUARE).bound(chain)


def test_sampling_of_a_large_lattice(tmp_path, capsys, little):
    path = tmp_path / "set.npz"
    words = f"sample {path} --lattice square --size 400 400 --hopping 1:1.0 --J 7 --filling 0.48 --count 1 --seed 1"
    assert main(words.split()) == 2
    assert "order 320000 (160000 sites, two states each) needs 6.96 TB" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    lattice = lattices.square((18, 18))
    with pytest.raises(KLMError, match="in 9 processes at once needs"):
        sample(lattice, path, 9, seed=1, **SQUARE, workers=9)
    assert not list(tmp_path.iterdir())


def test_long_diagonalisations_are_announced(monkeypatch):
    """By the time that README states, 6 s for 36 × 36 on two cores, one of them 5e-10 s times order³."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert 3 < seconds_needed(1, 2 * 36**2, torch.complex128) < 8
    assert seconds_needed(3, 200, torch.complex64) == pytest.approx(1.5 * seconds_needed(1, 200, torch.complex128))
    atoms = lattices.square((4, 4))
    textures.random(atoms, seed=1)
    monkeypatch.setattr(kondo, "seconds_needed", lambda *_: 9000.0)
    with pytest.warns(KLMWarning, match=r"about 2 hours") as caught:
        KondoEDCalculator(**SQUARE).bound(atoms)
    assert caught[0].filename == __file__


def refused(call, words):
    start = time.process_time()
    with pytest.raises(KLMError, match=r"[MGTP]B of memory") as caught:
        call()
    assert time.process_time() - start < 5
    assert words in str(caught.value)


def test_other_large_requests(little):
    cell = lattices.triangular_magnetic_cell()
    textures.random(cell, seed=1)
    dense = lattices.face_centred_cubic((8, 8, 8), a=3.6)
    textures.random(dense, seed=1)
    large = lattices.square((260, 260))
    textures.random(large, seed=1)
    electrons = KondoEDCalculator({1: 1.0}, 1.0, filling=0.3, temperature=0.1)
    bound = electrons.bound(cell).terms[0]
    state = bound.moments, bound.positions, bound.cell
    refused(
        lambda: KondoEDCalculator({1: 1.0}, 1.0, filling=0.3, kpts=(400, 400, 1)).bound(cell), "k-points; a magnetic"
    )
    refused(lambda: bound.levels(np.zeros((10_000, 3)), *state), "fewer k-points")
    wide = KondoEDCalculator({1: 1.0}, 1.0, filling=0.3, temperature=0.1, kpts=(16, 16, 1)).bound(cell).terms[0]
    refused(lambda: wide.second_derivatives(wide.moments), "the response of 48 sites with 256 k-points")
    refused(lambda: Magnons(cell, electrons, method="differences", supercell=(20, 20, 1)).run(), "supercell")
    refused(lambda: lattices.square((10_000, 10_000)), "sites")
    refused(lambda: lattices.cri3_monolayer((10**90, 10**90)), "sites")
    pairs = potentials.Exponential(-0.01, 2.5, 0.4)
    refused(lambda: ExchangeCalculator(function=pairs, cutoff=1000.0).bound(dense).evaluate(), "cutoff")
    refused(lambda: graphs.bonds_within(lattices.chain(10), 1e6), "cutoff")
    refused(lambda: KondoEDCalculator(pairs, 1.0, filling=0.3, cutoff=1000.0).bound(cell).evaluate(), "cutoff")
    refused(lambda: ExchangeCalculator({1: 1.0}).bound(large), "exchange along 135200 bonds")
    refused(lambda: ECNNCalculator().bound(large), "largest_tile")
    exact = ExchangeCalculator({1: -1.0}).bound(cell).terms[0]
    blocks = exact.second_derivatives(exact.moments)
    refused(lambda: blocks.at(np.zeros((10_000, 3))), "fewer q")


@pytest.mark.parametrize("cutoff", [1.2, 2.5, 4.0])
@pytest.mark.parametrize(
    "atoms",
    [
        lattices.square((20, 20)),
        lattices.chain(300),
        lattices.simple_cubic((7, 7, 7)),
        lattices.triangular(),
        lattices.body_centred_cubic(),
    ],
    ids=["square", "chain", "cubic", "one site", "two sites"],
)
@pytest.mark.parametrize("turned", [False, True])
def test_number_of_bonds_is_known_beforehand(atoms, cutoff, turned):
    found = len(graphs.bonds_within(atoms, cutoff))
    opened = atoms.copy()
    opened.pbc = False
    if turned:
        opened.rotate(37, (1, 2, 3), rotate_cell=True)
    assert graphs.expected_bonds(atoms, cutoff) == pytest.approx(found, rel=0.45)  # a small ball on a lattice
    if len(atoms) > 2:
        fewer = len(graphs.bonds_within(opened, cutoff))
        assert 0.4 * fewer < graphs.expected_bonds(opened, cutoff) < 3.0 * fewer


def test_memory_that_a_group_leaves(tmp_path, monkeypatch):
    """Version 2, a limit on the group above; version 1, and none."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.setattr(memory, "CGROUPS", groups)

    def write(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    write(proc / "meminfo", "MemTotal:  8000000 kB\nMemAvailable:  4000000 kB\n")
    write(proc / "self" / "cgroup", "0::/slurm/job\n")
    assert memory.available_memory() == 4.096e9
    write(groups / "slurm" / "job" / "memory.max", "max\n")
    write(groups / "slurm" / "job" / "memory.current", "1000000000\n")
    write(groups / "slurm" / "memory.max", "3000000000\n")
    write(groups / "slurm" / "memory.current", "2000000000\n")
    write(groups / "slurm" / "memory.stat", "anon 5\ninactive_file 500000000\n")
    assert memory.available_memory() == 1.5e9
    write(proc / "self" / "cgroup", "4:memory:/job\n1:cpu:/other\n")
    write(groups / "memory" / "job" / "memory.limit_in_bytes", "2000000000\n")
    write(groups / "memory" / "job" / "memory.usage_in_bytes", "900000000\n")
    write(groups / "memory" / "job" / "memory.stat", "total_inactive_file 100000000\n")
    assert memory.available_memory() == 1.2e9
    (proc / "self" / "cgroup").unlink()
    assert memory.available_memory() == 4.096e9


def test_memory_of_a_gpu(monkeypatch):
    """What the driver has, and what torch keeps without using it."""
    for name, value in (("mem_get_info", (5e9, 8e9)), ("memory_reserved", 3e9), ("memory_allocated", 1e9)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)  # noqa: ARG005
    assert memory.available_memory("cuda:0") == 7e9
    with pytest.raises(KLMError, match=r"on cuda:0 7 GB are available"):
        memory.require_memory(1e10, "this", "that", "cuda:0")


def test_sizes_for_people():
    assert [memory.size_text(x) for x in (2e6, 1.29e11, 2.2e12, 5e17)] == ["2 MB", "129 GB", "2.2 TB", "500 PB"]
