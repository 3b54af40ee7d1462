import json
import os
import pathlib
from typing import Any

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
    "files": {},
    "fingerprints": {
        "checkpoint": {"step": 1, "sha256": "0" * 64},
        "config": {},
        "data": {},
        "code": {},
    },
}


def write(folder: pathlib.Path, content: dict[str, Any]) -> pathlib.Path:
    """Puts a bundle.json with its hash into the folder."""
    folder.mkdir(exist_ok=True)
    sealed = content | {"sha256": bundle.content_sha256(content)}
    (folder / "bundle.json").write_text(json.dumps(sealed))
    return folder


def test_reads_back_what_a_bundle_says(tmp_path, capsys):
    found = bundle.read_bundle(write(tmp_path / "b", WHOLE))
    assert found == WHOLE | {"sha256": found["sha256"]}
    assert capsys.readouterr().err == ""


def test_the_hash_is_of_the_values_not_of_their_layout(tmp_path):
    folder = write(tmp_path, WHOLE)
    found = bundle.read_bundle(folder)
    backwards = dict(reversed(found.items()))
    (folder / "bundle.json").write_text(json.dumps(backwards, indent=7))
    assert bundle.read_bundle(folder) == found


@pytest.mark.parametrize(
    "change", [{"labels": ["yes", "no"]}, {"extra": 1}, {"calibration": {"scale": 1, "bias": 0.0}}]
)
def test_refuses_what_was_altered_after_the_export(tmp_path, change):
    sealed = json.loads((write(tmp_path, WHOLE) / "bundle.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps(sealed | change))
    with pytest.raises(UserError, match="was altered after its export"):
        bundle.read_bundle(tmp_path)


def test_a_bundle_without_a_hash_is_read_and_says_so_once(tmp_path, capsys):
    (tmp_path / "bundle.json").write_text(json.dumps(WHOLE))
    assert bundle.read_bundle(tmp_path) == WHOLE
    [line] = capsys.readouterr().err.splitlines()
    assert "could not be checked" in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": bundle.SCHEMA + 1}, "a newer version; update this program"),
        ({"schema": bundle.SCHEMA - 1}, "an older version; export it again"),
        ({"schema": None}, "no schema version"),
        ({"schema": "1"}, "no schema version"),
        ({"schema": True}, "no schema version"),
        ({"preprocessing": {"image_size": 32}}, r"preprocessing\.aspect is missing; copy"),
        ({"operating_point": {}}, r"operating_point\.threshold is missing"),
        (
            {"operating_point": {"threshold": 7, "criterion": "fixed"}},
            r"operating_point\.threshold is 7, not a number in \[0, 1\]; copy the bundle again",
        ),
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
    os.mkfifo(tmp_path / "bundle.json")
    with pytest.raises(UserError, match="it has no bundle"):
        bundle.read_bundle(tmp_path)
    (tmp_path / "bundle.json").unlink()
    for text, words in (("{", "is not JSON"), ("[1]", "holds list"), ("{}", "no schema version")):
        (tmp_path / "bundle.json").write_text(text)
        with pytest.raises(UserError, match=words):
            bundle.read_bundle(tmp_path)
    nan = json.dumps(WHOLE | {"config": {"ema": float("nan")}})
    (tmp_path / "bundle.json").write_text(nan)
    with pytest.raises(UserError, match="a value that JSON does not have"):
        bundle.read_bundle(tmp_path)


def link_to_nothing(path: pathlib.Path) -> None:
    path.symlink_to("nowhere")


@pytest.fixture
def exported(tmp_path) -> tuple[pathlib.Path, dict[str, Any]]:
    """A folder with all three artefacts, and the description that lists them."""
    folder = tmp_path / "bundle"
    (folder / "saved_model" / "variables").mkdir(parents=True)
    (folder / "saved_model" / "assets").mkdir()
    for name in ("model.stablehlo", "model.onnx", "saved_model/saved_model.pb"):
        (folder / name).write_bytes(b"abc")
    (folder / "saved_model" / "variables" / "variables.index").write_bytes(b"weights")
    return folder, {"files": bundle.describe_files(folder)}


def test_files_are_described_by_size_and_hash(exported):
    folder, described = exported
    # SHA-256 of "abc" from FIPS 180-2, appendix B.1
    assert described["files"]["model.onnx"]["sha256"].startswith("ba7816bf8f01cfea")
    assert described["files"]["saved_model/variables/variables.index"]["bytes"] == 7
    for runtime, name in bundle.ARTEFACTS.items():
        assert bundle.artefact_path(folder, described, runtime) == folder / name


@pytest.mark.parametrize(
    ("runtime", "file"),
    [
        ("jax", "model.stablehlo"),
        ("onnx", "model.onnx"),
        ("tensorflow", "saved_model/saved_model.pb"),
        ("tensorflow", "saved_model/variables/variables.index"),
    ],
)
@pytest.mark.parametrize(
    ("put", "words"),
    [
        (None, "has no|is missing"),
        (link_to_nothing, "has no|is missing"),
        (pathlib.Path.mkdir, "no regular file"),
        (os.mkfifo, "no regular file"),
        (pathlib.Path.touch, r"it has 0 bytes, not \d; copy the bundle again"),
        (lambda path: path.write_bytes(b"ab"), r"it has 2 bytes, not \d; copy the bundle again"),
        (lambda path: path.write_bytes(b"abd"), "is not the file that was exported"),
    ],
)
def test_every_file_of_an_artefact_must_be_the_one_that_was_exported(
    exported, runtime, file, put, words
):
    folder, described = exported
    (folder / file).unlink()
    if put:
        put(folder / file)
    with pytest.raises(UserError, match=words):
        bundle.artefact_path(folder, described, runtime)


def test_a_link_to_the_exported_file_is_as_good(exported):
    folder, described = exported
    (folder / "model.onnx").rename(folder.parent / "store")
    (folder / "model.onnx").symlink_to(folder.parent / "store")
    assert bundle.artefact_path(folder, described, "onnx") == folder / "model.onnx"


def test_nothing_may_be_added_to_the_saved_model(exported):
    folder, described = exported
    (folder / "notes.txt").write_text("beside the artefacts, which no runtime reads")
    bundle.artefact_path(folder, described, "tensorflow")
    (folder / "saved_model" / "assets" / "vocabulary.txt").touch()
    with pytest.raises(UserError, match=r"vocabulary\.txt was not exported with the bundle"):
        bundle.artefact_path(folder, described, "tensorflow")


def test_an_artefact_that_bundle_json_does_not_list_is_not_loaded(exported):
    folder, described = exported
    del described["files"]["model.onnx"]
    with pytest.raises(UserError, match=r"has no model\.onnx"):
        bundle.artefact_path(folder, described, "onnx")
