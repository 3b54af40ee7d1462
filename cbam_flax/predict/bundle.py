"""The inference bundle: reading and checking bundle.json and the files that it lists."""

import hashlib
import json
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from cbam_flax.predict import schema, signature
from data_prep.cli import UserError
from data_prep.files.placing import sha256
from data_prep.files.text_files import read_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SCHEMA = 1
ARTEFACTS = {"jax": "model.stablehlo", "onnx": "model.onnx", "tensorflow": "saved_model"}
MEND = "copy the bundle again, or export it again"


def read_bundle(folder: pathlib.Path, key: "Ed25519PublicKey | None" = None) -> dict[str, Any]:
    """Reads and checks `bundle.json`; the artefacts themselves are not touched.

    Args:
        key: the bundle must carry a signature by its private half.

    Raises:
        UserError: the folder is no bundle, one of another schema version, or not as it was
            exported; or it lacks the signature.
    """
    path = folder / "bundle.json"
    if not folder.exists():
        raise UserError(f"the bundle {folder} does not exist; make one with cbam_flax.export")
    if not path.is_file():
        raise UserError(f"{folder} is not a bundle: it has no bundle.json; see cbam_flax.export")
    if key:
        signature.verify(folder, key)
    bundle = read_json(path, MEND)
    version = bundle.get("schema")
    if not isinstance(version, int) or isinstance(version, bool):
        raise UserError(f"{path} has no schema version, so it is not the bundle.json of a bundle")
    if version > SCHEMA:
        raise UserError(
            f"{path} has schema {version} and this program reads schema {SCHEMA}: it was written "
            f"by a newer version; update this program, or export again with this one"
        )
    if version < SCHEMA:
        raise UserError(
            f"{path} has schema {version} and this program reads schema {SCHEMA}: it was written "
            f"by an older version; export it again from its run"
        )
    if fault := schema.fault(bundle):
        raise UserError(f"{path}: {fault}; {MEND}")
    try:
        found = content_sha256(bundle)
    except (ValueError, RecursionError) as error:  # NaN and Infinity, which only Python reads
        raise UserError(
            f"{path} holds a value that JSON does not have ({error}); {MEND}"
        ) from error
    if "sha256" not in bundle:
        print(
            f"warning: {path} has no hash of its own, as in older versions, so whether it was "
            f"altered could not be checked; export it again to have one",
            file=sys.stderr,
        )
    elif bundle["sha256"] != found:
        raise UserError(f"{path} was altered after its export: its sha256 does not fit; {MEND}")
    return bundle


def content_sha256(bundle: dict[str, Any]) -> str:
    """SHA-256 of all that bundle.json says except `sha256` itself, whatever its layout and order.

    Raises:
        ValueError: a number is NaN or infinite.
    """
    content = {key: value for key, value in bundle.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def artefact_path(folder: pathlib.Path, bundle: dict[str, Any], runtime: str) -> pathlib.Path:
    """The file or folder of one runtime, after every file was compared with bundle.json.

    Raises:
        UserError: a file is absent, is not the one that was exported, or was added.
    """
    name = ARTEFACTS[runtime]
    path = folder / name
    expected = {file: entry for file, entry in bundle["files"].items() if _is_part(file, name)}
    if not path.exists() or not expected:
        raise UserError(f"the bundle {folder} has no {name}; export it again or copy it whole")
    for file, entry in expected.items():
        _check_file(folder / file, entry)
    # TensorFlow reads some files only where they are there, so one that was added could matter.
    for inner in sorted(path.rglob("*")):
        is_folder = inner.is_dir() and not inner.is_symlink()
        if not is_folder and inner.relative_to(folder).as_posix() not in expected:
            raise UserError(f"{inner} was not exported with the bundle; remove it")
    return path


def _is_part(file: str, artefact: str) -> bool:
    return file.split("/")[0] == artefact


def _check_file(path: pathlib.Path, entry: dict[str, Any]) -> None:
    if not path.is_file():
        raise UserError(f"{path} is missing or no regular file; copy the bundle again")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise UserError(
            f"{path} is not the file that was exported: it has {size:,} bytes, not "
            f"{entry['bytes']:,}; copy the bundle again"
        )
    if sha256(path) != entry["sha256"]:
        raise UserError(f"{path} is not the file that was exported; copy the bundle again")


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
