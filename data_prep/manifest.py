"""manifest.json and rejected.csv: the outcome for every input, and what the records contain."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from data_prep.cli import UserError
from data_prep.files import csv_files
from data_prep.files.text_files import read_json
from data_prep.grey_range import distribution, grey_range

SCHEMA = 1
_NAMES = {"file", "image_id", "message"}  # of a line, which come from the names of files
SYNTHETIC = "synthetic"  # the flag of an image that was drawn
SYNTHETIC_WARNING = (
    "SYNTHETIC: the images are drawings, not radiographs of patients; no figure says anything "
    "about medicine."
)
PNEUMONIA = "pneumonia"  # the finding of a manifest that names none
NOT_LABELLED = -1  # of one of several findings: nobody said whether it is there
# What `summarise_split` finds, and the manifest says of each split.
SPLIT_SUMMARY = {"images": int, "patients": int, "positive": int, "content_sha256": str}


def fingerprint_inputs(
    tables: Sequence[epath.Path], files: Sequence[epath.Path], settings: dict[str, Any]
) -> str:
    """SHA-256 over the bytes of the tables, the names, sizes and times of the files, the settings.

    The images themselves are not read, so that a finished preparation is recognised in a second.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for table in tables:
        digest.update(hashlib.sha256(table.read_bytes()).digest())
    for file in files:
        state = f"{file.name}\0{_size_and_time(file)}\0"
        digest.update(state.encode(errors="surrogateescape"))  # the bytes of the name
    return digest.hexdigest()


def _size_and_time(file: epath.Path) -> str:
    path = os.fspath(file)
    try:
        if "://" in path:
            stat = file.stat()
            return f"{stat.length}\0{stat.mtime}"
        # epath's own needs the name of the owner, which not every owner has.
        local = os.stat(path)
        return f"{local.st_size}\0{int(local.st_mtime)}"
    except OSError as error:  # such as a link to nothing, which is refused when it is read
        return f"unreadable {error.errno}"


def summarise_split(records: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Counts and the content hash of a split, from its records as TFDS decodes them.

    With several findings `positive` counts the images with any of them.

    The hash is over decoded content in the order of image ids: TFRecord bytes differ from run to
    run, and their order is TFDS's own affair.
    """
    digests, greys, labels = {}, [], []
    patients = set()
    for record in records:
        image = record.pop("image")
        rest = {name: _plain(value) for name, value in sorted(record.items())}
        digest = hashlib.sha256(json.dumps([image.shape, rest]).encode())
        digest.update(np.ascontiguousarray(image).tobytes())
        digests[rest["image_id"]] = digest.digest()
        greys.append(grey_range(image))
        patients.add(rest["patient_id"])
        labels.append(rest["label"])
    found = np.array(labels) == 1
    content = b"".join(digests[image_id] for image_id in sorted(digests))
    return {
        "images": len(digests),
        "patients": len(patients - {""}),
        "positive": int(found.reshape(len(labels), -1).any(axis=1).sum()),
        "content_sha256": hashlib.sha256(content).hexdigest(),
        "grey_range": distribution(greys) if greys else None,
    } | by_finding(np.array(labels))


def by_finding(labels: np.ndarray) -> dict[str, list[int]]:
    """Of labels (images, k): how many images have each finding, and are labelled for it."""
    if labels.ndim < 2:
        return {}
    return {
        "positive_by_finding": (labels == 1).sum(axis=0).tolist(),
        "labelled_by_finding": (labels != NOT_LABELLED).sum(axis=0).tolist(),
    }


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else np.asarray(value).tolist()


def count_outcomes(outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many inputs were accepted, rejected and flagged, and why."""
    codes = Counter(outcome["code"] for outcome in outcomes if outcome["status"] == "rejected")
    flags = Counter(flag for outcome in outcomes for flag in outcome.get("flags", ()))
    return {
        "inputs": len(outcomes),
        "accepted": len(outcomes) - codes.total(),
        "rejected": codes.total(),
        "by_code": dict(sorted(codes.items())),
        "flagged": dict(sorted(flags.items())),
    }


def findings(manifest: dict[str, Any]) -> tuple[str, ...]:
    """What the labels are of, in their order; more than one means labels (images, k)."""
    return tuple(manifest.get("findings", (PNEUMONIA,)))


def is_synthetic(manifest: dict[str, Any]) -> bool:
    """Whether any image of the data set was drawn."""
    return manifest["counts"].get("flagged", {}).get(SYNTHETIC, 0) > 0


def outcomes_dir(folder: epath.Path) -> epath.Path:
    """Where the workers of a Beam pipeline leave outcomes until the manifest is written."""
    return folder.parent / f"incomplete.outcomes_{folder.name}"


def read_outcomes(folder: epath.Path) -> list[dict[str, Any]]:
    """What a Beam pipeline left for the records in `folder`."""
    files = sorted(outcomes_dir(folder).glob("*"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def write_manifest(folder: epath.Path, manifest: dict[str, Any]) -> None:
    """Writes rejected.csv, then manifest.json under a temporary name and renames it.

    The manifest is the last thing that a preparation writes: where it exists, the rest is complete.
    """
    columns = ("file", "code", "message")
    refused = [line for line in manifest["files"] if line["status"] == "rejected"]
    rows = ([line[name] for name in columns] for line in refused)
    csv_files.write(folder / "rejected.csv", columns, rows)
    # A file name need not be UTF-8, but JSON is.
    lines = [
        line | {key: csv_files.to_utf8(line[key]) for key in _NAMES & line.keys()}
        for line in manifest["files"]
    ]
    manifest = manifest | {"files": lines}
    draft = folder / "manifest.json.tmp"
    draft.write_text(json.dumps(manifest, indent=1) + "\n")
    draft.replace(folder / "manifest.json")


def read_manifest(folder: epath.Path) -> dict[str, Any]:
    """manifest.json of the records in `folder`.

    Raises:
        UserError: it cannot be read, or lacks something that training, evaluation or export needs.
    """
    path = folder / "manifest.json"
    mend = "put back the right file, or delete its folder and run data_prep.prepare again"
    manifest = read_json(path, mend)
    counts = {"inputs": int, "accepted": int, "rejected": int}
    try:
        _check_kinds(manifest, {"dataset": str, "split_scheme": str})
        _check_kinds(manifest["preprocessing"], {"image_size": int})
        _check_kinds(manifest["counts"], counts)
        for summary in manifest["splits"].values():
            _check_kinds(summary, SPLIT_SUMMARY)
            int(summary["content_sha256"], 16)  # it becomes a part of a path
    except KeyError as error:
        raise UserError(f"{path} has no {error}; {mend}") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path} holds values of a wrong kind ({error}); {mend}") from error
    return manifest


def _check_kinds(values: dict[str, Any], kinds: Mapping[str, type]) -> None:
    """Raises KeyError for what is missing, TypeError for what is of another kind."""
    for name, kind in kinds.items():
        if type(values[name]) is not kind:
            raise TypeError(f"{name} is {values[name]!r}")
