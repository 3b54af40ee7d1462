import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]


def pins(name: str) -> dict[str, str]:
    lines = (re.split("[;#]", line)[0].strip() for line in (ROOT / name).read_text().splitlines())
    parts = (line.split("==") for line in lines if "==" in line)
    return {package.lower().replace("_", "-"): version for package, version in parts}


def test_inference_installs_the_versions_that_were_tested():
    tested = pins("constraints.txt") | pins("requirements.txt")
    inference = pins("requirements-inference.txt")
    assert len(inference) > 8
    assert inference == {package: tested.get(package) for package in inference}


def test_inference_installs_no_training_package():
    assert not {"jax", "flax", "tensorflow-cpu", "jax2onnx"} & set(
        pins("requirements-inference.txt")
    )
