"""The audit of tables and folders, from the options to the text."""

import json

import cv2
import numpy as np
import pytest

from data_prep.audit import __main__ as command
from data_prep.audit.run_planned import render
from data_prep.cli import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two tables of 60 images, of which the last is broken; in the second ward B is positive."""
    root = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    for name, size in (("one", 40), ("two", 48)):
        (root / name).mkdir()
        lines = ["file;person;pneumonia;ward"]
        for i in range(60):
            label = i % 2
            image = cv2.resize(rng.integers(0, 256, (12, 12), np.uint8), (size, size))
            if i < 59:
                cv2.imwrite(str(root / name / f"{i}.png"), image)
            else:
                (root / name / f"{i}.png").write_bytes(b"no image")
            ward = "B" if name == "two" and label else "A"
            lines.append(f"{i}.png;p{i // 2 if name == 'one' else i};{label};{ward}")
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n")
    twin = cv2.imread(str(root / "one" / "0.png"), 0)
    cv2.imwrite(str(root / "one" / "7.png"), twin)  # of another patient
    return root


def audit(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["audit", "--draws=5", "--workers=1", *map(str, arguments)])
    command.main()


def options(folder, *names):
    given = ["--dataset=table", "--image=file", "--label=pneumonia", "--patients_of=here"]
    for name in names:
        given += [f"--raw={folder / name}", f"--table={folder / f'{name}.csv'}"]
    return given


def test_two_tables_as_one_data_set(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "audit.json"
    audit(monkeypatch, *options(folder, "one", "two"), "--patient=person", f"--out={out}")
    result, text = json.loads(out.read_text()), capsys.readouterr().out
    assert (result["images"], result["refused"]) == (118, {"not_dicom": 2})
    assert result["leakage"]["by patient, as prepared"]["patients"]["value"] == 0
    assert result["leakage"]["by image, 85% / 15%"]["patients"]["value"] > 0
    assert result["of_different_patients"] == [["one/0.png", "one/7.png"]]
    found = result["findings"]["pneumonia"]
    assert set(found["columns"]) == {"source", "column ward"}
    assert found["columns"]["source"]["values"]["one"]["images"] == 59
    assert found["columns"]["column ward"]["shortcut"]
    assert found["columns"]["column ward"]["values"]["B"]["value"] == 1
    untested = found["untested"]
    assert untested["column file"] == "it names the file"
    assert untested["column person"] == "it names the patient"
    assert untested["column pneumonia"] == "the label"
    assert untested["rows"] == "it groups the images as source does"
    assert untested["view"] == "empty"
    assert "118 images of 59 real patients" in text
    assert "said to be of different patients, such as one/0.png and one/7.png" in text
    ward = next(line for line in text.splitlines() if line.startswith("column ward"))
    assert ward.endswith("SHORTCUT")
    assert "SHORTCUT means" in text
    result["findings"]["pneumonia"]["columns"] = {}
    assert render(result).endswith("no SHORTCUT found")
    source = next(line for line in text.splitlines() if line.startswith("source"))
    assert "SHORTCUT" not in source


def test_unknown_patients_are_said_to_be_unknown(folder, tmp_path, monkeypatch, capsys):
    out = tmp_path / "audit.json"
    audit(monkeypatch, *options(folder, "one"), "--patient=unknown", f"--out={out}")
    result, told = json.loads(out.read_text()), capsys.readouterr()
    assert result["patients"] is None
    assert result["of_different_patients"] is None
    assert set(result["leakage"]) == {"by image, 85% / 15%", "by image, as prepared"}
    assert "patients" not in result["leakage"]["by image, as prepared"]
    assert "59 images of unknown patients" in told.out
    assert "WARNING: the patients are unknown" in told.err


def test_several_findings_are_judged_each_on_its_labelled_images(folder, tmp_path, monkeypatch):
    rows = (folder / "two.csv").read_text().splitlines()
    more = [rows[0] + ";edema"] + [
        f"{row};{'' if i % 3 == 0 else int(i % 5 == 0)}" for i, row in enumerate(rows[1:])
    ]
    (tmp_path / "more.csv").write_text("\n".join(more))
    audit(
        monkeypatch,
        *("--dataset=table", f"--raw={folder / 'two'}", f"--table={tmp_path / 'more.csv'}"),
        *("--image=file", "--patient=person", "--label=pneumonia", "--label=edema"),
        f"--out={tmp_path / 'audit.json'}",
    )
    found = json.loads((tmp_path / "audit.json").read_text())["findings"]
    assert [found[name]["images"] for name in ("pneumonia", "edema")] == [59, 39]
    assert found["pneumonia"]["columns"]["column ward"]["shortcut"]
    assert not found["edema"]["columns"]["column ward"]["shortcut"]


def test_a_data_set_to_test_on_has_no_leakage_as_prepared(folder, tmp_path, monkeypatch):
    rows = (folder / "one.csv").read_text().splitlines()
    table = [f"{rows[0]};split", *(f"{row};test" for row in rows[1:])]
    (tmp_path / "own.csv").write_text("\n".join(table))
    audit(
        monkeypatch,
        *("--dataset=table", f"--raw={folder / 'one'}", f"--table={tmp_path / 'own.csv'}"),
        *("--image=file", "--patient=person", "--label=pneumonia", "--split_column=split"),
        f"--out={tmp_path / 'audit.json'}",
    )
    result = json.loads((tmp_path / "audit.json").read_text())
    assert set(result["leakage"]) == {"by patient, 85% / 15%", "by image, 85% / 15%"}
    assert result["findings"]["pneumonia"]["untested"]["column split"] == "always 'test'"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--patient=person", "--dry-run"], "is for data_prep.prepare"),
        (["--patient=person", "--patient_from=x"], "does nothing with --dataset=table"),
        ([], "needs --patient"),
    ],
)
def test_wrong_use_is_one_sentence(folder, tmp_path, monkeypatch, more, words):
    arguments = [*options(folder, "one"), *more, f"--out={tmp_path / 'audit.json'}"]
    monkeypatch.setattr("sys.argv", ["audit", *arguments])
    with pytest.raises(UserError, match=words):
        command.main()
