"""Pictures, trajectories and files of magnons, and their command line."""

import json
import re
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import ase.io
import matplotlib.pyplot as plt
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.spectrum.band_structure import BandStructure
from pages import ROOT, blocks, page, section
from PIL import Image

from ase_klm import (
    ECNNCalculator,
    LLGDynamics,
    MagNetCalculator,
    Magnons,
    SpinCalculator,
    data,
    get_moments,
    lattices,
    plot,
    set_moments,
    textures,
)
from ase_klm.cli import main
from ase_klm.cli.magnon_bands import energy_range, structure
from ase_klm.cli.models import calculator_from
from ase_klm.errors import KLMError, KLMWarning
from ase_klm.magnons.band_files import ModelBands, write_bands
from ase_klm.magnons.mode_files import mode_images
from ase_klm.models import files
from ase_klm.moments import directions
from ase_klm.potentials import Exchange, Kondo, UniaxialAnisotropy, Zeeman, potential_of
from ase_klm.units import FS, HBAR

J1, K = -4.5e-3, 0.5e-3


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def ferromagnet(scale=1.0):
    atoms = lattices.honeycomb()
    textures.uniform(atoms, (0, 0, 1), length=3.0)
    atoms.calc = SpinCalculator(Exchange({1: scale * J1}) + UniaxialAnisotropy(K))
    return atoms


def antiferromagnet():
    atoms = lattices.honeycomb()
    set_moments(atoms, [(0, 0, 3.0), (0, 0, -2.0)])  # of different lengths: a ferrimagnet
    atoms.calc = SpinCalculator(Exchange({1: -J1}) + UniaxialAnisotropy(K))
    return atoms


def dm_chain():
    def bond(r):
        matrix = J1 * np.eye(3)
        matrix[0, 1] = 1.5e-3 * np.sign(r[0])
        matrix[1, 0] = -matrix[0, 1]
        return matrix

    atoms = lattices.chain(1)
    textures.uniform(atoms, (0, 0, 1), length=2.0)
    atoms.calc = SpinCalculator(Exchange({1: bond}) + Zeeman((0, 0, 1e-3)))
    return atoms


# bands


def test_bands_are_drawn_in_mev_from_zero():
    magnons = Magnons(ferromagnet())
    bands = magnons.get_band_structure("GMKG", npoints=40)
    ax = magnons.plot("GMKG", npoints=40)
    lower, upper = ax.get_lines()[:2]
    np.testing.assert_allclose(np.stack([lower.get_ydata(), upper.get_ydata()], 1), 1e3 * bands.energies[0])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["Γ", "M", "K", "Γ"]
    low, high = ax.get_ylim()
    assert low == 0
    assert high > 1e3 * bands.energies.max()
    ticks = ax.get_xticks()
    assert ticks[0] == ax.get_xlim()[0]
    assert ticks[-1] == ax.get_xlim()[1]  # beyond it, the label would not be drawn
    assert "meV" in ax.get_ylabel()
    assert ax.get_legend() is None


