"""Plans -> records on the disk, in this process."""

import functools
import json

import numpy as np
import pandas as pd
import pytest
import tensorflow_datasets as tfds
from etils import epath

from data_prep import prepare, rsna
from data_prep.preparation import prepare_once
from data_prep.radiographs import Preprocessing
from data_prep.record_builder import RecordConfig
from data_prep.tables.builder import TableBuilder
from data_prep.tables.files import ImageFolder
from data_prep.tables.plan import plan_records
from data_prep.tables.rsna_table import COLUMNS, rows_of
from data_prep.tables.source import Source

# A bare age is what the challenge has.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")


def test_several_findings_and_what_the_table_knows(draw, tmp_path):
    for number in range(40):
        draw(tmp_path / "raw" / f"{number}.png", number)
    rows = pd.DataFrame(
        {
            "image": [f"{number}.png" for number in range(40)],
            "patient": [str(number) for number in range(40)],
            "mass": ["1", "0"] * 20,
            "edema": ["", "1", "0", "0"] * 10,
            "sex": ["F"] * 40,
        }
    )
    folder = ImageFolder(epath.Path(tmp_path / "raw"))
    source = Source("t", rows, folder, "image", "patient", "x", ("mass", "edema"), sex="sex")
    plan = plan_records([source], ["mass", "edema"])
    config = RecordConfig.of(Preprocessing(32))
    prepare_once(
        functools.partial(TableBuilder, name="mine", plan=plan, config=config),
        tmp_path / "data",
        "mine/32px/1.0.0",
        settings={"split_scheme": plan.scheme, "findings": list(plan.findings)},
        tables=[],
        films=[],
        download_config=tfds.download.DownloadConfig(),
        max_rejected=0,
        overwrite=False,
    )
    manifest = json.loads((tmp_path / "data/mine/32px/1.0.0/manifest.json").read_text())
    splits = manifest["splits"].values()
    assert np.sum([one["positive_by_finding"] for one in splits], axis=0).tolist() == [20, 10]
    assert np.sum([one["labelled_by_finding"] for one in splits], axis=0).tolist() == [40, 30]
    # By its name alone, without the code that wrote it.
    records = tfds.load("mine/32px", data_dir=tmp_path / "data", split="all")
    found = {one["image_id"].decode(): one for one in tfds.as_numpy(records)}
    assert len(found) == 40
    assert found["4.png"]["label"].tolist() == [1, -1]
    assert found["4.png"]["patient_id"] == b"x:4"
    assert found["4.png"]["sex"] == b"F"


def test_the_challenge_as_a_table_makes_the_same_records(rsna_folder):
    patients = {f"film-{i:03d}": f"{i // 2:08d}" for i in range(39)}  # one has no patient
    rows, left_out = rows_of(epath.Path(rsna_folder), patients)
    assert left_out == 1
    source = Source(
        "rsna",
        pd.DataFrame(rows, columns=COLUMNS).astype(str),
        ImageFolder(epath.Path(rsna_folder / "stage_2_train_images")),
        "image",
        "patient",
        "nih",
        ("target",),
        detailed_class="class",
        boxes=("x", "y", "width", "height"),
    )
    plan = plan_records([source], ["pneumonia"])
    expected, _ = rsna.plan_records(epath.Path(rsna_folder), patients, "patient")
    assert not plan.refused
    for record, theirs in zip(plan.records, expected, strict=True):
        same = ("path", "split", "label", "detailed_class", "boxes")
        assert [getattr(record, name) for name in same] == [getattr(theirs, name) for name in same]
        assert record.patient_id == f"nih:{theirs.patient_id}"


def test_help_names_every_flag(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["prepare", "--help"])
    with pytest.raises(SystemExit):
        prepare.main()
    told = capsys.readouterr().out
    assert "--patient COLUMN" in told
    assert "--patient_from REGEX" in told
