import functools
import json
import os

import pytest

pytest.importorskip("apache_beam", reason="needs requirements-beam.txt")

import tensorflow_datasets as tfds
from etils import epath

import data_prep.rsna_pneumonia
from data_prep import rsna
from data_prep.beam import parse_options
from data_prep.preparation import prepare_once
from data_prep.radiographs import Preprocessing
from data_prep.record_builder import RecordConfig

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")


def test_beam_gives_the_same_records(rsna_folder, tmp_path):
    (rsna_folder / rsna.IMAGES / "film-000.dcm").write_bytes(b"<html>")
    done = {}
    for way, options in {
        "here": {},
        "beam": {
            "beam_options": parse_options(
                "runner=DirectRunner,direct_num_workers=2,direct_running_mode=multi_processing"
            )
        },
    }.items():
        prepare_once(
            functools.partial(
                data_prep.rsna_pneumonia.Builder,
                config=RecordConfig.of(Preprocessing(32)),
                mapping_file=str(rsna_folder / "mapping.json"),
                use_beam=way == "beam",
            ),
            tmp_path / way,
            "rsna_pneumonia/32px/1.0.0",
            settings={"split_scheme": "patient", "preprocessing": {}},
            tables=[],
            films=rsna.list_images(epath.Path(rsna_folder)),
            download_config=tfds.download.DownloadConfig(manual_dir=rsna_folder, **options),
            max_rejected=0.1,
            overwrite=False,
        )
        variant = tmp_path / way / "rsna_pneumonia" / "32px"
        done[way] = json.loads((variant / "1.0.0" / "manifest.json").read_text())
        assert os.listdir(variant) == ["1.0.0"]
    assert done["beam"] == done["here"]
    assert done["beam"]["counts"]["by_code"] == {"not_dicom": 1}