def test_comparison_has_colours_and_a_legend():
    several = [Magnons(ferromagnet(scale)).get_band_structure("GM,KG", npoints=n) for scale, n in ((1, 30), (2, 50))]
    _, ax = plt.subplots()
    assert plot.magnon_bands(*several, labels=["one", "two"], ax=ax) is ax
    lines = ax.get_lines()[:4]
    assert [line.get_color() for line in lines] == ["C0", "C0", "C3", "C3"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two"]
    assert [line.get_color() for line in ax.get_legend().get_lines()] == ["C0", "C3"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["Γ", "M|K", "Γ"]
    assert all(np.isnan(line.get_ydata()).sum() == 1 for line in lines)  # no line crosses the jump


def test_wrong_bands_are_refused():
    bands = Magnons(ferromagnet()).get_band_structure("GMKG", npoints=10)
    unstable = BandStructure(bands.path, bands.energies * 1j)
    other = Magnons(ferromagnet()).get_band_structure("GKMG", npoints=10)
    for given, options, words in (
        ((), {}, "no bands"),
        ((bands, 3), {}, "not a band structure"),
        ((unstable,), {}, "complex"),
        ((bands, other), {}, "different paths"),
        ((bands, bands), {"labels": ["one"]}, "do not fit"),
        ((bands,), {"labels": "a"}, "do not fit"),
    ):
        with pytest.raises(KLMError, match=words):
            plot.magnon_bands(*given, **options)


# films of a mode


def motion(atoms, images):
    """Changes of the moments to the second image, by LLGDynamics without damping, and as written."""
    moving = images[0].copy()
    moving.calc = atoms.calc
    with LLGDynamics(moving, timestep=images[1].info["time"] * FS / 10, damping=0.0) as dynamics:
        dynamics.run(10)
    start = get_moments(images[0])
    return get_moments(moving) - start, get_moments(images[1]) - start


@pytest.mark.parametrize(
    ("build", "q", "mode", "cells"),
    [
        (dm_chain, (0.2, 0, 0), 0, (5, 1, 1)),
        (dm_chain, (-0.2, 0, 0), 0, (5, 1, 1)),
        (ferromagnet, (1 / 3, 1 / 3, 0), 0, (3, 3, 1)),
        (ferromagnet, (0.25, 0.5, 0), 1, (4, 2, 1)),
        (antiferromagnet, (0.25, 0, 0), 0, (4, 1, 1)),
        (antiferromagnet, (0.25, 0, 0), 1, (4, 1, 1)),
    ],
)
def test_images_move_as_the_dynamics(build, q, mode, cells):
    atoms = build()
    images = mode_images(Magnons(atoms), q, mode, n_images=200, amplitude=1e-3)
    assert len(images[0]) == len(atoms) * np.prod(cells)
    found, written = motion(atoms, images)
    assert np.abs(written).max() > 1e-5
    # of second order in the amplitude, and the error of the integrator
    np.testing.assert_allclose(found, written, atol=1e-3 * np.abs(written).max())


def test_images_of_a_spiral_move_as_the_dynamics():
    atoms = lattices.chain(1)
    textures.uniform(atoms, (1, 0, 0), length=2.0)
    atoms.calc = SpinCalculator(Exchange({1: -4e-3, 2: 2e-3}))  # cos(2πk) = 4/(4·2)
    magnons = Magnons(atoms, spiral=((1 / 6, 0, 0), (0, 0, 1)))
    images = mode_images(magnons, (1 / 4, 0, 0), 0, n_images=200, amplitude=1e-3)
    assert len(images[0]) == 12
    found, written = motion(atoms, images)
    np.testing.assert_allclose(found, written, atol=2e-3 * np.abs(written).max())


@pytest.mark.parametrize("ending", ["traj", "extxyz"])
def test_write_mode(tmp_path, ending):
    atoms = antiferromagnet()
    magnons = Magnons(atoms)
    path, gif = tmp_path / f"mode.{ending}", tmp_path / "mode.gif"
    magnons.write_mode((0.5, 0, 0), 1, path, n_images=8, amplitude=0.3, gif=gif)
    frames = data.read(path)
    assert len(frames) == 8
    energy = magnons.frequencies((0.5, 0, 0))[0, 1]
    assert frames[4].time == pytest.approx(np.pi * HBAR / energy / FS, rel=1e-6)  # half a period
    moments = np.array([frame.moments for frame in frames])
    np.testing.assert_allclose(np.linalg.norm(moments, axis=2), np.tile([3.0, 2.0], (8, 2)), atol=1e-7)
    e = directions(np.tile(get_moments(atoms), (2, 1)))
    tilts = np.arccos(np.clip((moments * e).sum(-1) / np.linalg.norm(moments, axis=2), -1, 1))
    assert tilts.max() == pytest.approx(0.3, abs=1e-5)
    across = moments - (moments * e).sum(-1, keepdims=True) * e
    np.testing.assert_allclose(across[0], -across[4], atol=1e-6)
    np.testing.assert_allclose(across[0, :2], -across[0, 2:], atol=1e-6)  # half a wave from cell to cell
    with Image.open(gif) as film:
        assert film.n_frames == 8


def test_supercells_of_a_mode(tmp_path):
    magnons = Magnons(ferromagnet())
    assert len(mode_images(magnons, (0.5, 0, 0), 0, supercell=(4, 3, 1))[0]) == 24
    with pytest.warns(KLMWarning, match="does not hold"):
        mode_images(magnons, (0.5, 0, 0), 0, supercell=(3, 1, 1))
    for q, mode, options, words in (
        ((0.123456, 0, 0), 0, {}, "no supercell"),
        ((0.5, 0, 0), 2, {}, "mode = 2 does not exist"),
        ((0.5, 0, 0), 0, {"n_images": 1}, "n_images"),
        ((0.5, 0, 0), 0, {"amplitude": 2.0}, "quarter"),
        ((0.5, 0, 0), 0, {"supercell": (2, 1, 2)}, "cannot be used"),
        ((0.5, 0, 0.5), 0, {}, "not periodic"),
    ):
        with pytest.raises(KLMError, match=words):
            mode_images(magnons, q, mode, **options)
    with pytest.raises(KLMError, match=r"neither a \.traj"):
        magnons.write_mode((0.5, 0, 0), 0, tmp_path / "mode.npz")
    with pytest.raises(KLMError):
        Magnons(dm_chain()).write_mode((0.5, 0, 0), 0, tmp_path / "chain.traj", gif=tmp_path / "chain.gif")
    assert not (tmp_path / "chain.traj").exists()  # a chain cannot be drawn, which is seen beforehand


# models in TOML

CRI3 = """
[exchange]
shells = {1 = -0.0045}
bonds = [[0, 0, [1, 0, 0], 0.0, [0, 0, 0.0005]], [1, 1, [1, 0, 0], [[0, -5e-4, 0], [5e-4, 0, 0], [0, 0, 0]]]]
onsite = [[[0, 0, 0], [0, 0, 0], [0, 0, -1e-4]], [[0, 0, 0], [0, 0, 0], [0, 0, -1e-4]]]
site_fields = [[0, 0, 1e-4]]
[anisotropy]
constant = 0.0004
[zeeman]
field = [0, 0, 1e-4]
"""


def test_terms_of_a_file(tmp_path, rng):
    path = tmp_path / "model.toml"
    path.write_text(CRI3)
    calc, told = calculator_from(str(path))
    assert told["anisotropy"] == {"constant": 0.0004}
    atoms = lattices.honeycomb()
    across = np.array([[0, 5e-4, 0], [-5e-4, 0, 0], [0, 0, 0]])  # D (e_i × e_j)_z
    by_hand = SpinCalculator(
        Exchange(
            {1: -0.0045},
            [(0, 0, (1, 0, 0), across), (1, 1, (1, 0, 0), -across)],
            onsite=np.tile(np.diag([0, 0, -1e-4]), (2, 1, 1)),
            site_fields=(0, 0, 1e-4),
        )
        + UniaxialAnisotropy(0.0004)
        + Zeeman((0, 0, 1e-4))
    )
    set_moments(atoms, rng.normal(size=(2, 3)))
    atoms.calc = calc
    energy = atoms.get_potential_energy()
    atoms.calc = by_hand
    assert energy == pytest.approx(atoms.get_potential_energy(), rel=1e-12)


def test_electrons_and_networks_of_a_file(tmp_path):
    path = tmp_path / "model.toml"
    path.write_text("[kondo]\nhopping = {1 = 1.0, 3 = -0.85}\nJ = 1\nmu = -3.5\nkpts = [3, 3, 1]\n")
    atoms = lattices.triangular()
    textures.uniform(atoms)
    atoms.calc = calculator_from(str(path))[0]
    term = potential_of(atoms)
    assert isinstance(term, Kondo)
    assert dict(term.hopping) == {1: 1.0, 3: -0.85}
    assert tuple(term.kpts) == (3, 3, 1)
    path.write_text('[network]\nmodel = "kondo-square"\n[zeeman]\nfield = [0, 0, 0.01]\n')
    square = lattices.square((4, 4))
    textures.random(square, seed=1)
    square.calc = calculator_from(str(path))[0]
    with_field = square.get_potential_energy()
    square.calc = calculator_from("kondo-square")[0]
    assert with_field == pytest.approx(square.get_potential_energy() - 0.01 * get_moments(square)[:, 2].sum(), abs=1e-9)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("a =", "cannot be read"),
        ("exchange = 3", "no section"),
        ("[exchang]", "did you mean exchange"),
        ("[exchange]\nshell = 1", "did you mean shells"),
        ("[exchange]\nshells = [1]", "not given by shells"),
        ("[exchange]\nshells = {a = 1}", "not given by shells"),
        ("[exchange]\nbonds = [[0, 1]]", "is not a bond"),
        ("[exchange]\nbonds = [[0, 1, [0, 0, 0], 1, [1, 2]]]", "cannot be used"),
        ("[anisotropy]\naxis = [0, 0, 1]", "has no constant"),
        ('[zeeman]\nfield = "up"', r"\[zeeman\] of"),
        ("[kondo]\nhopping = {1 = 1}\nJ = 1", r"\[kondo\] of"),
        ('[network]\nmodel = "nothing"', "nothing"),
        ("[network]\nmodel = 3", r"\[network\] of"),
        ('[anisotropy]\nconstant = "large"', r"\[anisotropy\] of"),
    ],
)
def test_wrong_files(tmp_path, text, words):
    path = tmp_path / "model.toml"
    path.write_text(text)
    with pytest.raises(KLMError, match=words):
        calculator_from(str(path))


