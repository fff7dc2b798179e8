"""Magnons: reference energies, closed formulas, three ways to second derivatives, and what goes wrong.

Figures of SpinW, Sunny.jl and UppASD are those of shared/data/spinwave_references; formulas are typed in, so that most
of this file runs without it.
"""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.mixing import SumCalculator
from conftest import reference

from ase_klm import (
    ExchangeCalculator,
    KLMError,
    KLMWarning,
    KondoEDCalculator,
    SpinCalculator,
    SpinMinimizer,
    get_moments,
    lattices,
    set_moments,
    textures,
)
from ase_klm.analysis import topological_charge
from ase_klm.magnons import Magnons
from ase_klm.magnons.bogoliubov import normal_modes
from ase_klm.potentials import Exchange, UniaxialAnisotropy, Zeeman
from ase_klm.potentials.base import BoundPotential, Potential

Z = np.array([0.0, 0.0, 1.0])


def along_z(atoms, signs, length=2.0):
    """Collinear moments; 2 μB is S = 1, so that exchange of directions is that of spins."""
    set_moments(atoms, (np.asarray(signs, float) * length)[:, None] * Z)
    return atoms


def ferromagnet(atoms, **parameters):
    along_z(atoms, np.ones(len(atoms)))
    atoms.calc = ExchangeCalculator(**parameters)
    return atoms


def bands_of(file, **keywords):
    """Magnons of a reference model, its q and its energies in eV; M acts on spins S = abs(m)/2."""
    model, S = file["model"], np.array(file["model"]["spin_lengths_S"])
    atoms = Atoms(["Fe"] * len(S), cell=model["cell_rows"], scaled_positions=model["positions_frac"], pbc=True)
    set_moments(atoms, 2 * S[:, None] * np.array(model["ground_state_spin_directions"]))
    fields = np.array(model.get("field_f_meV", np.zeros((len(S), 3))))
    atoms.calc = ExchangeCalculator(
        bonds=[(b["i"], b["j"], b["R"], 1e-3 * np.array(b["M"]) * S[b["i"]] * S[b["j"]]) for b in model["bonds"]],
        onsite=1e-3 * np.array(model["onsite_A"]) * (S**2)[:, None, None],
        site_fields=1e-3 * fields * S[:, None],
    )
    names = list(file["q_rlu"])
    energies = 1e-3 * np.array([np.sort(file["energies_meV"][name]) for name in names])
    return Magnons(atoms, **keywords), [file["q_rlu"][name] for name in names], energies


@pytest.mark.parametrize(
    "name",
    [
        "fm_chain_spinw_unittest",
        "afm_chain",
        "dm_chain_nonreciprocal",
        "honeycomb_fm_cri3like_nodmi",
        "honeycomb_fm_cri3like_dmi",
        "canted_square_afm_S1.0",
        "canted_square_afm_S1.5",
        "canted_square_afm_S2.0",
        "triangular_120_afm",
        "kagome_sqrt3_afm_spinw_mat",
        "uppasd_heischain",
    ],
)
def test_reference_energies(name):
    """To 1e-6 meV, or to the digits of the reference."""
    file = reference(f"spinwave_references/{name}.json")
    magnons, q, energies = bands_of(file)
    np.testing.assert_allclose(magnons.frequencies(q), energies, atol=1e-3 * file.get("tolerance_meV", 1e-6), rtol=0)


# Closed formulas


def test_ferromagnetic_chain(rng):
    """ω = 4 J S sin²(πq) = 2 J (1 - cos 2πq) at S = 1."""
    q = rng.uniform(-1, 1, (20, 3)) * [1, 0, 0]
    found = Magnons(ferromagnet(lattices.chain(), shells={1: -0.3})).frequencies(q)
    np.testing.assert_allclose(found[:, 0], 0.6 * (1 - np.cos(2 * np.pi * q[:, 0])), atol=1e-12)


def test_dm_chain_fixes_the_sign_of_q():
    """D z·(e_i × e_i+1) with the moments up: ω = B + 2 D sin 2πq at S = 1; moments down reverse it."""
    D, B = 0.1, 1.0
    dzyaloshinskii = np.array([(0, D, 0), (-D, 0, 0), (0, 0, 0)])
    q = np.linspace(-0.5, 0.5, 21)[:, None] * [1, 0, 0]
    for sign in (1, -1):
        atoms = along_z(lattices.chain(), [sign])
        atoms.calc = ExchangeCalculator(bonds=[(0, 0, (1, 0, 0), dzyaloshinskii)], site_fields=sign * B * Z)
        expected = B + sign * 2 * D * np.sin(2 * np.pi * q[:, 0])
        np.testing.assert_allclose(Magnons(atoms).frequencies(q)[:, 0], expected, atol=1e-12)


