"""The commands as a user starts them: a run becomes a bundle, a bundle scores raw DICOM."""

import csv
import functools
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from cbam_flax import checkpoint
from cbam_flax.config import default_config
from cbam_flax.models import create_model
from cbam_flax.step import TrainState
from data_prep.dicom import read_radiograph
from data_prep.files import folders
from data_prep.resize import fit_image

ROOT = pathlib.Path(__file__).parents[2]
SIZE = 32
CALIBRATION = {"scale": 2.0, "bias": 0.25, "threshold": 0.55, "criterion": "youden"}
DATA = {"train": "1" * 64, "validation": "2" * 64}


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    # One device, as a user has; conftest.py asks for eight.
    variables = os.environ | {"XLA_FLAGS": "", "TF_ENABLE_ONEDNN_OPTS": "0"} | environment
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=variables,
        capture_output=True,
        text=True,
    )


predict = functools.partial(run, "-m", "cbam_flax.predict")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, draw_variables) -> pathlib.Path:
    """What training and evaluation leave: one checkpoint, its calibration, the prepared data."""
    root = tmp_path_factory.mktemp("run")
    records = root / "data" / "rsna_pneumonia" / f"{SIZE}px" / "1.0.0"
    records.mkdir(parents=True)
    manifest = {
        "dataset": f"rsna_pneumonia/{SIZE}px/1.0.0",
        "split_scheme": "patient",
        "preprocessing": {
            "image_size": SIZE,
            "aspect": "letterbox",
            "interpolation": "area",
            "voi": "first",
        },
        "counts": {"inputs": 9, "accepted": 9, "rejected": 0},
        "splits": {
            name: {"images": 9, "patients": 9, "positive": 4, "content_sha256": content}
            for name, content in DATA.items()
        },
    }
    (records / "manifest.json").write_text(json.dumps(manifest))

    config = default_config()
    config.data_dir = str(root / "data")
    config.image_size = SIZE
    config.model.width, config.model.reduction = 0.0625, 4
    variables = draw_variables(create_model(config.model), SIZE)
    state = TrainState(
        step=np.int32(3),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state={"count": np.int32(3)},
        ema_params=variables["params"],
    )
    folder = root / "workdir"
    with checkpoint.make_manager(str(folder), config) as manager:
        checkpoint.save(
            manager, state, step=3, config=config, fingerprint=DATA, metrics={"auroc": 0.9}
        )
        manager.wait_until_finished()
    fitted = {"step": 3, "split": "validation", "n": 9, "n_positive": 4}
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    metrics = {
        **{name: interval for name in ("auroc", "sensitivity", "specificity")},
        "name": "test",
        "split": "test",
        "dataset": "rsna_pneumonia",
        "n": 9,
        "n_positive": 4,
        "n_patients": 9,
        "threshold": CALIBRATION["threshold"],
        "calibration": fitted | CALIBRATION,
        "data": {"split_scheme": "patient"},
        "provenance": {"checkpoint_step": 3, "trained_on": DATA, "config": {}},
        "warnings": [],
        "confusion": {},
        "at_prevalence": [],
        "subgroups": [],
        "baselines": None,
        "bootstrap": {"unit": "patients"},
    }
    (folder / "evaluation" / "test").mkdir(parents=True)
    (folder / "evaluation" / "test" / "metrics.json").write_text(json.dumps(metrics))
    return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> tuple[pathlib.Path, pathlib.Path]:
    """The files of an Ed25519 private key and its public half."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    folder = tmp_path_factory.mktemp("keys")
    (folder / "key.pem").write_bytes(private)
    (folder / "key.pub").write_bytes(public)
    return folder / "key.pem", folder / "key.pub"


@pytest.fixture(scope="module")
def bundle(workdir, keys) -> pathlib.Path:
    out = workdir.parent / "bundle"
    process = run(
        *("-m", "cbam_flax.export", f"--workdir={workdir}", f"--out={out}"),
        f"--sign_with={keys[0]}",
    )
    assert process.returncode == 0, process.stderr
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory, write_dicom) -> list[pathlib.Path]:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    images = [
        np.kron(rng.integers(0, 255, (8, 6), np.uint8), np.ones((20, 20), np.uint8))
        for _ in range(5)
    ]
    return [write_dicom(folder / f"{i}.dcm", image) for i, image in enumerate(images)]


@pytest.fixture(scope="module")
def expected(workdir, images) -> np.ndarray:
    """The training code's own forward pass and the calibration by hand."""
    restored = checkpoint.load_for_inference(str(workdir))
    squares = [fit_image(read_radiograph(path).image, SIZE)[0] for path in images]
    images = np.stack(squares)[..., None].astype(np.float32) / 255
    logits = np.asarray(jax.jit(restored.model.apply)(restored.variables, images), np.float64)
    probabilities = 1 / (1 + np.exp(-(2.0 * logits + 0.25)))
    assert np.ptp(probabilities) > 1e-3  # else agreement would say little
    return probabilities


