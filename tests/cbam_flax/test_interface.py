"""The Python interface: `cbam_flax.train`, `cbam_flax.evaluate` and `cbam_flax.load_bundle`."""

import inspect
import logging
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from absl import flags

import cbam_flax
import cbam_flax.evaluate.run
import cbam_flax.loop
from cbam_flax.predict import Predictor
from configs import pneumoniamnist
from data_prep.cli import UserError
from docs import list_api

LIGHT = """
import sys
import cbam_flax
heavy = {"jax", "tensorflow", "flax", "numpy", "absl", "cv2"} & sys.modules.keys()
assert not heavy, heavy
assert cbam_flax.__all__ == ["evaluate", "load_bundle", "train"]
import cbam_flax.main  # the command's flags, and every module that its import needs
import cbam_flax.evaluate.run, cbam_flax.loop
assert all(callable(getattr(cbam_flax, name)) for name in cbam_flax.__all__)
"""


@pytest.fixture(scope="module")
def config(prepared):
    config = pneumoniamnist.get_config("pool=max,context=none,head=gap,duration.steps=2")
    config.data_dir = str(prepared)
    config.batch_size = 8
    config.model.width = 0.0625
    return config


def test_importing_it_is_light_and_no_later_import_hides_a_function():
    subprocess.run([sys.executable, "-c", LIGHT], check=True)


def test_a_run_is_trained_and_continued(config, tmp_path, monkeypatch, capfd):
    figures = {"n": 21, "split": "test", "name": "test", "warnings": []}
    figures |= {"auroc": {"value": 0.8, "low": 0.7, "high": 0.9}, "bootstrap": {"unit": "images"}}
    monkeypatch.setattr(
        cbam_flax.evaluate.run, "evaluate_workdir", lambda workdir, split, **_: figures
    )
    known, handlers = set(flags.FLAGS), logging.getLogger().handlers[:]
    assert cbam_flax.train(config, tmp_path / "run") == {"test": figures}
    told = capfd.readouterr().err
    assert "best checkpoint: step 2" in told
    assert "\n21 images of the test split: AUROC 0.800 (0.700 to 0.900)" in told
    assert f"\nreport: {tmp_path}/run/evaluation/test/report.html\n" in told

    assert cbam_flax.train(config, tmp_path / "run") == {"test": figures}
    assert "continuing after step 2 of 2\n" in capfd.readouterr().err
    assert not {"config", "workdir"} & (set(flags.FLAGS) - known)  # TFDS defines one of its own
    assert logging.getLogger().handlers == handlers


def test_calling_the_module_evaluates(monkeypatch):
    called = []
    monkeypatch.setattr(
        cbam_flax.evaluate.run,
        "evaluate_workdir",
        lambda *runs, **given: called.append((runs, given)),
    )
    cbam_flax.evaluate(pathlib.Path("run"), "train", step=3)
    cbam_flax.evaluate(["a", "b"], tta="flip")
    assert [runs for runs, _ in called] == [("run", "train"), ("a", "test")]
    assert [(given["with_runs"], given["step"], given["tta"]) for _, given in called] == [
        ([], 3, None),
        (["b"], None, "flip"),
    ]


def test_a_fault_of_the_user_is_raised(config, tmp_path):
    with pytest.raises(UserError, match=r"the config is 'configs/demo.py'; give what get_config"):
        cbam_flax.train("configs/demo.py", tmp_path / "run")
    wrong = config.copy_and_resolve_references()
    wrong.epochs = 3
    with pytest.raises(UserError, match="the config has no key epochs"):
        cbam_flax.train(wrong, tmp_path / "run")
    with pytest.raises(UserError, match="none"):
        cbam_flax.evaluate(tmp_path / "none")
    with pytest.raises(UserError, match="none"):
        cbam_flax.load_bundle(tmp_path / "none")


def test_sigterm_ends_the_process_after_a_save(config, tmp_path, monkeypatch):
    monkeypatch.setattr(cbam_flax.loop, "train", lambda config, workdir: 75)
    with pytest.raises(SystemExit, match="75"):
        cbam_flax.train(config, tmp_path)


def test_a_bundle_predicts(write_toy_bundle, tmp_path):
    def infer(images):
        mean = images.mean((1, 2, 3))
        return {"probability": mean, "attention": images[:, ::8, ::8, 0]}

    bundle = cbam_flax.load_bundle(write_toy_bundle(tmp_path / "bundle", infer, 32, ["no", "yes"]))
    probabilities = bundle.predict([np.full((40, 40), 51, np.uint8)] * 3)
    np.testing.assert_allclose(probabilities, [0.2] * 3, rtol=1e-5)


def parameters(function):
    found = inspect.signature(function, eval_str=False).parameters.values()
    return {one.name: one.default for one in found if one.default is not one.empty}


def test_the_defaults_are_those_of_what_is_called():
    called = parameters(cbam_flax.evaluate.run.evaluate_workdir) | {"split": "test"}
    called.pop("with_runs")  # here the further runs in the list
    assert parameters(cbam_flax.evaluate.evaluate) == called
    called = parameters(Predictor.load)
    called.pop("images")  # the command knows how many there are
    assert parameters(cbam_flax.load_bundle) == called


def test_the_page_is_what_the_docstrings_give():
    """If it is not: python -m docs.list_api."""
    page = pathlib.Path(list_api.__file__).with_name("api.md")
    assert page.read_text(encoding="utf-8") == list_api.page()
