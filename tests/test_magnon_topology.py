"""Chern numbers and thermal Hall effect of magnons, zero-point energy and shorter moments: literature and limits."""

import numpy as np
import pytest
from conftest import reference
from scipy.spatial.transform import Rotation
from scipy.special import zeta
from test_magnons import bands_of

from ase_klm import ExchangeCalculator, KLMError, KLMWarning, analysis, lattices, set_moments, units
from ase_klm.magnons import (
    Magnons,
    berry_curvature,
    chern_numbers,
    magnetisation,
    moment_reduction,
    thermal_hall_conductivity,
    zero_point_energy,
)

Z = np.array([0.0, 0.0, 1.0])
J, D, S = 2.01, 0.31, 1.5
"""Exchange and next-nearest Dzyaloshinskii-Moriya interaction of a CrI3-like model, meV, and its spin."""


EASY_AXIS = -0.22e-3 * S**2 * np.outer(Z, Z)


def honeycomb_bonds(dm=D):
    """-J S·S and -D ν z·(S × S), with ν = 1 for left turns around hexagons from the first atom."""
    turns = (1, 0, 0), (-1, 1, 0), (0, -1, 0)
    dzyaloshinskii = -1e-3 * dm * S**2 * np.array([(0, 1, 0), (-1, 0, 0), (0, 0, 0)])
    bonds = [(0, 1, cell, -1e-3 * J * S**2 * np.eye(3)) for cell in ((0, 0, 0), (-1, 0, 0), (0, -1, 0))]
    return bonds + [(i, i, turn, (1, -1)[i] * dzyaloshinskii) for i in (0, 1) for turn in turns]


def honeycomb(dm=D, sign=1, bonds=None, onsite=EASY_AXIS, axes=None):
    """A CrI3-like ferromagnet with moments along `sign` z, on cell vectors of one's choice."""
    atoms = lattices.honeycomb(a=6.867)
    if axes is not None:
        atoms.set_cell(axes @ atoms.cell.array)
    set_moments(atoms, 2 * S * sign * np.tile(Z, (2, 1)))
    atoms.calc = ExchangeCalculator(
        bonds=honeycomb_bonds(dm) if bonds is None else bonds, onsite=np.tile(onsite, (2, 1, 1))
    )
    return atoms


def antiferromagnet(atoms, signs, S=0.5, J=1.0, K=0.0):
    """Energies in units of J, between nearest neighbours, for spins of length S along ±z."""
    set_moments(atoms, 2 * S * np.asarray(signs)[:, None] * Z)
    atoms.calc = ExchangeCalculator({1: J * S**2}, onsite=np.tile(-K * np.outer(Z, Z), (len(atoms), 1, 1)))
    return atoms


def neel(K=0.0, S=0.5):
    return antiferromagnet(lattices.square((2, 2)), [1, -1, -1, 1], S, K=K)


# Chern numbers


def test_chern_numbers_of_the_cri3_like_model():
    file = reference("spinwave_references/honeycomb_fm_cri3like_dmi.json")
    magnons, *_ = bands_of(file)
    np.testing.assert_array_equal(chern_numbers(magnons, plane=(0, 1)), file["chern_numbers_lower_upper"])


def test_chern_numbers_change_sign_with_the_interaction_and_with_the_moments():
    for mesh in ((6, 6), (24, 24), (11, 18)):
        upright = chern_numbers(Magnons(honeycomb()), mesh)
        assert sorted(upright) == [-1, 1]
        np.testing.assert_array_equal(chern_numbers(Magnons(honeycomb(-D)), mesh), -upright)
        np.testing.assert_array_equal(chern_numbers(Magnons(honeycomb(sign=-1)), mesh), -upright)
        np.testing.assert_array_equal(chern_numbers(Magnons(honeycomb(-D, -1)), mesh), upright)
    shifted = chern_numbers(Magnons(honeycomb()), shift=(0.3, 0.6))
    np.testing.assert_array_equal(shifted, chern_numbers(Magnons(honeycomb())))


