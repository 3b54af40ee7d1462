import dataclasses
import json

import numpy as np
import pytest
from etils import epath

from cbam_flax import provenance
from cbam_flax.checkpoint import Restored
from cbam_flax.evaluate import calibration
from cbam_flax.evaluate import folder as evaluation_folder
from cbam_flax.input_pipeline import Split
from data_prep.cli import UserError

FITTED = calibration.Calibration(1.5, 0.0, 0.5, "youden", 1, "validation", 9, 3)


def metrics_of(**changes):
    """The least that other commands need."""
    return {
        "provenance": {"checkpoint_step": 1, "config": {}},
        "threshold": 0.5,
        "data": {"split_scheme": "patient"},
        "calibration": dataclasses.asdict(FITTED),
    } | changes


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path) / "evaluation" / "test"


def test_what_is_written_is_read(folder, make_predictions):
    predictions = make_predictions(30)
    evaluation_folder.write(folder, metrics_of(n=30), predictions, {"roc": b"png"}, "<html>")
    metrics, read = evaluation_folder.read(folder)
    assert metrics == metrics_of(n=30)
    for name in ("image_id", "patient_id", "label", "logit", "view"):
        np.testing.assert_array_equal(read[name], predictions[name])
    np.testing.assert_allclose(read["probability"], predictions["probability"], atol=1e-8)
    assert (folder / "roc.png").read_bytes() == b"png"
    assert (folder / "report.html").read_text() == "<html>"


def test_a_row_that_is_gone_is_missed(folder, make_predictions):
    evaluation_folder.write(folder, metrics_of(n=30), make_predictions(30), {}, "")
    table = folder / "predictions.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"predictions\.csv was changed since it was written"):
        evaluation_folder.read(folder)


def test_columns_begin_as_documented_and_missing_is_empty(folder, make_predictions):
    predictions = make_predictions(30)
    predictions["age"][:] = np.nan
    evaluation_folder.write(folder, metrics_of(), predictions, {}, "")
    head, first, *_ = (folder / "predictions.csv").read_text().splitlines()
    assert head.startswith("image_id,patient_id,label,probability,logit,")
    assert dict(zip(head.split(","), first.split(","), strict=True))["age"] == ""


def test_odd_names_survive_and_negative_logits_stay_numbers(folder, make_predictions):
    predictions = make_predictions(4)
    odd = np.array(["=1+1", "two\r\nlines", "nan", "'-7"])
    predictions |= {"image_id": odd, "patient_id": odd, "logit": np.array([-1.5, 0, 2, -0.25])}
    evaluation_folder.write(folder, metrics_of(), predictions, {}, "")
    _, read = evaluation_folder.read(folder)
    np.testing.assert_array_equal(read["image_id"], odd)
    np.testing.assert_array_equal(read["patient_id"], odd)
    first = (folder / "predictions.csv").read_text().splitlines()[1]
    assert first.startswith("'=1+1,'=1+1,")
    assert ",-1.5," in first


def test_an_older_evaluation_is_replaced_whole(folder, make_predictions):
    evaluation_folder.write(folder, metrics_of(n=1), make_predictions(3), {"old": b"png"}, "")
    evaluation_folder.write(folder, metrics_of(n=2), make_predictions(3), {}, "")
    assert evaluation_folder.read(folder)[0]["n"] == 2
    assert not (folder / "old.png").exists()
    assert [path.name for path in folder.parent.iterdir()] == ["test"]


def test_a_failure_leaves_the_older_evaluation(folder, make_predictions):
    evaluation_folder.write(folder, metrics_of(n=1), make_predictions(3), {}, "")
    with pytest.raises(TypeError):
        evaluation_folder.write(folder, metrics_of(n=object()), make_predictions(3), {}, "")
    assert evaluation_folder.read(folder)[0]["n"] == 1


def test_reading_nothing_says_how_to_evaluate(folder):
    with pytest.raises(UserError, match="holds no evaluation; run python"):
        evaluation_folder.read(folder)


def test_provenance_names_everything_but_paths(tiny_config):
    tiny_config.data_dir = "/somewhere"
    tiny_config.init.from_run = "/somewhere/parent"
    ancestors = [{"weights_sha256": "cc"}]
    restored = Restored(tiny_config, None, {}, 12, {"train": "aa"}, ancestors)
    split = Split("test", np.zeros((0, 4, 4)), {}, {"splits": {"test": {"content_sha256": "bb"}}})
    found = evaluation_folder.provenance(restored, split)
    assert found["checkpoint_step"] == 12
    assert found["evaluated_on"] == "bb"
    assert found["config"]["init"]["from_run"] == "cc"
    assert found["weights_sha256"] == provenance.variables_sha256({})
    assert "/somewhere" not in json.dumps(found)
    tiny_config.data_dir = "/elsewhere"
    assert evaluation_folder.provenance(restored, split) == found
    tiny_config.model.width = 0.125
    again = evaluation_folder.provenance(restored, split)
    assert again["config_sha256"] != found["config_sha256"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\x80"])
def test_broken_metrics_are_named(folder, make_predictions, content):
    evaluation_folder.write(folder, metrics_of(), make_predictions(3), {}, "")
    (folder / "metrics.json").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics.json .*; run cbam_flax.evaluate again"):
        evaluation_folder.read(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"provenance": []},
        {"provenance": {"checkpoint_step": "1", "config": {}}},
        {"provenance": {"checkpoint_step": 1, "config": None}},
        {"threshold": float("nan")},
        {"threshold": None},
        {"data": {}},
        {"calibration": None},
        {"calibration": {}},
    ],
)
def test_metrics_that_lack_what_others_need_are_refused(folder, make_predictions, changes):
    evaluation_folder.write(folder, metrics_of(**changes), make_predictions(3), {}, "")
    with pytest.raises(UserError, match=r"metrics.json .*; run cbam_flax.evaluate again"):
        evaluation_folder.read(folder)


def test_metrics_that_somebody_has_changed_are_refused(folder, make_predictions):
    evaluation_folder.write(folder, metrics_of(), make_predictions(3), {}, "")
    path = folder / "metrics.json"
    path.write_text(path.read_text().replace('"scale": 1.5', '"scale": 15'))
    with pytest.raises(UserError, match=r"metrics.json was changed since it was written; run"):
        evaluation_folder.read_metrics(folder)
    assert evaluation_folder.calibrations(folder.parent.parent, "any") == {}


BROKEN_TABLES = {
    "empty": lambda text: "",
    "header only": lambda text: text.splitlines()[0] + "\n",
    "cut off": lambda text: text[: len(text) - 40],
    "no column label": lambda text: text.replace("label", "lable", 1),
    "a word": lambda text: text.replace(",0,", ",zero,", 1),
    "not a number": lambda text: text.replace(",0,", ",nan,", 1),
    "a third class": lambda text: text.replace(",0,", ",2,", 1),
    "one cell more": lambda text: text.rstrip() + ",1\n",
    "open quote": lambda text: text + '"',
    "not UTF-8": lambda text: text + "\udc80",
}


@pytest.mark.parametrize("change", BROKEN_TABLES.values(), ids=BROKEN_TABLES)
def test_broken_predictions_are_named(folder, make_predictions, change):
    evaluation_folder.write(folder, metrics_of(), make_predictions(6), {}, "")
    table = folder / "predictions.csv"
    table.write_bytes(change(table.read_text()).encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=r"predictions.csv .*; run cbam_flax.evaluate again"):
        evaluation_folder.read(folder)
    table.unlink()
    with pytest.raises(UserError, match=r"predictions.csv cannot be read"):
        evaluation_folder.read(folder)
