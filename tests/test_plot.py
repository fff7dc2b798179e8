"""Pictures, by the data of their lines and collections."""

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.cell import Cell
from ase.io import read, write
from ase.spectrum.band_structure import BandStructure
from matplotlib.quiver import Quiver
from PIL import Image

from ase_klm import analysis, lattices, plot, textures
from ase_klm.analysis.planes import magnetic_plane
from ase_klm.errors import KLMError
from ase_klm.moments import get_moments
from ase_klm.plot.animation import _title
from ase_klm.plot.cells import wigner_seitz_cells


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def area(polygon):
    x, y = polygon.T
    return 0.5 * np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))


# colours


def test_colours_follow_lightness_and_hue():
    assert (plot.spin_colours((0, 0, 1)) > 0.94).all()
    assert (plot.spin_colours((0, 0, -1)) < 0.1).all()
    theta = np.linspace(0, np.pi, 50)
    along = plot.spin_colours(np.stack([np.sin(theta), 0 * theta, np.cos(theta)], axis=1))
    luminance = along @ (0.2126, 0.7152, 0.0722)
    assert (np.diff(luminance) < 0.01).all()  # from +z to -z it gets darker (luminance is not quite lightness)
    ring = plot.spin_colours([(1, 0, 0), (0, 1, 0), (-1, 0, 0), (0, -1, 0)])
    assert ring.shape == (4, 3)
    assert ring[0].argmax() == 0  # +x is red
    assert ((ring >= 0) & (ring <= 1)).all()
    assert min(np.abs(a - b).max() for n, a in enumerate(ring) for b in ring[:n]) > 0.3


# texture


@pytest.mark.parametrize(
    "build",
    [
        lattices.square,
        lattices.triangular,
        lattices.honeycomb,
        lattices.kagome,
        lattices.triangular_magnetic_cell,
    ],
)
def test_cells_tile_the_plane(build):
    atoms = build((3, 2))
    textures.uniform(atoms)
    polygons = wigner_seitz_cells(magnetic_plane(atoms))
    areas = np.array([area(polygon) for polygon in polygons])
    assert (areas > 0).all()
    assert areas.sum() == pytest.approx(np.linalg.norm(np.cross(*atoms.cell.array[:2])))
    centres = np.array([polygon.mean(axis=0) for polygon in polygons])
    if build is not lattices.kagome and build is not lattices.honeycomb:  # there sites are no centres of inversion
        np.testing.assert_allclose(centres, atoms.positions[:, :2], atol=1e-6)


def test_cells_at_open_borders_continue_the_lattice():
    for build, expected in ((lattices.square, 1.0), (lattices.triangular, np.sqrt(3) / 2)):
        atoms = build((6, 6))
        textures.uniform(atoms)
        atoms.pbc = False
        areas = np.array([area(polygon) for polygon in wigner_seitz_cells(magnetic_plane(atoms))])
        np.testing.assert_allclose(areas, expected, rtol=0.35)
        assert np.median(areas) == pytest.approx(expected)


def test_texture_has_a_cell_a_site_and_arrows_where_few():
    atoms = lattices.triangular((12, 12))
    textures.skyrmion_crystal(atoms, n_sk=1)
    ax = plot.texture(atoms)
    cells, arrows = ax.collections
    assert len(cells.get_paths()) == 144
    np.testing.assert_allclose(cells.get_facecolor()[:, :3], plot.spin_colours(get_moments(atoms)))
    assert isinstance(arrows, Quiver)
    seen = np.hypot(*get_moments(atoms)[:, :2].T) > 0.08
    np.testing.assert_allclose(arrows.get_offsets(), atoms.positions[seen, :2])
    np.testing.assert_allclose(
        np.arctan2(arrows.V, arrows.U), np.arctan2(get_moments(atoms)[seen, 1], get_moments(atoms)[seen, 0])
    )
    assert "Å" in ax.get_xlabel()
    assert ax.get_aspect() == 1
    large = lattices.square((30, 30))
    textures.random(large, seed=1)
    assert not any(isinstance(one, Quiver) for one in plot.texture(large).collections)


