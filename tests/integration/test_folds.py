"""Folds, their pool and an ensemble, as a user starts the commands."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cbam_flax import checkpoint
from cbam_flax.evaluate import run as evaluate_run
from cbam_flax.predict import bundle as bundle_lib
from cbam_flax.predict import runtimes

ROOT = pathlib.Path(__file__).resolve().parents[2]


def start(module: str, *arguments: object, cache: pathlib.Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: "subprocess.Popen[str]") -> str:
    out, error = process.communicate()
    assert process.returncode == 0, error
    return out


@pytest.fixture(scope="module")
def runs(prepared, tmp_path_factory) -> dict[tuple[int, int], pathlib.Path]:
    """By fold and seed: two steps each, of both folds with seed 0 and of fold 0 with seed 1."""
    root = tmp_path_factory.mktemp("folds")
    settings = {
        "data_dir": prepared,
        "folds": 2,
        "duration.steps": 2,
        "batch_size": 16,
        "optimizer.warmup.steps": 1,
        "optimizer.ema": 0,
        "model.width": 0.0625,
        "model.reduction": 4,
        "model.hidden": 16,
        "model.context": "none",
        "model.pooling": "max",
    }
    made = {(fold, seed): root / f"fold{fold}-{seed}" for fold, seed in ((0, 0), (1, 0), (0, 1))}
    for (fold, seed), workdir in made.items():
        own = settings | {"fold": fold, "seed": seed}
        flags = [f"--config.{key}={value}" for key, value in own.items()]
        place = ("--config=configs/pneumoniamnist.py", f"--workdir={workdir}")
        finish(start("cbam_flax.main", *place, *flags, cache=root / "jax"))
    return made


def read(folder: pathlib.Path) -> tuple[dict, list[dict[str, str]]]:
    with (folder / "predictions.csv").open(newline="") as file:
        return json.loads((folder / "metrics.json").read_text()), list(csv.DictReader(file))


def test_pooled_folds_judge_every_image_once(runs, prepared):
    pooled = runs[0, 0].parent / "pooled"
    both = (runs[0, 0], runs[1, 0])
    out = finish(
        start("cbam_flax.evaluate", "--pool", *both, f"--out={pooled}", cache=pooled.parent / "jax")
    )
    assert "112 images of 2 of 2 folds" in out
    metrics, rows = read(pooled)
    assert len({row["image_id"] for row in rows}) == len(rows) == metrics["n"] == 112
    for (fold, seed), run in runs.items():
        own, judged = read(run / "evaluation" / "test")
        assert own["data"]["fold"]["fold"] == fold
        assert (own["external"], own["overlap"]["images"]) == (False, 0)
        if seed == 0:
            same = {row["image_id"]: row["probability"] for row in rows if row["fold"] == str(fold)}
            assert same == {row["image_id"]: row["probability"] for row in judged}
    tested = [
        {row["image_id"] for row in read(runs[key] / "evaluation" / "test")[1]} for key in runs
    ]
    assert not tested[0] & tested[1]
    assert tested[0] == tested[2]


def test_an_ensemble_is_evaluated_exported_and_predicts_in_every_runtime(
    runs, write_dicom, tmp_path
):
    members, cache = (runs[0, 0], runs[0, 1]), runs[0, 0].parent / "jax"
    finish(
        start(
            *("cbam_flax.evaluate", "--ensemble", *members, "--combine=probability", "--tta=flip"),
            cache=cache,
        )
    )
    evaluated = runs[0, 0] / "evaluation" / "ensemble-test-flip"
    metrics, rows = read(evaluated)
    assert metrics["ensemble"]["combine"] == "probability"
    assert [member["seed"] for member in metrics["ensemble"]["members"]] == [0, 1]
    assert metrics["tta"] == "flip"
    assert {row["image_id"] for row in rows} == {
        row["image_id"] for row in read(runs[0, 0] / "evaluation" / "test")[1]
    }
    assert max(float(row["spread"]) for row in rows) > 0

    bundle = tmp_path / "bundle"
    finish(
        start(
            *("cbam_flax.export", "--ensemble", *members, "--combine=probability", "--tta=flip"),
            f"--out={bundle}",
            cache=cache,
        )
    )
    description = bundle_lib.read_bundle(bundle)
    assert description["evaluation"] == "ensemble-test-flip"
    assert description["ensemble"] == metrics["ensemble"]
    assert description["tta"] == "flip"
    for name in ("scale", "bias"):
        assert description["calibration"][name] == metrics["calibration"][name]
    assert "standard deviation" in description["outputs"]["spread"]["meaning"]
    assert "## Ensemble" in (bundle / "MODEL_CARD.md").read_text()
    assert set(description["verification"]["max_difference"]) == set(bundle_lib.ARTEFACTS.values())

    images = np.random.default_rng(0).random((3, 28, 28, 1), np.float32)
    outputs = [
        runtimes.LOADERS[runtime](bundle_lib.artefact_path(bundle, description, runtime))(images)
        for runtime in bundle_lib.ARTEFACTS
    ]
    for each in outputs:
        assert set(each) == {"probability", "attention", "grad_cam", "spread"}
        for name, value in each.items():
            np.testing.assert_allclose(value, outputs[0][name], atol=1e-5)

    image = np.random.default_rng(0).integers(256, size=(64, 64), dtype=np.uint8)
    write_dicom(tmp_path / "image.dcm", image)
    place = (f"--bundle={bundle}", f"--out={tmp_path / 'out'}", "--runtime=onnx", "--workers=0")
    finish(start("cbam_flax.predict", *place, tmp_path / "image.dcm", cache=cache))
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert list(row)[-1] == "spread"
    assert float(row["spread"]) >= 0


def test_what_an_ensemble_of_other_folds_would_leak_is_refused(runs, tmp_path):
    for command in (
        ("cbam_flax.evaluate", "--ensemble", runs[0, 0], runs[1, 0]),
        ("cbam_flax.export", "--ensemble", runs[0, 0], runs[1, 0], f"--out={tmp_path / 'b'}"),
    ):
        process = start(*command, cache=runs[0, 0].parent / "jax")
        _, error = process.communicate()
        assert process.returncode == 2
        assert "different training and validation data" in error
        assert "Traceback" not in error


def test_a_fold_is_of_the_run_s_own_data_wherever_they_lie(runs, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "moved")
    restored = checkpoint.load_for_inference(str(runs[0, 0]))
    moved = (str(tmp_path / "moved"), "pneumonia_mnist")
    own, _, external = evaluate_run._open(restored, moved, "test")
    assert not external
    judged = read(runs[0, 0] / "evaluation" / "test")[1]
    assert list(own.columns["image_id"]) == [row["image_id"] for row in judged]
    # The same files, if they were not what the run was trained on.
    other = dataclasses.replace(restored, fingerprint={"train": "0", "validation": "1"})
    whole, _, external = evaluate_run._open(other, moved, "test")
    assert external
    assert len(whole) == 21
