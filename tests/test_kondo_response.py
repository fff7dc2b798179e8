"""Second derivatives of the Kondo lattice: differences, supercells, closed formulas, symmetries, bad input."""

import numpy as np
import pytest
import torch
from scipy.special import expit

from ase_klm import KLMError, KLMWarning, lattices, set_moments, textures
from ase_klm.electrons import response
from ase_klm.moments import directions
from ase_klm.potentials import ExponentialHopping, Kondo

HOPPING = {1: 1.0, 2: 0.3}
OCCUPATIONS = [
    {"mu": -1.0, "temperature": 0.1},
    {"filling": 0.3, "temperature": 0.1},
    {"filling": 0.5},  # gaps of 0.46 eV
    {"mu": 0.0},
]
GAMMA = np.zeros((1, 3))


def chiral(size=(2, 2), seed=0):
    """Random moments of several lengths, one atom without: Φ(q) and Φ(-q) differ."""
    atoms = lattices.triangular(size)
    length = np.random.default_rng(1).uniform(0.6, 1.4, len(atoms))
    length[2] = 0.0
    textures.random(atoms, length=length, seed=seed)
    return atoms


def bound_kondo(atoms, kpts=(1, 1, 1), J=6.0, hopping=None, **parameters):
    return Kondo(hopping or HOPPING, J=J, kpts=kpts, **parameters).bind(atoms)


def derivatives(bound, q=GAMMA):
    return bound.second_derivatives(bound.moments).at(np.asarray(q, dtype=float))


def difference_of_forces(bound, vectors, step=2e-3):
    """-dF along `vectors`, to fourth order in the step."""

    def central(h):
        ahead, behind = (bound.evaluate(bound.moments + s * vectors).magnetic_forces for s in (h, -h))
        return (behind - ahead) / (2 * h)

    return ((4 * central(step / 2) - central(step)) / 3).numpy()


@pytest.mark.parametrize("occupation", OCCUPATIONS)
def test_equals_differences_of_forces_at_gamma(occupation, rng):
    bound = bound_kondo(chiral(), (3, 2, 1), **occupation)
    matrix = derivatives(bound)[0]
    assert np.abs(matrix.imag).max() < 1e-13
    assert not matrix[2].any()
    assert not matrix[:, :, 2].any()
    vectors = torch.from_numpy(rng.standard_normal((4, 3)))
    vectors[2] = 0
    found = np.einsum("iajb,jb->ia", matrix.real, vectors)
    np.testing.assert_allclose(found, difference_of_forces(bound, vectors), atol=1e-8 * np.abs(found).max())


@pytest.mark.parametrize("occupation", OCCUPATIONS)
def test_mesh_equals_supercell(occupation):
    """Σ_R Φ(i, j, R) exp(2πi q·R) of a torus of 3×2 cells, q on its points."""
    atoms = chiral()
    supercell = derivatives(bound_kondo(atoms.repeat((3, 2, 1)), **occupation))[0].real
    blocks = supercell.reshape(3, 2, 4, 3, 3, 2, 4, 3)[0, 0]  # (i, a, R1, R2, j, b)
    q = np.array([[0, 0, 0], [1 / 3, 0, 0], [2 / 3, 1 / 2, 0], [-1 / 3, 3 / 2, 0]])
    phases = np.exp(2j * np.pi * (q[:, 0, None, None] * np.arange(3)[:, None] + q[:, 1, None, None] * np.arange(2)))
    expected = np.einsum("iarsjb,qrs->qiajb", blocks, phases)
    found = derivatives(bound_kondo(atoms, (3, 2, 1), **occupation), q)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.abs(found[1] - expected[1].conj()).max() > 0.05  # the wrong sign of q would be seen


