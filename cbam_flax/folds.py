"""Folds: a prepared data set divided anew, so that every image is in the test split of one run.

Of K folds, run k is tested on fold k. A seventh of the rest is its validation split and what is
left its training split, which with five folds is 69 / 11 / 20 %. The images of a patient stay
together, and of a patient who is not known those of one source image. The parts have the same share
of positives, as far as that allows. The division is a function of the ids, the labels and the
patients alone: not of the seed of a run.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sklearn.model_selection

from data_prep.cli import UserError
from data_prep.manifest import by_finding

VALIDATION_PARTS = 7  # of the images outside of the test fold; one of them is for validation
SEED = 0  # of the division; another one would be another division, under the same config


def divide(label: np.ndarray, group: np.ndarray, folds: int, fold: int) -> dict[str, np.ndarray]:
    """Ascending indices of the images in the splits train, validation and test of a fold.

    Args:
        label: (N,) of 0 and 1, or (N, k), of which the images with any finding are the positives.
        group: (N,) names; images with the same one stay together.

    Raises:
        UserError: too few groups of a class.
    """
    positive = (label == 1).reshape(len(label), -1).any(axis=1)
    is_test = _part_of_images(positive, group, folds) == fold
    rest = np.flatnonzero(~is_test)
    is_validation = _part_of_images(positive[rest], group[rest], VALIDATION_PARTS) == 0
    return {
        "train": rest[~is_validation],
        "validation": rest[is_validation],
        "test": np.flatnonzero(is_test),
    }


def _part_of_images(positive: np.ndarray, group: np.ndarray, parts: int) -> np.ndarray:
    """Which of the parts, from 0, each image is in."""
    for wanted in (True, False):
        found = len(np.unique(group[positive == wanted]))
        if found < parts:
            kind = "a positive" if wanted else "a negative"
            raise UserError(
                f"{found} patients, or images of unknown patients, have {kind} image in what is "
                f"to be divided into {parts} parts; lower config.folds or prepare more data"
            )
    divider = sklearn.model_selection.StratifiedGroupKFold(parts, shuffle=True, random_state=SEED)
    part = np.empty(len(group), np.int64)
    for number, (_, chosen) in enumerate(divider.split(positive, positive, group)):
        part[chosen] = number
    return part


def merge(columns: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The columns of several splits one after the other."""
    return {name: np.concatenate([each[name] for each in columns]) for name in columns[0]}


def manifest_of_fold(
    manifest: Mapping[str, Any],
    columns: Mapping[str, np.ndarray],
    divided: Mapping[str, np.ndarray],
    folds: int,
    fold: int,
) -> dict[str, Any]:
    """The manifest with the splits of a fold, and `fold`: which one, and a hash of the whole data.

    A split's `content_sha256` is over the hashes of all prepared splits, the fold, and the ids in
    it, so it changes with any of them.

    Args:
        columns: of all images.
        divided: as `divide` gives it for them.
    """
    prepared = {name: each["content_sha256"] for name, each in manifest["splits"].items()}
    splits = {}
    for name, chosen in divided.items():
        label, patient = columns["label"][chosen], columns["patient_id"][chosen]
        content = [prepared, folds, fold, name, columns["image_id"][chosen].tolist()]
        splits[name] = {
            "images": len(chosen),
            "patients": len(set(patient) - {""}),
            "positive": int((label == 1).reshape(len(label), -1).any(axis=1).sum()),
            "content_sha256": hashlib.sha256(
                json.dumps(content, sort_keys=True).encode()
            ).hexdigest(),
        } | by_finding(label)
    whole = hashlib.sha256(json.dumps(prepared, sort_keys=True).encode()).hexdigest()
    of_fold = {"fold": fold, "folds": folds, "prepared_sha256": whole}
    return {**manifest, "splits": splits, "fold": of_fold}


def division(data: Mapping[str, Any]) -> str:
    """How the splits were made, in words.

    Args:
        data: of the manifest `split_scheme` and, for a fold, `fold`.
    """
    if "fold" not in data:
        return f"split by {data['split_scheme']}"
    return (
        f"fold {data['fold']['fold']} of {data['fold']['folds']}, counted from 0, divided by "
        f"patient, or by image where the patient is unknown"
    )


class Rows:
    """Chosen rows of several memory maps as one read-only array, of which only parts are read.

    It has what users of `Split.images` need: the shape, the type, the length, and an index whose
    first element is a number, a slice or an array, as of a numpy array.
    """

    def __init__(self, arrays: Sequence[np.ndarray], rows: np.ndarray) -> None:
        """`rows` count through the arrays, one after the other."""
        self._arrays, self._rows = arrays, rows
        self._ends = list(itertools.accumulate(map(len, arrays)))
        self.shape = (len(rows), *arrays[0].shape[1:])
        self.dtype = arrays[0].dtype

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> np.ndarray:
        first, *rest = index if isinstance(index, tuple) else (index,)
        chosen = np.asarray(self._rows[first])
        flat = chosen.ravel()
        source = np.searchsorted(self._ends, flat, side="right")
        found = np.empty((len(flat), *self.shape[1:]), self.dtype)[(slice(None), *rest)]
        for number, array in enumerate(self._arrays):
            here = source == number
            start = self._ends[number] - len(array)
            found[here] = array[(flat[here] - start, *rest)]
        return found.reshape(*chosen.shape, *found.shape[1:])
