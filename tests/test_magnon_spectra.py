"""Spectra of magnons: closed formulas, sum rules, an independent ground state, spirals in two descriptions, LLG."""

import importlib.util
import tomllib
from pathlib import Path

import ase.units
import numpy as np
import pytest
import scipy.linalg
from ase import Atoms
from scipy.spatial.transform import Rotation

from ase_klm import ExchangeCalculator, LLGDynamics, SpinMinimizer, analysis, get_moments, lattices, set_moments, units
from ase_klm.errors import KLMError
from ase_klm.magnons import Magnons, mode_intensities, powder_average, structure_factor
from ase_klm.textures import uniform

G = units.G_ELECTRON
ROUNDING = 1e-9  # of products of normalised modes, in units of the largest intensity


def chain(J=-0.01, S=1.5, D=0.0, field=0.0, along=(0, 0, 1)):
    """Bonds J and D z·(e_i × e_j), and a field along z in eV/μB."""
    atoms = lattices.chain()
    uniform(atoms, along, length=G * S)
    exchange = J * np.eye(3) + D * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])
    atoms.calc = ExchangeCalculator(bonds=[(0, 0, (1, 0, 0), exchange)], field=(0, 0, field))
    return Magnons(atoms)


def staggered_chain(J=0.01, S=1.5, easy=0.0):
    """Antiferromagnet of two sites a cell, with an easy axis z."""
    atoms = lattices.chain(2)
    set_moments(atoms, G * S * np.array([[0, 0, 1.0], [0, 0, -1.0]]))
    atoms.calc = ExchangeCalculator(shells={1: J}, onsite=-easy * np.diag([0, 0, 1.0])[None].repeat(2, 0))
    return Magnons(atoms)


def honeycomb(D=0.003, shift=(0, 0)):
    """Ferromagnet with Dzyaloshinskii-Moriya vectors along z on second neighbours, and an anisotropy."""
    atoms = lattices.honeycomb()
    uniform(atoms, (0, 0, 1), length=3.0)
    bonds = [(0, 1, cell, -0.01) for cell in ((0, 0, 0), (-1, 0, 0), (0, -1, 0))]
    antisymmetric = D * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])
    for cell in ((1, 0, 0), (-1, 1, 0), (0, -1, 0)):
        bonds += [(0, 0, cell, antisymmetric), (1, 1, cell, -antisymmetric)]
    # the second atom of another cell is the second atom
    atoms.positions[1] += np.array([*shift, 0]) @ atoms.cell.array
    bonds = [(i, j, tuple(np.array(R) - (np.array([*shift, 0]) * (j - i)).astype(int)), M) for i, j, R, M in bonds]
    atoms.calc = ExchangeCalculator(bonds=bonds, onsite=-0.001 * np.diag([0, 0, 1.0])[None].repeat(2, 0))
    return Magnons(atoms)


def irregular():
    """Two moments of unlike lengths in a cell, canted, with anisotropy, DM vectors and a field: no symmetry left."""
    rng = np.random.default_rng(5)
    cell = np.array([[3.0, 0.4, 0.0], [0.5, 2.5, 0.3], [0.1, 0.2, 4.0]])
    atoms = Atoms("FeCrO", cell=cell, pbc=True, scaled_positions=[(0.1, 0.2, 0.0), (0.45, 0.83, 0.3), (0.5, 0.1, 0.7)])
    set_moments(atoms, np.array([[0.4, 0.1, 2.0], [0.2, 0.3, -3.0], [0, 0, 0]]))
    bonds = [(0, 1, R, 0.02 * np.eye(3) + 0.006 * rng.normal(size=(3, 3))) for R in [(0, 0, 0), (0, -1, 0)]]
    bonds += [(i, i, (1, 0, 0), -0.01 * np.eye(3) + 0.004 * rng.normal(size=(3, 3))) for i in (0, 1)]
    onsite = np.zeros((3, 3, 3))
    onsite[:2] = -0.02 * np.diag([0.0, 0.1, 1.0])
    atoms.calc = ExchangeCalculator(bonds=bonds, onsite=onsite, field=(0.001, 0.0, 0.002))
    SpinMinimizer(atoms, logfile=None).run(fmax=1e-9)
    return atoms, bonds, onsite