@pytest.mark.parametrize(("S1", "S2"), [(1.0, 1.0), (1.0, 0.5), (0.5, 2.5)])
def test_ferrimagnetic_chain(S1, S2, rng):
    """J S1·S2 between moments of different length: ω = J [sqrt((S1-S2)² + 4 S1 S2 sin²(πq)) ± (S1 - S2)]."""
    J = 0.7
    atoms = lattices.chain(2)
    set_moments(atoms, [2 * S1 * Z, -2 * S2 * Z])
    atoms.calc = ExchangeCalculator({1: J * S1 * S2})
    q = rng.uniform(-1, 1, (20, 3)) * [1, 0, 0]
    root = np.sqrt((S1 - S2) ** 2 + 4 * S1 * S2 * np.sin(np.pi * q[:, :1]) ** 2)
    expected = J * (root + abs(S1 - S2) * np.array([-1, 1]))
    np.testing.assert_allclose(Magnons(atoms).frequencies(q), expected, atol=1e-9)


def test_honeycomb_ferromagnet(rng):
    """ω = J (3 ± abs(1 + exp 2πi q1 + exp 2πi q2)), at S = 1; a quarter of it at S = 1/4, with J by directions / S."""
    q = rng.uniform(-1, 1, (30, 3)) * [1, 1, 0]
    gamma = np.abs(1 + np.exp(2j * np.pi * q[:, 0]) + np.exp(2j * np.pi * q[:, 1]))
    atoms = ferromagnet(lattices.honeycomb(), shells={1: -2.0})
    for length in (2.0, 0.5):
        along_z(atoms, [1, 1], length)
        expected = 2.0 * 2 / length * np.stack([3 - gamma, 3 + gamma], axis=1)
        np.testing.assert_allclose(Magnons(atoms).frequencies(q), expected, atol=1e-12)


def test_goldstone_modes_are_zero():
    """To 1e-6 of the band width, in a non-collinear antiferromagnet."""
    magnons = Magnons(triangular_state(0.0))
    energies = magnons.frequencies([[0, 0, 0], [0.35, 0.11, 0]])
    assert np.all(energies[0, :3] < 1e-6 * energies.max())
    assert np.abs(magnons.rotation_residuals).max() < 1e-12


def test_atoms_without_moment_have_no_modes(rng):
    q = rng.uniform(-1, 1, (5, 3)) * [1, 1, 0]
    atoms = ferromagnet(lattices.honeycomb(), shells={1: -1.0})
    with_oxygen = atoms[[0]] + Atoms("O", [(0.1, 0.2, 0.3)]) + atoms[[1]]
    set_moments(with_oxygen, [2 * Z, 0 * Z, 2 * Z])
    with_oxygen.calc = atoms.calc
    found = Magnons(with_oxygen)
    np.testing.assert_allclose(found.frequencies(q), Magnons(atoms).frequencies(q), atol=1e-12)
    moved = found.modes(q)[1]
    assert moved.shape == (5, 2, 3, 3)
    assert not moved[:, :, 1].any()
    turned = Magnons(with_oxygen, method="differences", delta=1e-3, supercell=(3, 3, 1))
    np.testing.assert_allclose(turned.frequencies(q), found.frequencies(q), atol=1e-5)


# One state, three ways


class TorchExchange(Potential):
    """Exchange by shells as differentiable torch, as a network would be."""

    def __init__(self, exchange, reach=None):
        self.exchange, self.reach = exchange, reach

    def bind(self, atoms, device="cpu"):
        return BoundTorchExchange(self.exchange, self.reach, atoms, device)


class BoundTorchExchange(BoundPotential):
    def __init__(self, exchange, reach, atoms, device):
        super().__init__(atoms, device)
        self.reach = reach
        self.form = exchange.bind(atoms).form.to_dense()

    @property
    def interaction_range(self):
        return self.reach

    def energy(self, moments, positions, cell):
        e = (moments / moments.norm(dim=-1, keepdim=True)).flatten(-2)
        return 0.5 * (e * (e @ self.form)).sum(-1)


