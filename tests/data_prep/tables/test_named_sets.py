"""Small folders in the layout of the official downloads, with the published columns."""

import json
import pathlib

import cv2
import numpy as np
import pytest

from data_prep import prepare
from data_prep.cli import UserError
from data_prep.manifest import NOT_LABELLED
from data_prep.records import assign_split
from data_prep.tables.named_sets import CHEXPERT_FINDINGS, NIH_FINDINGS, READERS, read_named_set
from data_prep.tables.options import NAMED_SETS
from data_prep.tables.plan import plan_records

RNG = np.random.default_rng(0)


def write_image(path: pathlib.Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix if path.suffix != ".dicom" else ".png"
    data = cv2.imencode(suffix, RNG.integers(0, 256, (16, 16), np.uint8))[1]
    path.write_bytes(data.tobytes())


def plan(name, raw, labels=(), official=False):
    """The records by the stem of their file, and the plan."""
    found = read_named_set(name, str(raw), labels, official)
    own_splits = "official" if found.source.split else ""
    made = plan_records([found.source], found.findings, values=found.values, own_splits=own_splits)
    return {pathlib.PurePath(one.image_id).stem: one for one in made.records}, made


def test_the_command_offers_what_can_be_read():
    assert tuple(READERS) == NAMED_SETS


NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
)


@pytest.fixture
def nih(tmp_path):
    lines, lists = [NIH_HEADER], {"test_list.txt": [], "train_val_list.txt": []}
    for patient in range(1, 31):
        for number in range(2):
            name = f"{patient:08d}_{number:03d}.png"
            write_image(tmp_path / f"images_{1 + patient // 16:03d}" / "images" / name)
            labels = ["No Finding", "Pneumonia|Edema", "Hernia"][patient % 3]
            age = "058Y" if patient == 1 else "414"
            lines.append(f"{name},{labels},{number},{patient},{age},F,PA,2682,2749,0.143,0.143,")
            lists["test_list.txt" if patient > 24 else "train_val_list.txt"].append(name)
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    for name, images in lists.items():
        (tmp_path / name).write_text("\n".join(images) + "\n")
    return tmp_path


def test_nih_patients_are_numbered_as_those_of_the_rsna_challenge(nih):
    records, made = plan("nih", nih)
    assert len(records) == 60
    assert not made.refused
    one = records["00000001_000"]
    assert one.patient_id == "nih:00000001"
    assert (one.view, one.sex, one.age, one.spacing) == ("PA", "F", 58, 0.143)
    assert records["00000002_000"].age is None  # nobody is 414
    assert {records[f"{patient:08d}_001"].split for patient in range(1, 31)} == {
        assign_split(f"{patient:08d}") for patient in range(1, 31)
    }
    assert all(one.split == assign_split(one.patient_id[4:]) for one in records.values())


def test_nih_findings_are_one_several_or_all(nih):
    records, made = plan("nih", nih)
    assert made.findings == ("pneumonia",)  # as in every other data set
    assert [records[f"0000000{patient}_000"].label for patient in (1, 2, 3)] == [1, 0, 0]
    records, made = plan("nih", nih, ["hernia", "Pneumonia"])
    assert made.findings == ("hernia", "pneumonia")
    labels = [records[f"0000000{patient}_000"].label for patient in (1, 2, 3)]
    assert labels == [(0, 1), (1, 0), (0, 0)]
    found = read_named_set("nih", str(nih), ["all"], False)
    assert found.values == list(NIH_FINDINGS)
    with pytest.raises(UserError, match="--label=Flu is none of Atelectasis"):
        plan("nih", nih, ["Flu"])


def test_nih_official_split_takes_validation_from_train_by_patient(nih):
    records, made = plan("nih", nih, official=True)
    assert made.scheme == "official"
    assert not made.patients_in_two_splits
    assert {one.split for one in records.values() if one.patient_id[4:] > "00000024"} == {"test"}
    assert {one.split for one in records.values()} == {"train", "validation", "test"}
    (nih / "test_list.txt").unlink()
    with pytest.raises(UserError, match=r"cannot read .*test_list\.txt"):
        plan("nih", nih, official=True)