def total(lines):
    """Integral over energies, (n_q, 3, 3)."""
    return lines.tensor.sum(1)


# closed formulas


def test_ferromagnetic_chain():
    q = np.array([[0.05, 0, 0], [0.3, 0, 0], [-0.45, 0, 0], [2.2, 0, 0]])
    lines = mode_intensities(chain(S=1.5), q)
    transverse = np.array([[1, 1j, 0], [-1j, 1, 0], [0, 0, 0]])
    np.testing.assert_allclose(lines.tensor[:, 0], np.tile(G**2 * 1.5 / 2 * transverse, (4, 1, 1)), atol=1e-8)
    np.testing.assert_allclose(lines.energies[:, 0], 2 * 0.01 / 1.5 * (1 - np.cos(2 * np.pi * q[:, 0])), atol=1e-10)
    np.testing.assert_allclose(lines.intensity[:, 0], G**2 * 1.5)  # all of S(S + 1) but the ordered moment


def test_antiferromagnetic_chain():
    S, magnons = 2.5, staggered_chain(S=2.5)
    h = np.array([0.03, 0.2, 0.35, 0.49, 0.8, -0.3])
    q = np.stack([h, 0 * h, 0 * h], axis=1)
    lines = mode_intensities(magnons, q, cell=np.diag([1.0, 1, 1]))
    phase = 2 * np.pi * h
    expected = G**2 * S / 2 * (1 - np.cos(phase)) / np.abs(np.sin(phase))  # of S_xx: S/2 abs(tan(q/2))
    np.testing.assert_allclose(total(lines)[:, 0, 0].real, expected, rtol=1e-6)
    np.testing.assert_allclose(total(lines)[:, 1, 1].real, expected, rtol=1e-6)
    np.testing.assert_allclose(total(lines)[:, 0, 1], 0, atol=1e-6 * expected.max())
    assert np.abs(lines.tensor[..., 2, :]).max() < 1e-12


def test_moments_of_fluctuations_and_order_add_up():
    """<m²> = g² S (S + 1): fluctuations g² S (1 + 2n), and order g² (S - n)² to first order in the bosons n."""
    S, magnons = 2.5, staggered_chain(S=2.5, easy=0.002)
    h = np.arange(40) / 40
    q = np.stack([h, 0 * h, 0 * h], axis=1)  # all of a ring of 40, in the chemical cell
    fluctuations = mode_intensities(magnons, q, cell=np.eye(3)).intensity.sum(1).mean()
    gamma = np.cos(2 * np.pi * h) / (1 + 0.002 / 0.01)
    bosons = ((1 / np.sqrt(1 - gamma**2)).mean() - 1) / 2
    assert fluctuations == pytest.approx(G**2 * S * (1 + 2 * bosons), rel=1e-6)
    assert fluctuations + G**2 * (S**2 - 2 * S * bosons) == pytest.approx(G**2 * S * (S + 1), rel=1e-6)


def test_peak_of_the_chiral_chain_is_on_the_side_of_the_bands():
    B, D = 0.02, 0.004  # energies of the field and of DM
    magnons = chain(J=-0.02, S=1, D=D, field=B / G)
    energies = np.linspace(0, 0.12, 1201)
    q = np.array([[0.2, 0, 0], [-0.2, 0, 0]])
    spectrum = structure_factor(magnons, q, energies, width=1e-3)
    exchange = 2 * 0.02 * (1 - np.cos(0.4 * np.pi))
    expected = B + exchange + 2 * D * np.sin(2 * np.pi * q[:, 0])
    np.testing.assert_allclose(energies[spectrum.intensity.argmax(1)], expected, atol=6e-5)  # half a step
    np.testing.assert_allclose(np.trapezoid(spectrum.intensity, energies), G**2, rtol=1e-9)
    above_half = (spectrum.intensity[0] > spectrum.intensity[0].max() / 2).sum() * (energies[1] - energies[0])
    assert above_half == pytest.approx(1e-3, abs=1.1e-4)  # a step


