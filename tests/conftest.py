"""Eight virtual CPU devices for every test; set before anything imports jax."""

import os
import pathlib

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import pytest

SHARED_DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real data that lies beside a developer's checkout; skips where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data folder ../shared/data is not on this machine")
    return SHARED_DATA
