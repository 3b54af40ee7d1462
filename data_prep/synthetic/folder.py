"""Writes phantom chest radiographs as the folder of the RSNA Pneumonia Detection Challenge (2018).

`stage_2_train_images/<id>.dcm` with the headers of the challenge, the two CSV files with a row per
box, and the mapping that says which images are of one patient. No file holds data of a person, and
each says "SYNTHETIC" in its header.
"""

import csv
import functools
import itertools
import json
import multiprocessing
import pathlib
from concurrent.futures import ProcessPoolExecutor

from data_prep.cli import UserError, progress
from data_prep.files import folders
from data_prep.files.text_files import read_json
from data_prep.synthetic.dicom_file import uids_of, write_radiograph
from data_prep.synthetic.phantom import Box
from data_prep.synthetic.planning import Plan, plans

MAPPING_FILE = "pneumonia-challenge-dataset-mappings_2018.json"
_MARK = "SYNTHETIC.json"  # says what made the folder, so that a finished one is not made again
_VERSION = 1  # of the drawing; raise it when the same seed gives other files

_NIH_NAMES = {
    "large heart": "Cardiomegaly",
    "nodule": "Nodule",
    "effusion": "Effusion",
    "atelectasis": "Atelectasis",
}


def write(out: pathlib.Path, images: int, seed: int = 0, workers: int = 1) -> None:
    """Writes `images` images and their tables into the empty or new folder `out`.

    The files depend on `seed` alone, and the first n of them are the same for every `images` >= n.
    A folder that the same call has written before is left as it is; one where a call was killed is
    finished.

    Raises:
      UserError: `out` holds something else, or a number makes no sense.
    """
    if images < 1 or seed < 0 or workers < 1:
        raise UserError("--images and --workers must be at least 1, and --seed at least 0")
    made_by = {
        "made_by": "data_prep.synthetic",
        "version": _VERSION,
        "images": images,
        "seed": seed,
    }
    mark, mend = out / _MARK, "give --out a new folder"
    if out.is_dir() and any(out.iterdir()) and not folders.is_unfinished(out):
        if mark.is_file() and read_json(mark, mend) == made_by:
            print(f"{out} is already there, made by the same call")
            return
        raise UserError(f"{out} is not empty: {mend}, or delete that one first")

    chosen = list(itertools.islice(plans(seed), images))
    with folders.writing(out, "data_prep.synthetic", index=_MARK) as folder:
        (folder / "stage_2_train_images").mkdir()
        draw = functools.partial(write_radiograph, folder / "stage_2_train_images", seed)
        shown = functools.partial(progress, what="drawing radiographs", total=images)
        if workers == 1:
            boxes = list(shown(map(draw, chosen)))
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(workers, images), mp_context=context) as pool:
                boxes = list(shown(pool.map(draw, chosen, chunksize=4)))
        _write_tables(folder, chosen, boxes)
        _write_mapping(folder / MAPPING_FILE, chosen, seed)
        (folder / _MARK).write_text(json.dumps(made_by, indent=1) + "\n")
    patients, positive = len({plan.patient for plan in chosen}), sum(map(bool, boxes))
    print(
        f"{out}: {images} synthetic radiographs of {patients} patients, {positive} with opacities"
    )


def _write_tables(folder: pathlib.Path, chosen: list[Plan], boxes: list[list[Box]]) -> None:
    """The two CSV files: a row per box, or one row for an image that has none."""
    labels: list[tuple] = [("patientId", "x", "y", "width", "height", "Target")]
    classes = [("patientId", "class")]
    for plan, its_boxes in zip(chosen, boxes, strict=True):
        rows: list[tuple] = [(*map(float, box), 1) for box in its_boxes] or [("", "", "", "", 0)]
        labels += [(plan.image_id, *row) for row in rows]
        classes += [(plan.image_id, plan.detailed_class)] * len(rows)
    for name, table in (("train_labels", labels), ("detailed_class_info", classes)):
        with (folder / f"stage_2_{name}.csv").open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table)


def _write_mapping(path: pathlib.Path, chosen: list[Plan], seed: int) -> None:
    """The official schema; the first eight digits of `img_id` are the patient."""
    entries = []
    for plan in chosen:
        names = [_NIH_NAMES[finding] for finding in plan.findings if finding in _NIH_NAMES]
        names += ["Consolidation"] if plan.opacities else []
        entries.append(
            {
                "subset_img_id": plan.image_id,
                "img_id": f"{plan.patient + 1:08d}_{plan.follow_up:03d}.png",
                "subset_group": "stage_2_train",
                "orig_labels": names or ["No Finding"],
                **uids_of(plan, seed),
            }
        )
    path.write_text(json.dumps(entries, indent=1) + "\n")
