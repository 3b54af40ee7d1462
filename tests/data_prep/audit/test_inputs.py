import pytest
from etils import epath

from data_prep.audit import inputs
from data_prep.cli import UserError
from data_prep.mapping import read_mapping

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")


def test_images(rsna_folder):
    raw = epath.Path(rsna_folder)
    table = inputs.read_table(raw, read_mapping(raw / "mapping.json"))
    (raw / "stage_2_train_images" / "film-001.dcm").write_bytes(b"")
    headers, pairs = inputs.look_at_images(raw, table.ids, workers=0)
    assert headers["film-000"] == {"view": "PA", "sex": "F", "age": "51", "spacing": "0.2"}
    assert headers["film-001"] == {}
    # The same phantom, brighter or darker: all alike, but for the one that cannot be read.
    assert len(pairs) == 39 * 38 // 2
    assert 1 not in pairs


def test_no_image_can_be_read(rsna_folder):
    raw = epath.Path(rsna_folder)
    for path in (raw / "stage_2_train_images").iterdir():
        path.write_bytes(b"")
    headers, pairs = inputs.look_at_images(raw, ["film-000"], workers=0)
    assert headers == {"film-000": {}}
    assert pairs.shape == (0, 2)


def test_a_mapping_of_other_images(rsna_folder):
    with pytest.raises(UserError, match="fewer than 20 patients"):
        inputs.read_table(epath.Path(rsna_folder), {"another": "1"})


def test_metadata_must_be_of_all_images(tmp_path):
    path = epath.Path(tmp_path / "headers.csv")
    path.write_text("patientId,ViewPosition,PatientSex,PatientAge,PixelSpacing\na,AP,F,50,0.1\n")
    assert inputs.read_metadata(path, ["a"])["a"]["view"] == "AP"
    with pytest.raises(UserError, match="no row for b"):
        inputs.read_metadata(path, ["a", "b"])
