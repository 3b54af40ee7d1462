import json
import os

import numpy as np
import pytest
from etils import epath

from data_prep import manifest
from data_prep.cli import UserError
from data_prep.files import csv_files


def records(pixel=7, age=float("nan")):
    image = np.zeros((4, 4, 1), np.uint8)
    image[1, 2] = pixel
    yield {"image_id": b"b", "patient_id": b"1", "label": 1, "age": age, "image": image}
    yield {"image_id": b"a", "patient_id": b"1", "label": 0, "age": 3.0, "image": image}


def test_the_content_hash_is_of_the_content_in_the_order_of_ids():
    forth = manifest.summarise_split(records())
    back = manifest.summarise_split(reversed(list(records())))
    assert forth == back
    assert (forth["images"], forth["patients"], forth["positive"]) == (2, 1, 1)
    others = [manifest.summarise_split(records(pixel=8)), manifest.summarise_split(records(age=1))]
    assert len({summary["content_sha256"] for summary in [forth, *others]}) == 3


def test_several_findings_are_counted_each():
    several = [
        {**record, "label": np.int8(label)}
        for record, label in zip(records(), [[1, 0, -1], [0, 1, 1]], strict=True)
    ]
    summary = manifest.summarise_split(several)
    assert summary["positive"] == 2
    assert summary["positive_by_finding"] == [1, 1, 1]
    assert summary["labelled_by_finding"] == [2, 2, 1]


@pytest.fixture
def inputs(tmp_path):
    (tmp_path / "table.csv").write_text("1,2")
    (tmp_path / "film.dcm").write_bytes(b"film")
    return epath.Path(tmp_path)


def fingerprint(inputs, **settings):
    return manifest.fingerprint_inputs([inputs / "table.csv"], [inputs / "film.dcm"], settings)


def test_a_changed_input_is_noticed(inputs):
    before = fingerprint(inputs, size=64)
    assert fingerprint(inputs, size=64) == before
    assert fingerprint(inputs, size=65) != before
    (inputs / "film.dcm").unlink()
    os.symlink("nothing", inputs / "film.dcm")
    assert fingerprint(inputs, size=64) != before
    (inputs / "film.dcm").unlink()
    (inputs / "film.dcm").write_bytes(b"film")
    os.utime(inputs / "film.dcm", (1, 1))
    touched = fingerprint(inputs, size=64)
    assert touched != before
    (inputs / "film.dcm").write_bytes(b"films")
    os.utime(inputs / "film.dcm", (1, 1))
    assert fingerprint(inputs, size=64) not in (before, touched)
    # A table counts by its content, not by its date.
    again = fingerprint(inputs, size=64)
    os.utime(inputs / "table.csv", (1, 1))
    assert fingerprint(inputs, size=64) == again
    (inputs / "table.csv").write_text("1,3")
    assert fingerprint(inputs, size=64) != again


def test_counts_add_up_and_the_refused_are_listed(tmp_path):
    files = [
        {
            "file": "a",
            "image_id": "a",
            "status": "accepted",
            "split": "train",
            "flags": ["few_greys"],
        },
        {"file": "b", "status": "rejected", "code": "no_file", "message": "no such file, alas"},
        {"file": "c", "status": "rejected", "code": "no_file", "message": "no"},
        {"file": "d", "status": "rejected", "code": "truncated", "message": "short"},
    ]
    counts = manifest.count_outcomes(files)
    assert counts == {
        "inputs": 4,
        "accepted": 1,
        "rejected": 3,
        "by_code": {"no_file": 2, "truncated": 1},
        "flagged": {"few_greys": 1},
    }
    manifest.write_manifest(epath.Path(tmp_path), {"counts": counts, "files": files})
    assert json.loads((tmp_path / "manifest.json").read_text())["counts"] == counts
    assert (tmp_path / "rejected.csv").read_text().splitlines() == [
        "file,code,message",
        'b,no_file,"no such file, alas"',
        "c,no_file,no",
        "d,truncated,short",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "rejected.csv"]


def test_names_that_are_no_utf8_and_formulas_stay_readable(tmp_path):
    names = ["caf\udce9.dcm", "=1+1.dcm", "caf\\udce9.dcm"]
    line = {"status": "rejected", "code": "no_label", "message": "no row"}
    manifest.write_manifest(epath.Path(tmp_path), {"files": [line | {"file": n} for n in names]})
    text = (tmp_path / "manifest.json").read_text(encoding="utf-8")
    files = [line["file"] for line in json.loads(text)["files"]]
    assert files == ["caf\\udce9.dcm", "=1+1.dcm", "caf\\u005cudce9.dcm"]
    json.dumps(files, ensure_ascii=False).encode()  # no lone surrogates, which JSON has not
    rows = csv_files.read(tmp_path / "rejected.csv", ("file",), "")
    assert [row["file"] for row in rows] == names


WHOLE = {
    "dataset": "rsna_pneumonia/64px/1.0.0",
    "split_scheme": "patient",
    "preprocessing": {"image_size": 64},
    "counts": {"inputs": 1, "accepted": 1, "rejected": 0},
    "splits": {"train": {"images": 1, "patients": 1, "positive": 0, "content_sha256": "ab"}},
}


@pytest.mark.parametrize(
    "change",
    [
        {"preprocessing": None},
        {"preprocessing": {}},
        {"preprocessing": {"image_size": "64"}},
        {"splits": []},
        {"splits": {"train": None}},
        {"splits": {"train": WHOLE["splits"]["train"] | {"images": True}}},
        {"splits": {"train": WHOLE["splits"]["train"] | {"content_sha256": "../../x"}}},
        {"counts": 3},
        {"dataset": None},
    ],
)
def test_a_manifest_without_what_others_need_is_refused(tmp_path, change):
    path = epath.Path(tmp_path) / "manifest.json"
    path.write_text(json.dumps(WHOLE))
    assert manifest.read_manifest(epath.Path(tmp_path)) == WHOLE
    path.write_text(json.dumps(WHOLE | change))
    with pytest.raises(UserError, match=r"manifest.json .*run data_prep.prepare again"):
        manifest.read_manifest(epath.Path(tmp_path))