# an independent ground state


@pytest.mark.parametrize("kT", [0.0, 0.01])
def test_correlations_of_a_ring_from_its_symplectic_form(kT):
    """<ξ ξᵀ> = ½ G^-½ abs(K) coth(abs(K)/2kT) G^-½ + ½ iJ, with K = i G^½ J G^½: no modes, no wave vectors."""
    atoms, bonds, onsite = irregular()
    L, moments = 5, get_moments(atoms)[:2]
    e = np.tile(moments / np.linalg.norm(moments, axis=1)[:, None], (L, 1))
    length = np.tile(np.linalg.norm(moments, axis=1), L)
    M = np.zeros((2 * L, 3, 2 * L, 3))  # E = ½ e·M·e - f·e
    for R in range(L):
        for i, j, cell, matrix in bonds:
            a, b = 2 * R + i, 2 * ((R + cell[0]) % L) + j
            M[a, :, b] += matrix
            M[b, :, a] += np.transpose(matrix)
        for i in (0, 1):
            M[2 * R + i, :, 2 * R + i] += 2 * onsite[i]
    field = length[:, None] * np.array([0.001, 0.0, 0.002])
    gradient = np.einsum("iajb,jb->ia", M, e) - field
    frames = np.array([scipy.linalg.null_space(v[None]).T for v in e])  # (site, 2, 3)
    frames[:, 1] *= np.sign(np.einsum("ia,ia->i", np.cross(frames[:, 0], frames[:, 1]), e))[:, None]
    # de = x X sqrt(g/m) + y P sqrt(g/m), [X, P] = i
    B = np.einsum("i,ika,ij->kjia", np.sqrt(G / length), frames, np.eye(2 * L)).reshape(4 * L, -1)  # rows X, P
    quadratic = B @ M.reshape(6 * L, 6 * L) @ B.T - np.diag(np.tile(G / length * np.einsum("ia,ia->i", gradient, e), 2))
    n = 2 * L
    J = np.block([[np.zeros((n, n)), np.eye(n)], [-np.eye(n), np.zeros((n, n))]])
    root = scipy.linalg.sqrtm(quadratic).real
    values, U = np.linalg.eigh(1j * root @ J @ root)
    spread = np.abs(values) / (np.tanh(np.abs(values) / (2 * kT)) if kT else 1)
    inverse = np.linalg.inv(root)
    correlations = (inverse @ (U * spread) @ U.conj().T @ inverse + 1j * J) / 2
    moved = (length[None, :, None] * B.reshape(4 * L, n, 3)).reshape(4 * L, -1)
    correlations = (moved.T @ correlations @ moved).reshape(n, 3, n, 3)

    q = np.array([[2 / L, 0.17, -0.4], [-1 / L, 0.17, -0.4], [8 / L, 1.3, 2.2]])
    q[:, 1] = [0, 0, 3]  # the ring is one cell wide along b, and bonds along b lead back to it
    magnons = Magnons(atoms, fmax=1e-6)
    cells = np.repeat(np.arange(L), 2)[:, None] * np.array([1, 0, 0])
    places = np.tile(atoms.get_scaled_positions(wrap=False)[:2], (L, 1)) + cells
    phases = np.exp(2j * np.pi * q @ places.T)
    expected = np.einsum("qi,iajb,qj->qab", phases.conj(), correlations, phases) / n
    lines = mode_intensities(magnons, q, kT=kT)
    np.testing.assert_allclose(total(lines), expected, atol=1e-7 * np.abs(expected).max())
    energies = np.sort(np.abs(values))[::2]
    for w in magnons.frequencies(q).ravel():
        assert np.abs(energies - w).min() < 1e-9


# symmetries


