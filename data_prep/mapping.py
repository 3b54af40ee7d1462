"""Whose image is it: the challenge's official mapping from its ids to NIH ChestX-ray14."""

import hashlib
import json
import sys
import urllib.request
from pathlib import Path

from data_prep.cli import UserError

NAME = "pneumonia-challenge-dataset-mappings_2018.json"
URL = f"https://s3.amazonaws.com/east1.public.rsna.org/AI/2018/{NAME}"
SHA256 = "803ce79e3bc9c66d3631738e91e62e1175730e98ad1415e8dc4d6292ba10bf27"
SYNTHETIC_MARK = "SYNTHETIC.json"  # beside a mapping that data_prep.synthetic made


def read_mapping(path: Path) -> dict[str, str]:
    """image id -> real patient, the first eight digits of the NIH file's name.

    An id that the file gives to two patients maps to "", so that it is refused and not guessed.

    Raises:
      UserError: the file is missing, empty or not such a mapping.
    """
    try:
        patients: dict[str, str] = {}
        for entry in json.loads(path.read_bytes()):
            image_id, patient = str(entry["subset_img_id"]), str(entry["img_id"]).split("_")[0]
            if patients.setdefault(image_id, patient) != patient:
                patients[image_id] = ""
    except OSError as error:
        raise UserError(
            f"cannot read the mapping {path} ({error.strerror}); give its file or 'download'"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not the challenge's mapping, a JSON list of objects with img_id and "
            f"subset_img_id; get it from {URL} or give --mapping=download"
        ) from error
    if not patients:
        raise UserError(f"{path} maps no image to a patient; give the challenge's mapping")
    return patients


def find_mapping(argument: str, data_dir: str) -> Path:
    """The file that `--mapping` names; "download" gets the official one, once, into `data_dir`.

    Warns on stderr about a file that is not the official one, unless it is of synthetic images.

    Raises:
      UserError: no such file, or it cannot be downloaded.
    """
    path = Path(argument)
    if argument == "download":
        path = Path(data_dir) / "downloads" / NAME
        if not path.exists():
            _download(path)
    if not path.is_file():
        raise UserError(f"--mapping={path} is no file; give the mapping's file or 'download'")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256 and not (path.parent / SYNTHETIC_MARK).exists():
        print(
            f"warning: {path} is not the official mapping (its SHA-256 is {found[:12]}..., not "
            f"{SHA256[:12]}...): who counts as one patient, and so the splits, rests on this file "
            "and may differ from what the official one gives.",
            file=sys.stderr,
        )
    return path


def _download(path: Path) -> None:
    try:
        with urllib.request.urlopen(URL, timeout=60) as response:
            data = response.read()
    except OSError as error:
        raise UserError(
            f"cannot download {URL} ({error}); get the file elsewhere and give --mapping=FILE"
        ) from error
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise UserError(f"{URL} gave a file without the official SHA-256; try again later")
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_bytes(data)
    draft.replace(path)