def test_texture_draws_into_given_axes_and_shows_other_atoms():
    atoms = lattices.square((4, 4))
    textures.uniform(atoms, (1, 0, 0))
    mixed = atoms + Atoms("O3", positions=[(0.5, 0.5, 0), (1.5, 0.5, 0), (2.5, 0.5, 0)], magmoms=np.zeros((3, 3)))
    _, ax = plt.subplots()
    assert plot.texture(mixed, ax=ax) is ax
    np.testing.assert_allclose(ax.collections[-1].get_offsets(), mixed.positions[16:, :2])


def test_texture_of_an_upright_layer():
    atoms = lattices.square((6, 6))
    textures.skyrmion(atoms, 2.0)
    atoms.rotate(90, "y", rotate_cell=True)
    ax = plot.texture(atoms)
    assert ax.get_xlabel() != "$x$ (Å)"
    offsets = ax.collections[1].get_offsets()
    assert np.ptp(offsets[:, 0]) > 3
    assert np.ptp(offsets[:, 1]) > 3


def test_texture_errors():
    for atoms in (lattices.square((2, 2)), lattices.chain(4), lattices.simple_cubic((3, 3, 3))):
        if len(atoms) != 4 or atoms.pbc.sum() == 1:
            textures.uniform(atoms)
        with pytest.raises(KLMError):
            plot.texture(atoms)
    atoms = lattices.square((2, 2))
    textures.uniform(atoms)
    with pytest.raises(KLMError, match="not Matplotlib axes"):
        plot.texture(atoms, ax=3)


def test_one_wheel_explains_several_panels():
    atoms = lattices.square((6, 6))
    textures.skyrmion(atoms, 2.0)
    _, panels = plt.subplots(1, 2)
    for panel, wheel in zip(panels, (False, True), strict=True):
        plot.texture(atoms, ax=panel, wheel=wheel)
        assert len(panel.child_axes) == wheel


# structure factor


def test_structure_factor_tiles_and_zone():
    atoms = lattices.triangular((12, 12))
    textures.skyrmion_crystal(atoms, n_sk=2)
    factor = analysis.structure_factor(atoms)
    ax = plot.structure_factor(factor, log=False)
    tiles = ax.collections[0]
    np.testing.assert_allclose(tiles.get_array(), factor.intensity)
    centres = np.array([path.vertices[:-1].mean(axis=0) for path in tiles.get_paths()])
    np.testing.assert_allclose(centres, factor.q_cartesian[:, :2], atol=1e-9)
    zone = ax.lines[0].get_xydata()
    assert len(zone) == 7
    np.testing.assert_allclose(np.linalg.norm(zone, axis=1), 4 * np.pi / 3)  # corners K
    assert area(zone[:-1]) == pytest.approx(4 * np.pi**2 / (np.sqrt(3) / 2))
    assert {text.get_text() for text in ax.texts} == {"Γ", "K", "M"}
    rings = [line for line in ax.lines if len(line.get_xdata()) == 1 and not np.any(line.get_xydata())]
    assert [line.get_markerfacecolor() for line in rings] == ["none"]  # Γ is marked, its intensity seen
    assert "rad/Å" in ax.get_xlabel()


def test_structure_factor_from_atoms_fills_the_picture():
    atoms = lattices.square((8, 8))
    textures.random(atoms, seed=1)
    ax = plot.structure_factor([atoms, atoms])
    q = np.array([path.vertices[:-1].mean(axis=0) for path in ax.collections[0].get_paths()])
    assert np.abs(q).max() > ax.get_xlim()[1]
    assert {text.get_text() for text in ax.texts} == {"Γ", "M", "X"}
    norm = ax.collections[0].norm
    assert 0 < norm.vmin < norm.vmax == pytest.approx(ax.collections[0].get_array().max())