def test_nih_in_archives_or_without_its_table(nih):
    table = (nih / "Data_Entry_2017.csv").read_text()
    (nih / "Data_Entry_2017_v2020.csv").write_text(table)
    with pytest.raises(UserError, match=r"one file Data_Entry_2017\*\.csv, and holds Data_Entry"):
        plan("nih", nih)
    (nih / "Data_Entry_2017.csv").unlink()
    # The newer table has this other name, and no comma at the end.
    (nih / "Data_Entry_2017_v2020.csv").write_text(
        table.replace("Gender", "Sex").replace(",\n", "\n")
    )
    assert plan("nih", nih)[0]["00000001_000"].sex == "F"
    (nih / "Data_Entry_2017_v2020.csv").write_text(table.replace("Patient ID", "Patient"))
    with pytest.raises(UserError, match="no column 'Patient ID', which the published table has"):
        plan("nih", nih)
    for path in nih.rglob("*.png"):
        path.unlink()
    (nih / "images_001.tar.gz").write_bytes(b"")
    with pytest.raises(UserError, match=r"unpack the archives: for f in .*tar -xzf"):
        plan("nih", nih)


def test_one_command_prepares_it(nih, tmp_path, monkeypatch, capsys):
    command = ["prepare", "--dataset=nih", f"--raw={nih}", f"--data_dir={tmp_path / 'data'}"]
    command += ["--image_size=28", "--workers=1", "--split=official", "--label=Edema"]
    monkeypatch.setattr("sys.argv", command)
    prepare.main()
    manifest = json.loads((tmp_path / "data/nih/28px-official/1.0.0/manifest.json").read_text())
    assert manifest["findings"] == ["edema"]
    assert sum(split["images"] for split in manifest["splits"].values()) == 60
    assert manifest["splits"]["test"]["patients"] == 6
    assert "--config.dataset=nih/28px-official" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--split=row"], "--split=row is not for --dataset=nih, which has patient and official"),
        (["--split=row", "--dataset=pneumonia_mnist"], "which has official"),
        (["--table=x.csv"], "--table does nothing with --dataset=nih"),
        (["--mapping=m.json"], "--mapping is for --dataset=rsna"),
        (["--raw=b"], "--raw is given 2 times"),
    ],
)
def test_a_flag_of_another_data_set_is_refused(monkeypatch, more, message):
    monkeypatch.setattr("sys.argv", ["prepare", "--dataset=nih", "--raw=a", "--data_dir=d", *more])
    with pytest.raises(UserError, match=message):
        prepare.main()


@pytest.fixture
def kermany(tmp_path):
    for split, first in (("train", 1), ("test", 15)):
        for person in range(first, first + 20):
            folder = tmp_path / "chest_xray" / split
            write_image(folder / "PNEUMONIA" / f"person{person}_virus_{person + 7}.jpeg")
            write_image(folder / "NORMAL" / f"NORMAL2-IM-{person:04d}-0001.jpeg")
            write_image(folder / "NORMAL" / f"IM-{person:04d}-0001-0002.jpeg")
    return tmp_path


def test_kermany_persons_stay_together(kermany):
    records, made = plan("kermany", kermany)
    assert made.findings == ("pneumonia",)
    assert not made.refused
    assert not made.patients_in_two_splits
    patients = {name: one.patient_id for name, one in records.items()}
    assert patients["person3_virus_10"] == "kermany:person3"
    assert patients["NORMAL2-IM-0003-0001"] == "kermany:NORMAL2-IM-0003"
    assert patients["IM-0003-0001-0002"] == "kermany:IM-0003"
    assert {one.label for name, one in records.items() if name.startswith("person")} == {1}
    _, made = plan("kermany", kermany / "chest_xray", official=True)
    # Persons 15 to 20 have a number in both folders, and nobody says that they are others.
    assert "kermany:person15" in made.patients_in_two_splits