@pytest.mark.parametrize("occupation", OCCUPATIONS[1:3])
def test_wave_of_moments_in_a_supercell(occupation, rng):
    """Turning moments by Re v exp(2πi q·R) adds the forces -Re Φ(q) v exp(2πi q·R)."""
    atoms, n, q = chiral(), 3, np.array([1 / 3, 0, 0])
    matrix = derivatives(bound_kondo(atoms, (n, 1, 1), **occupation), q[None])[0]
    v = rng.standard_normal((4, 3)) + 1j * rng.standard_normal((4, 3))
    v[2] = 0
    wave = np.exp(2j * np.pi * q[0] * np.arange(n))[:, None, None]
    expected = (wave * np.einsum("iajb,jb->ia", matrix, v)).real.reshape(-1, 3)
    supercell = bound_kondo(atoms.repeat((n, 1, 1)), **occupation)
    found = difference_of_forces(supercell, torch.from_numpy((wave * v).real.reshape(-1, 3)))
    np.testing.assert_allclose(found, expected, atol=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("filling", [0.2, 0.35])
@pytest.mark.parametrize("length", [1.0, 1.5])
def test_magnons_of_a_ferromagnet(filling, length):
    """Closed formula of the double-exchange ferromagnet, for q on the mesh."""
    n, J, kT, g = 10, 7.0, 0.02, 2.0
    atoms = lattices.square((1, 1))
    textures.uniform(atoms, (0, 0, 1), length=length)
    bound = bound_kondo(atoms, (n, n, 1), J, {1: 1.0}, filling=filling, temperature=kT)
    steps = np.array([[1, 0, 0], [2, 3, 0], [5, 5, 0], [7, 1, 0]])
    mu = bound.evaluate().extras["chemical_potential"].item()
    k = 2 * np.pi * np.arange(n) / n
    kinetic = -2 * (np.cos(k)[:, None] + np.cos(k))
    up, down = kinetic - J * length / 2, kinetic + J * length / 2

    def fermi(energy):
        return expit((mu - energy) / kT)

    polarisation = np.mean(fermi(up) - fermi(down))
    expected = []
    for step in steps:
        there = np.roll(down, -step[:2], (0, 1))
        susceptibility = np.mean((fermi(up) - fermi(there)) / (there - up))
        stiffness = J * length / 2 * polarisation - 2 * (J * length / 2) ** 2 * susceptibility
        expected.append(g / length * stiffness)
    matrix = derivatives(bound, steps / n)[:, 0, :, 0]
    circular = matrix[:, 0, 0] - 1j * matrix[:, 0, 1]
    force = bound.evaluate().magnetic_forces[0, 2].item()
    np.testing.assert_allclose(g * (force + length * circular), expected, atol=1e-12)
    np.testing.assert_allclose(matrix[:, 0, 1], 0, atol=1e-12)  # ε(k) = ε(-k)
    assert np.ptp(expected) > 0.02
    assert min(expected) > 0 or filling > 0.2


@pytest.mark.parametrize("occupation", OCCUPATIONS)
def test_uniform_rotations_cost_nothing(occupation):
    """Goldstone: d/dθ of F(R m) = R F(m), -Φ (w × m) = w × F, for any texture."""
    bound = bound_kondo(chiral(), (3, 2, 1), **occupation)
    m, F = bound.moments.numpy(), bound.evaluate().magnetic_forces.numpy()
    matrix, e = derivatives(bound)[0].real, directions(m)
    length = np.linalg.norm(m, axis=1)
    for w in np.eye(3):
        turned = np.einsum("iajb,jb->ia", matrix, np.cross(w, m))
        np.testing.assert_allclose(turned, -np.cross(w, F), atol=1e-12)
        # the transverse Hessian feels the torques of a texture that is not stationary, and nothing else
        across = turned - e * (e * turned).sum(1, keepdims=True)
        hessian = length[:, None] * across + (m * F).sum(1)[:, None] * np.cross(w, e)
        torque = F - e * (e * F).sum(1, keepdims=True)
        expected = -length[:, None] * np.cross(w, torque)
        expected -= e * (e * expected).sum(1, keepdims=True)
        np.testing.assert_allclose(hessian, expected, atol=1e-12)


@pytest.mark.parametrize("occupation", OCCUPATIONS[1:3])
def test_goldstone_modes_of_a_stationary_texture(occupation):
    """120° order of the triangular lattice: H(0) times rotations is zero; J is large enough for a gap."""
    atoms = lattices.triangular((3, 3))
    angles = 2 * np.pi / 3 * np.add.outer(np.arange(3), np.arange(3)).ravel()
    set_moments(atoms, np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=1))
    bound = bound_kondo(atoms, (2, 2, 1), J=16.0, **occupation)
    m, F = bound.moments.numpy(), bound.evaluate().magnetic_forces.numpy()
    P = np.eye(3) - m[:, :, None] * m[:, None, :]
    hessian = np.einsum("iab,ibjc,jcd->iajd", P, derivatives(bound)[0].real, P)
    hessian[np.arange(9), :, np.arange(9)] += (m * F).sum(1)[:, None, None] * P
    for w in np.eye(3):
        np.testing.assert_allclose(np.einsum("iajb,jb->ia", hessian, np.cross(w, m)), 0, atol=1e-9)


@pytest.mark.parametrize("occupation", OCCUPATIONS)
def test_hermitian_and_real_in_space(occupation):
    """Φ(q)† = Φ(q) and Φ(-q) = Φ(q)*, on the mesh and off it; negative: second-order perturbation lowers Ω."""
    bound = bound_kondo(chiral(), (3, 2, 1), **occupation)
    q = np.array([[1 / 3, 0, 0], [0.123, 0.3, 0], [1 / 6, 1 / 4, 0], [0.5, 0.25, 0]])
    ahead, behind = derivatives(bound, q), derivatives(bound, -q)
    np.testing.assert_allclose(ahead, ahead.transpose(0, 3, 4, 1, 2).conj(), atol=1e-14)
    np.testing.assert_allclose(behind, ahead.conj(), atol=1e-14)
    assert np.linalg.eigvalsh(ahead.reshape(-1, 12, 12)).max() < 1e-12
    assert np.abs(ahead - behind).max() > 0.05
    np.testing.assert_allclose(derivatives(bound, q + np.array([1, -2, 0])), ahead, atol=1e-12)
    np.testing.assert_allclose(derivatives(bound, q + np.array([0, 0, 0.3])), ahead, atol=1e-12)  # not periodic there


