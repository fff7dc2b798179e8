"""Tensors with degree, parity and time reversal: products, layers and harmonics turn as they should."""

import numpy as np
import pytest
import torch

from ase_klm import KLMError
from ase_klm.nn.equivariant import Gate, Harmonics, LayerNorm, Linear, Product
from ase_klm.nn.harmonics import SolidHarmonics
from ase_klm.nn.irreps import SCALAR, Irrep, Symmetry, clebsch_gordan, displacement, parsed, written

TOGETHER = parsed("3x0e+ + 3x0o- + 3x1o+ + 3x1e- + 3x1o- + 3x2e+")
APART = parsed("3x0e+ + 3x1o+ + 3x2e+ + 3x0e-s1 + 3x1o-s1 + 3x0e+s2")


def rotation(rng):
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return torch.tensor(q * np.sign(np.linalg.det(q)))


def wigner(l, turn):
    """The matrix that turns Y_l, from harmonics of random vectors."""
    vectors = torch.tensor(np.random.default_rng(1).normal(size=(20, 3)))
    before, after = (Harmonics(l).double()(v)[l] for v in (vectors, vectors @ turn.T))
    return after @ torch.linalg.pinv(before)


def matrix(irrep, space=None, spin=None, inverted=False, reversed_=False):
    """How a tensor turns when the lattice, the spins or time does."""
    identity = torch.eye(3, dtype=torch.float64)
    l = wigner(irrep.l, identity if space is None else space)
    s = wigner(irrep.s, identity if spin is None else spin)
    sign = (irrep.p if inverted else 1) * (irrep.t if reversed_ else 1)
    return sign * torch.kron(l, s)


def turned(features, **operation):
    return {irrep: torch.einsum("ab,bnc->anc", matrix(irrep, **operation), x) for irrep, x in features.items()}


def random_features(irreps, rng, n=4):
    return {irrep: torch.tensor(rng.normal(size=(irrep.dim, n, channels))) for irrep, channels in irreps.items()}


def layers(irreps):
    return {
        "linear": Linear(irreps, dict.fromkeys(irreps, 5), bias=True),
        "gate": Gate(irreps),
        "norm": LayerNorm(irreps),
        "product": Product(irreps, irreps, dict.fromkeys(irreps, 2)),
        "scalar product": Product(irreps, irreps, {SCALAR: 2}),
    }


@pytest.mark.parametrize("irreps", [TOGETHER, APART])
@pytest.mark.parametrize("name", ["linear", "gate", "norm", "product", "scalar product"])
def test_layers_keep_degree_parity_and_time_reversal(irreps, name, rng):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer = layers(irreps)[name].double()
    x, y = random_features(irreps, rng), random_features(irreps, rng)
    arguments = (x, y) if "product" in name else (x,)
    found = layer(*arguments)
    operations = [{"space": rotation(rng)}, {"spin": rotation(rng)}, {"inverted": True}, {"reversed_": True}]
    for operation in operations:
        again = layer(*(turned(features, **operation) for features in arguments))
        expected = turned(found, **operation)
        assert again.keys() == found.keys()
        for irrep in found:
            assert torch.allclose(again[irrep], expected[irrep], atol=1e-10), (operation, irrep)


def test_products_contain_what_group_theory_says():
    moment, displaced = Symmetry().moment(1), displacement(1)
    assert [str(c) for c in moment.products(displaced)] == ["0o-", "1o-", "2o-"]
    assert [str(c) for c in moment.products(moment)] == ["0e+", "1e+", "2e+"]
    apart = Symmetry(spin_orbit=False).moment(1)
    assert [str(c) for c in apart.products(displaced)] == ["1o-s1"]
    assert [str(c) for c in apart.products(apart)] == ["0e+", "0e+s1", "0e+s2"]
    assert Symmetry(time_reversal=False).moment(1) == Irrep(1, 1, 1)


def test_coupling_is_that_of_vectors(rng):
    a, b = (torch.tensor(rng.normal(size=3)) for _ in range(2))
    y, z = (Harmonics(1).double()(v[None])[1][:, 0] for v in (a, b))
    vector = displacement(1)
    dot = torch.einsum("a,b,abc->c", y, z, clebsch_gordan(vector, vector, SCALAR))
    assert torch.allclose(dot.abs(), 3**0.5 * (a @ b).abs())
    cross = torch.einsum("a,b,abc->c", y, z, clebsch_gordan(vector, vector, Irrep(1, 1, 1)))
    assert torch.allclose(cross.norm(), 3 * torch.linalg.cross(a, b).norm() / 2**0.5)


def test_harmonics_are_those_of_spins_on_lattices(rng):
    vectors = torch.tensor(rng.normal(size=(5, 3)))
    found, expected = Harmonics(4).double()(vectors), SolidHarmonics(4)(vectors.T)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, expected, strict=True))
    assert [len(y) for y in Harmonics(0).double()(vectors)] == [1]


def test_written_and_read():
    for irreps in (TOGETHER, APART):
        assert parsed(written(irreps)) == irreps
    assert parsed("0e+ + 2x0e+") == {SCALAR: 3}
    for wrong in ("8x0e", "1p+", "3x1o+s"):
        with pytest.raises(KLMError):
            parsed(wrong)
