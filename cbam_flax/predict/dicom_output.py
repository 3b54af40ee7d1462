"""A result as DICOM: a Secondary Capture of the overlay and a Structured Report (TID 1500).

Both are made with highdicom, which is imported only here. They join the study of the original
image, in series of their own, and say in several places that they are not for clinical use.
"""

import datetime
import hashlib
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.config import IGNORE, RAISE
from pydicom.datadict import dictionary_VR
from pydicom.sr.coding import Code
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import validate_value

from cbam_flax.predict.scores import Score
from data_prep.cli import UserError

# The patient's name must stay as it is in the original, however unusual.
warnings.filterwarnings("ignore", message=".*unlikely to represent the intended person name")

NOTICE = "NOT FOR CLINICAL USE"
MAKER = "cbam_flax"
PNEUMONIA = Code("233604007", "SCT", "Pneumonia")
PRIVATE_SCHEME = "99CBAMFLAX"
CHEST_RADIOGRAPH = Code("399208008", "SCT", "Plain chest X-ray")
NO_UNITS = Code("1", "UCUM", "no units")
# Far above what modalities use, so that viewers list the results last.
SC_SERIES_NUMBER, SR_SERIES_NUMBER = 9001, 9002
# (keyword, key of the header): what ties a result to its patient and study
_REFERENCES = (
    ("SOPClassUID", "sop_class_uid"),
    ("SOPInstanceUID", "sop_instance_uid"),
    ("StudyInstanceUID", "study_instance_uid"),
    ("SeriesInstanceUID", "series_instance_uid"),
    ("PatientID", "patient_id"),
    ("PatientName", "patient_name"),
    ("PatientBirthDate", "patient_birth_date"),
    ("StudyDate", "study_date"),
    ("StudyTime", "study_time"),
    ("StudyID", "study_id"),
    ("AccessionNumber", "accession_number"),
)


def require_highdicom() -> None:
    """Raises `UserError` where highdicom is not installed."""
    try:
        import highdicom  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            "--dicom_output needs the package highdicom; pip install highdicom==0.28.2"
        ) from error


def has_references(header: dict[str, Any]) -> bool:
    """Whether the header identifies the study; without that no result can refer to it."""
    uids = [header[key] for keyword, key in _REFERENCES if keyword.endswith("UID")]
    return all(UID(uid, validation_mode=IGNORE).is_valid for uid in uids)


def source_dataset(header: dict[str, Any]) -> Dataset:
    """The original image as the results refer to it.

    A value that DICOM does not allow for its attribute becomes empty, so that the results are valid
    whatever the original was.

    Args:
        header: as `data_prep.images.read_image` gives it, with `has_references`.
    """
    source = Dataset()
    source.SpecificCharacterSet = "ISO_IR 192"  # the header's strings are decoded already
    for keyword, key in _REFERENCES:
        setattr(source, keyword, _allowed(keyword, header[key]))
    sex = header["patient_sex"].upper()
    source.PatientSex = sex if sex in ("M", "F", "O") else ""
    return source


def _allowed(keyword: str, value: str) -> str:
    """The value, or "" where it breaks the rules of the attribute's value representation."""
    vr = dictionary_VR(keyword)
    try:
        validate_value(vr, value, RAISE)
        if vr == "DA" and value:
            datetime.datetime.strptime(value, "%Y%m%d")  # the rule lets 31 February pass
    except ValueError:
        return ""
    # What that validation does not look at: several values, control characters, name components.
    valid = value.isprintable() and "\\" not in value
    if vr == "PN":
        valid = valid and all(part.count("^") <= 4 for part in value.split("="))
    return value if valid else ""