DESCRIPTIONS = {
    "as built": np.eye(3),
    "c turned over": np.diag([1, 1, -1]),
    "a and b exchanged": np.eye(3)[[1, 0, 2]],
    "a turned over": np.diag([-1, 1, 1]),
    "a and b exchanged without c": np.diag([1, 1, 0])[[1, 0, 2]],
    "a turned over without c": np.diag([-1, 1, 0]),
    "without c": np.diag([1, 1, 0]),
    "c in the middle": np.eye(3)[[0, 2, 1]],
    "c first": np.eye(3)[[2, 1, 0]],
    "skewed": np.array([(1, 0, 0), (4, 1, 0), (2, -3, 1)]),
}


def written(axes, turn=None, mesh=(24, 24)):
    """Chern numbers, thermal Hall conductivity at 50 K, and the normal, in other cell vectors and orientations."""
    turn = np.eye(3) if turn is None else turn
    atoms = honeycomb()
    atoms.pbc = axes[:, :2].any(axis=1) & (axes[:, 2] == 0)
    periodic = axes[atoms.pbc, :2]
    atoms.set_cell(axes @ atoms.cell.array @ turn.T)
    atoms.positions[:] = atoms.positions @ turn.T
    bonds = []
    for i, j, cell, M in honeycomb_bonds():
        found = np.zeros(3, dtype=int)
        found[atoms.pbc] = np.array(cell[:2]) @ np.linalg.inv(periodic).round().astype(int)
        bonds.append((i, j, found.tolist(), turn @ M @ turn.T))
    set_moments(atoms, 2 * S * np.tile(turn @ Z, (2, 1)))
    onsite = np.tile(turn @ EASY_AXIS @ turn.T, (2, 1, 1))
    atoms.calc = ExchangeCalculator(bonds=bonds, onsite=onsite)
    magnons = Magnons(atoms)
    found = berry_curvature(magnons, mesh)
    return found.chern_numbers.tolist(), thermal_hall_conductivity(magnons, 50.0, mesh=mesh), found.normal


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_signs_do_not_depend_on_how_the_cell_is_written(name):
    """Seen from +z: the lower band has +1 here, and κ_xy its sign."""
    numbers, hall, normal = written(DESCRIPTIONS[name])
    assert numbers == [1, -1]
    assert hall == pytest.approx(14.378e-12, rel=1e-3)
    np.testing.assert_allclose(normal, Z, atol=1e-12)


@pytest.mark.parametrize("name", ["as built", "c turned over", "a and b exchanged without c", "skewed"])
@pytest.mark.parametrize(
    ("turn", "normal", "sign"),
    [
        ((np.pi / 2, 0, 0), (0, 1, 0), -1),  # z to -y
        ((-np.pi / 2, 0, 0), (0, 1, 0), 1),
        ((0, np.pi / 2, 0), (1, 0, 0), 1),
        ((0, -np.pi / 2, 0), (1, 0, 0), -1),
        ((np.pi, 0, 0), (0, 0, 1), -1),
        ((0, np.pi / 6, 0), (0.5, 0, np.sqrt(0.75)), 1),
        ((0, np.pi / 6 - np.pi, 0), (0.5, 0, np.sqrt(0.75)), -1),
    ],
)
def test_layers_that_do_not_lie_in_xy(name, turn, normal, sign):
    """Seen from the side of positive z, then y, then x component, which the result names."""
    numbers, hall, seen_from = written(DESCRIPTIONS[name], Rotation.from_rotvec(turn).as_matrix(), (12, 12))
    assert numbers == [sign, -sign]
    assert sign * hall > 1e-12
    np.testing.assert_allclose(seen_from, normal, atol=1e-9)


def hamiltonian(magnons, waves):
    """H of a ferromagnet in Bloch functions with the positions of the atoms, at Cartesian q, rad/Å, shape (n_q, 3)."""
    atoms, n = magnons.atoms, magnons.form.n_modes
    q = np.where(atoms.pbc, waves @ atoms.cell.array.T / (2 * np.pi), 0.0)
    H = magnons.form.at(q)
    assert np.abs(H[:, :n, n:]).max() < 1e-12
    phases = np.exp(1j * waves @ atoms.positions.T)
    return phases.conj()[:, :, None] * H[:, :n, :n] * phases[:, None, :]