# command line

MODEL = "[exchange]\nshells = {1 = -0.0045}\n[anisotropy]\nconstant = 0.0005\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data.write("fm.extxyz", ferromagnet())
    Path("model.toml").write_text(MODEL)
    Path("other.toml").write_text(MODEL.replace("45", "60"))
    return tmp_path


def typed(line):
    return main(line.split())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0, 2.5e4])
def test_rounding_about_zero_is_printed_as_zero(scale):
    """In six digits of the largest value: a Goldstone mode is at 0, not at 1.7e-15 or -0."""
    for rounding in (1.7e-15, -3e-14, 0.0):
        assert energy_range(scale * np.array([[rounding, 0.5, 1.0]])) == f"0 to {scale:g}"
    assert energy_range(scale * np.array([0.125, 1.0])) == f"{scale * 0.125:g} to {scale:g}"
    assert energy_range(np.zeros(3)) == "0 to 0"


def test_command_line(folder, capsys):
    arguments = "magnons fm.extxyz --model model.toml --path GMKG --npoints 50 --dos 12 12 1 --spectrum s.png"
    assert main([*arguments.split(), "--output", "bands.json", "--picture", "bands.png"]) == 0
    told = json.loads(Path("bands.json").read_text(encoding="utf-8"))
    expected = Magnons(ferromagnet()).get_band_structure("GMKG", npoints=50)
    (model,) = told["models"]
    np.testing.assert_allclose(model["energies"], expected.energies[0], atol=1e-12)
    np.testing.assert_allclose(told["q"], expected.path.kpts)
    assert told["units"]["energies"] == "eV"
    assert [point["label"] for point in told["special_points"]] == ["G", "M", "K", "G"]
    for point in told["special_points"]:
        assert told["q"][point["index"]] == point["q"]
        assert told["distance"][point["index"]] == pytest.approx(point["distance"])
    assert model["model"]["exchange"]["shells"] == {"1": -0.0045}
    assert model["moments"] == [[0, 0, 3], [0, 0, 3]]
    density = model["density_of_states"]
    assert np.trapezoid(density["values"], density["energies"]) == pytest.approx(2, rel=1e-2)  # modes a cell
    assert told["provenance"]["package"] == "ase_klm"
    assert told["provenance"]["command"].startswith("ase-klm magnons fm.extxyz")
    assert told["structure"]["file"] == "fm.extxyz"
    for picture in ("bands.png", "s.png"):
        with Image.open(picture) as image:
            assert min(image.size) > 300
    assert "2 modes at 50 q along GMKG" in capsys.readouterr().out


