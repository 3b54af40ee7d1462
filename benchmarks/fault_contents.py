"""What the outputs of a command say, for benchmarks/faults.py: values that can be compared."""

import hashlib
import json
import pathlib
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.kill import state_hash
from data_prep.files import folders

TURN = threading.Lock()  # of TensorFlow and Orbax in this process


def content(path: pathlib.Path) -> dict[str, str]:
    """What a file or folder says: JSON by value, records by content, checkpoints by their state."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    found: dict[str, str] = {}
    for file in files:
        name = file.relative_to(path).as_posix()
        parts = file.relative_to(path).parts
        # Whose the files are, and how far a call came; the next one clears the draft away.
        if file.name == folders.MARKER or folders.DRAFT in parts:
            continue
        if "tensorboard" in parts or any(part.startswith("decoded-v") for part in parts):
            continue
        if "checkpoints" in parts:
            step = parts[parts.index("checkpoints") + 1]
            if step.isdigit() and f"state of step {step}" not in found:
                found[f"state of step {step}"] = _state(path, int(step))
        elif ".tfrecord-" in name:
            found |= {f"{name} {key}": "" for key in _examples(file)}
        else:
            found |= {f"{name} {key}".strip(): value for key, value in _values(file)}
    # TensorFlow's random number, whose size varies too.
    return {key: value for key, value in found.items() if "fingerprint.pb" not in key}


def _state(workdir: pathlib.Path, step: int) -> str:
    with TURN:
        try:
            return state_hash(workdir, step)
        except (OSError, ValueError, KeyError) as error:
            return f"cannot be read: {error!r}"


def _examples(file: pathlib.Path) -> Iterator[str]:
    """A hash of each record; their order and their bytes differ from run to run."""
    import tensorflow as tf

    with TURN:
        try:
            for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
                features = tf.train.Example.FromString(record).features.feature
                digest = hashlib.sha256()
                for name in sorted(features):
                    digest.update(name.encode() + features[name].SerializeToString())
                yield digest.hexdigest()
        except tf.errors.DataLossError:
            yield "broken"


def _values(file: pathlib.Path) -> Iterator[tuple[str, str]]:
    """The leaves of JSON, the rows of JSON lines by their step, or the hash of other bytes."""
    data = file.read_bytes()
    try:
        if file.suffix == ".jsonl":
            for row in map(json.loads, data.splitlines()):
                yield from ((f"{row['step']} {key}", str(value)) for key, value in row.items())
            return
        if file.suffix == ".json":
            yield from _leaves(json.loads(data))
            return
    except ValueError:
        pass
    yield "", hashlib.sha256(data).hexdigest()


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping | list):  # an empty one says nothing: TFDS leaves one, or none
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, member in items:
            yield from _leaves(member, f"{name}.{key}")
    else:
        yield name, repr(value)
