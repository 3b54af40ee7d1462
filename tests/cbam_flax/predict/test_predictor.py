"""The bundle here holds a function so simple that numpy says what must come out."""

import csv
import functools
import json
import os
import pathlib

import cv2
import numpy as np
import pytest

from cbam_flax.predict import Predictor, bundle, reader, runtimes, saliency
from cbam_flax.predict.score_files import Summary, score_files
from data_prep.cli import UserError
from data_prep.dicom import DicomRefusal
from data_prep.files import csv_files, folders

SIZE = 32
RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (SIZE, SIZE), np.uint8) // (i + 1) for i in range(9)]


def expected(image: np.ndarray) -> float:
    return 1 / (1 + np.exp(-(8 * image.mean() / 255 - 2)))


@pytest.fixture(scope="module")
def toy(tmp_path_factory, write_toy_bundle) -> pathlib.Path:
    """Probability = sigmoid(8 * mean - 2); attention = every eighth pixel."""
    import jax

    def infer(images: jax.Array) -> dict[str, jax.Array]:
        # By rows first: sums of a few values round less than one sum of a thousand.
        mean = images.mean(1).mean((1, 2))
        return {
            "probability": jax.nn.sigmoid(8 * mean - 2),
            "attention": images[:, ::8, ::8, 0],
        }

    return write_toy_bundle(
        tmp_path_factory.mktemp("toy") / "bundle", infer, SIZE, ["clear", "pneumonia"]
    )


@pytest.fixture
def radiographs(tmp_path, write_dicom) -> list[pathlib.Path]:
    return [write_dicom(tmp_path / f"image{i}.dcm", image) for i, image in enumerate(IMAGES)]


def read_csv(path: pathlib.Path) -> list[dict[str, str]]:
    return csv_files.read(path, (), "")


def test_arrays_and_paths_alone_and_together(toy, radiographs):
    predictor = Predictor.load(toy)
    probabilities = predictor.predict(radiographs)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, [expected(image) for image in IMAGES], rtol=1e-6)
    mixed = predictor.predict([radiographs[3], IMAGES[4], str(radiographs[5])])
    np.testing.assert_allclose(mixed, probabilities[3:6], rtol=1e-6)
    for single in (radiographs[2], str(radiographs[2]), IMAGES[2]):
        np.testing.assert_allclose(predictor.predict(single), probabilities[2:3], rtol=1e-6)
    assert predictor.predict([]).shape == (0,)
    np.testing.assert_allclose(predictor.predict(IMAGES), probabilities, rtol=1e-6)


@pytest.mark.parametrize(
    "array",
    [np.zeros((9, 32, 32), np.uint8), np.zeros((32, 32, 1), np.uint8), np.zeros((32, 32))],
)
def test_an_array_that_could_be_mistaken_is_refused(toy, array):
    with pytest.raises(ValueError, match="must be H x W uint8 or uint16"):
        Predictor.load(toy).predict(array)


