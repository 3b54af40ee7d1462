import dataclasses
import json

import numpy as np
import pytest

from cbam_flax import lineage
from cbam_flax.input_pipeline import Split
from cbam_flax.provenance import sha256_of_json
from data_prep.cli import UserError

DATA = {"train": "train content", "validation": "validation content"}


def make_split(name, images, patients, dataset="rsna_pneumonia/28px/1.0.0", **manifest):
    columns = {"image_id": np.array(images), "patient_id": np.array(patients, str)}
    manifest = {
        "dataset": dataset,
        "split_scheme": "patient",
        "counts": {},
        "splits": {name: {"content_sha256": f"{name} content"}},
    } | manifest
    return Split(name, np.zeros((len(images), 2, 2), np.uint8), columns, manifest)


@pytest.fixture
def before():
    """Of a model trained on the patients 1 and 2, and chosen on patient 3."""
    training = make_split("train", ["a", "b", "c"], ["1", "1", "2"])
    return lineage.trained_on([training, make_split("validation", ["d"], ["3"])])


def ancestor(**fields):
    return {"dataset": "rsna", "step": 2, "weights_sha256": "0", "trained_on_sha256": None} | fields


def sentences(before, split):
    return lineage.warnings(lineage.judged([ancestor()], [before], split), len(split))


@pytest.mark.parametrize(
    ("dataset", "patient", "name"),
    [
        ("rsna_pneumonia/256px/1.0.0", "00000013", "nih:00000013"),
        ("other/28px/1.0.0", "7", "other:7"),
        ("table/28px/1.0.0", "nih:00000013", "nih:00000013"),
        ("rsna_pneumonia/256px/1.0.0", "", ""),
    ],
)
def test_patients_are_named_alike_in_every_data_set(dataset, patient, name):
    assert lineage.patient_names(make_split("test", ["x"], [patient], dataset)) == [name]


def test_the_same_patient_is_found_under_the_id_of_another_data_set():
    judged = make_split("test", ["x", "y", "z"], ["1", "2", ""])
    other = make_split("train", ["a", "b", "c"], ["nih:1", "nih:3", ""], "table/28px/1.0.0")
    assert lineage.patients_as_in(judged, other).tolist() == ["1", "nih:3", ""]
    others = make_split("train", ["a"], ["1"], "hospital/28px/1.0.0")
    assert lineage.patients_as_in(judged, others).tolist() == ["hospital:1"]


def test_drawn_patients_are_nobody_of_the_same_number():
    drawn = make_split("test", ["x"], ["1"], counts={"flagged": {"synthetic": 1}})
    assert lineage.patient_names(drawn) == ["synthetic:1"]


def test_what_is_shared_is_counted_by_patient_and_by_image(before):
    split = make_split("test", ["a", "x", "y", "d", "z"], ["9", "2", "2", "3", "nobody"])
    found = lineage.shared(before, split)
    assert found["train"] == {
        "images": 1,
        "images_of_known_patients": 3,
        "patients": 1,
        "unchecked": 0,
    }
    assert found["validation"] == {
        "images": 1,
        "images_of_known_patients": 1,
        "patients": 1,
        "unchecked": 0,
    }


def test_patients_of_another_namespace_are_others(before):
    split = make_split("test", ["x"], ["1"], "hospital/28px/1.0.0")
    assert sentences(before, split) == []
    same = make_split("test", ["x"], ["nih:1"], "hospital/28px/1.0.0")
    [leak] = sentences(before, same)
    assert leak.startswith("LEAK: 1 of 1 images show patients on whom the model that this run ")


def test_an_image_of_the_same_name_is_told_and_one_of_no_patient_is_unchecked(before):
    [leak, unknown] = sentences(before, make_split("test", ["a", "x"], ["", ""]))
    assert leak.startswith("LEAK: 1 of 2 images have the names of images on which")
    assert "unchecked for 1 of 2 images" in unknown


def test_a_record_of_the_row_scheme_is_of_its_image(before):
    split = make_split("test", ["a#0", "x#1"], ["", ""], split_scheme="row")
    assert lineage.shared(before, split)["train"]["images"] == 1


def test_nothing_is_sure_where_an_ancestor_had_unknown_patients():
    training = make_split("train", ["a", "b"], ["1", ""])
    before = lineage.trained_on([training, make_split("validation", ["d"], ["3"])])
    found = lineage.shared(before, make_split("test", ["x", "y"], ["1", "8"]))
    assert found["train"]["unchecked"] == 1
    assert found["validation"]["unchecked"] == 0


def test_being_in_the_validation_split_is_told_more_mildly(before):
    [sentence] = sentences(before, make_split("test", ["x", "y"], ["3", "8"]))
    assert sentence.startswith("SELECTION: 1 of 2 images ")


def test_what_is_not_known_of_an_ancestor_is_said(before):
    split = make_split("test", ["x", "y"], ["7", "8"])
    found = lineage.judged([ancestor(), ancestor()], [before, None], split)
    assert found[1]["shared"]["train"]["patients"] is None
    [sentence] = lineage.warnings(found, 2)
    assert sentence.startswith("UNKNOWN PATIENTS: on whom this model's ancestor 2 runs back was ")
    assert "all 2 images" in sentence
    [sentence] = lineage.warnings(found, 2, of_ensemble=True)
    assert "a model before a member of the ensemble (" in sentence


def test_files_come_back_and_hold_no_name(before, tmp_path):
    lineage.write(str(tmp_path), before, [before, None])
    assert lineage.read_own(tmp_path, DATA) == before
    ancestors = [ancestor(), ancestor(trained_on_sha256=sha256_of_json(before))]
    assert lineage.read_before([tmp_path], ancestors) == [None, before]
    assert "nih" not in (tmp_path / "ancestors.json").read_text()


def test_a_run_without_these_files_knows_nothing(before, tmp_path):
    assert lineage.read_own(tmp_path, DATA) is None
    assert lineage.read_before([tmp_path], [ancestor()]) == [None]
    lineage.write(str(tmp_path), before, [])
    assert not (tmp_path / "ancestors.json").exists()


def test_trained_on_of_other_data_or_damaged_is_refused(before, tmp_path):
    lineage.write(str(tmp_path), before, [])
    with pytest.raises(UserError, match="is of other data than the checkpoint"):
        lineage.read_own(tmp_path, DATA | {"train": "another content"})
    damaged = json.loads((tmp_path / "trained_on.json").read_text())
    damaged["splits"]["train"]["patients"] = "no hashes"
    (tmp_path / "trained_on.json").write_text(json.dumps(damaged))
    with pytest.raises(UserError, match=r"trained_on.json is damaged .*; restore it, or move"):
        lineage.read_own(tmp_path, DATA)


def test_changed_ancestors_are_refused(before, tmp_path):
    lineage.write(str(tmp_path), before, [before])
    path = tmp_path / "ancestors.json"
    path.write_text(path.read_text().replace("rsna_pneumonia", "other"))
    with pytest.raises(UserError, match=r"ancestors.json has changed since it was written"):
        lineage.read_before([tmp_path], [ancestor()])


def test_an_empty_split_shares_nothing(before):
    split = make_split("test", [], [])
    assert lineage.shared(before, dataclasses.replace(split))["train"]["images"] == 0
