import importlib.util

import pytest

from cbam_flax.accelerator import unused_gpu


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """The device files of a machine with two GPUs, and a user who chose nothing."""
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "null"):
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("plugin", "mend"), [(None, "requirements-cuda.txt"), (object(), "JAX_PLATFORMS=cuda")]
)
def test_a_gpu_that_jax_does_not_use(gpus, monkeypatch, plugin, mend):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: plugin)
    sentence = unused_gpu("cpu", gpus)
    assert "2 NVIDIA GPUs" in sentence
    assert mend in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_what_jax_computes_on_is_an_accelerator(gpus, platform):
    assert unused_gpu(platform, gpus) is None


def test_a_machine_without_a_gpu(gpus):
    assert unused_gpu("cpu", gpus) is not None
    for file in gpus.glob("nvidia?"):
        file.unlink()
    assert unused_gpu("cpu", gpus) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("JAX_PLATFORMS", "cpu"), ("CUDA_VISIBLE_DEVICES", ""), ("CUDA_VISIBLE_DEVICES", "-1")],
)
def test_a_user_who_meant_the_cpu(gpus, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert unused_gpu("cpu", gpus) is None
