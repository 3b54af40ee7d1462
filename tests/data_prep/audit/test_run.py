import json

import numpy as np
import pytest
from etils import epath
from sklearn.model_selection import train_test_split

from data_prep.audit import __main__ as audit_main
from data_prep.audit import inputs, run
from data_prep.audit.confounders import confounder_auroc
from data_prep.cli import UserError
from data_prep.mapping import read_mapping

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")


@pytest.fixture
def table(rsna_folder):
    return inputs.read_table(epath.Path(rsna_folder), read_mapping(rsna_folder / "mapping.json"))


def test_audit_of_a_folder_with_images(rsna_folder, table):
    headers, pairs = inputs.look_at_images(epath.Path(rsna_folder), table.ids, workers=0)
    result = json.loads(json.dumps(run.audit(table, headers, pairs, draws=3)))
    assert (result["images"], result["patients"], result["positive"]) == (40, 20, 14)
    assert result["leakage"]["by patient, as prepared"]["patients"]["value"] == 0
    assert result["leakage"]["by image, 85% / 15%"]["patients"]["value"] > 0.5
    assert result["leakage"]["by image, as prepared"]["near_duplicates"]["value"] == 1
    assert result["confounders"]["union"]["auroc"]["value"] == 0.5
    text = run.render(result)
    assert "40 images of 20 real patients" in text
    assert "union     0.500 (0.500-0.500)" in text


def test_audit_of_tables_alone(table):
    text = run.render(run.audit(table, None, None, draws=2))
    assert "look-alikes: not looked for" in text
    assert "confounders: unknown" in text


def test_the_real_tables_give_the_known_figures(shared_data):
    folder = epath.Path(shared_data / "rsna_labels")
    table = inputs.read_table(
        folder, read_mapping(folder / "pneumonia-challenge-dataset-mappings_2018.json")
    )
    result = run.audit(table, None, None, draws=10)
    assert (result["images"], result["patients"], result["rows"]) == (26684, 11439, 30227)
    by_image = result["leakage"]["by image, 85% / 15%"]
    assert by_image["patients"]["value"] == pytest.approx(0.716, abs=0.01)
    assert by_image["patient_memoriser"]["value"] == pytest.approx(0.73, abs=0.01)
    by_row = result["leakage"]["by row, 75% / 25%"]
    assert by_row["positive_images"]["value"] == pytest.approx(0.606, abs=0.01)
    by_patient = result["leakage"]["by patient, 85% / 15%"]
    assert by_patient["patients"]["value"] == 0
    assert by_patient["patient_memoriser"]["value"] == pytest.approx(0.5, abs=0.01)
    metadata = inputs.read_metadata(folder / "rsna_headers.csv", table.ids)
    view = np.array([metadata[image_id]["view"] for image_id in table.ids])
    patient = np.unique(table.patients, return_inverse=True)[1]
    found = confounder_auroc(table.label, patient, [view], draws=2)
    assert found["value"] == pytest.approx(0.706, abs=0.003)


def write_splits(path, rows):
    lines = "".join(f"{image_id},{split}\n" for image_id, split in rows)
    path.write_text(f"image_id,split\n{lines}")
    return epath.Path(path)


def test_a_published_split_is_judged_by_patient_and_by_image(table, tmp_path):
    """The folder has two images of each of 20 patients, next to each other."""
    rows = [(image_id, "test" if i % 2 else "train") for i, image_id in enumerate(table.ids)]
    rows[4:6] = [(table.ids[4], "test"), (table.ids[5], "test")]  # a patient of test alone
    rows += [(table.ids[1], "train"), ("never-heard-of", "test")]
    published = inputs.read_splits(write_splits(tmp_path / "a.csv", rows), table.ids)
    result = json.loads(json.dumps(run.audit(table, None, None, draws=2, published=published)))
    found = result["leakage"]["as published, test"]
    assert found["judged_images"]["value"] == 21
    assert found["patients"]["value"] == pytest.approx(19 / 21)
    assert found["images"]["value"] == pytest.approx(1 / 21)
    assert "1 rows of --splits are not judged" in run.render(result)


def test_a_published_split_needs_train_and_another(table, tmp_path):
    rows = [(image_id, "test") for image_id in table.ids]
    with pytest.raises(UserError, match="in the splits test; it needs train"):
        inputs.read_splits(write_splits(tmp_path / "a.csv", rows), table.ids)


def test_the_usual_recipe_leaks(shared_data, tmp_path):
    """`train_test_split` on the ids, seed 0: what most publications about these images did."""
    folder = epath.Path(shared_data / "rsna_labels")
    table = inputs.read_table(
        folder, read_mapping(folder / "pneumonia-challenge-dataset-mappings_2018.json")
    )
    train, test = train_test_split(table.ids, test_size=0.2, random_state=0)
    rows = [(image_id, "train") for image_id in train] + [(image_id, "test") for image_id in test]
    published = inputs.read_splits(write_splits(tmp_path / "a.csv", rows), table.ids)
    found = run.audit(table, None, None, draws=2, published=published)["leakage"]
    assert found["as published, test"]["patients"]["value"] == pytest.approx(0.708, abs=0.002)
    assert found["as published, test"]["images"]["value"] == 0


def test_the_file_is_replaced_only_where_this_command_wrote_it(tmp_path):
    out = tmp_path / "deep" / "audit.json"
    audit_main.check_out(out)
    for value in (1.0, float("nan")):
        audit_main.write(out, {"leakage": {"value": value}})
    assert [path.name for path in out.parent.iterdir()] == ["audit.json"]
    for content in (out.read_text().replace("NaN", "0.5"), '{"leakage": 1}', "mine"):
        out.write_text(content)
        with pytest.raises(UserError, match="is no audit's result, or was changed since"):
            audit_main.check_out(out)
        with pytest.raises(UserError, match="is no audit's result, or was changed since"):
            audit_main.write(out, {})
        assert out.read_text() == content
    with pytest.raises(UserError, match="is a file"):
        audit_main.check_out(out / "audit.json")