def test_detailed_balance():
    atoms, *_ = irregular()
    magnons, kT = Magnons(atoms, fmax=1e-6), 0.02
    q = np.array([[0.21, -0.4, 1.3], [0.0, 0.1, 0.0]])
    here, there = mode_intensities(magnons, q, kT=kT), mode_intensities(magnons, -q, temperature_K=kT / units.KB)
    n = here.energies.shape[1] // 2
    assert (here.energies[:, :n] > 0).all()
    np.testing.assert_allclose(there.energies[:, n:], -here.energies[:, :n], rtol=1e-12)
    factor = np.exp(-here.energies[:, :n] / kT)[..., None, None]
    expected = factor * here.tensor[:, :n].swapaxes(-1, -2)
    np.testing.assert_allclose(there.tensor[:, n:], expected, atol=ROUNDING * np.abs(expected).max())
    cold = mode_intensities(magnons, q)
    occupied = 1 + 1 / np.expm1(cold.energies / kT)
    np.testing.assert_allclose(here.tensor[:, :n], cold.tensor * occupied[..., None, None], rtol=1e-9)
    np.testing.assert_array_equal(mode_intensities(magnons, q, kT=0.0).tensor, cold.tensor)


def test_tensors_are_positive():
    atoms, *_ = irregular()
    q = np.random.default_rng(1).uniform(-2, 2, (20, 3))
    spectrum = structure_factor(Magnons(atoms, fmax=1e-6), q, np.linspace(-0.1, 0.2, 50), 0.01, kT=0.01)
    np.testing.assert_allclose(spectrum.tensor, spectrum.tensor.conj().swapaxes(-1, -2), atol=1e-9)
    lowest = np.linalg.eigvalsh(spectrum.tensor)
    assert lowest.min() > -1e-12 * lowest.max()
    assert (spectrum.perpendicular() <= spectrum.intensity * (1 + 1e-12) + 1e-9).all()


def test_honeycomb_repeats_with_the_lattice_of_its_positions():
    magnons = honeycomb()
    q = np.array([[0.13, 0.29, 0.0]])
    first, next_zone, third = (mode_intensities(magnons, q + G_) for G_ in ([0, 0, 0], [1, 0, 0], [3, 0, 0]))
    np.testing.assert_allclose(next_zone.energies, first.energies, rtol=1e-12)
    assert np.abs(next_zone.intensity - first.intensity).max() > 0.5
    np.testing.assert_allclose(third.tensor, first.tensor, atol=1e-9)  # positions are thirds of the cell
    for lines in (first, next_zone):  # S(q) = g² S: moments of a ferromagnet have no correlations across it at T = 0
        assert lines.intensity.sum() == pytest.approx(G * 3.0)


def test_the_cell_to_which_an_atom_is_assigned_makes_no_difference():
    q = np.array([[0.13, 0.29, 0.0], [1.4, -0.2, 0.7]])
    here, moved = mode_intensities(honeycomb(), q), mode_intensities(honeycomb(shift=(1, -2)), q)
    np.testing.assert_allclose(moved.energies, here.energies, atol=1e-12)
    np.testing.assert_allclose(moved.tensor, here.tensor, atol=1e-9)


def test_a_supercell_shows_the_same_spectrum():
    primitive = honeycomb()
    atoms = primitive.atoms.repeat((2, 1, 1))
    atoms.positions += [0.3, -0.8, 0.1]
    i, j, cells, matrices = primitive.atoms.calc.potential.terms[0].explicit_bonds(primitive.atoms)
    bonds = []
    for home in (0, 1):
        for one, other, (n1, n2, n3), matrix in zip(i.tolist(), j.tolist(), cells.tolist(), matrices, strict=True):
            cell, image = divmod(home + n1, 2)
            bonds.append((2 * home + one, 2 * image + other, (cell, n2, n3), matrix))
    atoms.calc = ExchangeCalculator(bonds=bonds, onsite=-0.001 * np.diag([0, 0, 1.0])[None].repeat(4, 0))
    q = np.array([[0.13, 0.29, 0.0], [1.4, -0.2, 0.7], [0.5, 0.5, 0]])
    energies = np.linspace(-0.05, 0.1, 60)
    a = structure_factor(primitive, q, energies, 0.004, kT=0.01)
    b = structure_factor(Magnons(atoms), q, energies, 0.004, kT=0.01, cell=primitive.atoms.cell.array)
    np.testing.assert_allclose(b.tensor, a.tensor, atol=ROUNDING * np.abs(a.tensor).max())
    np.testing.assert_allclose(b.perpendicular(), a.perpendicular(), atol=ROUNDING * np.abs(a.tensor).max())