def test_sixteen_bits_and_another_shape_are_fitted_as_for_training(toy):
    image = np.full((128, 64), 257 * 100, np.uint16)
    [probability] = Predictor.load(toy).predict(image)
    # Letterboxed: half of the square is the image, the rest is black.
    assert probability == pytest.approx(1 / (1 + np.exp(-(8 * 100 / 255 / 2 - 2))), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_batch_size_changes_nothing_and_compiles_once(toy, radiographs, batch_size):
    predictor = Predictor.load(toy, batch_size=batch_size)
    function, shapes = predictor._function, set()

    def spy(images: np.ndarray) -> dict[str, np.ndarray]:
        shapes.add(images.shape)
        return function(images)

    predictor._function = spy
    probabilities = predictor.predict(radiographs)
    np.testing.assert_allclose(probabilities, [expected(image) for image in IMAGES], rtol=1e-6)
    assert len(shapes) == 1


def test_an_unusable_file_is_refused_by_name(toy, tmp_path):
    (tmp_path / "page.dcm").write_text("<html>")
    with pytest.raises(DicomRefusal, match="not_dicom"):
        Predictor.load(toy).predict(tmp_path / "page.dcm")


def test_good_radiographs_are_scored_between_bad_ones(toy, radiographs, tmp_path, write_dicom):
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "page.html").write_text("<html>" * 99)
    write_dicom(bad / "flat.dcm", np.zeros((8, 8), np.uint8))
    (bad / "empty.dcm").write_bytes(b"")
    paths = [radiographs[0], bad, *radiographs[1:]]
    sources = reader.find_files(paths)
    out = tmp_path / "out"
    out.mkdir()
    predictor = Predictor.load(toy, batch_size=4)
    summary = score_files(predictor, sources, out, workers=2)
    assert summary == Summary(scored=9, refused=3, without_dicom=0, without_header=0)
    rows = read_csv(out / "predictions.csv")
    assert [row["image_id"] for row in rows] == [f"image{i}" for i in range(9)]
    found = [float(row["probability"]) for row in rows]
    np.testing.assert_allclose(found, [expected(image) for image in IMAGES], rtol=1e-6)
    decisions = ["pneumonia" if expected(image) >= 0.5 else "clear" for image in IMAGES]
    assert set(decisions) == {"pneumonia", "clear"}
    assert [row["decision"] for row in rows] == decisions
    rejected = {pathlib.Path(r["file"]).name: r["code"] for r in read_csv(out / "rejected.csv")}
    assert rejected == {"page.html": "not_dicom", "flat.dcm": "constant", "empty.dcm": "not_dicom"}
    assert sorted(path.name for path in out.iterdir()) == ["predictions.csv", "rejected.csv"]


def test_a_file_without_a_header_is_decided_and_says_so(toy, tmp_path, write_dicom):
    paths = [write_dicom(tmp_path / "a.dcm", IMAGES[0])]
    for suffix in ("png", "tiff"):
        paths.append(tmp_path / f"{suffix}.{suffix}")
        cv2.imwrite(str(paths[-1]), IMAGES[0])
    predictor = Predictor.load(toy)
    summary = score_files(predictor, reader.find_files(paths), tmp_path, workers=0)
    assert summary == Summary(scored=3, refused=0, without_dicom=0, without_header=2)
    rows = read_csv(tmp_path / "predictions.csv")
    assert [row["warnings"] for row in rows] == ["", "NO HEADER", "NO HEADER"]
    assert len({(row["probability"], row["decision"], row["flags"]) for row in rows}) == 1
    assert predictor.predict(paths[1]) == pytest.approx(float(rows[1]["probability"]))


def test_out_of_scope_is_flagged_and_not_decided(toy, tmp_path, write_dicom):
    path = write_dicom(tmp_path / "knee.dcm", IMAGES[0], BodyPartExamined="KNEE", ViewPosition="LL")
    sources = reader.find_files([path])
    score_files(Predictor.load(toy), sources, tmp_path, workers=0)
    [row] = read_csv(tmp_path / "predictions.csv")
    assert row["decision"] == "out of scope"
    assert row["flags"] == "body_part=KNEE;view=LL"
    assert float(row["probability"]) == pytest.approx(expected(IMAGES[0]), rel=1e-6)


def test_what_makes_a_prediction_doubtful_stands_in_its_line(toy, tmp_path, write_dicom):
    drawn = write_dicom(tmp_path / "drawn.dcm", IMAGES[0], SyntheticData="YES")
    taken = write_dicom(tmp_path / "taken.dcm", IMAGES[1])
    predictor = Predictor.load(toy)
    predictor.bundle["warnings"] = ["SMALL: 9 positive images.", "The split was chosen on."]
    score_files(predictor, reader.find_files([drawn, taken]), tmp_path, workers=0)
    rows = read_csv(tmp_path / "predictions.csv")
    assert [row["warnings"] for row in rows] == ["SMALL;SYNTHETIC IMAGE", "SMALL"]
    assert all(row["decision"] != "out of scope" for row in rows)


