"""Several findings, from the training to predictions, as a user starts the commands."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from cbam_flax.evaluate import folder
from data_prep.cli import UserError

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ["Effusion", "Mass", "Hernia"]


def run(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": "", "TF_ENABLE_ONEDNN_OPTS": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def read(path: pathlib.Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_three_findings_from_training_to_predictions(prepared_findings, write_dicom, tmp_path):
    workdir, bundle = tmp_path / "run", tmp_path / "bundle"
    settings = {
        "data_dir": prepared_findings,
        "dataset": "several",
        "batch_size": 16,
        "duration.steps": 12,
        "evaluate.every.steps": 12,
        "model.width": 0.0625,
        "model.reduction": 4,
        "model.hidden": 16,
        "model.context": "none",
        "augment.mixup": 0.2,
    }
    told = run(
        "cbam_flax.main",
        "--config=configs/pneumoniamnist.py",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in settings.items()),
    )
    assert "Hernia: 0 of 36 labelled images positive; one class only, so not judged" in told
    assert json.loads((workdir / "config.json").read_text())["model"]["findings"] == 3
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    figures = json.loads(lines[-1])
    each = [figures[f"validation/auroc/{name}"] for name in ("Effusion", "Mass")]
    assert figures["validation/auroc"] == pytest.approx(np.mean(each), abs=2e-5)

    evaluation = workdir / "evaluation" / "test"
    metrics = json.loads((evaluation / "metrics.json").read_text())
    assert (list(metrics["findings"]), metrics["mean"]["of"]) == (NAMES, NAMES)
    assert metrics["findings"]["Hernia"]["calibration"]["criterion"] == "fixed"
    for name, found in metrics["findings"].items():
        rows = [row for row in read(evaluation / "predictions.csv") if row[f"label:{name}"]]
        assert len(rows) == found["n"] < 60
        assert sum(int(row[f"label:{name}"]) for row in rows) == found["n_positive"]
    weights = metrics["provenance"]["weights_sha256"]
    fitted = folder.calibrations(epath.Path(workdir), weights)["test"]
    assert (list(fitted.of), fitted.criterion) == (NAMES, "youden")
    with pytest.raises(UserError, match="of several findings; --compare and --pool take"):
        folder.read(epath.Path(evaluation))
    page = (evaluation / "report.html").read_text()
    assert all(f"<th scope=row>{name}" in page for name in (*NAMES, "mean"))
    assert "UNCALIBRATED: Hernia" in page

    run("cbam_flax.export", f"--workdir={workdir}", f"--out={bundle}")
    described = json.loads((bundle / "bundle.json").read_text())
    assert described["findings"] == NAMES
    assert "labels" not in described
    assert described["outputs"]["probability"]["shape"] == ["batch", 3]
    assert max(described["verification"]["max_difference"].values()) < 1e-4
    card = (bundle / "MODEL_CARD.md").read_text()
    assert all(f"| {name} |" in card for name in (*NAMES, "mean"))

    (tmp_path / "images").mkdir()
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 256, (40, 32), np.uint8)
        write_dicom(tmp_path / "images" / f"{number}.dcm", image)
    predictions = {}
    for runtime in ("jax", "onnx"):
        out = tmp_path / runtime
        options = ["--overlays", "--workers=0", f"--runtime={runtime}", f"--out={out}"]
        run("cbam_flax.predict", f"--bundle={bundle}", *options, tmp_path / "images")
        predictions[runtime] = read(out / "predictions.csv")
        assert len(list((out / "overlays").iterdir())) == 2
    for jax_row, onnx_row in zip(*predictions.values(), strict=True):
        for name in NAMES:
            probability = float(jax_row[f"probability:{name}"])
            assert float(onnx_row[f"probability:{name}"]) == pytest.approx(probability, abs=1e-5)
            threshold = described["operating_point"][name]["threshold"]
            expected = name if probability >= threshold else f"no {name}"
            assert jax_row[f"decision:{name}"] in (expected, "out of scope")
        assert "UNCALIBRATED" in jax_row["warnings"]
