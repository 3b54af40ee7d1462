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
def prepared_findings(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A data_dir with `several/28px`: 3 findings, each a blob, of which a third is not labelled.

    120 / 60 / 60 images, two of each patient. Hernia has no positive image in validation.
    """
    import tensorflow_datasets as tfds
    from etils import epath

    from data_prep import manifest
    from data_prep.features import record_features

    names = ["Effusion", "Mass", "Hernia"]
    centres = [(19, 9), (9, 19), (21, 21)]
    folder = tmp_path_factory.mktemp("several")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:28, :28]
    blobs = [150 * np.exp(-((y - j) ** 2 + (x - i) ** 2) / 12) for j, i in centres]

    def records(split: str, count: int):
        for number in range(count):
            there = rng.random(3) < (0.4, 0.3, 0.0 if split == "validation" else 0.2)
            image = rng.normal(80, 15, (28, 28)) + sum(
                b * t for b, t in zip(blobs, there, strict=True)
            )
            label = np.where(rng.random(3) < 0.33, manifest.NOT_LABELLED, there)
            yield (
                f"{split}-{number:03}",
                {
                    "image": image.clip(0, 255).astype(np.uint8)[..., None],
                    "label": label.astype(np.int8),
                    "detailed_class": "unknown",
                    "boxes": [],
                    "image_id": f"{split}-{number:03}",
                    "patient_id": f"several:{split}-{number // 2}",
                    "view": ("PA", "AP")[number % 3 == 0],
                    "sex": "MF"[number % 2],
                    "age": 20.0 + number % 50,
                    "spacing": 0.14,
                },
            )

    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="several",
        version="1.0.0",
        config="28px",
        features=record_features(28, ["unknown"], names),
        split_datasets={
            split: list(records(split, count))
            for split, count in {"train": 120, "validation": 60, "test": 60}.items()
        },
        data_dir=folder,
    )
    splits = {
        split: manifest.summarise_split(tfds.as_numpy(builder.as_dataset(split=split)))
        for split in builder.info.splits
    }
    manifest.write_manifest(
        epath.Path(builder.data_dir),
        {
            "schema": manifest.SCHEMA,
            "dataset": "several/28px/1.0.0",
            "split_scheme": "patient",
            "findings": names,
            "preprocessing": {
                "image_size": 28,
                "aspect": "letterbox",
                "interpolation": "area",
                "voi": "first",
            },
            "counts": {"inputs": 240, "accepted": 240, "rejected": 0},
            "splits": splits,
            "files": [],
        },
    )
    return folder


@pytest.fixture(scope="session")
def write_dicom():
    """A function that writes H x W uint8 or uint16 as uncompressed DICOM and returns its path.

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


@pytest.fixture(scope="session")
def draw_variables():
    """A function (model, image size) -> variables with which logits and maps differ between images.

    Drawn by numpy, because compiling the model's initialisers takes longer than most tests.
    """
    import jax
    import numpy as np

    def draw(model, image_size: int):
        images = jax.ShapeDtypeStruct((1, image_size, image_size, 1), np.float32)
        shapes = jax.eval_shape(model.init, {"params": jax.random.key(0)}, images)
        rng = np.random.default_rng(1)

        def draw_one(path: tuple, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
            kind = path[-1].key
            if kind in ("scale", "var"):
                return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
            spread = 1.4 / np.sqrt(np.prod(leaf.shape[:-1])) if kind == "kernel" else 0.1
            return rng.normal(0, spread, leaf.shape).astype(leaf.dtype)

        return jax.tree_util.tree_map_with_path(draw_one, shapes)

    return draw


@pytest.fixture(scope="session")
def write_toy_bundle():
    """A function (folder, infer, size, labels) that makes a bundle of the JAX artefact alone.

    Args of `infer` and its returns are those of an artefact's function.
    """
    import json

    from cbam_flax.export import artefacts
    from cbam_flax.export.run_record import SCOPE
    from cbam_flax.predict import bundle

    def write(folder: pathlib.Path, infer, size: int, labels: list[str]) -> pathlib.Path:
        folder.mkdir(exist_ok=True)
        artefacts.write_stablehlo(folder / "model.stablehlo", infer, size)
        description = {
            "schema": bundle.SCHEMA,
            "labels": labels,
            "input": {"shape": ["batch", size, size, 1], "dtype": "float32", "range": [0, 1]},
            "outputs": {"probability": {}, "attention": {}},
            "preprocessing": {
                "image_size": size,
                "aspect": "letterbox",
                "interpolation": "area",
                "voi": "first",
            },
            "operating_point": {"threshold": 0.5, "criterion": "fixed"},
            "calibration": {"scale": 1.0, "bias": 0.0},
            "scope": SCOPE,
            "files": bundle.describe_files(folder),
            "fingerprints": {
                "checkpoint": {"step": 1, "sha256": "0" * 64},
                "config": {},
                "data": {},
                "code": {},
            },
        }
        description["sha256"] = bundle.content_sha256(description)
        (folder / "bundle.json").write_text(json.dumps(description))
        return folder

    return write