def test_structure_factor_marks_peaks_of_large_supercells_and_refuses_chains():
    atoms = lattices.triangular((60, 60))
    textures.skyrmion_crystal(atoms, n_sk=1, noise=0.1, seed=1)
    ax = plot.structure_factor(atoms)
    spots = ax.collections[1].get_offsets()
    assert 7 <= len(spots) < 40
    chain = lattices.chain(8)
    textures.random(chain, seed=1)
    with pytest.raises(KLMError, match="plane"):
        plot.structure_factor(chain)


# bands


def test_bands():
    atoms = lattices.triangular()
    path = atoms.cell.bandpath("GMKG", npoints=40, pbc=atoms.pbc)
    energies = np.random.default_rng(1).normal(size=(1, 40, 6))
    ax = plot.bands(BandStructure(path, energies, reference=-0.3))
    *lines, mu = ax.lines[:7]
    for line, band in zip(lines, energies[0].T, strict=True):
        np.testing.assert_allclose(line.get_ydata(), band)
    np.testing.assert_allclose(mu.get_ydata(), -0.3)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["Γ", "M", "K", "Γ"]
    assert ax.get_ylabel() == "$E$ (eV)"
    with pytest.raises(KLMError, match="band structure"):
        plot.bands(energies)


def test_bands_of_a_path_with_a_jump():
    atoms = lattices.triangular()
    path = atoms.cell.bandpath("GM,KG", npoints=30, pbc=atoms.pbc)
    ax = plot.bands(BandStructure(path, np.zeros((1, len(path.kpts), 1))))
    assert [label.get_text() for label in ax.get_xticklabels()] == ["Γ", "M|K", "Γ"]


@pytest.mark.parametrize(
    "cell",
    [
        bulk("Fe", "fcc", a=3.6).cell,
        bulk("Fe", "bcc", a=2.8).cell,
        bulk("Co", "hcp", a=2.5, c=4.1).cell,
        Cell.new([[3, 0, 0], [0.7, 4, 0], [0.3, 0.9, 5]]),
        Cell.new([3, 3.1, 12]),
    ],
    ids=["fcc", "bcc", "hcp", "triclinic", "orthorhombic"],
)
def test_names_of_special_points_do_not_touch(cell):
    path = cell.bandpath(npoints=50)
    ax = plot.bands(BandStructure(path, np.zeros((1, len(path.kpts), 1))))
    ax.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in ax.get_xticklabels()]
    ink = [
        (box.x0, box.y0, box.y0 + box.height / (1 + label.get_text().count("\n")), box.x1)
        for box, label in zip(boxes, ax.get_xticklabels(), strict=True)
    ]  # the last row of each holds the name
    for number, (left, bottom, top, right) in enumerate(ink):
        for other_left, other_bottom, other_top, other_right in ink[:number]:
            beside = right < other_left or other_right < left
            assert beside or top <= other_bottom + 1 or other_top <= bottom + 1


# time series, animation, OVITO


def quench(n_frames=6, size=8):
    frames = []
    for number in range(n_frames):
        atoms = lattices.square((size, size))
        textures.skyrmion(atoms, 2.0, noise=0.2, seed=number)
        atoms.info["time"] = 0.5 * number
        atoms.calc = SinglePointCalculator(atoms, energy=-64.0 + number)
        frames.append(atoms)
    return frames


