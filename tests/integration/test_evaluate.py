"""`python -m cbam_flax.evaluate` as a user starts it."""

import json
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from cbam_flax import checkpoint
from cbam_flax.models import create_model
from cbam_flax.step import TrainState
from configs.pneumoniamnist import get_config

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("jax"))


@pytest.fixture
def evaluate(cache):
    """Runs the command with these arguments on so many virtual devices."""

    def run(*arguments, devices=1):
        flags = f"--xla_force_host_platform_device_count={devices}"
        return subprocess.run(
            [sys.executable, "-m", "cbam_flax.evaluate", *map(str, arguments)],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": flags, "JAX_COMPILATION_CACHE_DIR": cache},
            capture_output=True,
            text=True,
        )

    return run


@pytest.fixture(scope="module")
def make_run(prepared, draw_variables, tmp_path_factory):
    """A function that leaves a checkpoint as training on the prepared data does."""
    manifest = json.loads(next(prepared.glob("*/*/*/manifest.json")).read_text())
    fingerprint = {
        split: manifest["splits"][split]["content_sha256"] for split in ("train", "validation")
    }

    def make(**settings):
        workdir = tmp_path_factory.mktemp("run")
        config = get_config()
        config.data_dir = str(prepared)
        config.update_from_flattened_dict({"model.width": 0.0625, "optimizer.ema": 0.0} | settings)
        variables = draw_variables(create_model(config.model), config.image_size)
        params, batch_stats = (
            jax.tree.map(jnp.asarray, variables[name]) for name in ("params", "batch_stats")
        )
        with checkpoint.make_manager(str(workdir), config) as manager:
            checkpoint.save(
                manager,
                TrainState(jnp.int32(3), params, batch_stats, {}, None),
                step=3,
                config=config,
                fingerprint=fingerprint,
                metrics={"auroc": 0.5},
            )
            manager.wait_until_finished()
        return workdir

    return make


@pytest.fixture(scope="module")
def workdir(make_run):
    return make_run()


def figures(folder):
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["provenance"]
    return metrics, (folder / "predictions.csv").read_text()


def test_the_figures_are_the_same_on_any_device_count_and_batch_size(workdir, evaluate):
    folder, found = workdir / "evaluation" / "test", []
    for devices, batch_size in ((1, 1), (8, 7), (1, 64)):
        done = evaluate(
            f"--workdir={workdir}", f"--batch_size={batch_size}", "--explained=0", devices=devices
        )
        assert done.returncode == 0, done.stderr
        found.append(figures(folder))
    assert found[0] == found[1] == found[2]
    assert found[0][0]["n"] == 21
    assert f"AUROC {found[0][0]['auroc']['value']:.3f}" in done.stdout
    assert str(folder / "report.html") in done.stdout


def test_a_wanted_sensitivity_and_a_prevalence(workdir, evaluate):
    done = evaluate(
        f"--workdir={workdir}",
        "--split=validation",
        "--criterion=sensitivity=0.9",
        "--prevalence=0.02",
        "--resamples=50",
        "--explained=0",
    )
    assert done.returncode == 0, done.stderr
    metrics, _ = figures(workdir / "evaluation" / "validation")
    assert metrics["calibration"]["criterion"] == "sensitivity=0.9"
    assert metrics["sensitivity"]["value"] >= 0.9
    assert [row["prevalence"] for row in metrics["at_prevalence"]] == [0.02]
    assert metrics["bootstrap"]["resamples"] == 50
    assert metrics["localisation"] is None  # no boxes in this data set
    assert "chosen on this split" in done.stdout


def test_runs_are_compared(workdir, make_run, evaluate):
    other = make_run(**{"model.attention": "none"})
    done = evaluate(f"--workdir={other}", "--explained=0", "--resamples=50")
    assert done.returncode == 0, done.stderr
    evaluate(f"--workdir={workdir}", "--explained=0", "--resamples=50")
    done = evaluate("--compare", workdir, other)
    assert done.returncode == 0, done.stderr
    assert "| model.attention=cbam - model.attention=none | auroc |" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--workdir=nowhere"], "nowhere is no run"),
        (["--workdir={run}", "--criterion=f1"], "criterion 'f1' is unknown; it must be youden"),
        (["--workdir={run}", "--data_dir=nowhere"], "no prepared data in nowhere"),
        (["--workdir={run}", "--step=7"], "has no checkpoint of step 7; it has [3]"),
        (["--workdir={run}", "--prevalence=2"], "--prevalence"),
        (["--compare", "nowhere"], "run python -m cbam_flax.evaluate --workdir=nowhere first"),
    ],
)
def test_mistakes_are_told_in_one_sentence(make_run, evaluate, arguments, sentence):
    run = make_run()
    done = evaluate(*(argument.format(run=run) for argument in arguments))
    assert done.returncode == 2
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert [path.name for path in run.iterdir()] == ["checkpoints"]


def test_help_shows_an_example(evaluate):
    done = evaluate("--help")
    assert done.returncode == 0
    assert "python -m cbam_flax.evaluate --workdir=runs/rsna --split=test" in done.stdout