class Elsewhere(Calculator):
    """A calculator from elsewhere with the forces of a potential, and perhaps noise; counts its evaluations."""

    implemented_properties = ["energy", "magnetic_forces"]

    def __init__(self, potential, noise=0.0):
        super().__init__()
        self.inner, self.noise = SpinCalculator(potential), noise
        self.evaluations, self.generator = 0, np.random.default_rng(3)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.evaluations += 1
        forces = self.inner.get_property("magnetic_forces", self.atoms)
        energy = self.inner.get_property("energy", self.atoms)
        noise = self.noise * self.generator.standard_normal(forces.shape)
        self.results = {"energy": energy, "magnetic_forces": forces + noise}


def bond_with_dm(r):
    x, y, z = 0.15 * np.cross(Z, r)
    return np.eye(3) + np.array([(0, z, -y), (-z, 0, x), (y, -x, 0)])


EXCHANGE = Exchange({1: bond_with_dm})
REST = UniaxialAnisotropy(0.3) + Zeeman((0.4, 0.1, 0.2))


@pytest.fixture(scope="module")
def canted():
    """Two sublattices of 1 and 2 μB on a square lattice, canted by a field, with DM interaction."""
    atoms = Atoms("Fe2", [(0, 0, 0), (1, 0, 0)], cell=[(1, 1, 0), (-1, 1, 0), (0, 0, 10)], pbc=(1, 1, 0))
    set_moments(atoms, [(0.3, 0.1, 1.0), (0.3, 0.0, -2.0)])
    set_moments(atoms, get_moments(atoms) * ([[1.0], [2.0]] / np.linalg.norm(get_moments(atoms), axis=1)[:, None]))
    atoms.calc = SpinCalculator(EXCHANGE + REST)
    SpinMinimizer(atoms).run(fmax=1e-10)
    m = get_moments(atoms)
    assert np.linalg.norm(np.cross(*m)) > 0.2  # not collinear
    return atoms


def test_three_ways_to_second_derivatives_agree(canted, rng):
    q = rng.uniform(-1, 1, (20, 3)) * [1, 1, 0]
    exact = Magnons(canted).frequencies(q)
    assert np.abs(exact - Magnons(canted).frequencies(-q)).max() > 0.1  # DM interaction is felt
    automatic = Magnons(canted, SpinCalculator(TorchExchange(EXCHANGE) + REST), supercell=(3, 3, 1))
    np.testing.assert_allclose(automatic.frequencies(q), exact, atol=1e-9)
    differences = Magnons(canted, method="differences", delta=1e-3, supercell=(3, 3, 1))
    np.testing.assert_allclose(differences.frequencies(q), exact, atol=1e-5)  # delta² of the largest element, 10
    foreign = Magnons(canted, Elsewhere(EXCHANGE + REST), supercell=(3, 3, 1), delta=1e-3)
    np.testing.assert_allclose(foreign.frequencies(q), exact, atol=1e-5)


def test_supercell_of_a_known_range_is_found(recwarn):
    """Each term has its own; a supercell just longer than twice the range is large enough, and no reason to warn."""
    terms = TorchExchange(Exchange({1: -1.0}), 1.0) + TorchExchange(Exchange({2: -0.5}), 2.0)
    magnons = Magnons(along_z(lattices.chain(), [1]), SpinCalculator(terms), method="autograd")
    q = np.linspace(0, 0.5, 7)
    expected = 2 * (1 - np.cos(2 * np.pi * q)) + 1.0 * (1 - np.cos(4 * np.pi * q))
    np.testing.assert_allclose(magnons.frequencies(q[:, None] * [1, 0, 0])[:, 0], expected, atol=1e-12)
    assert magnons.supercell == (5, 1, 1)
    assert not recwarn.list


def test_differences_of_an_isotropic_model_are_stable(recwarn):
    """The default step leaves no error in bilinear exchange, and what it leaves elsewhere is no instability."""
    atoms = along_z(lattices.chain(), [1])
    linear = Magnons(atoms, Elsewhere(Exchange({1: -1.0})), supercell=(5, 1, 1))
    np.testing.assert_allclose(linear.frequencies([[0, 0, 0], [0.3, 0, 0]])[:, 0], [0, 2 - 2 * np.cos(0.6 * np.pi)])
    assert not recwarn.list
    set_moments(atoms, [(0, 0, 1.0)])
    atoms.calc = KondoEDCalculator(hopping={1: 1.0}, J=6.0, mu=-4.0, temperature=0.1)
    magnons = Magnons(atoms, method="differences", supercell=(6, 1, 1), delta=0.05)
    assert magnons.frequencies([0.0, 0, 0])[0, 0] < 1e-3