def secondary_capture(source: Dataset, picture: np.ndarray, bundle: dict[str, Any]) -> Dataset:
    """The overlay, RGB uint8 (H, W, 3), as a Secondary Capture in the image's study."""
    from highdicom.sc import SCImage

    capture = SCImage(
        picture,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        study_instance_uid=source.StudyInstanceUID,
        series_instance_uid=generate_uid(),
        series_number=SC_SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MAKER,
        patient_id=source.PatientID,
        patient_name=source.PatientName,
        patient_birth_date=source.PatientBirthDate,
        patient_sex=source.PatientSex,
        accession_number=source.AccessionNumber,
        study_id=source.StudyID,
        study_date=source.StudyDate or None,
        study_time=source.StudyTime or None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=source.SpecificCharacterSet,
        series_description=f"Saliency overlay, {NOTICE}",
        manufacturer_model_name=MAKER,
        software_versions=version(bundle),
    )
    # The panels stand side by side, so the picture as a whole has no orientation.
    capture["PatientOrientation"].value = None
    capture.BodyPartExamined = "CHEST"
    capture.ImageComments = f"{NOTICE}. Made by a research model."
    capture.DerivationDescription = f"Image, image under a saliency map, and score. {NOTICE}."
    original = Dataset()
    original.ReferencedSOPClassUID = source.SOPClassUID
    original.ReferencedSOPInstanceUID = source.SOPInstanceUID
    capture.SourceImageSequence = [original]
    return capture


def structured_report(
    source: Dataset,
    scores: Sequence[Score],
    flags: Sequence[str],
    bundle: dict[str, Any],
) -> Dataset:
    """The result as a measurement report: unverified, preliminary, with the image as its source.

    Args:
        scores: one measurement for each finding.
        flags: why it is out of scope.
    """
    from highdicom import sr
    from pydicom.sr.codedict import codes

    def point(score: Score) -> str:
        of = f" of {score.finding}" if len(scores) > 1 else ""
        return f"operating point{of} {score.threshold:.6g}"

    algorithm = sr.AlgorithmIdentification(
        name=MAKER,
        version=version(bundle),
        parameters=[*map(point, scores), NOTICE],
    )

    def group(score: Score) -> sr.MeasurementsAndQualitativeEvaluations:
        finding = finding_code(score.finding)
        evaluations = []
        if score.decision is not None:
            present = codes.SCT.Present if score.decision else codes.SCT.Absent
            evaluations.append(sr.QualitativeEvaluation(finding, present))
        return sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(generate_uid(), "whole image"),
            finding_type=finding,
            # Of another finding, such as an enlarged heart, nobody said where it lies.
            finding_sites=[sr.FindingSite(codes.SCT.Lung)] if finding == PNEUMONIA else None,
            algorithm_id=algorithm,
            source_images=[
                sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)
            ],
            measurements=[sr.Measurement(codes.DCM.Probability, score.probability, NO_UNITS)],
            qualitative_evaluations=evaluations,
        )

    groups = [group(score) for score in scores]
    out_of_scope = f" Out of scope, no decision: {'; '.join(flags)}." if flags else ""
    for measurements in groups:
        measurements[0].ContentSequence.append(
            sr.TextContentItem(
                name=codes.DCM.Comment,
                value=f"{NOTICE}. Made by a research model.{out_of_scope}",
                relationship_type=sr.RelationshipTypeValues.CONTAINS,
            )
        )
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=[version(bundle)]),
            name=MAKER,
            manufacturer_name=MAKER,
            model_name=MAKER,
        ),
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CHEST_RADIOGRAPH,
        imaging_measurements=groups,
    )
    return sr.ComprehensiveSR(
        evidence=[source],
        content=report,
        series_instance_uid=generate_uid(),
        series_number=SR_SERIES_NUMBER,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer=MAKER,
        is_complete=True,
        series_description=f"{_title(scores)}, {NOTICE}",
        manufacturer_model_name=MAKER,
        software_versions=version(bundle),
    )


def finding_code(name: str) -> Code:
    """SNOMED's code for pneumonia; of any other name a private one, whose meaning is the name."""
    if name.casefold() == "pneumonia":
        return PNEUMONIA
    value = hashlib.sha256(name.encode()).hexdigest()[:12].upper()
    return Code(value, PRIVATE_SCHEME, name[:64])


def _title(scores: Sequence[Score]) -> str:
    if len(scores) > 1:
        return f"Scores of {len(scores)} findings"
    return f"{finding_code(scores[0].finding).meaning[:30]} score"


def version(bundle: dict[str, Any]) -> str:
    """What identifies the model: the start of its checkpoint's hash, and the step."""
    checkpoint = bundle["fingerprints"]["checkpoint"]
    return f"{checkpoint['sha256'][:16]} step {checkpoint['step']}"