def test_time_series(tmp_path):
    frames = quench()
    panels = plot.time_series(frames)
    assert len(panels) == 3
    times = 0.5 * np.arange(6)
    np.testing.assert_allclose(panels[0].lines[0].get_xydata(), np.stack([times, -1 + np.arange(6) / 64], axis=1))
    m = np.array([analysis.magnetisation(atoms) for atoms in frames])
    for line, component in zip(panels[1].lines, [*m.T, np.linalg.norm(m, axis=1)], strict=True):
        np.testing.assert_allclose(line.get_ydata(), component)
    np.testing.assert_allclose(
        panels[2].lines[0].get_ydata(), [analysis.topological_charge(atoms) for atoms in frames], atol=1e-9
    )
    assert panels[2].get_xlabel() == "time"
    write(tmp_path / "run.traj", frames)
    from_file = plot.time_series(tmp_path / "run.traj")
    np.testing.assert_allclose(from_file[0].lines[0].get_ydata(), panels[0].lines[0].get_ydata())


def test_time_series_leaves_out_what_is_not_there():
    chains = []
    for seed in range(3):
        chain = lattices.chain(8)
        textures.random(chain, seed=seed)
        chains.append(chain)
    (panel,) = plot.time_series(chains)
    assert panel.get_xlabel() == "frame"
    _, ax = plt.subplots()
    assert plot.time_series(chains, ax=ax)[0] is ax
    with pytest.raises(KLMError, match="1 axes"):
        plot.time_series(quench(2), ax=ax)


def test_animation(tmp_path):
    frames = quench(7)
    path = plot.animate(frames, tmp_path / "run.gif", fps=20, max_frames=4)
    with Image.open(path) as gif:
        assert gif.n_frames == 4
        assert gif.info["loop"] == 0
        assert gif.info["duration"] == 50
        first = np.asarray(gif.convert("RGB")).astype(int)
        gif.seek(3)
        last = np.asarray(gif.convert("RGB")).astype(int)
    assert tuple(first[0, 0]) == (255, 255, 255)
    assert np.abs(first - last).max() > 50
    assert not plt.get_fignums()  # nothing is left open
    with pytest.raises(KLMError, match=r"\.gif"):
        plot.animate(frames, tmp_path / "run.mp4")
    with pytest.raises(KLMError, match="fps"):
        plot.animate(frames, tmp_path / "run.gif", fps=0)
    frames[-1].arrays["initial_magmoms"][0] = 0
    with pytest.raises(KLMError, match="same magnetic atoms"):
        plot.animate(frames, tmp_path / "run.gif")


def test_frames_of_a_film_are_titled(tmp_path):
    frames = quench(3)
    files = [plot.animate(frames, tmp_path / f"{letter}.gif", title=lambda _: letter) for letter in "AW"]  # noqa: B023
    tops = []
    for file in files:
        with Image.open(file) as gif:
            gif.seek(2)
            tops.append(np.asarray(gif.convert("L")).astype(int)[:90, :400])
    assert (np.abs(tops[0] - tops[1]) > 50).any()  # both were drawn, and differ
    seen = []
    plot.animate(frames, tmp_path / "c.gif", max_frames=2, title=lambda atoms: seen.append(atoms) or "")
    assert [atoms.info["time"] for atoms in seen] == [0.0, 1.0]
    write(tmp_path / "quench.traj", frames)
    charge = analysis.topological_charge(frames[1])
    assert _title(tmp_path / "quench.traj", frames[1], 1) == f"quench, t = 0.5, E/N = -0.98438 eV, Q = {charge:.2f}"
    chain = lattices.chain(4)
    textures.random(chain, seed=1)
    assert _title(frames, chain, 7) == "frame 7"


def test_ovito_file(tmp_path):
    frames = quench(2)
    path = plot.write_ovito(frames, tmp_path / "run.extxyz")
    header = path.read_text().splitlines()[1]
    assert "dipoles:R:3" in header
    assert "color:R:3" in header
    back = read(path, ":")
    assert len(back) == 2
    np.testing.assert_allclose(back[1].arrays["dipoles"], get_moments(frames[1]), atol=5e-9)
    with pytest.raises(KLMError, match="extxyz"):
        plot.write_ovito(frames, tmp_path / "run.traj")