def test_command_line_compares_models(folder):
    assert typed("magnons fm.extxyz --model model.toml --model other.toml --path GM,KG --npoints 20") == 0
    told = json.loads(Path("magnons.json").read_text(encoding="utf-8"))
    assert [one["name"] for one in told["models"]] == ["model", "other"]
    first, second = (np.array(one["energies"]) for one in told["models"])
    assert second.max() > first.max()
    assert [point["index"] for point in told["special_points"]] == sorted(
        {point["index"] for point in told["special_points"]}
    )  # at the jump, M and K are two points
    assert [point["label"] for point in told["special_points"]] == ["G", "M", "K", "G"]
    assert Path("magnons.png").stat().st_size > 1000


def test_command_line_relaxes(folder, capsys):
    atoms = ferromagnet()
    textures.add_noise(atoms, 0.1, seed=1)
    data.write("noisy.traj", atoms)
    assert typed("magnons noisy.traj --model model.toml --path GM --npoints 5") == 2
    assert "not at a stationary state" in capsys.readouterr().err
    assert typed("magnons noisy.traj --model model.toml --path GM --npoints 5 --relax") == 0
    told = json.loads(Path("magnons.json").read_text(encoding="utf-8"))
    np.testing.assert_allclose(np.abs(told["models"][0]["moments"]), [[0, 0, 3], [0, 0, 3]], atol=5e-3)