@pytest.mark.parametrize("occupation", [{"filling": 0.5}, {"mu": -1.0, "temperature": 0.3}])
def test_off_the_mesh_it_is_the_smooth_continuation(occupation):
    """Two meshes, dense enough for a gap or a temperature, agree at q that belong to neither or to one."""
    q = np.array([[0.123, 0.3, 0], [1 / 9, 1 / 8, 0]])
    meshes = [derivatives(bound_kondo(chiral(), kpts, **occupation), q) for kpts in ((20, 20, 1), (22, 21, 1))]
    np.testing.assert_allclose(meshes[0], meshes[1], atol=5e-6)


def test_chunks_and_single_precision(monkeypatch):
    q = np.array([[1 / 3, 0.5, 0], [0.123, 0.3, 0]])
    for occupation in OCCUPATIONS[1:3]:
        expected = derivatives(bound_kondo(chiral(), (3, 2, 1), **occupation), q)
        single = derivatives(bound_kondo(chiral(), (3, 2, 1), dtype="float32", **occupation), q)
        np.testing.assert_allclose(single, expected, atol=2e-5)
        for size in (1, 200, 700):
            monkeypatch.setattr(response, "AT_ONCE", size)
            found = derivatives(bound_kondo(chiral(), (3, 2, 1), **occupation), q)
            np.testing.assert_allclose(found, expected, atol=1e-13)
        monkeypatch.undo()


def test_low_temperature_tends_to_the_hard_step():
    """With a gap, down to temperatures whose exponentials overflow."""
    q = np.array([[0, 0, 0], [1 / 3, 0, 0], [0.123, 0.3, 0]])
    cold = derivatives(bound_kondo(chiral(), (3, 2, 1), filling=0.5), q)
    for kT in (5e-3, 1e-6):
        found = derivatives(bound_kondo(chiral(), (3, 2, 1), filling=0.5, temperature=kT), q)
        np.testing.assert_allclose(found, cold, atol=1e-11)


def test_temperature_far_below_the_spacing_of_levels():
    """At fixed mu between two levels of a metal."""
    kpts, q = (3, 2, 1), np.array([[0, 0, 0], [1 / 3, 0.5, 0]])
    cold = derivatives(bound_kondo(chiral(), kpts, mu=-3.0), q)
    warm = derivatives(bound_kondo(chiral(), kpts, mu=-3.0, temperature=1e-4), q)
    np.testing.assert_allclose(warm, cold, atol=1e-10)


@pytest.mark.parametrize("filling", [0.0, 1.0])
@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_empty_and_full_bands(filling, temperature):
    bound = bound_kondo(chiral(), (2, 1, 1), filling=filling, temperature=temperature)
    np.testing.assert_allclose(derivatives(bound, [[0, 0, 0], [0.5, 0, 0], [0.2, 0.1, 0]]), 0, atol=1e-14)


def test_hopping_by_distance_follows_the_atoms(rng):
    """Positions and moments are those of the time of asking, whatever moves later."""
    atoms = chiral()
    hopping = ExponentialHopping(1.0, 1.0, 0.5)
    bound = Kondo(hopping, J=6.0, filling=0.5, cutoff=1.3, kpts=(2, 2, 1)).bind(atoms)
    moved = bound.positions + 0.05 * torch.from_numpy(rng.standard_normal((4, 3)))
    bound.move_to(moved, bound.cell)
    known, q = bound.second_derivatives(bound.moments), np.array([[0, 0, 0], [0.3, 0.2, 0]])
    expected = known.at(q)
    vectors = torch.from_numpy(rng.standard_normal((4, 3)))
    vectors[2] = 0
    found = np.einsum("iajb,jb->ia", expected[0].real, vectors)
    np.testing.assert_allclose(found, difference_of_forces(bound, vectors), atol=1e-8 * np.abs(found).max())
    bound.move_to(moved + 0.6 * torch.from_numpy(rng.standard_normal((4, 3))), bound.cell)
    bound.evaluate()
    np.testing.assert_allclose(known.at(q), expected, atol=1e-12)


def test_what_has_no_second_derivatives():
    atoms = lattices.square((4, 4))
    textures.uniform(atoms)
    degenerate = Kondo({1: 1.0}, 2.0, filling=2 / 32).bind(atoms)
    with pytest.warns(KLMWarning, match="degenerate"), pytest.raises(KLMError, match="do not exist") as caught:
        degenerate.second_derivatives(degenerate.moments)
    assert "temperature" in caught.value.remedy
    several = Kondo({1: 1.0}, 2.0, mu=0.0, temperature=0.1).bind([atoms, atoms])
    with pytest.raises(KLMError, match="one structure at a time"):
        several.second_derivatives(several.moments)
    with pytest.raises(KLMError, match="one structure at a time"):
        several.second_derivatives(several.moments[0])
