"""Eight virtual CPU devices for every test; set before anything imports jax."""

import os
import pathlib
import subprocess
import sys

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """The folder of real data beside a developer's checkout; skips where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data folder ../shared/data is not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A data_dir with `pneumonia_mnist/28px`: 70 / 21 / 21 noisy images, positives with a blob."""
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:28, :28]
    blob = 150 * np.exp(-((y - 18) ** 2 + (x - 9) ** 2) / 18)
    arrays = {}
    for split, count in {"train": 70, "val": 21, "test": 21}.items():
        labels = np.arange(count) % 3 == 0
        images = rng.normal(80, 15, (count, 28, 28)) + labels[:, None, None] * blob
        arrays[f"{split}_images"] = images.clip(0, 255).astype(np.uint8)
        arrays[f"{split}_labels"] = labels[:, None].astype(np.uint8)
    np.savez(folder / "tiny.npz", **arrays)
    command = [sys.executable, "-m", "data_prep.prepare", "--dataset=pneumonia_mnist"]
    command += [f"--raw={folder / 'tiny.npz'}", f"--data_dir={folder}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def write_dicom():
    """A function that writes H x W uint8 or uint16 as an uncompressed chest film, and returns its path.

    Keywords become or replace DICOM attributes; None leaves one out.
    """
    import numpy as np
    import pydicom
    from pydicom import uid

    def write(path: pathlib.Path, image: np.ndarray, **attributes: object) -> pathlib.Path:
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        dataset.Rows, dataset.Columns = image.shape
        dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
        dataset.BitsAllocated = dataset.BitsStored = 8 * image.itemsize
        dataset.HighBit = dataset.BitsStored - 1
        dataset.PixelData = image.tobytes()
        dataset["PixelData"].VR = "OB" if image.itemsize == 1 else "OW"
        defaults = {
            "SOPClassUID": uid.DigitalXRayImageStorageForPresentation,
            "SOPInstanceUID": uid.generate_uid(entropy_srcs=[path.name, "image"]),
            "StudyInstanceUID": uid.generate_uid(entropy_srcs=[path.name, "study"]),
            "SeriesInstanceUID": uid.generate_uid(entropy_srcs=[path.name, "series"]),
            "PhotometricInterpretation": "MONOCHROME2",
            "Modality": "DX",
            "BodyPartExamined": "CHEST",
            "ViewPosition": "PA",
            "PatientID": "patient-1",
            "PatientName": "Doe^Jane",
        }
        for keyword, value in (defaults | attributes).items():
            if value is not None:
                setattr(dataset, keyword, value)
        dataset.save_as(path, enforce_file_format=True)
        return path

    return write