NETWORK = """
[network]
model = "{}"
"""


def test_command_line_takes_networks_of_atoms(folder):
    crystal = lattices.cri3_monolayer()
    set_moments(crystal, np.outer(crystal.symbols == "Cr", (0, 0, 3.0)))
    data.write("cri3.traj", crystal)
    assert typed("magnons cri3.traj --model cri3-model --path GK --npoints 3") == 0
    told = json.loads(Path("magnons.json").read_text(encoding="utf-8"))
    expected = MagNetCalculator("cri3-model", dtype="float64")
    energies = Magnons(crystal, expected).get_band_structure("GK", npoints=3).energies[0]
    np.testing.assert_allclose(told["models"][0]["energies"], energies, rtol=0, atol=1e-12)
    assert np.ptp(energies) > 5e-3

    files.save("own.safetensors", files.load("cri3-model"))
    Path("own.toml").write_text(NETWORK.format("own.safetensors"))
    textures.add_noise(crystal, 0.1, seed=1)
    for model in ("own.safetensors", "own.toml"):
        calculator, _ = calculator_from(model)
        for name in ("energy", "forces", "magnetic_forces"):
            np.testing.assert_allclose(
                calculator.get_property(name, crystal), expected.get_property(name, crystal), atol=1e-10
            )


def test_command_line_takes_networks_of_spins(folder):
    square = lattices.square((6, 6))
    textures.uniform(square)
    data.write("square.traj", square)
    Path("own.toml").write_text(NETWORK.format("kondo-square"))
    for model in ("kondo-square", "own.toml"):
        atoms, (calculator, _) = square.copy(), calculator_from(model)
        expected = ECNNCalculator("kondo-square", dtype="float64")
        textures.random(atoms, seed=1)
        forces = [calc.get_property("magnetic_forces", atoms) for calc in (calculator, expected)]
        np.testing.assert_allclose(*forces, atol=1e-14)


@pytest.mark.parametrize("name", ["POSCAR", "c.cif", "c.xsf"])
@pytest.mark.parametrize(
    ("words", "moment"), [("Cr=3", (0, 0, 3)), ("Cr=-2.5", (0, 0, -2.5)), ("Cr=3,0,-1", (3, 0, -1))]
)
def test_structures_of_other_formats(folder, name, words, moment):
    crystal = lattices.cri3_monolayer(size=(1, 2))
    ase.io.write(name, crystal)
    with pytest.raises(KLMError, match="--moments Cr=3"):
        structure(name)
    read = structure(name, [words])
    chromium = read.symbols == "Cr"
    assert chromium.sum() == 4
    np.testing.assert_allclose(get_moments(read), np.outer(chromium, moment))


def test_moments_that_a_calculation_found_are_read(folder):
    crystal = lattices.cri3_monolayer()
    set_moments(crystal, 0.6)  # a guess
    crystal.calc = SinglePointCalculator(crystal, energy=0.0, magmoms=[3.1, 3.1, *(-0.1,) * 6])
    ase.io.write("c.json", crystal)
    np.testing.assert_allclose(get_moments(structure("c.json"))[:, 2], [3.1, 3.1, *(-0.1,) * 6])


def test_command_line_leaves_a_saddle_when_nudged(folder, capsys):
    """An antiparallel state of a ferromagnet has no torques: relaxation alone stays there."""
    data.write("saddle.traj", antiferromagnet())
    for seed in (1, 2):
        line = "magnons saddle.traj --model model.toml --path GM --npoints 5 --overwrite"
        assert typed(f"{line} --relax") == 2
        assert "unstable" in capsys.readouterr().err
        assert typed(f"{line} --relax --nudge 0.05 --seed {seed}") == 0
        told = json.loads(Path("magnons.json").read_text(encoding="utf-8"))
        first, second = directions(told["models"][0]["moments"])
        np.testing.assert_allclose(first, second, atol=1e-2)
        assert min(min(told["models"][0]["energies"])) > 0