def test_open_directions_have_positions_and_polarisation():
    atoms = lattices.chain(2)
    atoms.positions[1] += [0, 0.3, 0]
    uniform(atoms, (0, 0, 1), length=2.0)
    atoms.calc = ExchangeCalculator(shells={1: -0.01}, field=(0, 0, 1e-3))
    magnons = Magnons(atoms)
    lines = mode_intensities(magnons, [[0.3, 0.0, 0], [0.3, 0.7, 0], [0.3, 0.7, 0.4]], cell=np.eye(3) * [2, 1, 1])
    np.testing.assert_allclose(lines.energies, lines.energies[:1].repeat(3, 0), atol=1e-12)
    assert np.abs(lines.intensity[1] - lines.intensity[0]).max() > 0.1
    np.testing.assert_allclose(lines.tensor[2], lines.tensor[1], atol=1e-9)
    assert lines.perpendicular()[2].sum() > lines.perpendicular()[1].sum()
    at_zero = mode_intensities(magnons, [0, 0, 0])
    np.testing.assert_allclose(at_zero.perpendicular(), 2 / 3 * at_zero.intensity)


# zero modes


def test_zero_modes_are_left_out():
    for magnons in (staggered_chain(), chain(), spiral_triangle()):
        for kT in (None, 1e-3):
            q = np.array([[0, 0, 0], [1, 0, 0], [2.0, 0, 0], [1 + 1e-15, 0, 0]])
            spectrum = structure_factor(magnons, q, np.linspace(-0.1, 0.1, 31), 0.01, kT=kT)
            assert np.isfinite(spectrum.tensor).all()
            assert spectrum.intensity.max() < 2e5  # μB²/eV: quanta of some g² S over the width
    flat = mode_intensities(staggered_chain(), [[0.0, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(flat.tensor, 0, atol=1e-12)
    near = mode_intensities(staggered_chain(S=1), [0.998, 0, 0]).intensity.sum()  # 1/ω, not left out
    assert near == pytest.approx(G**2 / np.tan(0.002 * np.pi / 2), rel=1e-3)


def test_noise_of_zero_modes_does_not_show():
    atoms = lattices.square((2, 2))
    set_moments(atoms, np.array([1, -1, -1, 1])[:, None] * np.array([0.6, 1.0, 1.6]))
    atoms.calc = ExchangeCalculator(shells={1: 0.01})
    exact = Magnons(atoms)
    rough = Magnons(atoms, method="differences", supercell=(3, 3, 1))
    q = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [1 / 3, 0, 0]])
    seen, expected = (mode_intensities(magnons, q, kT=1e-3).intensity.sum(1) for magnons in (rough, exact))
    np.testing.assert_allclose(seen, expected, rtol=1e-5, atol=1e-9)


# spirals


def spiral_triangle(spiral=True):
    """Triangular antiferromagnet at 120 degrees: one cell that turns, or three."""
    atoms = lattices.triangular() if spiral else triangle_cell()
    k = np.array([1 / 3, -1 / 3, 0])  # vectors at 60 degrees
    axis = np.array([0.2, -0.3, 1.0])
    axis /= np.linalg.norm(axis)
    start = np.cross(axis, [1.0, 0, 0])
    start *= 2.0 / np.linalg.norm(start)
    cells = atoms.positions @ np.linalg.inv(lattices.triangular().cell.array)
    turns = Rotation.from_rotvec(2 * np.pi * (cells @ k)[:, None] * axis)
    set_moments(atoms, turns.apply(start))
    hard = 0.001 * np.outer(axis, axis)
    atoms.calc = ExchangeCalculator(shells={1: 0.01}, onsite=hard[None].repeat(len(atoms), 0))
    return Magnons(atoms, spiral=(k, axis) if spiral else None)


def triangle_cell():
    vectors = lattices.triangular().cell.array
    cell = np.array([[1, 1, 0], [-1, 2, 0], [0, 0, 1]]) @ vectors
    places = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]) @ vectors
    return Atoms("Fe3", positions=places, cell=cell, pbc=lattices.triangular().pbc)


