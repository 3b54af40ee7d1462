"""pyproject.toml against the code and the pins: what `pip install .` puts where."""

import ast
import fnmatch
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, SETUPTOOLS = PYPROJECT["project"], PYPROJECT["tool"]["setuptools"]
DEVELOPMENT = {
    "hypothesis",
    "ipykernel",
    "mypy",
    "nbclient",
    "nbformat",
    "pytest",
    "pytest-xdist",
    "ruff",
}


def requirements(*names: str) -> dict[str, list[Requirement]]:
    """Those that everybody needs and those of the extras, by package."""
    texts = [*PROJECT["dependencies"]]
    for name in names:
        texts += PROJECT["optional-dependencies"][name]
    found: dict[str, list[Requirement]] = {}
    for one in map(Requirement, texts):
        if one.name == "cbam_flax":  # this package's own extras
            for name, more in requirements(*one.extras).items():
                found.setdefault(name, []).extend(more)
        else:
            found.setdefault(canonicalize_name(one.name), []).append(one)
    return found


def pins(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("-")]


def test_every_package_and_its_texts_are_listed():
    patterns = SETUPTOOLS["packages"]["find"]["include"]
    texts = SETUPTOOLS["package-data"]["*"]
    for top in ("cbam_flax", "data_prep", "configs"):
        for path in (ROOT / top).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                folder = ".".join(path.parent.relative_to(ROOT).parts)
                assert any(fnmatch.fnmatchcase(folder, pattern) for pattern in patterns), path
                assert (path.parent / "__init__.py").is_file(), f"{path} lies in no package"
                assert path.suffix == ".py" or path.name in texts, f"{path} would be left out"


def test_the_version_stands_in_one_place_as_a_literal():
    assert "version" not in PROJECT
    assert SETUPTOOLS["dynamic"]["version"] == {"attr": "cbam_flax.version.__version__"}
    tree = ast.parse((ROOT / "cbam_flax/version.py").read_text())
    [version] = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    assert re.fullmatch(r"\d+\.\d+\.\d+", ast.literal_eval(version))


@pytest.mark.parametrize("target", PROJECT["scripts"].values())
def test_a_script_calls_what_python_m_calls(target):
    module, name = target.split(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    last = tree.body[-1]
    assert ast.unparse(last) == f"if __name__ == '__main__':\n    {name}()"


@pytest.mark.parametrize(
    ("file", "extras", "beside"),
    [
        ("requirements.txt", ["train"], DEVELOPMENT),
        ("requirements-inference.txt", ["inference"], {"flatbuffers", "packaging", "protobuf"}),
        ("requirements-tpu.txt", ["tpu"], {"libtpu"}),
        ("requirements-beam.txt", ["beam"], {"pytest"}),
    ],
)
def test_the_extras_allow_the_pins_that_were_tested(file, extras, beside):
    allowed = requirements(*extras)
    names = {canonicalize_name(pin.name) for pin in pins(file)}
    assert names - allowed.keys() == beside
    for pin in pins(file):
        [version] = [one.version for one in pin.specifier]
        for one in allowed.get(canonicalize_name(pin.name), ()):
            assert version in one.specifier, f"{pin} is outside of {one}"


def test_training_asks_for_nothing_that_is_not_pinned():
    pinned = {canonicalize_name(pin.name) for pin in pins("requirements.txt")}
    assert requirements("train").keys() == pinned - DEVELOPMENT


@pytest.mark.parametrize(
    ("command", "package"), [("cbam_flax.main", "absl"), ("data_prep.prepare", "etils")]
)
def test_a_missing_extra_is_one_sentence(command, package, tmp_path):
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError(name={package!r})\n")
    needed = ["--dataset=rsna", "--raw=.", "--data_dir=data"] * (package == "etils")
    done = subprocess.run(
        [sys.executable, "-m", command, *needed],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: this command needs {package}, which is not installed; ")
    assert done.stderr.count("\n") == 1
