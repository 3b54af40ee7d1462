"""Public data sets by name: what their official downloads hold, as a source.

The columns are those that the publishers describe; docs/data.md says where, and which set was
prepared from its real files.
"""

import ast
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pandas as pd
from etils import epath

from data_prep.cli import UserError
from data_prep.tables import folders
from data_prep.tables.files import ImageFolder
from data_prep.tables.reading import read_table
from data_prep.tables.source import UNKNOWN, Source

NIH_FINDINGS = (
    *("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia"),
    *("Pneumothorax", "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening"),
    "Hernia",
)
CHEXPERT_FINDINGS = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion"),
    *("Pleural Other", "Fracture"),
)
# Of a report that says nothing of the findings, such as "unchanged".
PADCHEST_UNKNOWN = "unchanged|exclude|suboptimal study"
VINDR_FINDINGS = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis")  # of the whole image
KERMANY_PATIENT = r"(person\d+)|((?:NORMAL2-)?IM-\d+)"
SPLIT = "split"  # a column that is added


class NamedSet(NamedTuple):
    """A source and the files it was read from; the rest is what `plan_records` wants to know."""

    source: Source
    findings: list[str]
    values: list[str]
    files: list[epath.Path]


def read_named_set(name: str, raw: str, labels: Sequence[str], official: bool) -> NamedSet:
    """The public data set in the folder of its official download.

    Args:
      name: one of `READERS`.
      labels: findings by the names of the data set, or "all"; empty for pneumonia.
      official: use its own splits.

    Raises:
      UserError: a table or a column is missing, or the set has no such finding or no own splits.
    """
    return READERS[name](epath.Path(raw), labels or ["pneumonia"], official)


def _nih(raw: epath.Path, labels: Sequence[str], official: bool) -> NamedSet:
    """NIH ChestX-ray14. Its patients are those of the RSNA challenge, in the same 8 digits."""
    folder = ImageFolder(raw)
    if not any(name.endswith(".png") for name in folder.names):
        raise UserError(
            f"{raw} holds no .png; unpack the archives: "
            f"for f in {raw}/images_*.tar.gz; do tar -xzf $f -C {raw}; done"
        )
    path = _one_file(raw, "Data_Entry_2017*.csv")
    # The newer table has Sex for Gender.
    rows = _table(path, ("Image Index", "Finding Labels", "Patient ID", "Patient Age"))
    rows["Patient ID"] = rows["Patient ID"].str.zfill(8)
    files = [path]
    if official:
        lists = {"train": raw / "train_val_list.txt", "test": raw / "test_list.txt"}
        split_of = {image: split for split, file in lists.items() for image in _lines(file)}
        rows[SPLIT] = rows["Image Index"].map(split_of).fillna("")
        files += lists.values()
    values = _chosen(labels, NIH_FINDINGS)
    return NamedSet(
        Source(
            name="nih",
            rows=rows,
            folder=folder,
            image="Image Index",
            patient="Patient ID",
            namespace="nih",
            labels=("Finding Labels",),
            split=SPLIT if official else "",
            view=_present(rows, "View Position"),
            sex=_present(rows, "Patient Gender", "Patient Sex"),
            age="Patient Age",
            # The name in the file, "OriginalImagePixelSpacing[x,y]", is split at its comma.
            spacing=_present(rows, "OriginalImagePixelSpacing[x"),
        ),
        _names(values),
        values,
        files,
    )


def _kermany(raw: epath.Path, labels: Sequence[str], official: bool) -> NamedSet:
    """Kermany et al. 2018. A person of the same number in train and test is taken for one."""
    values = _chosen(labels, ("PNEUMONIA",))
    folder = ImageFolder(raw / "chest_xray" if (raw / "chest_xray").is_dir() else raw)
    rows = folders.read_folders(folder, KERMANY_PATIENT)
    if official and not any(rows[folders.SPLIT]):
        raise UserError(f"{folder.root} has no folders train and test; leave --split=official out")
    return NamedSet(
        Source(
            name="kermany",
            rows=rows,
            folder=folder,
            image=folders.IMAGE,
            patient=folders.PATIENT,
            namespace="kermany",
            labels=(folders.CLASS,),
            split=folders.SPLIT if official else "",
            detailed_class=folders.CLASS,
        ),
        _names(values),
        values,
        [],
    )


def _chexpert(raw: epath.Path, labels: Sequence[str], official: bool) -> NamedSet:
    """The training images of CheXpert, frontal. Uncertain (-1) and unmentioned are not labelled."""
    _refuse_official(official, "CheXpert")
    columns = _chosen(labels, CHEXPERT_FINDINGS)
    path = raw / "train.csv"
    rows = _table(path, ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *columns))
    # The paths begin with the name of the download's folder, which is `raw`.
    rows["Path"] = rows["Path"].str.replace(r"^CheXpert-v[^/]*/", "", regex=True)
    rows["patient"] = rows["Path"].str.extract(r"(patient\d+)", expand=False).fillna("")
    known = rows[columns].isin(["0", "1", "0.0", "1.0"]).any(axis=1)
    rows["labelled"] = known.map({True: "yes", False: "no"})
    return NamedSet(
        Source(
            name="chexpert",
            rows=rows,
            folder=ImageFolder(raw),
            image="Path",
            patient="patient",
            namespace="chexpert",
            labels=tuple(columns),
            where=(("Frontal/Lateral", "Frontal"), ("labelled", "yes")),
            view="AP/PA",
            sex="Sex",
            age="Age",
        ),
        _names(columns),
        [],
        [path],
    )


