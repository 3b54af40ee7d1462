import numpy as np
import pytest
from pydicom import uid

from data_prep.dicom import read_radiograph
from data_prep.dicom.header import parse_age

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


def test_header(phantom, make_dicom):
    data = make_dicom(
        np.uint8(phantom * 255),
        PatientAge="062Y",
        PatientSex="F",
        SeriesDescription="view: AP",
        ImagerPixelSpacing=[0.14, 0.14],
        StudyInstanceUID="1.2",
        BodyPartExamined="CHEST",
    )
    header = read_radiograph(data).header
    assert header["patient_age"] == 62
    assert header["view_position"] == "AP"
    assert header["pixel_spacing"] == 0.14
    assert (header["rows"], header["columns"]) == (64, 64)
    assert (header["modality"], header["body_part"]) == ("CR", "CHEST")
    assert (header["patient_id"], header["study_instance_uid"]) == ("a patient", "1.2")
    assert header["series_instance_uid"] == ""


def test_raw_detector_data_are_known_by_their_kind(phantom, make_dicom):
    data = make_dicom(np.uint8(phantom * 255), SOPClassUID=uid.DigitalXRayImageStorageForProcessing)
    assert read_radiograph(data).header["presentation_intent"] == "FOR PROCESSING"


def test_a_damaged_description_does_not_cost_the_image(phantom, make_dicom):
    data = make_dicom(np.uint8(phantom * 255), PatientAge="051Y", PixelSpacing=[0.25, 0.25])
    broken = data.replace(b"051Y", b"\xff\xfe\xfdY").replace(b"0.25\\0.25 ", b"zero\\zero ")
    assert broken != data
    header = read_radiograph(broken).header
    assert header["patient_age"] is None
    assert header["pixel_spacing"] is None


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("51", 51),
        ("051Y", 51),
        ("006M", 0.5),
        ("010D", 10 / 365.25),
        ("155", None),
        ("", None),
        ("old", None),
        ("-5", None),
    ],
)
def test_age(text, years):
    assert parse_age(text) == years
