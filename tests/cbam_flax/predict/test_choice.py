import sys

import pytest

from cbam_flax.predict import choice
from data_prep.cli import UserError

OLD = {"files": {"model.stablehlo": {}, "model.onnx": {}, "saved_model/saved_model.pb": {}}}
NEW = OLD | {"verification": {"platforms": {}}}


@pytest.fixture
def machine(monkeypatch):
    """A function that makes a machine with these packages, whose JAX has this backend."""

    def make(*packages: str, backend: str = "cpu") -> None:
        found = {name: object() for name in packages}
        monkeypatch.setattr(choice.importlib.util, "find_spec", found.get)
        monkeypatch.setattr("jax.default_backend", lambda: backend)
        monkeypatch.delenv("JAX_PLATFORMS", raising=False)

    return make


@pytest.mark.parametrize(
    ("bundle", "images", "runtime"),
    [
        (NEW, 1, "onnx"),
        (NEW, choice.FEW - 1, "onnx"),
        (NEW, choice.FEW, "jax"),
        (NEW, None, "jax"),
        (OLD, None, "onnx"),  # its StableHLO has no ops for CPUs
        ({"files": {"model.stablehlo": {}}}, 1, "jax"),
    ],
)
def test_on_a_cpu_by_the_number_of_images(machine, bundle, images, runtime):
    machine("jax", "onnxruntime")
    assert choice.choose(bundle, images) == runtime


@pytest.mark.parametrize("package", ["jax_plugins", "libtpu"])
def test_on_an_accelerator_it_is_jax(machine, monkeypatch, package):
    machine("jax", "onnxruntime", package, backend="gpu")
    assert choice.choose(NEW, 1) == choice.choose(OLD, 1) == "jax"
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert choice.choose(NEW, 1) == "onnx"
    machine("jax", "onnxruntime", package, backend="cpu")  # the package without the device
    assert choice.choose(NEW, 1) == "onnx"


def test_without_an_accelerator_jax_is_not_imported(machine, monkeypatch):
    machine("jax", "onnxruntime")
    monkeypatch.setitem(sys.modules, "jax", None)
    assert choice.choose(NEW, 1) == "onnx"


def test_what_is_installed_and_in_the_bundle(machine):
    machine("onnxruntime")
    assert choice.choose(NEW) == "onnx"
    machine("jax")
    assert choice.choose(OLD, 1) == "jax"
    machine()
    with pytest.raises(UserError, match="no runtime for this bundle is installed; install"):
        choice.choose(NEW)
    machine("onnxruntime")
    with pytest.raises(UserError, match="no runtime for this bundle"):
        choice.choose({"files": {"model.stablehlo": {}}})