def test_names_of_any_bytes_and_length_are_written(toy, tmp_path, write_dicom):
    image = write_dicom(tmp_path / "image.dcm", IMAGES[0]).read_bytes()
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"caf\xe9.dcm", b"x" * 251 + b".dcm", b"y" * 255):
        with open(os.path.join(os.fsencode(folder), name), "wb") as file:
            file.write(image)
    sources = reader.find_files([folder])
    out = tmp_path / "out"
    out.mkdir()
    predictor = Predictor.load(toy)
    summary = score_files(predictor, sources, out, workers=0, overlays=True, dicom=False)
    assert summary.scored == 3
    assert len(list((out / "overlays").iterdir())) == 3
    (out / "predictions.csv").read_text(encoding="utf-8")
    paths = {row["path"] for row in read_csv(out / "predictions.csv")}
    assert paths == {str(source.path) for source in sources}


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_what_a_spreadsheet_would_run_is_text(toy, tmp_path, write_dicom):
    image = write_dicom(tmp_path / "=1+1.dcm", IMAGES[0], StudyInstanceUID="@SUM(1)")
    sources = [reader.Source(0, image.stem, image), reader.Source(1, "-1+1", pathlib.Path("-1+1"))]
    score_files(Predictor.load(toy), sources, tmp_path, workers=0)
    for name in ("predictions.csv", "rejected.csv"):
        with (tmp_path / name).open(newline="") as file:
            cells = [cell for row in csv.reader(file) for cell in row]
        assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]
    [row] = read_csv(tmp_path / "predictions.csv")
    assert (row["image_id"], row["study_instance_uid"]) == ("=1+1", "@SUM(1)")
    assert read_csv(tmp_path / "rejected.csv")[0]["file"] == "-1+1"


@pytest.mark.parametrize("name", ["predictions.csv", "overlays/image0.png", "dicom/image0-sr.dcm"])
def test_a_full_disk_is_named_and_leaves_the_older_results(
    toy, radiographs, tmp_path, monkeypatch, name
):
    if name.startswith("dicom"):
        pytest.importorskip("highdicom")
    out = tmp_path / "out"
    writing = functools.partial(folders.writing, out, "predict", index="predictions.csv")
    with writing() as draft:
        (draft / "predictions.csv").write_text("older")
    make_folder = pathlib.Path.mkdir

    def mkdir(folder, *args, **kwargs):  # with the disk full for that one file
        make_folder(folder, *args, **kwargs)
        if folder.name == name.partition("/")[0]:
            (folder.parent / name).symlink_to("/dev/full")

    def predict() -> None:
        with writing() as draft:
            if "/" not in name:
                (draft / name).symlink_to("/dev/full")
            score_files(Predictor.load(toy), sources, draft, workers=0, overlays=True, dicom=True)

    monkeypatch.setattr(pathlib.Path, "mkdir", mkdir)
    sources = reader.find_files(radiographs[:1])
    with pytest.raises(OSError, match=f"No space left on device.*{name}"):
        predict()
    assert {path.name for path in out.iterdir()} == {"predictions.csv", folders.MARKER}
    assert (out / "predictions.csv").read_text() == "older"


def test_the_map_that_is_asked_for_is_drawn_and_none_without_pictures(toy, radiographs, tmp_path):
    predictor, calls = Predictor.load(toy), []
    function = predictor._function

    def counted(images):
        calls.append(len(images))
        return function(images)

    predictor._function = counted
    sources = reader.find_files(radiographs[:2])
    drawn = {}
    for method, overlays, passes in (
        ("occlusion", False, 1),
        ("occlusion", True, saliency.PASSES),
        ("gate", True, 1),
    ):
        calls.clear()
        out = tmp_path / f"{method}{overlays}"
        out.mkdir()
        score_files(predictor, sources, out, workers=0, overlays=overlays, method=method)
        assert calls == [2] * passes
        drawn[method] = [path.read_bytes() for path in sorted(out.glob("overlays/*.png"))]
    assert len(drawn["gate"]) == 2
    assert drawn["gate"] != drawn["occlusion"]


def test_pictures_and_dicom_lie_beside_the_table(toy, radiographs, tmp_path, write_dicom):
    pydicom = pytest.importorskip("pydicom")
    pytest.importorskip("highdicom")
    anonymous = write_dicom(tmp_path / "anonymous.dcm", IMAGES[0], StudyInstanceUID=None)
    sources = reader.find_files([*radiographs[:2], anonymous])
    out = tmp_path / "out"
    out.mkdir()
    summary = score_files(Predictor.load(toy), sources, out, workers=2, overlays=True, dicom=True)
    assert summary.without_dicom == 1
    names = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.[pd]*"))
    assert names == [
        "dicom/image0-sc.dcm",
        "dicom/image0-sr.dcm",
        "dicom/image1-sc.dcm",
        "dicom/image1-sr.dcm",
        "overlays/anonymous.png",
        "overlays/image0.png",
        "overlays/image1.png",
    ]
    report = pydicom.dcmread(out / "dicom" / "image1-sr.dcm")
    assert report.StudyInstanceUID == pydicom.dcmread(radiographs[1]).StudyInstanceUID


