import importlib.util
import json
import subprocess
import sys

import pytest

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler is not installed; requirements-tpu.txt brings it",
)


def aot(*arguments):
    command = [sys.executable, "-m", "cbam_flax.aot", "--config=configs/rsna.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_help_shows_an_example():
    result = aot("--help")
    assert result.returncode == 0
    assert "--topology=v5e:2x4" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--topology is needed"),
        (["--topology=v9:2x2"], "--topology is 'v9:2x2'; it must be one of v4, v5e"),
        (["--topology=v5e"], "it must be one of v4, v5e"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message):
    result = aot(*arguments)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_without_the_compiler_one_sentence_names_the_requirements():
    if importlib.util.find_spec("libtpu") is not None:
        pytest.skip("libtpu is installed")
    result = aot("--topology=v5e:2x2")
    assert result.returncode != 0
    assert result.stderr.count("\n") == 1
    assert "requirements-tpu.txt" in result.stderr


@needs_libtpu
def test_a_stage_is_compiled_and_told(tmp_path):
    out = tmp_path / "cost.json"
    result = aot("--topology=v5e:2x2", "--stage=pool4", "--batch_per_chip=8", f"--out={out}")
    assert result.returncode == 0, result.stderr
    assert "images/s per chip" in result.stdout
    figures = json.loads(out.read_text())
    assert figures["milliseconds"] >= max(figures["floor_milliseconds"].values()) / 3
    assert any(one["source"].startswith("cbam_flax/") for one in figures["most_expensive"])
    assert aot("--topology=v5e:2x2", "--stage=pool9").returncode != 0


@needs_libtpu
@pytest.mark.parametrize("more", [["--topology=v5e:1x1"], ["--topology=v5e:2x2", "--chips=5"]])
def test_a_topology_that_there_is_not(more):
    result = aot(*more)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
