import json

import pytest

from cbam_flax.export import run
from data_prep.cli import UserError
from data_prep.files import folders


def test_what_no_reader_would_take_is_not_exported(tmp_path):
    description = {"calibration": {}, "labels": ["no pneumonia", "pneumonia"]}
    with pytest.raises(UserError, match=r"cannot be exported: input\.shape is missing"):
        run.write_bundle(tmp_path, [], description, str)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_of_the_version_before_is_known_by_its_hashes(tmp_path):
    assert run.earlier_bundle(tmp_path) == {}
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / "notes.txt").write_text("mine")
    files = {"model.onnx": {"bytes": 5, "sha256": folders.sha256(tmp_path / "model.onnx")}}
    (tmp_path / "bundle.json").write_text(json.dumps({"schema": 1, "files": files}))
    found = run.earlier_bundle(tmp_path)
    assert found.keys() == {"model.onnx", "bundle.json"}
    options = {"index": "bundle.json", "outputs": ["model.onnx"], "earlier": run.earlier_bundle}
    folders.check(tmp_path, "cbam_flax.export", **options)
    (tmp_path / "model.onnx").write_bytes(b"other")
    with pytest.raises(UserError, match=r"model\.onnx was changed since"):
        folders.check(tmp_path, "cbam_flax.export", **options)


@pytest.mark.parametrize("files", [None, [], {}, {"a": None}, {"a": {"sha256": 1}}])
def test_a_bundle_json_of_somebody_else_stays_theirs(tmp_path, files):
    (tmp_path / "bundle.json").write_text(json.dumps({"files": files}))
    assert run.earlier_bundle(tmp_path) == {}


def test_a_bundle_is_not_written_over_its_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for out, words in ((".", "holds the input"), ("checkpoints", "is itself an input")):
        with pytest.raises(UserError, match=words):
            run.export_workdir(str(tmp_path), tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
