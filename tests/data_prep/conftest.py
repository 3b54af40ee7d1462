"""Small DICOM files in every encoding, and a small folder in the challenge's layout."""

import io
import json
import pathlib

import numpy as np
import pydicom
import pytest
import simplejpeg
from pydicom import uid
from pydicom.encaps import encapsulate

LOSSLESS = {
    "implicit": uid.ImplicitVRLittleEndian,
    "explicit": uid.ExplicitVRLittleEndian,
    "big_endian": uid.ExplicitVRBigEndian,
    "deflated": uid.DeflatedExplicitVRLittleEndian,
    "rle": uid.RLELossless,
    "jpeg_lossless": uid.JPEGLosslessSV1,
    "jpeg_ls": uid.JPEGLSLossless,
    "jpeg_2000": uid.JPEG2000Lossless,
}
LOSSY = {
    "jpeg_baseline": uid.JPEGBaseline8Bit,
    "jpeg_ls_near": uid.JPEGLSNearLossless,
    "jpeg_2000_lossy": uid.JPEG2000,
}


def phantom(size=64):
    """Grey from 0 to 1: a ramp, a disc, a dark bar and a white marker."""
    y, x = np.mgrid[:size, :size] / (size - 1)
    image = 0.2 + 0.5 * x * y
    image[(y - 0.5) ** 2 + (x - 0.4) ** 2 < 0.04] += 0.25
    image[size // 8, :] = 0.0
    image[2:5, 2:5] = 1.0
    return image


def encode_jpeg_lossless(stored, bits):
    """JPEG Lossless, process 14, predictor 1 (ISO 10918-1, annex H), in the plainest form.

    pydicom's plugins decode it and cannot encode it. All 17 categories get codes of five bits.
    """
    stored = stored.astype(np.int64) & ((1 << bits) - 1)
    predicted = np.empty_like(stored)
    predicted[0, 0] = 1 << (bits - 1)
    predicted[1:, 0] = stored[:-1, 0]
    predicted[:, 1:] = stored[:, :-1]
    difference = (stored - predicted + 32768) % 65536 - 32768
    bitstring = []
    for d in difference.ravel().tolist():
        category = abs(d).bit_length()
        bitstring.append(f"{category:05b}")
        if 0 < category < 16:
            bitstring.append(f"{d if d > 0 else d + (1 << category) - 1:0{category}b}")
    joined = "".join(bitstring)
    joined += "1" * (-len(joined) % 8)
    scan = int(joined, 2).to_bytes(len(joined) // 8, "big").replace(b"\xff", b"\xff\x00")
    rows, columns = stored.shape

    def segment(marker, body):
        return bytes((0xFF, marker)) + (len(body) + 2).to_bytes(2, "big") + body

    size = rows.to_bytes(2, "big") + columns.to_bytes(2, "big")
    return (
        b"\xff\xd8"
        + segment(0xC3, bytes((bits,)) + size + b"\x01\x01\x11\x00")
        + segment(0xC4, b"\x00" + bytes([0] * 4 + [17] + [0] * 11) + bytes(range(17)))
        + segment(0xDA, b"\x01\x01\x00\x01\x00\x00")
        + scan
        + b"\xff\xd9"
    )


def make_dicom(stored, *, bits=None, syntax="explicit", **attributes):
    """The bytes of a DICOM file with these stored values; other attributes by keyword.

    An attribute that is None is left out.
    """
    signed = np.issubdtype(stored.dtype, np.signedinteger)
    bits = bits or 8 * stored.dtype.itemsize
    transfer_syntax = (LOSSLESS | LOSSY)[syntax]
    dataset = pydicom.Dataset()
    dataset.SOPClassUID = uid.ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = "1.2.3.4"
    dataset.Modality = "CR"
    dataset.PatientID = "a patient"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()
    dataset["PixelData"].VR = "OW"
    for keyword, value in attributes.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = transfer_syntax
    if syntax in ("jpeg_lossless", "jpeg_baseline"):
        frame = (
            encode_jpeg_lossless(stored, bits)
            if syntax == "jpeg_lossless"
            else simplejpeg.encode_jpeg(stored[:, :, None], 95, "GRAY")
        )
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
    elif transfer_syntax.is_encapsulated:
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        options = {"jpeg_ls_near": {"jls_error": 2}, "jpeg_2000_lossy": {"j2k_cr": [3]}}
        dataset.compress(transfer_syntax, generate_instance_uid=False, **options.get(syntax, {}))
    elif syntax == "big_endian":
        dataset.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
        if stored.dtype.itemsize == 1:
            dataset["PixelData"].VR = "OB"
    buffer = io.BytesIO()
    dataset.save_as(
        buffer,
        enforce_file_format=True,
        implicit_vr=transfer_syntax.is_implicit_VR,
        little_endian=transfer_syntax.is_little_endian,
    )
    return buffer.getvalue()


def write_rsna(folder: pathlib.Path, images=40, size=48):
    """A folder as the challenge's download is; every third image positive, two per patient."""
    image_folder = folder / "stage_2_train_images"
    image_folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    labels = ["patientId,x,y,width,height,Target"]
    classes = ["patientId,class"]
    mapping = []
    for number in range(images):
        name = f"film-{number:03d}"
        stored = np.uint8(255 * phantom(size) * rng.uniform(0.5, 0.9))
        (image_folder / f"{name}.dcm").write_bytes(
            make_dicom(
                stored,
                syntax="jpeg_baseline",
                PatientAge="51",
                PatientSex="F",
                ViewPosition="PA",
                PixelSpacing=[0.2, 0.2],
            )
        )
        mapping.append({"subset_img_id": name, "img_id": f"{number // 2:08d}_{number % 2:03d}.png"})
        if number % 3 == 0:
            boxes = [(6, 12, 12, 24), (30, 12, 12, 18)][: 1 + number % 2]
            labels += [f"{name},{x},{y},{w},{h},1" for x, y, w, h in boxes]
            classes += [f"{name},Lung Opacity" for _ in boxes]
        else:
            labels.append(f"{name},,,,,0")
            classes.append(f"{name},{'Normal' if number % 2 else 'No Lung Opacity / Not Normal'}")
    (folder / "stage_2_train_labels.csv").write_text("\n".join(labels) + "\n")
    (folder / "stage_2_detailed_class_info.csv").write_text("\n".join(classes) + "\n")
    (folder / "mapping.json").write_text(json.dumps(mapping))
    return folder


@pytest.fixture(name="phantom")
def phantom_fixture():
    return phantom()


@pytest.fixture(name="make_dicom")
def make_dicom_fixture():
    return make_dicom


@pytest.fixture
def rsna_folder(tmp_path):
    return write_rsna(tmp_path / "raw")
