"""Commands that are told to write where a user keeps something: nothing of theirs is touched."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from cbam_flax.evaluate import __main__ as evaluate_main
from cbam_flax.predict import __main__ as predict_main
from data_prep.cli import UserError
from data_prep.files import folders

ROOT = pathlib.Path(__file__).parents[2]
SIZE = 32
# `python -c` with the number of the rename before which the process is killed, then arguments.
KILLED = """
import os, runpy, signal, sys
rename, left = os.replace, int(sys.argv.pop(1))
def count(*arguments):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*arguments)
os.replace = count
runpy.run_module("cbam_flax.predict", run_name="__main__")
"""


def run(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def tree(root):
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in root.rglob("*")
    }


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, write_toy_bundle):
    """A bundle whose probability is a function of the mean."""

    def infer(images: jax.Array) -> dict[str, jax.Array]:
        mean = images.mean((1, 2, 3))
        return {"probability": jax.nn.sigmoid(mean), "attention": images[:, ::8, ::8, 0]}

    folder = tmp_path_factory.mktemp("bundle")
    return write_toy_bundle(folder, infer, SIZE, ["no pneumonia", "pneumonia"])


@pytest.fixture
def home(tmp_path, write_dicom):
    """What a user has: images, a run with its report, and a folder of their own."""
    for name in ("images", "run/checkpoints/3", "run/evaluation/test", "own"):
        (tmp_path / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(2):
        image = rng.integers(0, 255, (SIZE, SIZE), np.uint8)
        write_dicom(tmp_path / "images" / f"{i}.dcm", image)
    (tmp_path / "run/checkpoints/3/array").write_text("trained for a week")
    report = {"report.html": "<p>", "predictions.csv": "image_id,patient_id", "metrics.json": "{}"}
    for name, text in report.items():
        (tmp_path / "run/evaluation/test" / name).write_text(text)
    (tmp_path / "own/predictions.csv").write_text("my,own,table")
    (tmp_path / "own/film.dcm").write_text("film")
    return tmp_path


@pytest.mark.parametrize("name", ["..", "../checkpoints"])
def test_evaluate_takes_no_path_for_a_name(home, name):
    before = tree(home)
    done = run("-m", "cbam_flax.evaluate", f"--workdir={home / 'run'}", f"--name={name}")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {name!r} is no plain folder name; give --name")
    assert tree(home) == before


@pytest.mark.parametrize("name", ["", ".", "/tmp/x", "a/b", ".git", "a\nb", "x" * 300])
def test_evaluate_refuses_other_names(home, name, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate", f"--workdir={home / 'run'}", f"--name={name}"])
    with pytest.raises(UserError, match="is no plain folder name"):
        evaluate_main.main()


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("run/evaluation/test", r"predictions\.csv was not written by"),
        ("own", r"predictions\.csv was not written by"),
        ("images", "is itself an input"),
        (".", "holds the input"),
        ("images/results", "lies in the input"),
        ("images/0.dcm", "lies in the input"),
        ("own/film.dcm", "is a file"),
        ("own/film.dcm/results", "is a file"),
        ("x" * 300, "File name too long"),
    ],
)
def test_predict_refuses_what_is_not_its_own(home, bundle, monkeypatch, out, words):
    before = tree(home)
    arguments = [f"--bundle={bundle}", f"--out={home / out}", str(home / "images")]
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    with pytest.raises(UserError, match=words):
        predict_main.main()
    assert tree(home) == before


def test_predict_does_not_write_into_its_bundle(home, bundle, monkeypatch):
    arguments = [f"--bundle={bundle}", f"--out={bundle}", str(home / "images")]
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    with pytest.raises(UserError, match="is itself an input"):
        predict_main.main()


def test_predict_beside_a_users_files_and_again(home, bundle):
    (home / "own/predictions.csv").unlink()
    before = tree(home)
    arguments = ["--workers=0", f"--bundle={bundle}", "--out=.", home / "images"]
    done = run("-m", "cbam_flax.predict", "--overlays", *arguments, cwd=home / "own")
    assert done.returncode == 0, done.stderr
    first = {name: content for name, content in tree(home).items() if name not in before}
    assert {"own/predictions.csv", "own/rejected.csv", "own/overlays/1.png"} <= first.keys()
    assert before.items() <= tree(home).items()

    done = run("-m", "cbam_flax.predict", *arguments, cwd=home / "own")
    assert done.returncode == 0, done.stderr
    assert tree(home) == before | {
        "own/predictions.csv": first["own/predictions.csv"],
        "own/rejected.csv": first["own/rejected.csv"],
        f"own/{folders.MARKER}": (home / "own" / folders.MARKER).read_bytes(),
    }
    listed = json.loads((home / "own" / folders.MARKER).read_text())["files"]
    digest = hashlib.sha256(first["own/predictions.csv"]).hexdigest()
    assert listed["predictions.csv"] == [digest]

    (home / "own/predictions.csv").write_text("with my remarks")
    after = tree(home)
    done = run("-m", "cbam_flax.predict", *arguments, cwd=home / "own")
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert "predictions.csv was changed since the last call of this command; move it" in line
    assert tree(home) == after


def test_predict_finishes_after_a_kill(home, bundle):
    out, twin = home / "results", home / "twin"
    arguments = ["--workers=0", f"--bundle={bundle}", home / "images"]
    killed = run("-c", KILLED, 4, *arguments, f"--out={out}")
    assert killed.returncode == -9
    assert not (out / "predictions.csv").exists()
    assert (out / "rejected.csv").exists()
    for folder in (out, twin):
        done = run("-m", "cbam_flax.predict", *arguments, f"--out={folder}")
        assert done.returncode == 0, done.stderr
    assert tree(out) == tree(twin)