def kubo_curvature(magnons, waves, step=1e-5):
    """F_n = 2 Im Σ_m <n|∂_x H|m><m|∂_y H|n>/(ω_n - ω_m)², Å², shape (n_q, bands), and the energies."""
    energies, u = np.linalg.eigh(hamiltonian(magnons, waves))
    x, y = (
        u.conj().swapaxes(1, 2)
        @ ((hamiltonian(magnons, waves + axis) - hamiltonian(magnons, waves - axis)) / (2 * step))
        @ u
        for axis in step * np.eye(3)[:2]
    )
    gaps = energies[:, :, None] - energies[:, None, :] + np.diag(np.full(energies.shape[1], np.inf))
    return 2 * np.imag(x * y.swapaxes(1, 2) / gaps**2).sum(2), energies


def test_curvature_is_that_of_the_sum_of_kubo():
    magnons = Magnons(honeycomb())
    found = berry_curvature(magnons, (48, 48))
    waves = found.q @ (2 * np.pi * np.linalg.inv(magnons.atoms.cell.array).T)
    kubo, energies = kubo_curvature(magnons, waves)
    np.testing.assert_allclose(found.curvature, kubo, atol=0.005 * np.abs(kubo).max())
    zone = (2 * np.pi) ** 2 / (6.867**2 * np.sqrt(0.75))
    np.testing.assert_allclose(kubo.mean(0) * zone / (2 * np.pi), [1, -1], atol=1e-6)
    # c2 = ∫ x² (-dn/dx) dx from ε/kT on, by a table
    kT = 50 * units.KB
    x = np.linspace(1e-3, 60, 200_000)
    integrand = x**2 / (4 * np.sinh(x / 2) ** 2)
    above = np.append(np.cumsum((integrand[1:] + integrand[:-1])[::-1] * (x[1] - x[0]) / 2)[::-1], 0)
    weights = np.interp(energies / kT, x, above)
    per_joule = 1.380649e-23**2 * 50 / 1.054571817e-34
    expected = per_joule * (weights * kubo).mean(0).sum() * zone / (2 * np.pi) ** 2
    assert thermal_hall_conductivity(magnons, 50.0) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("dm", [D, -D])
def test_the_mode_in_the_gap_runs_along_minus_x_at_the_upper_edge(dm):
    """What C = +1 means: a ribbon along x, its edges at small and at large y, with a mode at each edge."""
    rows = 12
    atoms = honeycomb(dm).repeat((1, rows, 1))
    atoms.pbc = (True, False, False)
    bonds = [
        (2 * row + i, 2 * (row + b) + j, (a, 0, 0), M)
        for row in range(rows)
        for i, j, (a, b, _), M in honeycomb_bonds(dm)
        if 0 <= row + b < rows
    ]
    atoms.calc = ExchangeCalculator(bonds=bonds, onsite=np.tile(EASY_AXIS, (2 * rows, 1, 1)))
    ribbon = Magnons(atoms)
    waves = np.column_stack([np.arange(240) / 240, *np.zeros((2, 240))])
    energies, moved = ribbon.modes(waves)
    bulk = Magnons(honeycomb(dm))
    grid = np.stack(np.meshgrid(*[np.arange(48) / 48] * 2), axis=-1).reshape(-1, 2)
    lower, upper = bulk.frequencies(np.column_stack([grid, np.zeros(len(grid))])).T
    assert lower.max() < upper.min()
    middle = (lower.max() + upper.min()) / 2
    weight = (np.abs(moved) ** 2).sum(-1)
    above = weight[:, :, rows:].sum(-1) / weight.sum(-1)
    crossings = {"upper": 0, "lower": 0}
    for q, band in np.argwhere((energies > middle) != (np.roll(energies, -1, axis=0) > middle)):
        assert not 0.1 < above[q, band] < 0.9  # at one edge or the other
        crossings["upper" if above[q, band] > 0.5 else "lower"] += 1 if energies[q, band] < middle else -1
    chern = chern_numbers(bulk)[0]
    assert crossings == {"upper": -chern, "lower": chern}


