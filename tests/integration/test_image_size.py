"""Data prepared at one size, trained, evaluated, exported and predicted at a smaller one."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from cbam_flax.evaluate.run import evaluate_workdir
from cbam_flax.export.run import export_workdir
from cbam_flax.input_pipeline import load_split
from cbam_flax.predict import Predictor, reader
from cbam_flax.predict.bundle import read_bundle
from data_prep.synthetic.folder import MAPPING_FILE, write

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGES = 60


def run(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_every_command_sees_the_images_that_training_saw(tmp_path):
    raw, workdir, bundle = tmp_path / "raw", tmp_path / "run", tmp_path / "bundle"
    write(raw, IMAGES)
    run(
        *("data_prep.prepare", "--dataset=rsna", f"--raw={raw}", "--image_size=64"),
        *(f"--mapping={raw / MAPPING_FILE}", f"--data_dir={tmp_path}", "--workers=1"),
    )
    log = run(
        *("cbam_flax.main", "--config=configs/rsna.py:pool=max,context=none,head=gap"),
        *(f"--workdir={workdir}", f"--config.data_dir={tmp_path}", "--config.image_size=32"),
        *("--config.batch_size=8", "--config.duration.steps=3", "--config.model.width=0.0625"),
        "--config.evaluate.at_end=()",
    )
    assert "images of 64 px shrunk to 32" in log
    assert json.loads((workdir / "config.json").read_text())["dataset"] == "rsna_pneumonia/64px"
    evaluate_workdir(str(workdir), "test", explained=0, resamples=20)
    export_workdir(str(workdir), bundle)
    preprocessing = read_bundle(bundle)["preprocessing"]
    assert (preprocessing["image_size"], preprocessing["prepared_size"]) == (32, 64)

    with (workdir / "evaluation" / "test" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    films = [raw / "stage_2_train_images" / f"{row['image_id']}.dcm" for row in rows]
    judged = load_split(str(tmp_path), "rsna_pneumonia", 32, "test")
    assert list(judged.columns["image_id"]) == [row["image_id"] for row in rows]
    squares = [
        reader.fit(reader.decode(film, preprocessing).image, preprocessing) for film in films
    ]
    np.testing.assert_array_equal(judged.images, [fitted.square for fitted in squares])
    probabilities = Predictor.load(bundle, "onnx").predict(films)
    expected = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    assert np.ptp(expected) > 1e-2  # else agreement would say little
