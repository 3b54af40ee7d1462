"""Folders of classes, `NORMAL/a.jpeg` or `train/NORMAL/a.jpeg`, as a table."""

import re
from pathlib import PurePosixPath

import pandas as pd

from data_prep.cli import UserError
from data_prep.files.csv_files import to_utf8
from data_prep.tables.files import ImageFolder
from data_prep.tables.images import SPLIT_NAMES
from data_prep.tables.labels import is_normal
from data_prep.tables.source import UNKNOWN, compiled

IMAGE, CLASS, PATIENT, SPLIT = "image", "class", "patient", "split"  # columns


def read_folders(folder: ImageFolder, patient_from: str) -> pd.DataFrame:
    """The rows of a table with the four columns above, without hidden files and those of no class.

    Args:
      patient_from: a regular expression that finds the patient in a file's name: the first group
        that matched, or else the whole match; or `UNKNOWN`.

    Raises:
      UserError: no image lies in a class, only some folders are splits, or the expression is
        wrong.
    """
    names = [PurePosixPath(name) for name in folder.names]
    names = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    tops = {name.parts[0] for name in names if len(name.parts) > 1}
    splits = {top for top in tops if top.casefold() in SPLIT_NAMES}
    if splits and splits != tops:
        raise UserError(
            f"{folder.root} holds {', '.join(sorted(splits))}, which are splits, and "
            f"{', '.join(sorted(tops - splits)[:3])}, which are not; move the others away"
        )
    depth = 1 if splits else 0
    names = [name for name in names if len(name.parts) > depth + 1]  # not a README beside folders
    if not names:
        raise UserError(
            f"{folder.root} holds no image in a folder that names its class; --dataset=folders "
            "needs CLASS/image or train/CLASS/image"
        )
    find = compiled("--patient_from", patient_from)
    return pd.DataFrame(
        {
            IMAGE: map(str, names),
            CLASS: [to_utf8(name.parts[depth]) for name in names],
            PATIENT: [to_utf8(_patient(find, name.name)) for name in names],
            SPLIT: [name.parts[0] if splits else "" for name in names],
        },
        dtype=object,
    )


def _patient(find: re.Pattern[str], name: str) -> str:
    found = find.search(name)
    if not found:
        return ""
    return next((group for group in found.groups() if group), found[0])


def positive_class(classes: list[str], given: str) -> str:
    """The class whose images are positive: the given one, or else the one that is not normal.

    Raises:
      UserError: the given class does not occur, or none is given and it is not clear.
    """
    if given:
        if given not in classes:
            raise UserError(
                f"--positive={given} is none of the classes {', '.join(classes)}; give one"
            )
        return given
    found = [name for name in classes if not is_normal(name)]
    if len(classes) != 2 or len(found) != 1:
        raise UserError(
            f"the folders are the classes {', '.join(classes)}; say with --positive which one "
            "means that the finding is there, or with --values=all that each is a finding"
        )
    return found[0]


def patient_column(patient_from: str) -> str:
    return UNKNOWN if patient_from == UNKNOWN else PATIENT