def test_spiral_of_one_cell_and_of_three_agree_line_by_line():
    q = np.random.default_rng(3).uniform(-1, 1, (6, 3)) * [1, 1, 0]
    chemical = lattices.triangular().cell.array
    one, three = spiral_triangle(), spiral_triangle(spiral=False)
    for kT in (0.0, 0.01):
        a, b = mode_intensities(one, q, kT=kT, cell=chemical), mode_intensities(three, q, kT=kT, cell=chemical)
        assert a.energies.shape == b.energies.shape
        for row in range(len(q)):
            first, second = a.energies[row].argsort(), b.energies[row].argsort()
            np.testing.assert_allclose(a.energies[row, first], b.energies[row, second], atol=1e-10)
            np.testing.assert_allclose(a.tensor[row, first], b.tensor[row, second], atol=1e-7)


@pytest.mark.parametrize(("m", "n"), [(0, 1), (1, 2), (2, 5)])
def test_spirals_of_a_chain_with_m_turns_in_n_cells(m, n):
    """A cone of two sites a cell; at k = 0 and k = ½ branches fall together, and their amplitudes interfere."""
    k, angle = m / n, 2 * np.pi * m / n
    J, D = -0.02 * np.cos(angle), -0.02 * np.sin(angle)  # J cos + D sin is lowest at this angle
    exchange = J * np.eye(3) + D * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])
    cell = np.diag([2.0, 1, 1])
    unit = Atoms("Fe2", cell=cell, pbc=(True, False, False), positions=[(0, 0, 0), (0.7, 0.2, 0)])
    inner = [(0, 1, (0, 0, 0), -0.03), (0, 0, (1, 0, 0), exchange), (1, 1, (1, 0, 0), exchange)]

    def magnons(cells, spiral):
        atoms = unit.repeat((cells, 1, 1))
        bonds = []
        for c in range(cells):
            for i, j, R, M in inner:
                far, image = divmod(c + R[0], cells)
                bonds.append((2 * c + i, 2 * image + j, (far, 0, 0), M))
        plane = 0.004 * np.diag([0, 0, 1.0])[None].repeat(len(atoms), 0)
        atoms.calc = ExchangeCalculator(bonds=bonds, onsite=plane, field=(0, 0, 1e-3))
        turn = angle * np.repeat(np.arange(cells), 2)
        axis_part = np.full(2 * cells, tilt)
        across = np.sqrt(1 - tilt**2)
        set_moments(atoms, 2.0 * np.stack([across * np.cos(turn), across * np.sin(turn), axis_part], axis=1))
        return Magnons(atoms, spiral=((k, 0, 0), (0, 0, 2.0)) if spiral else None)

    tilt = 1e-3 / (J + 0.02 + 0.004)  # of E = (J + 0.02 + 0.004) t² - 2e-3 t a site
    assert 0 < tilt < 1
    q = np.array([[0.21, 0, 0], [-1.37, 0.3, 0], [0.5, 0, 0.4]])
    energies = np.linspace(-0.1, 0.4, 400)
    a = structure_factor(magnons(1, True), q, energies, 0.01, kT=0.02, cell=cell)
    b = structure_factor(magnons(n, False), q, energies, 0.01, kT=0.02, cell=cell)
    np.testing.assert_allclose(a.tensor, b.tensor, atol=1e-7 * np.abs(b.tensor).max())


