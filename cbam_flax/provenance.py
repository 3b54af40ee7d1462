"""Fingerprints of the code, a config and a model's variables, to trace results."""

import hashlib
import importlib.metadata
import json
import pathlib
import subprocess
from typing import Any

import jax
import numpy as np

from cbam_flax.version import __version__

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = ("jax", "flax", "jax2onnx", "onnx", "tensorflow-cpu", "tensorflow", "numpy")


def variables_sha256(variables: dict[str, Any]) -> str:
    """One hash over the names, shapes and values of all arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def code_fingerprint() -> dict[str, Any]:
    """Version, hash of both packages' sources, the git commit in a checkout, package versions."""
    digest = hashlib.sha256()
    for package in ("cbam_flax", "data_prep"):
        for path in sorted((ROOT / package).rglob("*.py")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "version": __version__,
        "sha256": digest.hexdigest(),
        "commit": _git_commit(),
        "packages": versions,
    }


def _git_commit() -> str | None:
    if not (ROOT / ".git").exists():  # installed, perhaps into a folder of another repository
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return None
    return described.stdout.strip() or None


def sha256_of_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