def test_curvature_of_the_two_band_model():
    """F = ½ n·(∂_x n × ∂_y n) of the lower band, where H = h_0 + |h| n·σ, and minus that of the upper band."""
    atoms = honeycomb()
    magnons = Magnons(atoms)
    found = berry_curvature(magnons, (60, 60))
    assert found.curvature.shape == (3600, 2)
    np.testing.assert_allclose(found.curvature.sum(1), 0, atol=1e-9)
    cell, step = atoms.cell.array[:2, :2], 1e-4
    positions = atoms.get_scaled_positions()

    def n(cartesian):
        """Pauli vector of H in Bloch functions with the positions of the atoms; q Cartesian, without 2π."""
        q = np.column_stack([cartesian @ cell.T, np.zeros(len(cartesian))])
        H = magnons.form.at(q)[:, :2, :2]
        off = H[:, 0, 1] * np.exp(2j * np.pi * q @ (positions[1] - positions[0]))
        h = np.stack([off.real, -off.imag, (H[:, 0, 0] - H[:, 1, 1]).real / 2], axis=1)
        return h / np.linalg.norm(h, axis=1, keepdims=True)

    q = found.q[::37, :2] @ np.linalg.inv(cell).T
    x, y = step * np.eye(2)
    by_x, by_y = (n(q + x) - n(q - x)) / (2 * step), (n(q + y) - n(q - y)) / (2 * step)
    solid_angle = np.einsum("qa,qa->q", n(q), np.cross(by_x, by_y)) / (2 * np.pi) ** 2
    np.testing.assert_allclose(found.curvature[::37, 1], solid_angle / 2, atol=0.01 * np.abs(solid_angle).max())


def test_curvature_integrates_to_chern_numbers():
    found = berry_curvature(Magnons(honeycomb()), (30, 30))
    area = (2 * np.pi) ** 2 / (6.867**2 * np.sqrt(3) / 2)  # of the zone
    np.testing.assert_allclose(found.curvature.mean(0) * area / (2 * np.pi), found.chern_numbers, atol=1e-12)


def test_touching_bands_are_named_and_grouped():
    magnons = Magnons(honeycomb(dm=0.0))
    with pytest.raises(
        KLMError, match=r"bands 0 and 1 touch(.|\n)*0\.[36]+[37], 0\.[36]+[37](.|\n)*bands=\[\(0, 1\)\]"
    ):
        chern_numbers(magnons)
    np.testing.assert_array_equal(chern_numbers(magnons, bands=[(0, 1)]), [0])
    with pytest.warns(KLMWarning, match="Berry flux"):  # a Dirac point between mesh points
        chern_numbers(magnons, shift=(0.5, 0.5))