# powder


def test_powder_of_a_ferromagnet_conserves_two_thirds():
    energies = np.linspace(-0.02, 0.08, 501)
    lengths = np.array([0.0, 0.5, 2.0, 7.0])
    intensity = powder_average(chain(field=2e-3), lengths, energies, 4e-3, n_directions=400)
    assert intensity.shape == (4, 501)
    step = energies[1] - energies[0]
    np.testing.assert_allclose(intensity.sum(1) * step, 2 / 3 * G**2 * 1.5, rtol=1e-4)  # 1/n² of the sphere
    # of a chain along x: q_x is uniform in (-q, q)
    towards = np.linspace(-1, 1, 4001)
    centres = 4e-3 + 2 * 0.01 / 1.5 * (1 - np.cos(2.0 * towards))
    sigma = 4e-3 / np.sqrt(8 * np.log(2))
    shapes = np.exp(-((energies - centres[:, None]) ** 2) / (2 * sigma**2)) / (np.sqrt(2 * np.pi) * sigma)
    polarised = G**2 * 1.5 / 2 * (1 + (1 - towards**2) / 2)  # 1 + q_z², averaged about x
    expected = (shapes * polarised[:, None]).mean(0)
    np.testing.assert_allclose(intensity[2], expected, atol=0.01 * expected.max())


# form factors


def test_form_factors_multiply_amplitudes():
    atoms, *_ = irregular()
    magnons = Magnons(atoms, fmax=1e-6)
    q = np.array([[0.3, 0.2, 0.1], [1.3, -0.2, 2.1]])
    plain = mode_intensities(magnons, q)
    lengths = np.linalg.norm(plain.q_cartesian, axis=1)
    seen = mode_intensities(magnons, q, form_factor=lambda x: np.exp(-(x**2) / 9))
    np.testing.assert_allclose(seen.tensor, plain.tensor * np.exp(-2 * lengths**2 / 9)[:, None, None, None], rtol=1e-9)
    each = {"Fe": np.ones_like, "Cr": lambda x: 0 * x}
    iron = mode_intensities(magnons, q, form_factor=each)
    chromium = mode_intensities(magnons, q, form_factor={"Fe": each["Cr"], "Cr": each["Fe"]})
    assert np.abs(iron.tensor + chromium.tensor - plain.tensor).max() > 0.1  # they interfere
    assert np.linalg.matrix_rank(iron.tensor[0, 0], tol=1e-9) == 1


def test_form_factors_of_ions():
    if importlib.util.find_spec("periodictable") is None:
        extras = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text())["project"]
        assert extras["optional-dependencies"]["form-factors"][0].startswith("periodictable")
        with pytest.raises(KLMError, match=r"pip install periodictable .*ase_klm\[form-factors\]"):
            mode_intensities(chain(), [0.1, 0, 0], form_factor="Fe3")
        return
    lengths = np.array([0.0, 2.0, 4.0])
    plain, seen = (powder_average(chain(), lengths, [0.01], 0.01, form_factor=f) for f in (None, "Fe3+"))
    # <j0> of Fe³⁺: 0.3972 exp(-13.2442 s²) + 0.6295 exp(-4.9034 s²) - 0.0314 exp(-0.3496 s²) + 0.0044
    s = (lengths / (4 * np.pi))[:, None] ** 2
    j0 = np.exp(-s * [13.2442, 4.9034, 0.3496, 0]) @ [0.3972, 0.6295, -0.0314, 0.0044]
    np.testing.assert_allclose(seen[:, 0], plain[:, 0] * j0**2, rtol=1e-3)
    for ion, reason in (("Fe9", "no magnetic form factor"), ("iron", "names no ion"), ("Zz3", "has none")):
        with pytest.raises(KLMError, match=reason):
            mode_intensities(chain(), [0.1, 0, 0], form_factor=ion)


# classical dynamics


