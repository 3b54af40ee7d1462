"""One planned radiograph as a DICOM file with the headers of the challenge."""

import pathlib

import cv2
import numpy as np
import pydicom
from pydicom import uid
from pydicom.encaps import encapsulate

from data_prep.synthetic import phantom
from data_prep.synthetic.planning import Plan

_JPEG_QUALITY = 85


def write_radiograph(folder: pathlib.Path, seed: int, plan: Plan) -> list[phantom.Box]:
    """Draws and writes one DICOM file; returns its boxes."""
    cv2.setNumThreads(1)  # one image per worker: threads inside would compete
    body = phantom.Body.draw(np.random.default_rng([seed, 1, plan.patient]), plan.female)
    drawn = phantom.render(
        body,
        np.random.default_rng([seed, 2, plan.index]),
        view=plan.view,
        opacities=plan.opacities,
        findings=plan.findings,
    )
    encoded = cv2.imencode(".jpg", drawn.image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1]
    dataset = _header(plan, uids_of(plan, seed))
    _attach(dataset, encoded.tobytes())
    dataset.save_as(folder / f"{plan.image_id}.dcm", enforce_file_format=True)
    return drawn.boxes


def _uid(*parts: object) -> str:
    return uid.generate_uid(entropy_srcs=["cbam_flax synthetic", *map(str, parts)])


def uids_of(plan: Plan, seed: int) -> dict[str, str]:
    return {
        "StudyInstanceUID": _uid(seed, "study", plan.index),
        "SeriesInstanceUID": _uid(seed, "series", plan.index),
        "SOPInstanceUID": _uid(seed, "image", plan.index),
    }


def _header(plan: Plan, uids: dict[str, str]) -> pydicom.Dataset:
    """The header of the challenge's files, tag for tag, and marked as synthetic in four more."""
    dataset = pydicom.Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.SyntheticData = "YES"  # what `prepare` and `predict` look at
    dataset.SOPClassUID = uid.SecondaryCaptureImageStorage
    dataset.SOPInstanceUID = uids["SOPInstanceUID"]
    dataset.StudyDate = "19010101"
    dataset.StudyTime = "000000.00"
    dataset.AccessionNumber = ""
    dataset.Modality = "CR"
    dataset.ConversionType = "WSD"
    dataset.Manufacturer = "SYNTHETIC"
    dataset.ReferringPhysicianName = ""
    dataset.SeriesDescription = f"view: {plan.view}"
    dataset.PatientName = "SYNTHETIC"
    dataset.PatientID = plan.image_id  # as in the challenge, this names the image
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "F" if plan.female else "M"
    # Ages are bare numbers in the challenge, against the standard ('051Y').
    dataset.add(pydicom.DataElement("PatientAge", "AS", str(plan.age), validation_mode=0))
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = plan.view
    dataset.StudyInstanceUID = uids["StudyInstanceUID"]
    dataset.SeriesInstanceUID = uids["SeriesInstanceUID"]
    dataset.StudyID = ""
    dataset.SeriesNumber = "1"
    dataset.InstanceNumber = "1"
    dataset.PatientOrientation = ""
    dataset.ImageComments = "SYNTHETIC drawing of a chest film; no patient, no diagnostic meaning"
    dataset.PixelSpacing = [plan.spacing, plan.spacing]
    return dataset


def _attach(dataset: pydicom.Dataset, jpeg: bytes) -> None:
    """Puts a JPEG Baseline image in, with what the header must say about it."""
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows = dataset.Columns = phantom.SIDE
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PixelRepresentation = 0
    dataset.LossyImageCompression = "01"
    dataset.LossyImageCompressionMethod = "ISO_10918_1"
    dataset.PixelData = encapsulate([jpeg])
    dataset["PixelData"].VR = "OB"
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