def test_a_damaged_bundle_is_refused_before_it_scores(toy, tmp_path):
    for name in ("bundle.json", "model.stablehlo"):
        (tmp_path / name).write_bytes((toy / name).read_bytes())
    with (tmp_path / "model.stablehlo").open("ab") as file:
        file.write(b"more")
    with pytest.raises(UserError, match="is not the file that was exported"):
        Predictor.load(tmp_path)
    with pytest.raises(UserError, match=r"has no model\.onnx"):
        Predictor.load(toy, runtime="onnx")
    with pytest.raises(UserError, match="'torch' is none of auto, jax, onnx"):
        Predictor.load(toy, runtime="torch")


def test_a_bundle_of_the_version_before_scores_the_same(toy, tmp_path, capsys):
    description = json.loads((toy / "bundle.json").read_text())
    del description["sha256"]
    (tmp_path / "bundle.json").write_text(json.dumps(description))
    (tmp_path / "model.stablehlo").symlink_to(toy / "model.stablehlo")
    found = Predictor.load(tmp_path).predict(IMAGES)
    assert capsys.readouterr().err.count("could not be checked") == 1
    np.testing.assert_array_equal(found, Predictor.load(toy).predict(IMAGES))
    assert capsys.readouterr().err == ""


def altered(toy: pathlib.Path, folder: pathlib.Path, **changes: object) -> pathlib.Path:
    """The toy bundle with other values, other files, and hashes that fit them."""
    if not (folder / "model.stablehlo").exists():
        (folder / "model.stablehlo").write_bytes((toy / "model.stablehlo").read_bytes())
    description = json.loads((toy / "bundle.json").read_text()) | changes
    description["files"] = bundle.describe_files(folder)
    description["sha256"] = bundle.content_sha256(description)
    (folder / "bundle.json").write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize("content", [b"", b"no model", b"\0" * 100])
@pytest.mark.parametrize("runtime", ["jax", "onnx"])
def test_an_artefact_that_its_runtime_cannot_load_is_one_sentence(toy, tmp_path, runtime, content):
    (tmp_path / bundle.ARTEFACTS[runtime]).write_bytes(content)
    with pytest.raises(UserError, match=f"^--runtime={runtime} cannot load .*; update") as caught:
        Predictor.load(altered(toy, tmp_path), runtime)
    assert "\n" not in str(caught.value)


def test_a_model_that_its_runtime_cannot_run_is_one_sentence(toy, tmp_path):
    # Another size than the model was exported for.
    preprocessing = {
        "image_size": 64,
        "aspect": "letterbox",
        "interpolation": "area",
        "voi": "first",
    }
    shape = {"shape": ["batch", 64, 64, 1], "dtype": "float32", "range": [0, 1]}
    folder = altered(toy, tmp_path, preprocessing=preprocessing, input=shape)
    with pytest.raises(UserError, match=r"cannot run on this machine \(Shape mismatch") as caught:
        Predictor.load(folder).predict(IMAGES)
    assert "\n" not in str(caught.value)


def test_a_saved_model_that_tensorflow_cannot_load_is_a_fault(tmp_path):
    for content in (None, b"", b"no model"):
        if content is not None:
            (tmp_path / "saved_model.pb").write_bytes(content)
        with pytest.raises(runtimes.Fault):
            runtimes.load_tensorflow(tmp_path)


def test_a_runtime_that_is_not_installed_is_named(toy, monkeypatch):
    def absent(path: pathlib.Path) -> None:
        raise ModuleNotFoundError("No module named 'jax'", name="jax")

    monkeypatch.setitem(runtimes.LOADERS, "jax", absent)
    with pytest.raises(UserError, match="needs the package jax"):
        Predictor.load(toy)
