"""What bundle.json must say: every value that a reader relies on, in one table."""

import pathlib
import re
import reprlib
import sys
from collections.abc import Callable
from typing import Any

from data_prep.resize import ASPECTS, INTERPOLATIONS

SIZES = range(8, 4097)  # pixels of an image's side


def fault(bundle: dict[str, Any]) -> str | None:
    """The first value that is missing or wrong, such as "labels is [], not ..."; None if none is.

    The values need only be what `json` may give; none raises an error here.
    """
    if "findings" in bundle:
        return _fault_of_several(bundle)
    for key, (wanted, holds) in RULES.items():
        value: Any = bundle
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return f"{key} is missing"
            value = value[part]
        if not holds(value):
            return f"{key} is {reprlib.repr(value)}, not {wanted}"
    for key, (wanted, holds) in OPTIONAL.items():
        if not holds(value := _optional(bundle, key)):
            return f"{key} is {reprlib.repr(value)}, not {wanted}"
    for name, entry in bundle["files"].items():
        if not _is_file(name, entry):
            return (
                f"files[{reprlib.repr(name)}] is {reprlib.repr(entry)}, not a relative path with "
                f"the file's bytes and sha256"
            )
    size, shape = bundle["preprocessing"]["image_size"], bundle["input"]["shape"]
    if shape[1] != size:
        return f"input.shape is {shape}, which does not fit the image_size {size}"
    prepared = _optional(bundle, "preprocessing.prepared_size")
    if prepared is not None and prepared < size:
        return f"preprocessing.prepared_size is {prepared}, not at least the image_size {size}"
    return None


def _optional(bundle: dict[str, Any], key: str) -> Any:
    """The value of `key` or of `group.key`, whose group is there; None if it is missing."""
    *group, last = key.split(".")
    return (bundle[group[0]] if group else bundle).get(last)


def _fault_of_several(bundle: dict[str, Any]) -> str | None:
    """The first fault of a bundle of several findings: of each one as if it were alone."""
    names = bundle["findings"]
    if not _are_texts(names) or not len(set(names)) == len(names) > 1:
        return f"findings is {reprlib.repr(names)}, not a list of several different names"
    rest = {key: value for key, value in bundle.items() if key != "findings"}
    for name in names:
        one = rest | {"labels": [f"no {name}", name]}
        for key in ("calibration", "operating_point"):
            by_finding = bundle.get(key)
            if not isinstance(by_finding, dict) or name not in by_finding:
                return f"{key} of {reprlib.repr(name)} is missing"
            one[key] = by_finding[name]
        if found := fault(one):
            return f"{found}, for {reprlib.repr(name)}"
    return None


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _between(low: float, high: float) -> Callable[[Any], bool]:
    """NaN compares false; whole numbers of any size compare exactly."""
    return lambda value: (_is_whole(value) or isinstance(value, float)) and low <= value <= high


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and value.strip() != ""


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_pair(value: Any) -> bool:
    return _are_texts(value) and len(value) == 2 and value[0] != value[1]


def _is_input_shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(map(_is_whole, value[1:]))
        and value == ["batch", value[1], value[1], 1]
    )


def _is_grey_range(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(name), dict) and _between(0, 256)(value[name].get("minimum"))
        for name in ("levels", "spread")
    )


def _is_ensemble(value: Any) -> bool:
    members = value.get("members") if isinstance(value, dict) else None
    return (
        isinstance(members, list)
        and len(members) > 1
        and value.get("combine") in ("logit", "probability")
        and all(
            isinstance(member, dict)
            and _is_sha256(member.get("weights_sha256"))
            and _is_whole(member.get("step"))
            and _is_whole(member.get("seed"))
            for member in members
        )
    )


def _is_saliency(value: Any) -> bool:
    methods = ("gate", "grad_cam", "occlusion")
    pointing = value.get("pointing") if isinstance(value, dict) else None
    if not isinstance(pointing, dict) or value.get("method") not in methods:
        return False
    share = _between(0, 1)
    return all(
        method in methods
        and isinstance(figure, dict)
        and all(share(figure.get(key)) for key in ("value", "low", "high"))
        and _is_whole(value.get("images"))
        for method, figure in pointing.items()
    )


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_file(name: str, entry: Any) -> bool:
    path = pathlib.PurePosixPath(name)
    is_inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    return (
        is_inside
        and _is_text(name)
        and name == str(path)
        and "\\" not in name
        and isinstance(entry, dict)
        and _is_whole(entry.get("bytes"))
        and entry["bytes"] >= 0
        and _is_sha256(entry.get("sha256"))
    )


def _one_of(*names: str) -> tuple[str, Callable[[Any], bool]]:
    return " or ".join(names), lambda value: value in names


_LARGEST = sys.float_info.max
_MAPPING = ("a mapping", _is_mapping)
_TEXTS = ("a list of words", _are_texts)
_SIZE = (
    f"a whole number from {SIZES[0]} to {SIZES[-1]}",
    lambda value: _is_whole(value) and value in SIZES,
)
_SHA256 = ("a SHA-256 in hexadecimal digits", _is_sha256)

# Key -> what its value must be, in words and as a function.
RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "labels": ("two different names, the negative one first", _is_pair),
    "input.shape": ('["batch", S, S, 1]', _is_input_shape),
    "input.dtype": _one_of("float32"),
    "input.range": ("[0, 1]", lambda value: repr(value) == "[0, 1]"),  # == takes [false, true]
    "outputs.probability": _MAPPING,
    "outputs.attention": _MAPPING,
    "preprocessing.image_size": _SIZE,
    "preprocessing.aspect": _one_of(*ASPECTS),
    "preprocessing.interpolation": _one_of(*INTERPOLATIONS),
    "preprocessing.voi": _one_of("first", "none"),
    "operating_point.threshold": ("a number in [0, 1]", _between(0, 1)),
    "operating_point.criterion": (
        "fixed, youden, sensitivity=X or specificity=X",
        lambda value: (
            isinstance(value, str)
            and re.fullmatch(r"fixed|youden|(sensitivity|specificity)=[0-9.]+", value) is not None
        ),
    ),
    "calibration.scale": ("a finite number above 0", _between(sys.float_info.min, _LARGEST)),
    "calibration.bias": ("a finite number", _between(-_LARGEST, _LARGEST)),
    "scope.modalities": _TEXTS,
    "scope.body_parts": _TEXTS,
    "scope.views": _TEXTS,
    "files": _MAPPING,  # and every entry as `_is_file` says
    "fingerprints.checkpoint.step": ("a whole number from 0", lambda v: _is_whole(v) and v >= 0),
    "fingerprints.checkpoint.sha256": _SHA256,
    "fingerprints.config": _MAPPING,
    "fingerprints.data": _MAPPING,
    "fingerprints.code": _MAPPING,
}
# Keys that a bundle of an older version, or of one plain model, lacks.
OPTIONAL: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "warnings": ("a list of texts", lambda value: value is None or _are_texts(value)),
    "grey_range": (
        "the smallest levels and spread of the training images",
        lambda value: value is None or _is_grey_range(value),
    ),
    # Only of a model that was trained on smaller images than were prepared.
    "preprocessing.prepared_size": (
        _SIZE[0],
        lambda value: value is None or _SIZE[1](value),
    ),
    "ensemble": (
        "two or more members, each with weights_sha256, step and seed, and combine",
        lambda value: value is None or _is_ensemble(value),
    ),
    "tta": ("flip", lambda value: value in (None, "flip")),
    "saliency": (
        "a method (gate, grad_cam, occlusion) and the pointing game of each on a number of images",
        lambda value: value is None or _is_saliency(value),
    ),
}