def test_modes_are_normal_modes(canted, rng):
    q = rng.uniform(-1, 1, (7, 3)) * [1, 1, 0]
    magnons = Magnons(canted)
    H = magnons.form.at(q)
    np.testing.assert_allclose(H, H.conj().swapaxes(1, 2), atol=1e-12)
    T, eta = normal_modes(H), np.diag([1, 1, -1, -1])
    adjoint = T.conj().swapaxes(1, 2)
    np.testing.assert_allclose(adjoint @ eta @ T, np.tile(eta, (7, 1, 1)), atol=1e-9)
    energies = np.concatenate([magnons.frequencies(q), magnons.frequencies(-q)], axis=1)
    inverse = np.linalg.inv(T)
    rebuilt = inverse.conj().swapaxes(1, 2) @ (energies[:, :, None] * inverse)
    np.testing.assert_allclose(rebuilt, H, atol=1e-8)  # H is raised by 1e-10 of its largest element


def test_modes_obey_the_equation_of_motion(canted):
    """ħ dm/dt = g m × F of a spin, linearised in a supercell: -iħω δm = g (δm × F - m × Φ δm)."""
    cells = np.array([(x, y, 0) for x in range(4) for y in range(4)])
    q = np.array([0.25, -0.5, 0])
    energies, moved = Magnons(canted).modes(q)
    repeated = canted.repeat((4, 4, 1))
    bound = (EXCHANGE + REST).bind(repeated)
    m, F = get_moments(repeated), bound.evaluate().magnetic_forces.numpy()
    for omega, home in zip(energies[0], moved[0], strict=True):
        delta = (np.exp(2j * np.pi * cells @ q)[:, None, None] * home).reshape(-1, 3)
        parts = [bound.hessian_vector_product(bound.moments, torch.tensor(p)).numpy() for p in (delta.real, delta.imag)]
        change = 2.0 * (np.cross(delta, F) - np.cross(m, parts[0] + 1j * parts[1]))
        np.testing.assert_allclose(-1j * omega * delta, change, atol=1e-8)
        np.testing.assert_allclose((delta * m).sum(1), 0, atol=1e-12)


def test_second_derivatives_of_a_kondo_lattice_agree():
    """Linear response of the electrons against differences of their forces, at wave vectors of the supercell."""
    atoms = along_z(lattices.chain(2), [1, 1], 1.0)
    parameters = {"hopping": {1: 1.0}, "J": 6.0, "mu": -4.0, "temperature": 0.1}
    atoms.calc = KondoEDCalculator(**parameters, kpts=(2, 1, 1))
    supercell = Magnons(atoms, supercell=(4, 1, 1), method="differences", delta=1e-3)
    other = atoms.copy()
    other.calc = KondoEDCalculator(**parameters, kpts=(8, 1, 1))
    q = np.array([(0.25, 0, 0), (0.5, 0, 0)])
    expected = Magnons(other, method="differences", delta=1e-3).lowest_curvature([0.0, 0, 0])
    assert abs(expected[0]) < 1e-5  # rotations cost nothing
    np.testing.assert_allclose(supercell.frequencies(q), Magnons(other).frequencies(q), atol=1e-5)


def test_ferromagnetic_kondo_lattice():
    """ħω(q) = (g/abs(m)) {h <σ_z> - 2 h² N⁻¹ Σ_k (f_k↑ - f_k+q↓)/(ε_k+q↓ - ε_k↑)}, with h = J abs(m)/2."""
    J, mu, temperature, n, length = 6.0, -4.0, 0.1, 6, 1.3
    atoms = along_z(lattices.square(), [1], length)
    atoms.calc = KondoEDCalculator(hopping={1: 1.0}, J=J, mu=mu, temperature=temperature, kpts=(n, n, 1))
    h, k = J * length / 2, np.arange(n) / n
    x, y = np.meshgrid(k, k, indexing="ij")

    def energy(qx, qy):
        return -2 * (np.cos(2 * np.pi * (x + qx)) + np.cos(2 * np.pi * (y + qy)))

    def occupation(e):
        return 1 / (np.exp((e - mu) / temperature) + 1)

    up = energy(0, 0) - h
    polarisation = (occupation(up) - occupation(energy(0, 0) + h)).mean()
    q, expected = np.array([(0, 0, 0), (1, 0, 0), (2, 1, 0), (3, 3, 0)]) / n, []
    for qx, qy, _ in q:
        down = energy(qx, qy) + h
        response = ((occupation(up) - occupation(down)) / (down - up)).mean()
        expected.append(2 / length * (h * polarisation - 2 * h**2 * response))
    assert expected[0] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(Magnons(atoms).frequencies(q)[:, 0], expected, atol=1e-6)


