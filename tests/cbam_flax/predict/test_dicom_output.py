import numpy as np
import pydicom
import pytest

from cbam_flax.predict import dicom_output
from cbam_flax.predict.scores import Score
from data_prep.dicom import read_radiograph

pytest.importorskip("highdicom")

BUNDLE = {"fingerprints": {"checkpoint": {"sha256": "0123456789abcdef" * 4, "step": 40}}}


def score(probability, decision, finding="pneumonia"):
    return Score((f"no {finding}", finding), probability, 0.25, decision)


@pytest.fixture
def header(tmp_path, write_dicom):
    attributes = {
        "PatientName": "Yamada^Änne=山田^太郎",
        "SpecificCharacterSet": "ISO_IR 192",
        "PatientSex": "F",
        "PatientBirthDate": "19700102",
        "StudyDate": "20200304",
        "StudyTime": "101112",
        "StudyID": "S1",
        "AccessionNumber": "A1",
    }
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    return read_radiograph(write_dicom(tmp_path / "image.dcm", image, **attributes)).header


def saved(dataset: pydicom.Dataset, path) -> pydicom.Dataset:
    dataset.save_as(path, enforce_file_format=True)
    return pydicom.dcmread(path)


def report_items(item: pydicom.Dataset) -> dict[str, list[object]]:
    """Concept name -> values of all texts, numbers and codes in the content tree."""
    found: dict[str, list[object]] = {}
    for child in item.get("ContentSequence", []):
        if child.ValueType == "TEXT":
            value = child.TextValue
        elif child.ValueType == "NUM":
            value = float(child.MeasuredValueSequence[0].NumericValue)
        elif child.ValueType == "CODE":
            value = child.ConceptCodeSequence[0].CodeMeaning
        else:
            value = None
        if value is not None:
            found.setdefault(child.ConceptNameCodeSequence[0].CodeMeaning, []).append(value)
        for name, values in report_items(child).items():
            found.setdefault(name, []).extend(values)
    return found


def check_references(result: pydicom.Dataset, header: dict) -> None:
    assert result.StudyInstanceUID == header["study_instance_uid"]
    assert result.SeriesInstanceUID != header["series_instance_uid"]
    assert result.SOPInstanceUID != header["sop_instance_uid"]
    assert result.PatientID == "patient-1"
    assert str(result.PatientName) == "Yamada^Änne=山田^太郎"
    assert (result.PatientBirthDate, result.PatientSex) == ("19700102", "F")
    assert (result.StudyDate, result.StudyTime) == ("20200304", "101112")
    assert (result.StudyID, result.AccessionNumber) == ("S1", "A1")
    assert "NOT FOR CLINICAL USE" in result.SeriesDescription


def test_the_picture_survives_as_a_secondary_capture(header, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (96, 64, 3), np.uint8)
    source = dicom_output.source_dataset(header)
    capture = saved(dicom_output.secondary_capture(source, picture, BUNDLE), tmp_path / "sc.dcm")
    np.testing.assert_array_equal(capture.pixel_array, picture)
    check_references(capture, header)
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == header["sop_instance_uid"]
    assert "NOT FOR CLINICAL USE" in capture.ImageComments


@pytest.mark.parametrize(("decision", "meaning"), [(True, "Present"), (False, "Absent")])
def test_the_report_holds_score_decision_and_source(header, tmp_path, decision, meaning):
    source = dicom_output.source_dataset(header)
    report = dicom_output.structured_report(source, [score(0.123456789, decision)], [], BUNDLE)
    report = saved(report, tmp_path / "sr.dcm")
    check_references(report, header)
    items = report_items(report)
    assert items["Probability"] == [pytest.approx(0.123456789)]
    assert items["Pneumonia"] == [meaning]
    assert "operating point 0.25" in items["Algorithm Parameters"]
    assert items["Algorithm Version"] == ["0123456789abcdef step 40"]
    assert "NOT FOR CLINICAL USE" in items["Comment"][0]
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.SeriesInstanceUID == header["series_instance_uid"]
    assert evidence.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == header["sop_instance_uid"]


def test_an_image_out_of_scope_gets_a_score_and_no_decision(header, tmp_path):
    source = dicom_output.source_dataset(header)
    report = dicom_output.structured_report(source, [score(0.9, None)], ["view=LL"], BUNDLE)
    items = report_items(saved(report, tmp_path / "sr.dcm"))
    assert "Pneumonia" not in items
    assert "view=LL" in items["Comment"][0]


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("study_date", "1999.01.02"),
        ("study_date", "20201350"),
        ("study_date", "20200231"),
        ("patient_birth_date", "1970"),
        ("study_time", "10:11"),
        ("study_time", "250000"),
        ("patient_sex", "female"),
        ("accession_number", "x" * 17),
        ("study_id", "1\\2"),
        ("patient_name", "\\="),
        ("patient_name", "A^B^C^D^E^F"),
        ("patient_name", "Doe\x1b^Jane"),
        ("patient_name", "caf\udce9"),
    ],
)
def test_malformed_header_values_become_empty(header, tmp_path, keyword, text):
    source = dicom_output.source_dataset(header | {keyword: text})
    attribute = "".join(word.capitalize() for word in keyword.split("_")).replace("Id", "ID")
    assert not source[attribute].value
    picture = np.zeros((8, 8, 3), np.uint8)
    saved(dicom_output.secondary_capture(source, picture, BUNDLE), tmp_path / "sc.dcm")
    saved(
        dicom_output.structured_report(source, [score(0.5, True)], [], BUNDLE), tmp_path / "sr.dcm"
    )


def test_without_valid_identifiers_there_is_nothing_to_refer_to(header):
    assert dicom_output.has_references(header)
    for missing in ("", "not a uid", "1.2." + "3" * 70):
        assert not dicom_output.has_references(header | {"study_instance_uid": missing})


def test_the_report_of_several_findings_holds_each(header, tmp_path):
    source = dicom_output.source_dataset(header)
    found = [score(0.75, True, "Pneumonia"), score(0.125, False, "Pleural Thickening")]
    report = saved(dicom_output.structured_report(source, found, [], BUNDLE), tmp_path / "sr.dcm")
    items = report_items(report)
    assert items["Probability"] == [0.75, 0.125]
    assert items["Pneumonia"] == ["Present"]
    assert items["Pleural Thickening"] == ["Absent"]
    assert len(items["Finding Site"]) == 1  # the lung, of pneumonia
    assert "operating point of Pleural Thickening 0.25" in items["Algorithm Parameters"]
    assert report.SeriesDescription == "Scores of 2 findings, NOT FOR CLINICAL USE"
