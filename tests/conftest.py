"""Fixtures shared by the tests of all rooms."""

import json
import os
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # one core a worker; read when NumPy and torch are imported

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("repeatable", derandomize=True)  # pytest --hypothesis-profile=default searches further
settings.load_profile("repeatable")

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