def _padchest(raw: epath.Path, labels: Sequence[str], official: bool) -> NamedSet:
    """PadChest, frontal. PNGs made from MONOCHROME1 files are left out: they are inverted."""
    _refuse_official(official, "PadChest")
    path = _one_file(raw, "PADCHEST_chest_x_ray_images_labels_160K*.csv")
    photometric = "PhotometricInterpretation_DICOM"
    columns = ("ImageID", "PatientID", "Labels", "Projection", "PatientSex_DICOM", photometric)
    rows = _table(path, columns)
    rows["Labels"] = rows["Labels"].map(_listed)
    occurring = {one for cell in rows["Labels"] for one in cell.split("|")}
    occurring -= {"", "normal", *PADCHEST_UNKNOWN.split("|")}
    values = _chosen(labels, sorted(occurring))
    return NamedSet(
        Source(
            name="padchest",
            rows=rows,
            folder=ImageFolder(raw),
            image="ImageID",
            patient="PatientID",
            namespace="padchest",
            labels=("Labels",),
            where=(
                ("Projection", "PA|AP|AP_horizontal"),
                (photometric, "MONOCHROME2"),
                ("Labels", rf"(?!.*\b({PADCHEST_UNKNOWN})\b).+"),
            ),
            view="Projection",
            sex="PatientSex_DICOM",
        ),
        _names(values),
        values,
        [path],
    )


def _vindr(raw: epath.Path, labels: Sequence[str], official: bool) -> NamedSet:
    """VinDr-CXR. Of an image's readers the majority decides; the patients are not published."""
    columns = _chosen(labels, VINDR_FINDINGS)
    tables, files = [], []
    for split in ("train", "test"):
        path = raw / "annotations" / f"image_labels_{split}.csv"
        votes = _table(path, ("image_id", *columns)).set_index("image_id")[columns]
        try:
            means = votes.astype(float).groupby(level=0).mean()
        except ValueError as error:
            raise UserError(
                f"{path} holds a label that is not a number ({error}); download it again"
            ) from error
        found = (means > 0.5).astype(int).astype(str).reset_index()
        found["image_id"] = f"{split}/" + found["image_id"] + ".dicom"
        tables.append(found.assign(**{SPLIT: split}))
        files.append(path)
    return NamedSet(
        Source(
            name="vindr",
            rows=pd.concat(tables, ignore_index=True),
            folder=ImageFolder(raw),
            image="image_id",
            patient=UNKNOWN,
            namespace="vindr",
            labels=tuple(columns),
            split=SPLIT if official else "",
        ),
        _names(columns),
        [],
        files,
    )


READERS: dict[str, Callable[[epath.Path, Sequence[str], bool], NamedSet]] = {
    "nih": _nih,
    "kermany": _kermany,
    "chexpert": _chexpert,
    "padchest": _padchest,
    "vindr": _vindr,
}


def _chosen(given: Sequence[str], known: Sequence[str]) -> list[str]:
    """The given findings, in whatever case, as the data set spells them."""
    if list(given) == ["all"]:
        return list(known)
    spelled = {name.casefold(): name for name in known}
    for name in given:
        if name.casefold() not in spelled:
            raise UserError(f"--label={name} is none of {', '.join(known)}; give one of them")
    return list(dict.fromkeys(spelled[name.casefold()] for name in given))


def _names(values: Sequence[str]) -> list[str]:
    """In small letters, so that pneumonia is the same finding in every data set."""
    return [value.casefold() for value in values]


def _table(path: epath.Path, columns: Sequence[str]) -> pd.DataFrame:
    if not path.exists():
        raise UserError(f"there is no {path}; --raw must be the folder of the official download")
    rows = read_table(path)
    if missing := [name for name in columns if name not in rows.columns]:
        raise UserError(
            f"{path} has no column {missing[0]!r}, which the published table has; it has "
            f"{', '.join(map(repr, rows.columns))}"
        )
    return rows


def _present(rows: pd.DataFrame, *names: str) -> str:
    """The first of these columns that there is, or ""."""
    return next((name for name in names if name in rows.columns), "")


def _one_file(raw: epath.Path, pattern: str) -> epath.Path:
    found = sorted(raw.glob(pattern), key=str)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise UserError(f"--raw={raw} must hold one file {pattern}, and holds {names}")
    return found[0]


def _lines(path: epath.Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {path} ({error}); --split=official needs it from the download"
        ) from error


def _listed(cell: str) -> str:
    """A list as Python writes it, "['pneumonia', ' cough']", as pneumonia|cough; else ""."""
    if not re.fullmatch(r"\[.*\]", cell, re.DOTALL):
        return ""
    try:
        found = ast.literal_eval(cell)
    except (ValueError, SyntaxError):
        return ""
    return "|".join(str(one).strip() for one in found if str(one).strip())


def _refuse_official(official: bool, name: str) -> None:
    if official:
        raise UserError(f"{name} publishes no split into three parts; leave --split=official out")