def read_csv(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_bundle_is_whole(bundle, workdir):
    names = {path.name for path in bundle.iterdir()}
    artefacts = {"model.stablehlo", "model.onnx", "saved_model"}
    assert names == artefacts | {"bundle.json", "bundle.json.sig", "MODEL_CARD.md", folders.MARKER}
    text = (bundle / "bundle.json").read_text()
    described = json.loads(text)
    assert described["schema"] == 1
    assert described["operating_point"]["threshold"] == 0.55
    assert described["calibration"]["scale"] == 2.0
    assert described["fingerprints"]["checkpoint"]["step"] == 3
    differences = described["verification"]["max_difference"]
    assert set(differences) == artefacts
    assert all(value <= 1e-4 for value in differences.values())
    platforms = described["verification"]["platforms"]
    assert list(platforms) == ["cpu", "cuda", "tpu"]
    assert all(each["max_difference"] <= 1e-4 for each in platforms.values())
    stablehlo = (bundle / "model.stablehlo").stat().st_size
    assert (bundle / "model.onnx").stat().st_size < 1.5 * stablehlo + 200_000  # parameters once
    # No path of the machine that made it, in any file.
    for path in bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert str(ROOT).encode() not in content
            assert str(workdir.parent).encode() not in content


@pytest.mark.parametrize("runtime", ["jax", "onnx"])
def test_predict_equals_the_training_code(bundle, keys, images, expected, tmp_path, runtime):
    process = predict(
        *(f"--bundle={bundle}", f"--out={tmp_path / 'out'}", f"--runtime={runtime}"),
        *(f"--verify_with={keys[1]}", *images),
    )
    assert process.returncode == 0, process.stderr
    assert "warning" not in process.stderr
    assert f"runtime: {runtime}\n" in process.stdout
    rows = read_csv(tmp_path / "out" / "predictions.csv")
    assert [row["image_id"] for row in rows] == ["0", "1", "2", "3", "4"]
    found = np.array([float(row["probability"]) for row in rows])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    wanted = ["pneumonia" if p >= 0.55 else "no pneumonia" for p in expected]
    assert [row["decision"] for row in rows] == wanted


SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "inference.md").read_text(), re.S)


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("jax", ["flax", "tensorflow", "onnxruntime"]),
        ("onnxruntime", ["jax", "flax", "tensorflow"]),
        ("tensorflow", ["jax", "flax", "onnxruntime"]),
    ],
)
def test_an_artefact_is_served_as_documented(bundle, images, expected, tmp_path, package, absent):
    """docs/inference.md, with other packages impossible to import, as if not installed."""
    [snippet] = [text for text in SNIPPETS if f"import {package}" in text]
    squares = [fit_image(read_radiograph(path).image, SIZE)[0] for path in images]
    np.save(tmp_path / "images.npy", np.stack(squares)[..., None].astype(np.float32) / 255)
    (tmp_path / "bundle").symlink_to(bundle)
    absent = [*absent, "cbam_flax", "data_prep"]
    script = f"import os, sys\nsys.modules |= dict.fromkeys({absent})\n"
    script += f"os.chdir({str(tmp_path)!r})\n{snippet}\nnp.save('out.npy', probability)"
    process = run("-c", script)
    assert process.returncode == 0, process.stderr
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("runtime", "absent"),
    [
        ("onnx", {"jax", "jaxlib", "flax", "orbax", "tensorflow", "ml_collections", "highdicom"}),
        ("jax", {"flax", "orbax", "tensorflow", "ml_collections", "onnxruntime", "highdicom"}),
    ],
)
def test_predict_needs_only_its_runtime(bundle, images, tmp_path, runtime, absent):
    """The other packages are made impossible to import, as if they were not installed."""
    script = f"""
import sys
sys.modules |= dict.fromkeys({sorted(absent)!r})
from cbam_flax.predict import Predictor
print(Predictor.load(sys.argv[1], runtime={runtime!r}).predict(sys.argv[2:]).tolist())
loaded = {{name.split(".")[0] for name, module in sys.modules.items() if module}}
assert not loaded & set({sorted(absent)!r}), loaded & set({sorted(absent)!r})
assert "configs" not in loaded
"""
    process = run("-c", script, bundle, *images[:2])
    assert process.returncode == 0, process.stderr
    assert len(json.loads(process.stdout)) == 2