@pytest.fixture
def chexpert(tmp_path):
    lines = [",".join(["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT_FINDINGS])]
    for patient in range(1, 41):
        cells = ["", "0.0", "1.0", "-1.0"]
        for view, name in (("Frontal", "view1_frontal"), ("Lateral", "view2_lateral")):
            path = f"train/patient{patient:05d}/study1/{name}.jpg"
            write_image(tmp_path / path)
            labels = [cells[(patient + place) % 4] for place in range(len(CHEXPERT_FINDINGS))]
            row = [f"CheXpert-v1.0-small/{path}", "Female", "68", view, "AP", *labels]
            lines.append(",".join(row))
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_chexpert_uncertain_and_unmentioned_are_not_labelled(chexpert):
    _, made = plan("chexpert", chexpert)
    assert not made.refused
    assert len(made.records) == 20  # frontal, and labelled for pneumonia
    assert all("frontal" in one.image_id for one in made.records)
    first = made.records[0]
    assert (first.sex, first.age, first.view) == ("F", 68, "AP")
    assert first.patient_id == "chexpert:" + first.image_id.split("/")[1]
    _, made = plan("chexpert", chexpert, ["Edema", "pneumonia"])
    labels = {one.label for one in made.records}
    assert labels == {(NOT_LABELLED, 1), (0, NOT_LABELLED), (1, NOT_LABELLED), (NOT_LABELLED, 0)}
    with pytest.raises(UserError, match=r"there is no .*train\.csv; --raw must be"):
        plan("chexpert", chexpert / "train")
    with pytest.raises(UserError, match="CheXpert publishes no split"):
        plan("chexpert", chexpert, official=True)


def test_padchest_is_frontal_and_not_inverted(tmp_path):
    columns = "ImageID,PatientID,Labels,Projection,PatientSex_DICOM,PhotometricInterpretation_DICOM"
    lines = [columns]
    for number in range(40):
        write_image(tmp_path / str(number % 3) / f"{number}.png")
        labels = "\"['pneumonia', ' pleural effusion']\"" if number % 2 else "['normal']"
        projection = "L" if number == 4 else "PA"
        polarity = "MONOCHROME1" if number == 5 else "MONOCHROME2"
        cells = {6: "", 8: "\"['unchanged', 'cardiomegaly']\""}.get(number, labels)
        lines.append(f"{number}.png,{number // 2},{cells},{projection},M,{polarity}")
    (tmp_path / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv").write_text(
        "\n".join(lines) + "\n"
    )
    records, made = plan("padchest", tmp_path, ["Pleural effusion"])
    assert sorted({str(n) for n in range(40)} - records.keys()) == ["4", "5", "6", "8"]
    assert not made.refused
    assert (records["7"].label, records["10"].label) == (1, 0)
    assert records["7"].patient_id == "padchest:3"
    with pytest.raises(
        UserError, match="--label=flu is none of cardiomegaly, pleural effusion, pneumonia"
    ):
        plan("padchest", tmp_path, ["flu"])


def test_vindr_takes_the_majority_and_knows_no_patient(tmp_path):
    (tmp_path / "annotations").mkdir()
    header = "image_id,rad_id,COPD,Lung tumor,Pneumonia,Tuberculosis\n"
    for split, readers in (("train", 3), ("test", 1)):
        text = header
        for number in range(20):
            write_image(tmp_path / split / f"{split}{number}.dicom")
            for reader in range(readers):
                vote = int(reader < number % 4 if readers > 1 else number % 2)
                text += f"{split}{number},R{reader},0,{int(reader == 0)},{vote},1\n"
        (tmp_path / "annotations" / f"image_labels_{split}.csv").write_text(text)
    records, made = plan("vindr", tmp_path)
    assert made.scheme == "image"
    assert {one.patient_id for one in records.values()} == {""}
    assert [records[f"train{number}"].label for number in range(4)] == [0, 0, 1, 1]
    assert [records[f"test{number}"].label for number in range(2)] == [0, 1]
    records, made = plan("vindr", tmp_path, official=True)
    assert {one.split for name, one in records.items() if name.startswith("test")} == {"test"}
