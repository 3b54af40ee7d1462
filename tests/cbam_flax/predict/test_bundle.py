import json
import pathlib

import pytest

from cbam_flax.predict import bundle
from data_prep.cli import UserError

WHOLE = {
    "schema": bundle.SCHEMA,
    "labels": ["no", "yes"],
    "input": {"shape": ["batch", 32, 32, 1], "dtype": "float32", "range": [0, 1]},
    "outputs": {"probability": {}, "attention": {}},
    "preprocessing": {"image_size": 32, "aspect": "squash", "interpolation": "area", "voi": "none"},
    "operating_point": {"threshold": 0.5, "criterion": "fixed"},
    "calibration": {"scale": 1.0, "bias": 0.0},
    "scope": {"modalities": [], "body_parts": [], "views": []},
    "files": {"model.onnx": {"bytes": 3, "sha256": "no"}},
    "fingerprints": {"checkpoint": {}, "config": {}, "data": {}, "code": {}},
}


def write(folder: pathlib.Path, content: object) -> pathlib.Path:
    folder.mkdir(exist_ok=True)
    (folder / "bundle.json").write_text(json.dumps(content))
    return folder


def test_reads_back_what_a_bundle_says(tmp_path):
    assert bundle.read_bundle(write(tmp_path / "b", WHOLE)) == WHOLE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": bundle.SCHEMA + 1}, "a newer version; update this program"),
        ({"schema": bundle.SCHEMA - 1}, "an older version; export it again"),
        ({"schema": None}, "no schema version"),
        ({"schema": "1"}, "no schema version"),
        ({"preprocessing": {"image_size": 32}}, "lacks preprocessing.aspect"),
        ({"operating_point": {}}, "lacks operating_point.threshold"),
    ],
)
def test_refuses_other_schemas_and_damage_in_words(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        bundle.read_bundle(write(tmp_path / "b", WHOLE | change))


def test_refuses_what_is_no_bundle(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        bundle.read_bundle(tmp_path / "absent")
    with pytest.raises(UserError, match="it has no bundle"):
        bundle.read_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        bundle.read_bundle(tmp_path)
    (tmp_path / "bundle.json").write_text("[1]")
    with pytest.raises(UserError, match="no schema version"):
        bundle.read_bundle(tmp_path)


def test_an_artefact_must_be_there_and_be_the_one_that_was_exported(tmp_path):
    with pytest.raises(UserError, match=r"has no model\.onnx"):
        bundle.artefact_path(tmp_path, WHOLE, "onnx")
    (tmp_path / "model.onnx").write_bytes(b"abc")
    with pytest.raises(UserError, match="is not the file that was exported"):
        bundle.artefact_path(tmp_path, WHOLE, "onnx")
    files = bundle.describe_files(tmp_path)
    # SHA-256 of "abc" from FIPS 180-2, appendix B.1
    assert files["model.onnx"]["sha256"].startswith("ba7816bf8f01cfea")
    assert files["model.onnx"]["bytes"] == 3
    assert bundle.artefact_path(tmp_path, {"files": files}, "onnx") == tmp_path / "model.onnx"