def test_command_line_overwrites_only_when_told(folder, capsys):
    line = "magnons fm.extxyz --model model.toml --path GM --npoints 5"
    assert typed(line) == 0
    before = Path("magnons.json").read_bytes()
    assert typed(line) == 2
    assert "add --overwrite" in capsys.readouterr().err
    assert Path("magnons.json").read_bytes() == before
    assert typed(f"{line} --npoints 6 --overwrite") == 0
    assert Path("magnons.json").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("fm.extxyz --model model.toml --moments Cr", "cannot be read"),
        ("fm.extxyz --model model.toml --moments Xx=3", "cannot be read"),
        ("fm.extxyz --model model.toml --moments Cr=1,2", "cannot be read"),
        ("fm.extxyz --model model.toml --moments Mn=2", "names no atom"),
        ("fm.extxyz --model model.toml --nudge 0.1", "add --relax"),
        ("fm.extxyz --model model.toml --nudge -1 --relax", "--nudge = -1"),
        ("fm.extxyz --model model.toml --nudge 1 --seed -1 --relax", "seed"),
        ("junk --model model.toml", "cannot be read as a structure"),
        ("fm.extxyz --model model.toml --picture a.png --spectrum a.png", "named twice"),
        ("nothing.extxyz --model model.toml", "there is no such file"),
        ("fm.cif --model model.toml", "cannot be read"),
        ("bare.extxyz --model model.toml", "carries no moments"),
        ("fm.extxyz --model nothing.toml", "nothing.toml cannot be read"),
        ("fm.extxyz --model nothing", "no network called 'nothing'"),
        ("fm.extxyz --model model.toml --path GXK", "'X' is no special point"),
        ("fm.extxyz --model model.toml --path G,", "cannot be read"),
        ("fm.extxyz --model model.toml --npoints 1", "--npoints"),
        ("fm.extxyz --model model.toml --output no/where.json", "cannot be written"),
        ("fm.extxyz --model model.toml --output bands.txt", "cannot be written"),
        ("fm.extxyz --model model.toml --picture bands.doc", "cannot be written"),
        ("fm.extxyz --model model.toml --dos 0 1 1", "no mesh"),
        ("fm.extxyz --model model.toml --fmax -1", "--fmax"),
        ("fm.extxyz --model model.toml --model other.toml --spectrum s.png", "shows one model"),
        ("fm.extxyz --model model.toml --supercell 1 1 2", "not periodic"),
        ("afm.extxyz --model model.toml", "unstable"),
    ],
)
def test_command_line_says_what_is_wrong(folder, capsys, arguments, words):
    bare = ferromagnet()
    set_moments(bare, np.zeros((2, 3)))
    data.write("bare.extxyz", bare)
    data.write("afm.extxyz", antiferromagnet())
    Path("junk").write_text("no structure")
    assert main(["magnons", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "what to do" in error
    assert not Path("magnons.json").exists()


def test_write_bands_refuses_other_endings(tmp_path):
    magnons = Magnons(ferromagnet())
    one = ModelBands("m", {}, magnons, magnons.get_band_structure("GM", npoints=4))
    for name in ("bands.yaml", "no/bands.json"):
        with pytest.raises(KLMError):
            write_bands(tmp_path / name, [one])
    write_bands(tmp_path / "bands.json", [one])
    assert [path.name for path in tmp_path.iterdir()] == ["bands.json"]  # no temporary file is left


# the page


PAGE = page("docs/magnons.md")


def test_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(section(page("README.md"), "Magnons"), "python")
    exec(block, {})
    assert Path("bands.png").exists()


def test_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(blocks(PAGE, "python")), names)
    for picture in re.findall(r"\(images/(\w+\.png)\)", PAGE):
        assert (ROOT / "docs" / "images" / picture).stat().st_size < 150_000
    data.write("cri3.extxyz", names["crystal"])
    (toml,) = blocks(PAGE, "toml")
    Path("cri3.toml").write_text(toml, encoding="utf-8")
    (command,) = (block for block in blocks(PAGE, "") if block.startswith("ase-klm"))
    assert main(command.replace("\\\n", " ").split()[1:]) == 0
    found = json.loads(Path("bands.json").read_text(encoding="utf-8"))["models"][0]["energies"]
    np.testing.assert_allclose(found[0], names["without"].frequencies((0, 0, 0))[0], atol=1e-12)