# Spirals in the rotating frame


def triangular_state(dm, anisotropy=0.0):
    """The 120 degree state on nine sites, with easy-plane anisotropy and DM interaction along z."""
    atoms = lattices.triangular((3, 3))
    i, j = np.divmod(np.arange(9), 3)
    angles = 2 * np.pi * (i - j) / 3
    set_moments(atoms, 1.5 * np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1))
    atoms.calc = triangular_model(dm, anisotropy)
    return atoms


def triangular_model(dm, anisotropy):
    def bond(r):
        sign = np.sign(np.cos(3 * np.arctan2(r[1], r[0])))  # + along 0, 120 and 240 degrees
        return np.eye(3) + sign * dm * np.array([(0, 1, 0), (-1, 0, 0), (0, 0, 0)])

    return SpinCalculator(Exchange({1: bond}) + UniaxialAnisotropy(-anisotropy))


@pytest.mark.parametrize(("dm", "anisotropy"), [(0.0, 0.0), (0.0, 0.2), (-0.1, 0.0), (-0.1, 0.2)])
def test_spiral_of_one_cell_equals_that_of_nine(dm, anisotropy, rng):
    q = rng.uniform(-1, 1, (6, 3)) * [1, 1, 0]
    one = lattices.triangular()
    set_moments(one, [(1.5, 0, 0)])
    one.calc = triangular_model(dm, anisotropy)
    spiral = Magnons(one, spiral=((1 / 3, -1 / 3, 0), (0, 0, 1)))
    folded = [spiral.frequencies(q + np.array([i, j, 0]) / 3)[:, 0] for i in range(3) for j in range(3)]
    whole = Magnons(triangular_state(dm, anisotropy)).frequencies(3 * q)
    np.testing.assert_allclose(np.sort(np.transpose(folded)), whole, atol=1e-9)


def test_incommensurate_spiral(rng):
    """ω = S sqrt((J(q) - J(k)) ((J(q+k) + J(q-k))/2 - J(k))), J(q) = 2 Σ_n J_n cos 2πnq, cos 2πk = -J1/(4 J2)."""
    J1, J2 = -1.0, 1.0
    k = np.arccos(-J1 / (4 * J2)) / (2 * np.pi)

    def J(q):
        return 2 * J1 * np.cos(2 * np.pi * q) + 2 * J2 * np.cos(4 * np.pi * q)

    atoms = lattices.chain()
    set_moments(atoms, [(0, 2.0, 0)])
    atoms.calc = ExchangeCalculator({1: J1, 2: J2})
    q = rng.uniform(-1, 1, 20)
    expected = np.sqrt((J(q) - J(k)) * ((J(q + k) + J(q - k)) / 2 - J(k)))
    magnons = Magnons(atoms, spiral=((k, 0, 0), (0, 0, 1)))
    np.testing.assert_allclose(magnons.frequencies(q[:, None] * [1, 0, 0])[:, 0], expected, atol=1e-9)
    assert magnons.frequencies([[0, 0, 0], [k, 0, 0]]).max() < 1e-6
    with pytest.raises(KLMError, match="unstable: at q"):
        Magnons(atoms, spiral=((0.5 * k, 0, 0), (0, 0, 1))).frequencies(q[:, None] * [1, 0, 0])


