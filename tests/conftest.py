"""Fixtures shared by the tests of all rooms."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

REFERENCE_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

torch.set_num_threads(1)  # the tensors of tests are small: threads cost more than they gain


@pytest.fixture(autouse=True)
def _no_global_state():
    """The package never changes torch's or NumPy's defaults."""
    dtype, numpy_state = torch.get_default_dtype(), np.random.get_state()[1].copy()  # noqa: NPY002, watched
    torch_state = torch.random.get_rng_state()
    yield
    assert torch.get_default_dtype() == dtype
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002, watched
    assert torch.equal(torch.random.get_rng_state(), torch_state)


@pytest.fixture
def rng():
    return np.random.default_rng(20261120)


def reference(name):
    """Reference data by name, or a skip where it is not on this machine."""
    path = REFERENCE_DATA / name
    if not path.exists():
        pytest.skip(f"reference data {path} is not on this machine")
    return json.loads(path.read_text()) if path.suffix == ".json" else np.load(path)