def test_bad_files_are_listed_and_stop_nothing(bundle, images, tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    (tmp_path / "in" / "deep" / "page.dcm").write_text("<html></html>")
    cut = images[1].read_bytes()[:-5000]
    (tmp_path / "in" / "cut.dcm").write_bytes(cut)
    arguments = (f"--bundle={bundle}", f"--out={tmp_path / 'out'}")
    process = predict(*arguments, "--overlays", images[0], tmp_path / "in")
    assert process.returncode == 0, process.stderr
    assert "runtime: onnx\n" in process.stdout  # --runtime=auto, for few images
    assert "1 scored, 2 refused" in process.stdout
    rejected = {
        pathlib.Path(row["file"]).name: row["code"]
        for row in read_csv(tmp_path / "out" / "rejected.csv")
    }
    assert rejected == {"page.dcm": "not_dicom", "cut.dcm": "truncated"}
    assert (tmp_path / "out" / "overlays" / "0.png").read_bytes().startswith(b"\x89PNG")
    # Nothing but refusals: said in rejected.csv, and no success.
    process = predict(*arguments, tmp_path / "in")
    assert process.returncode == 1
    assert "0 scored, 2 refused" in process.stdout
    assert len(read_csv(tmp_path / "out" / "rejected.csv")) == 2
    assert read_csv(tmp_path / "out" / "predictions.csv") == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--bundle={root}/none", "--out={root}/o", "{image}"], "does not exist; make one with"),
        (["--bundle={root}/empty", "--out={root}/o", "{image}"], "is not a bundle"),
        (["--bundle={bundle}", "--out={root}/o", "{root}/none.dcm"], "none.dcm does not exist"),
        (["--bundle={bundle}", "--out={root}/o", "{root}/empty"], "there is no file in"),
        (["--bundle={bundle}", "--out={image}", "{image}"], "is itself an input"),
        (["--bundle={bundle}", "--out={images}", "{image}"], "holds the input"),
        (["--bundle={bundle}", "--out={root}/o", "--batch_size=0", "{image}"], "at least 1"),
        (["--bundle={bundle}", "--out={root}/o", "--verify_with={image}", "{image}"], "no Ed25519"),
    ],
)
def test_wrong_use_is_one_sentence(bundle, images, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    places = {"root": tmp_path, "bundle": bundle, "image": images[0], "images": images[0].parent}
    process = predict(*(argument.format(**places) for argument in arguments))
    assert process.returncode == 2
    [line] = process.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_export_of_what_is_no_run_leaves_nothing_behind(tmp_path):
    process = run(
        *("-m", "cbam_flax.export"), f"--workdir={tmp_path / 'none'}", f"--out={tmp_path / 'b'}"
    )
    assert process.returncode == 2
    assert process.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "Traceback" not in process.stderr
    assert list(tmp_path.iterdir()) == []