def test_cone_of_one_cell_equals_that_of_six(rng):
    """DM interaction turns a chain by 60 degrees, a field along the axis tilts it: cos θ = f/2 (sqrt(J² + D²) + J)."""
    J, D, f = -1.0, -np.sqrt(3), 0.8
    tilt, turn = np.arccos(f / 2), np.pi / 3 * np.arange(6)
    bond = J * np.eye(3) + D * np.array([(0, 1, 0), (-1, 0, 0), (0, 0, 0)])
    whole, one = lattices.chain(6), lattices.chain()
    spins = [np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.full(6, np.cos(tilt))]
    set_moments(whole, 2 * np.transpose(spins))
    set_moments(one, get_moments(whole)[:1])
    whole.calc = ExchangeCalculator(
        bonds=[(i, (i + 1) % 6, ((i + 1) // 6, 0, 0), bond) for i in range(6)], site_fields=f * Z
    )
    one.calc = ExchangeCalculator(bonds=[(0, 0, (1, 0, 0), bond)], site_fields=f * Z)
    q = rng.uniform(-1, 1, (6, 3)) * [1, 0, 0]
    spiral = Magnons(one, spiral=((1 / 6, 0, 0), (0, 0, 1)))
    folded = [spiral.frequencies(q + np.array([n, 0, 0]) / 6)[:, 0] for n in range(6)]
    np.testing.assert_allclose(np.sort(np.transpose(folded)), Magnons(whole).frequencies(6 * q), atol=1e-9)


def test_spirals_ask_for_their_symmetry():
    atoms = along_z(lattices.chain(), [1])
    set_moments(atoms, [(0, 2.0, 0)])

    def refused(match, calc, k=(0.1, 0, 0), axis=(0, 0, 1)):
        with pytest.raises(KLMError, match=match):
            Magnons(atoms, calc, spiral=(k, axis)).run()

    chain = Exchange({1: 1.0})
    refused("exchange matrix changes under rotations", SpinCalculator(Exchange({1: np.diag([1.0, 0.5, 1.0])})))
    refused("axis of the anisotropy", SpinCalculator(chain + UniaxialAnisotropy(0.1, (1, 0, 0))))
    refused("the field changes", SpinCalculator(chain + Zeeman((0, 1, 0))))
    refused("has no rotating frame", KondoEDCalculator(hopping={1: 1.0}, J=1.0, filling=0.5))
    refused("not periodic", SpinCalculator(chain), k=(0.1, 0.1, 0))
    refused("axis of the spiral is zero", SpinCalculator(chain), axis=(0, 0, 0))


# Rotations


@pytest.mark.slow
def test_skyrmion_crystal_is_stable_and_has_three_goldstone_modes():
    """Two minutes: the n_sk = 2 crystal of the triangular Kondo lattice in zero field, on 20×20 k-points."""
    atoms = lattices.triangular_magnetic_cell()
    textures.skyrmion_crystal(atoms, n_sk=2, noise=0.05, seed=1)
    atoms.calc = KondoEDCalculator(hopping={1: 1.0, 3: -0.85}, J=1.0, mu=-3.5, temperature=0.002, kpts=(20, 20, 1))
    assert SpinMinimizer(atoms).run(fmax=1e-8)
    assert abs(topological_charge(atoms) + 2) < 1e-6
    magnons = Magnons(atoms)
    gamma, near, edge = magnons.frequencies([[0, 0, 0], [0.05, 0, 0], [0.5, 0, 0]])
    assert gamma[:3].max() < 2e-5
    assert gamma[3] > 5e-4
    assert (near[:3] > 1e-3).all()
    assert edge[0] > 0.015
    assert magnons.rotation_residuals.max() < 1e-7


def test_rotation_residuals_and_their_removal(rng):
    """An isotropic model with a small error on site: imposed, rotations cost nothing, and all else stays."""
    q = rng.uniform(-1, 1, (10, 3)) * [1, 1, 0]
    atoms = lattices.square((2, 2))
    along_z(atoms, [1, -1, -1, 1])
    atoms.calc = ExchangeCalculator({1: 1.0})
    isotropic = Magnons(atoms)
    assert np.abs(isotropic.rotation_residuals).max() < 1e-12
    error = SpinCalculator(Exchange({1: 1.0}) + UniaxialAnisotropy(1e-3))
    wrong = Magnons(atoms, error)
    assert np.abs(wrong.rotation_residuals[:2]).min() > 1e-4
    assert wrong.rotation_residuals[2] < 1e-12  # about the moments themselves
    assert wrong.frequencies([0, 0, 0]).min() > 0.05
    mended = Magnons(atoms, error, impose_rotations=True)
    assert np.abs(mended.rotation_residuals).max() < 1e-12
    assert mended.frequencies([0, 0, 0]).min() < 1e-6
    np.testing.assert_allclose(mended.frequencies(q), isotropic.frequencies(q), atol=1e-9)


def test_removal_in_a_state_that_is_not_collinear():
    error = Magnons(triangular_state(0.0, 1e-3))
    mended = Magnons(triangular_state(0.0, 1e-3), impose_rotations=True)
    assert error.rotation_residuals[:2].min() > 1e-4
    assert np.abs(mended.rotation_residuals).max() < 0.1 * error.rotation_residuals.max()


# States that have no magnons


def test_unstable_states_name_q():
    atoms = ferromagnet(lattices.chain(), shells={1: 1.0})
    with pytest.raises(KLMError, match=r"unstable: at q = \[0\.5, 0\.0, 0\.0\]"):
        Magnons(atoms).frequencies([[0, 0, 0], [0.25, 0, 0], [0.5, 0, 0]])
    assert Magnons(atoms).lowest_curvature([0.5, 0, 0])[0] == pytest.approx(-4.0)
    with pytest.raises(KLMError, match="unstable"):
        Magnons(atoms).get_band_structure("GX", npoints=20)
    with pytest.raises(KLMError, match="unstable"):
        Magnons(atoms).modes([0.5, 0, 0])


def test_states_that_are_not_stationary_are_refused():
    atoms = ferromagnet(lattices.chain(2), shells={1: -1.0})
    set_moments(atoms, [(0, 0, 2.0), (0.002, 0, 2.0)])
    with pytest.raises(KLMError, match=r"not at a stationary state(.|\n)*torque.* eV(.|\n)*SpinMinimizer"):
        Magnons(atoms).run()
    assert Magnons(atoms, fmax=0.1).frequencies([0.2, 0, 0]).min() > 0


def test_bad_input(tmp_path):
    atoms = ferromagnet(lattices.square(), shells={1: -1.0})
    for keywords, match in [
        ({"method": "magic"}, "unknown"),
        ({"supercell": (2, 2, 2)}, "supercell"),
        ({"supercell": (0, 2, 1)}, "supercell"),
        ({"supercell": "big"}, "supercell"),
        ({"delta": 0.0}, "delta"),
        ({"fmax": -1.0}, "fmax"),
    ]:
        with pytest.raises(KLMError, match=match):
            Magnons(atoms, **keywords)
    magnons = Magnons(atoms)
    with pytest.raises(KLMError, match="not periodic"):
        magnons.frequencies([0.1, 0.2, 0.3])
    for q in ([0.1, 0.2], [[np.nan, 0, 0]], "GX", [[0, 0, 1j]]):
        with pytest.raises(KLMError):
            magnons.frequencies(q)
    for kpts in ((6, 6), (0, 6, 1), "mesh", 6):
        with pytest.raises(KLMError, match="kpts"):
            magnons.get_dos(kpts)
    with pytest.raises(KLMError, match="path"):
        magnons.get_band_structure("GQ")
    with pytest.raises(KLMError, match="not differentiable"):
        Magnons(atoms, Elsewhere(Exchange({1: -1.0})), method="autograd").run()
    with pytest.raises(KLMError, match="does not know its second derivatives"):
        Magnons(atoms, Elsewhere(Exchange({1: -1.0})), method="exact").run()
    with pytest.raises(KLMError, match="no atom carries a moment"):
        Magnons(lattices.square(), ExchangeCalculator({1: -1.0}))
    bare = atoms.copy()
    with pytest.raises(KLMError, match="no calculator"):
        Magnons(bare)


# Supercells, noise, and what is kept on disk


def test_supercell_too_small_warns_once(recwarn):
    atoms = along_z(lattices.chain(), [1])
    magnons = Magnons(atoms, Elsewhere(Exchange({1: -1.0})), supercell=(2, 1, 1), delta=1e-3)
    np.testing.assert_allclose(magnons.frequencies([[0, 0, 0], [0.5, 0, 0]])[:, 0], [0, 4], atol=1e-5)
    assert not recwarn.list  # wave vectors of the supercell are exact
    for _ in range(2):
        magnons.frequencies([0.3, 0, 0])
    assert [w.category for w in recwarn.list] == [KLMWarning]
    assert "smaller than twice the range" in str(recwarn.list[0].message)


def test_cache_goes_on_where_a_run_was_cut_short(tmp_path):
    atoms = along_z(lattices.chain(2), [1, -1])

    def run(folder, J=1.0, delta=1e-3):
        calc = Elsewhere(Exchange({1: J}))
        magnons = Magnons(atoms, calc, supercell=(2, 1, 1), delta=delta, cache=folder)
        return magnons.frequencies([0.5, 0, 0]), calc.evaluations

    folder = tmp_path / "forces"
    fresh, all_of_them = run(None)
    first, evaluations = run(folder)
    assert evaluations == all_of_them == 1 + 2 * 2 * 2 + 2  # undisturbed, both signs of both axes, twice the step
    again, evaluations = run(folder)
    assert evaluations == 1
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, fresh)
    stored = sorted(folder.rglob("*.npy"))
    stored[0].unlink()
    stored[3].write_bytes(stored[3].read_bytes()[:40])  # damaged
    again, evaluations = run(folder)
    assert evaluations == 3
    np.testing.assert_array_equal(first, again)
    with pytest.raises(KLMError, match=r"something else(.|\n)*energy"):
        run(folder, J=1.01)
    with pytest.raises(KLMError, match=r"something else(.|\n)*delta"):
        run(folder, delta=2e-3)
    atoms.cell[0, 0] *= 1.1
    with pytest.raises(KLMError, match=r"something else(.|\n)*structure"):
        run(folder)


def test_terms_of_a_sum_keep_their_forces_apart(tmp_path):
    atoms = along_z(lattices.chain(), [1])
    for _ in range(2):
        calc = SumCalculator([Elsewhere(Exchange({1: -1.0})), Elsewhere(Exchange({1: -0.5}))])
        magnons = Magnons(atoms, calc, supercell=(4, 1, 1), cache=tmp_path)
        np.testing.assert_allclose(magnons.frequencies([0.5, 0, 0]), 6.0)


def test_a_file_is_no_cache(tmp_path):
    atoms = along_z(lattices.chain(), [1])
    file = tmp_path / "model.toml"
    file.write_text("mine")
    for cache in (file, file / "below"):
        with pytest.raises(KLMError, match="to be a folder"):
            Magnons(atoms, Elsewhere(Exchange({1: -1.0})), supercell=(4, 1, 1), cache=cache).frequencies([0, 0, 0])
    assert file.read_text() == "mine"


def test_noise_is_noticed():
    atoms = along_z(lattices.chain(), [1])

    def magnons(noise, delta=0.01):
        return Magnons(atoms, Elsewhere(Exchange({1: -1.0}), noise), supercell=(4, 1, 1), delta=delta, fmax=1.0)

    with pytest.raises(KLMError, match=r"not smooth enough for the step delta = 0\.01(.|\n)*larger delta"):
        magnons(1e-2).run()
    with pytest.raises(KLMError, match="not smooth enough"):
        magnons(1e-3, delta=1e-3).run()
    rough = magnons(1e-4)
    with pytest.warns(KLMWarning, match="taken for noise"):
        energies = rough.frequencies([[0, 0, 0], [0.5, 0, 0]])
    np.testing.assert_allclose(energies[:, 0], [0, 4], atol=0.1)
    assert np.abs(rough.rotation_residuals).max() > 1e-4


# What users look at


def test_band_structure():
    atoms = ferromagnet(lattices.honeycomb(), shells={1: -1.0})
    bands = Magnons(atoms).get_band_structure("GMKG", npoints=50)
    assert bands.energies.shape == (1, 50, 2)
    assert bands.reference == 0
    special = bands.path.special_points
    at = [int(np.abs(bands.path.kpts - special[name]).sum(1).argmin()) for name in "GMK"]
    np.testing.assert_allclose(bands.energies[0, at], [(0, 6), (2, 4), (3, 3)], atol=1e-9)


def test_density_of_states_counts_modes():
    atoms = ferromagnet(lattices.honeycomb(), shells={1: -1.0})
    dos = Magnons(atoms).get_dos((12, 12, 12))
    assert dos.get_weights().sum() == pytest.approx(2)
    sampled = dos.sample_grid(2000, xmin=-1, xmax=7, width=0.05)
    energies = sampled.get_energies()
    total = float((sampled.get_weights()).sum() * (energies[1] - energies[0]))
    assert total == pytest.approx(2, rel=1e-3)
    low, high = energies < 3, energies >= 3
    assert sampled.get_weights()[low].sum() == pytest.approx(sampled.get_weights()[high].sum(), rel=1e-2)  # E → 6 - E
