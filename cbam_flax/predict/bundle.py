"""The inference bundle: reading and checking bundle.json and the files that it lists."""

import hashlib
import json
import pathlib
from typing import Any

from data_prep.cli import UserError

SCHEMA = 1
ARTEFACTS = {"jax": "model.stablehlo", "onnx": "model.onnx", "tensorflow": "saved_model"}

# What a reader of schema 1 may rely on; `None` is a value that it takes as it is.
_REQUIRED: dict[str, tuple[str, ...]] = {
    "labels": (),
    "input": ("shape", "dtype", "range"),
    "outputs": ("probability", "attention"),
    "preprocessing": ("image_size", "aspect", "interpolation", "voi"),
    "operating_point": ("threshold", "criterion"),
    "calibration": ("scale", "bias"),
    "scope": ("modalities", "body_parts", "views"),
    "files": (),
    "fingerprints": ("checkpoint", "config", "data", "code"),
}


def read_bundle(folder: pathlib.Path) -> dict[str, Any]:
    """Reads and checks `bundle.json`; the artefacts themselves are not touched.

    Raises:
        UserError: the folder is no bundle, or one of another schema version.
    """
    path = folder / "bundle.json"
    if not folder.exists():
        raise UserError(f"the bundle {folder} does not exist; make one with cbam_flax.export")
    if not path.is_file():
        raise UserError(f"{folder} is not a bundle: it has no bundle.json; see cbam_flax.export")
    try:
        bundle = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); export the bundle again") from error
    schema = bundle.get("schema") if isinstance(bundle, dict) else None
    if not isinstance(schema, int):
        raise UserError(f"{path} has no schema version, so it is not the bundle.json of a bundle")
    if schema > SCHEMA:
        raise UserError(
            f"{path} has schema {schema} and this program reads schema {SCHEMA}: it was written by "
            f"a newer version; update this program, or export again with this one"
        )
    if schema < SCHEMA:
        raise UserError(
            f"{path} has schema {schema} and this program reads schema {SCHEMA}: it was written by "
            f"an older version; export it again from its run"
        )
    for section, keys in _REQUIRED.items():
        missing = [f"{section}.{key}" for key in keys if key not in bundle.get(section, {})]
        if section not in bundle or missing:
            name = missing[0] if missing else section
            raise UserError(f"{path} lacks {name}; it is damaged, export the bundle again")
    return bundle


def artefact_path(folder: pathlib.Path, bundle: dict[str, Any], runtime: str) -> pathlib.Path:
    """The file of one runtime, after its SHA-256 was compared with bundle.json.

    Raises:
        UserError: the file is absent, or is not the one that was exported.
    """
    name = ARTEFACTS[runtime]
    path = folder / name
    if not path.is_file():
        raise UserError(f"the bundle {folder} has no {name}; export it again or copy it whole")
    if sha256(path) != bundle["files"].get(name, {}).get("sha256"):
        raise UserError(f"{path} is not the file that was exported; copy the bundle again")
    return path


def describe_files(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Bytes and SHA-256 of every file in the folder, by its path relative to the folder."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