def test_groups_of_a_larger_cell():
    """Bands folded by a doubled cell touch; a group has the sum of the numbers."""
    atoms = honeycomb()
    doubled = atoms.repeat((1, 2, 1))
    bonds = [
        (i + 2 * copy, j + 2 * ((copy + b) % 2), (a, (copy + b) // 2, c), M)
        for copy in (0, 1)
        for i, j, (a, b, c), M in honeycomb_bonds()
    ]
    doubled.calc = ExchangeCalculator(bonds=bonds, onsite=np.tile(EASY_AXIS, (4, 1, 1)))
    magnons = Magnons(doubled)
    with pytest.raises(KLMError, match=r"bands=\[\(0, 1\), \(2, 3\)\]"):
        chern_numbers(magnons)
    groups = chern_numbers(magnons, bands=[(0, 1), (2, 3)])
    np.testing.assert_array_equal(groups, chern_numbers(Magnons(atoms)))


def test_antiferromagnets_in_the_metric_of_bosons():
    """An easy axis gives the zero modes a norm; without it the mesh has to avoid them."""
    isotropic = Magnons(neel())
    with pytest.raises(KLMError, match=r"q = \[0\.0, 0\.0, 0\.0\](.|\n)*shift=\(0\.5, 0\.5\)"):
        chern_numbers(isotropic, bands=[(0, 1, 2, 3)])
    np.testing.assert_array_equal(chern_numbers(isotropic, bands=[(0, 1, 2, 3)], shift=(0.5, 0.5)), [0])
    with pytest.raises(KLMError, match=r"bands=\[\(0, 1, 2, 3\)\]"):
        chern_numbers(isotropic)
    np.testing.assert_array_equal(chern_numbers(Magnons(neel(K=0.1)), bands=[(0, 1, 2, 3)]), [0])


def test_modes_that_mix_creation_and_annihilation():
    """An easy axis and a middle one: the numbers of the bands stay, with sum 0."""
    magnons = Magnons(honeycomb(onsite=1e-3 * S**2 * np.diag([0.4, -0.3, -1.5])))
    assert np.abs(magnons.form.at(np.zeros((1, 3)))[0, 0, 2]) > 1e-4
    np.testing.assert_array_equal(chern_numbers(magnons), chern_numbers(Magnons(honeycomb())))


def test_planes_of_a_crystal():
    """Decoupled layers: at each height the numbers of a layer."""
    atoms = honeycomb()
    atoms.pbc = True
    magnons = Magnons(atoms)
    for at in (0.0, 0.37):
        np.testing.assert_array_equal(chern_numbers(magnons, at=at), chern_numbers(Magnons(honeycomb())))
    with pytest.raises(KLMError, match="bands 0 and 1 touch"):
        chern_numbers(Magnons(neel(0.1)), plane=(0, 1))
    with pytest.raises(KLMError, match="periodic in 3 directions"):
        thermal_hall_conductivity(magnons, 10.0)


def test_bad_input_of_chern_numbers():
    chain = antiferromagnet(lattices.chain(), [1], J=-1.0)
    with pytest.raises(KLMError, match="periodic in 1 directions"):
        chern_numbers(Magnons(chain))
    magnons = Magnons(honeycomb())
    for keywords in (
        {"mesh": (24, 24, 1)},
        {"mesh": (2, 24)},
        {"mesh": (24.5, 24)},
        {"plane": (0, 2)},
        {"plane": (0, 0)},
        {"bands": [2]},
        {"bands": [(1, 0)]},
        {"bands": [()]},
        {"shift": (0.5,)},
        {"at": np.nan},
    ):
        with pytest.raises(KLMError):
            chern_numbers(magnons, **keywords)
    with pytest.raises(KLMError, match="temperature"):
        thermal_hall_conductivity(magnons)
    with pytest.raises(KLMError, match="both"):
        thermal_hall_conductivity(magnons, 10.0, kT=0.001)


def test_bands_that_touch_are_grouped_where_that_can_be_asked_for_only():
    """`thermal_hall_conductivity` has no `bands=`, and does not propose it."""
    cell = honeycomb()
    atoms = cell.repeat((2, 1, 1))
    onsite = np.tile(EASY_AXIS, (2, 1, 1))
    magnons = Magnons(atoms, ExchangeCalculator(bonds=honeycomb_bonds(), onsite=onsite, lattice=cell))
    with pytest.raises(KLMError, match=r"touch(.|\n)*bands=\[\(0, 1\), \(2, 3\)\]"):
        chern_numbers(magnons)
    np.testing.assert_array_equal(chern_numbers(magnons, bands=[(0, 1), (2, 3)]), chern_numbers(Magnons(cell)))
    with pytest.raises(KLMError, match=r"touch(.|\n)*smallest magnetic cell") as found:
        thermal_hall_conductivity(magnons, 50.0)
    assert "bands=" not in found.value.remedy


def test_thermal_hall_conductivity_has_its_limits():
    """κ → (kB/ħ) Σ ∫ d²q/(2π)² (-ε F) at high temperature, where c2 → π²/3 - ε/kT; activated at low temperature."""
    magnons = Magnons(honeycomb())
    found = berry_curvature(magnons, (48, 48))
    joule_per_eV = 1.602176634e-19
    hbar, kB = 1.054571817e-34, 1.380649e-23
    high = -kB / hbar * joule_per_eV * (magnons.frequencies(found.q) * found.flux).sum() / (2 * np.pi) ** 2
    assert thermal_hall_conductivity(magnons, 3e4) == pytest.approx(high, rel=1e-3)
    assert 1e-12 < abs(high) < 1e-10  # a quantum kB² T/ħ is 1.8e-12 W/K at 1 K
    low = [thermal_hall_conductivity(magnons, kT=kT) for kT in (5e-5, 2.5e-5)]
    assert abs(low[0]) < 1e-6 * abs(high)
    assert abs(low[1]) < 1e-5 * abs(low[0])  # a gap of 0.66 meV: exp(-13.2) more, and the power of T
    at_50 = thermal_hall_conductivity(magnons, 50.0)
    assert thermal_hall_conductivity(magnons, kT=50 * units.KB) == pytest.approx(at_50)
    assert thermal_hall_conductivity(Magnons(honeycomb(-D)), 50.0) == pytest.approx(-at_50)
    assert thermal_hall_conductivity(magnons, 50.0, mesh=(90, 90)) == pytest.approx(at_50, rel=2e-3)


# Zero-point energy and moments


def test_square_lattice_antiferromagnet():
    """-2 J S² (1 + 0.157947/S) a site and ΔS = 0.1966 (P. W. Anderson 1952; E. Manousakis, RMP 63, 1 (1991))."""
    magnons = Magnons(neel())
    assert zero_point_energy(magnons) / 4 == pytest.approx(-2 * 0.5 * 0.157947, abs=1e-6)
    reduction = moment_reduction(magnons)
    assert reduction.shape == (4,)
    np.testing.assert_allclose(reduction / 2, 0.196602, atol=2e-6)
    np.testing.assert_allclose(moment_reduction(Magnons(neel(S=2.0))), reduction, atol=1e-9)  # ΔS is that of all S
    np.testing.assert_allclose(magnetisation(magnons), 0, atol=1e-12)


def test_triangular_lattice_antiferromagnet():
    """ΔS = 0.261303: 0.2387 is left of S = 1/2 (A. L. Chernyshev, M. E. Zhitomirsky, PRB 79, 144416 (2009))."""
    atoms = lattices.triangular((3, 3))
    i, j = np.divmod(np.arange(9), 3)
    angles = 2 * np.pi * (i - j) / 3
    set_moments(atoms, np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1))
    atoms.calc = ExchangeCalculator({1: 0.25})
    magnons = Magnons(atoms)
    np.testing.assert_allclose(moment_reduction(magnons) / 2, 0.261303, atol=1e-6)
    one = lattices.triangular()
    set_moments(one, [(1, 0, 0)])
    one.calc = atoms.calc
    spiral = Magnons(one, spiral=((1 / 3, -1 / 3, 0), Z))
    np.testing.assert_allclose(moment_reduction(spiral) / 2, 0.261303, atol=2e-6)
    assert zero_point_energy(spiral) == pytest.approx(zero_point_energy(magnons) / 9, rel=1e-6)
    assert zero_point_energy(spiral) == pytest.approx(-1.5 * 0.5 * 0.218412, rel=1e-5)  # -1.5 J S² (1 + 0.218412/S)


def test_fcc_antiferromagnet_of_type_one():
    """-2 J S² (1 + 0.488056/(2 S)) a site; modes are soft along lines, where the mesh converges more slowly."""
    atoms = lattices.face_centred_cubic()
    antiferromagnet(atoms, np.where(atoms.positions[:, 2] > 0.1, -1, 1))
    found = zero_point_energy(Magnons(atoms), (10, 10, 10)) / 4
    assert found == pytest.approx(-2 * 0.25 * 0.488056, rel=1e-4)


def test_chain_antiferromagnet():
    """-J S² (1 + (1 - 2/π)/S) a site; in one dimension there is no order, and the moment says so."""
    magnons = Magnons(antiferromagnet(lattices.chain(2), [1, -1]))
    assert zero_point_energy(magnons) / 2 == pytest.approx(-0.5 * (1 - 2 / np.pi), rel=1e-6)
    with pytest.warns(KLMWarning, match=r"has not converged|more than its 1 μB"):
        moment_reduction(magnons)


def test_ferromagnets_have_no_zero_point_motion():
    magnons = Magnons(antiferromagnet(lattices.simple_cubic(), [1], J=-1.0))
    assert zero_point_energy(magnons) == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(moment_reduction(magnons), 0, atol=1e-12)
    np.testing.assert_allclose(magnetisation(magnons), analysis.magnetisation(magnons.atoms), atol=1e-12)


def test_bloch_law():
    """ΔS = ζ(3/2) τ^(3/2) + (3π/4) ζ(5/2) τ^(5/2) + (33π²/32) ζ(7/2) τ^(7/2), τ = kT/(4π J S) (F. J. Dyson 1956)."""
    magnons = Magnons(antiferromagnet(lattices.simple_cubic(), [1], J=-1.0))
    for kT, tolerance in ((0.1, 1e-3), (0.2, 4e-3)):  # the next term, τ^(9/2)
        tau = kT / (4 * np.pi * 0.5)
        expected = (
            zeta(1.5) * tau**1.5 + 3 * np.pi / 4 * zeta(2.5) * tau**2.5 + 33 * np.pi**2 / 32 * zeta(3.5) * tau**3.5
        )
        reduction = moment_reduction(magnons, (12, 12, 12), kT=kT)[0] / 2
        assert reduction == pytest.approx(expected, rel=tolerance)
        in_kelvin = magnetisation(magnons, temperature_K=kT / units.KB, kpts=(12, 12, 12))
        np.testing.assert_allclose(in_kelvin, (1 - 2 * reduction) * Z, atol=1e-12)


def test_averages_that_do_not_converge_warn():
    layer = Magnons(antiferromagnet(lattices.square(), [1], J=-1.0))
    with pytest.warns(KLMWarning, match=r"has not converged(.|\n)*diverge in this dimension"):  # Mermin and Wagner
        moment_reduction(layer, kT=0.2)
    crystal = Magnons(antiferromagnet(lattices.simple_cubic(), [1], J=-1.0))
    with pytest.warns(KLMWarning, match=r"has not converged(.|\n)*larger kpts"):
        moment_reduction(crystal, (4, 4, 4), kT=0.02)
    with pytest.warns(KLMWarning, match="more than its 1 μB"):
        moment_reduction(crystal, kT=3.0)


def test_a_gap_makes_the_layer_converge():
    magnons = Magnons(antiferromagnet(lattices.square(), [1], J=-1.0, K=0.1))
    q = np.stack(np.meshgrid(*[(np.arange(300) + 0.5) / 300] * 2), axis=-1).reshape(-1, 2)
    omega = magnons.frequencies(np.column_stack([q, np.zeros(len(q))]))
    np.testing.assert_allclose(moment_reduction(magnons, kT=0.3), 2 * np.mean(1 / np.expm1(omega / 0.3)), rtol=1e-4)


def test_flat_zero_modes_are_refused():
    """A whole band of the kagome antiferromagnet costs nothing."""
    atoms = lattices.kagome((1, 1))
    angles = 2 * np.pi / 3 * np.arange(3)
    set_moments(atoms, np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1))
    atoms.calc = ExchangeCalculator({1: 1.0})
    with pytest.raises(KLMError, match="zero mode without norm"):
        moment_reduction(Magnons(atoms))


def test_bad_input_of_corrections():
    magnons = Magnons(neel())
    for kpts in ((6, 6), (0, 6, 1), "mesh", (6.5, 6, 1)):
        with pytest.raises(KLMError, match="kpts"):
            zero_point_energy(magnons, kpts)
    with pytest.raises(KLMError, match="negative"):
        moment_reduction(magnons, temperature_K=-1.0)
    with pytest.raises(KLMError, match="both"):
        magnetisation(magnons, temperature_K=1.0, kT=0.1)