def test_spectrum_of_a_trajectory_agrees():
    """Quantum-corrected intensities of LLG at low temperature are those of magnons, in height, handedness and place."""
    n, S, kT, damping, timestep = 256, 2.5, 2.5e-4, 0.03, 4 * ase.units.fs

    def magnet(size):
        atoms = lattices.chain(size)
        uniform(atoms, (0, 0, 1), length=G * S)
        antisymmetric = 0.002 * np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0]])
        shells = {1: lambda r: np.sign(r[0]) * antisymmetric - 0.01 * np.eye(3)}
        atoms.calc = ExchangeCalculator(shells=shells, field=(0, 0, 5e-3))
        return atoms

    atoms, frames = magnet(n), []
    dynamics = LLGDynamics(atoms, timestep=timestep, damping=damping, kT=kT, seed=3)
    dynamics.run(1200)
    dynamics.attach(lambda: frames.append(get_moments(atoms)), interval=5)
    dynamics.run(3000)
    q = np.zeros((n, 3))
    q[:, 0] = np.arange(n) / n - 0.5
    seen = analysis.dynamical_structure_factor(
        np.array(frames), q=q, atoms=atoms, timestep=5 * timestep, segments=3, cell=np.diag([1.0, 10, 10])
    ).quantum(kT=kT)
    lines = mode_intensities(Magnons(magnet(1)), q, kT=kT)
    places = lines.energies[:, :1]
    around = np.abs(seen.energies - places) < 0.25 * places
    step = seen.energies[1] - seen.energies[0]
    lorentzian = 2 / np.pi * np.arctan(0.25 / damping)  # of its area, what lies in this range
    weights = (seen.tensor * around[..., None, None]).sum(1) * step / lorentzian
    ratios = np.stack(
        [weights[:, a, b] / lines.tensor[:, 0, a, b] for a, b in [(0, 0), (1, 1), (0, 1), (1, 0)]], axis=1
    )
    # noise of 2 %, as each of 256 modes forgets its amplitude some ten times; 2 % of the time step; 1 % of kT
    np.testing.assert_allclose(ratios.mean(0), 1, atol=0.1)
    np.testing.assert_allclose(ratios.reshape(4, n // 4, 4).mean((1, 2)), 1, atol=0.15)


# bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": -1e-3}, "width"),
        ({"width": 0}, "width"),
        ({"width": "meV"}, "width"),
        ({"energies": [[0.1, 0.2]]}, "energies has shape"),
        ({"energies": [0.1, np.nan]}, "energies holds NaN"),
        ({"energies": []}, "no energies"),
        ({"kT": 0.1, "temperature_K": 10}, "both temperature_K and kT"),
        ({"kT": -0.1}, "kT"),
        ({"temperature_K": np.inf}, "temperature_K"),
        ({"q": [[0.1, 0.2]]}, "q has shape"),
        ({"q": "GMK"}, "q"),
        ({"q": [[0.1, np.inf, 0]]}, "q holds NaN or infinity"),
        ({"cell": np.ones((3, 3))}, "span space"),
        ({"form_factor": 1.0}, "form_factor"),
        ({"form_factor": lambda _: np.ones(7)}, "what form_factor returns"),
        ({"form_factor": lambda x: x * np.nan}, "what form_factor returns"),
        ({"form_factor": {"Cr": lambda x: x}}, "no entry for Fe"),
        ({"magnons": lattices.chain()}, "Atoms is not Magnons"),
    ],
)
def test_bad_input_is_refused(change, message):
    good = {"magnons": chain(), "q": [[0.1, 0, 0]], "energies": [0.0, 0.1], "width": 1e-3}
    with pytest.raises(KLMError, match=message):
        structure_factor(**{**good, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"lengths": [-1.0]}, "not negative"), ({"lengths": 1.0}, "lengths"), ({"n_directions": 0}, "n_directions")],
)
def test_bad_input_of_powders_is_refused(change, message):
    good = {"magnons": chain(), "lengths": [1.0], "energies": [0.0, 0.1], "width": 1e-3}
    with pytest.raises(KLMError, match=message):
        powder_average(**{**good, **change})
