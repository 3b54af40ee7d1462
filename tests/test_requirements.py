import pathlib
import re
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]


def pins(name: str) -> dict[str, str]:
    lines = (re.split("[;#]", line)[0].strip() for line in (ROOT / name).read_text().splitlines())
    parts = (line.split("==") for line in lines if "==" in line)
    return {package.lower().replace("_", "-"): version for package, version in parts}


@pytest.mark.parametrize(("name", "extra"), [("cuda", "jax[cuda12]"), ("tpu", "jax[tpu]")])
def test_accelerators_add_their_runtime_to_the_same_jax(name, extra):
    path = f"requirements-{name}.txt"
    assert pins(path)[extra] == pins("requirements.txt")["jax"]
    kinds = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extra in kinds[name]
    lines = [re.split("#", line)[0].strip() for line in (ROOT / path).read_text().splitlines()]
    assert all("==" in line for line in lines if line and line != "-r requirements.txt")
    assert "-r requirements.txt" in lines


def test_cuda_and_its_plugins_are_of_one_version():
    cuda = pins("requirements-cuda.txt")
    assert cuda["jax-cuda12-plugin"] == cuda["jax-cuda12-pjrt"] == cuda["jax[cuda12]"]


def test_inference_installs_the_versions_that_were_tested():
    tested = pins("constraints.txt") | pins("requirements.txt")
    inference = pins("requirements-inference.txt")
    assert len(inference) > 8
    assert inference == {package: tested.get(package) for package in inference}


def test_inference_installs_no_training_package():
    assert not {"jax", "flax", "tensorflow-cpu", "jax2onnx"} & set(
        pins("requirements-inference.txt")
    )
