import pytest
from etils import epath

from data_prep import rsna
from data_prep.cli import UserError
from data_prep.dicom import DicomRefusal
from data_prep.records import SPLITS, assign_split

# A bare age is what the challenge has.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")


def write_tables(folder, labels, classes):
    (folder / rsna.LABELS).write_text("patientId,x,y,width,height,Target\n" + "\n".join(labels))
    (folder / rsna.CLASSES).write_text("patientId,class\n" + "\n".join(classes))
    return epath.Path(folder)


def test_labels(tmp_path):
    raw = write_tables(
        tmp_path,
        ["a,1,2,3,4,1", "a,10,20,30,40,1", "b,,,,,0", "c,NaN,NaN,NaN,NaN,0"],
        ["a,Lung Opacity", "a,Lung Opacity", "b,Normal", "c,No Lung Opacity / Not Normal"],
    )
    assert rsna.read_labels(raw) == {
        "a": rsna.Labels(1, "Lung Opacity", [(2, 1, 6, 4), (20, 10, 60, 40)], 2),
        "b": rsna.Labels(0, "Normal", [], 1),
        "c": rsna.Labels(0, "No Lung Opacity / Not Normal", [], 1),
    }


@pytest.mark.parametrize(
    ("code", "labels", "classes"),
    [
        ("conflicting_labels", ["a,1,2,3,4,1", "a,,,,,0"], ["a,Lung Opacity"]),
        ("conflicting_labels", ["a,,,,,0"], ["a,Normal", "a,No Lung Opacity / Not Normal"]),
        ("conflicting_labels", ["a,1,2,3,4,1"], ["a,Normal"]),
        ("conflicting_labels", ["a,,,,,0"], ["a,Lung Opacity"]),
        ("conflicting_labels", ["a,1,2,3,4,0"], ["a,Normal"]),
        ("no_label", ["a,,,,,0"], ["b,Normal"]),
        ("no_label", ["b,,,,,0"], ["a,Normal"]),
        ("no_label", ["a,,,,,2"], ["a,Normal"]),
        ("no_label", ["a,,,,,0"], ["a,Pneumothorax"]),
        ("bad_box", ["a,,,,,1"], ["a,Lung Opacity"]),
        ("bad_box", ["a,NaN,2,3,4,1"], ["a,Lung Opacity"]),
        ("bad_box", ["a,1,2,0,4,1"], ["a,Lung Opacity"]),
        ("bad_box", ["a,1,2,inf,4,1"], ["a,Lung Opacity"]),
        ("bad_box", ["a,1,2,x,4,1"], ["a,Lung Opacity"]),
        ("duplicate", ["a,1,2,3,4,1", "a,1,2,3,4,1"], ["a,Lung Opacity"]),
        ("duplicate", ["a,,,,,0", "a,,,,,0"], ["a,Normal"]),
    ],
)
def test_tables_that_contradict_themselves(tmp_path, code, labels, classes):
    found = rsna.read_labels(write_tables(tmp_path, labels, classes))["a"]
    assert isinstance(found, DicomRefusal)
    assert found.code == code


def test_a_table_without_its_columns(tmp_path):
    (tmp_path / rsna.LABELS).write_text("id,label\na,1\n")
    with pytest.raises(UserError, match="no column 'patientId'"):
        rsna.read_labels(epath.Path(tmp_path))


def test_a_table_that_is_no_table(tmp_path):
    (tmp_path / rsna.LABELS).write_bytes(b"PK\x03\x04\xff\xfe\x00")
    with pytest.raises(UserError, match="not a CSV text file"):
        rsna.read_labels(epath.Path(tmp_path))


def test_a_missing_table(tmp_path):
    with pytest.raises(UserError, match="--raw must be"):
        rsna.read_labels(epath.Path(tmp_path))


def plan(folder, patients, scheme="patient"):
    records, refused = rsna.plan_records(epath.Path(folder), patients, scheme)
    return {record.image_id: record for record in records}, {
        name: refusal.code for name, refusal in refused.items()
    }


@pytest.fixture
def images(tmp_path):
    (tmp_path / rsna.IMAGES).mkdir()
    for name in ("a.dcm", "a.DCM", "b.dcm", "c.dcm", "stray.dcm", "Thumbs.db"):
        (tmp_path / rsna.IMAGES / name).write_bytes(b"")
    labels = ["a,1,2,3,4,1", "a,5,6,7,8,1", "b,,,,,0", "c,,,,,0", "gone,,,,,0", "../out,,,,,0"]
    classes = ["a,Lung Opacity", *(f"{name},Normal" for name in ("b", "c", "gone", "../out"))]
    write_tables(tmp_path, labels, classes)
    return tmp_path


def test_every_input_ends_as_a_record_or_a_refusal(images):
    records, refused = plan(images, {"a": "1", "b": "2", "c": ""})
    assert list(records) == ["a", "b"]
    assert refused == {
        "a.dcm": "duplicate",  # the first in order of names is a.DCM
        "c.dcm": "no_patient",
        "gone.dcm": "no_file",
        "../out.dcm": "outside_folder",
        "stray.dcm": "no_label",
        "Thumbs.db": "not_dicom",
    }
    assert records["a"].boxes == ((2, 1, 6, 4), (6, 5, 14, 12))
    assert (records["a"].label, records["a"].patient_id) == (1, "1")


def test_patient_images_stay_together(rsna_folder):
    patients = {f"film-{i:03d}": f"{i // 2:08d}" for i in range(40)}
    records, _ = plan(rsna_folder, patients)
    for i in range(0, 40, 2):
        assert records[f"film-{i:03d}"].split == records[f"film-{i + 1:03d}"].split
    by_image, _ = plan(rsna_folder, None, "image")
    assert any(
        by_image[f"film-{i:03d}"].split != by_image[f"film-{i + 1:03d}"].split
        for i in range(0, 40, 2)
    )


def test_rows_are_records_of_their_own_in_the_row_scheme(images):
    records, _ = plan(images, None, "row")
    assert list(records) == ["a#0", "a#1", "b#0", "c#0"]
    assert records["a#0"].path == records["a#1"].path


def test_the_assignment_never_moves():
    names = [f"{number:08d}" for number in range(20000)]
    splits = [assign_split(name) for name in names]
    # Written down: another Python, another machine or a later version must agree.
    assert "".join(split[0] for split in splits[:20]) == "ttttttttttttttvttvtt"
    shares = {split: splits.count(split) / len(splits) for split in SPLITS}
    assert shares["train"] == pytest.approx(0.70, abs=0.01)
    assert shares["validation"] == pytest.approx(0.15, abs=0.01)
    assert shares["test"] == pytest.approx(0.15, abs=0.01)


def test_no_images(tmp_path):
    write_tables(tmp_path, ["a,,,,,0"], ["a,Normal"])
    with pytest.raises(UserError, match="cannot list"):
        plan(tmp_path, None, "image")
    (tmp_path / rsna.IMAGES).mkdir()
    with pytest.raises(UserError, match=r"no \.dcm file"):
        plan(tmp_path, None, "image")


def test_the_real_tables(shared_data):
    labels = rsna.read_labels(epath.Path(shared_data / "rsna_labels"))
    assert len(labels) == 26684
    assert sum(found.rows for found in labels.values()) == 30227
    assert sum(found.target for found in labels.values()) == 6012
    assert sum(len(found.boxes) for found in labels.values()) == 9555
