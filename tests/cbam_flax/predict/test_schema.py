import copy
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cbam_flax.predict import bundle, schema
from data_prep.cli import UserError

WHOLE: dict[str, Any] = {
    "schema": 1,
    "labels": ["no", "yes"],
    "input": {"shape": ["batch", 32, 32, 1], "dtype": "float32", "range": [0, 1]},
    "outputs": {"probability": {"shape": ["batch"]}, "attention": {}},
    "preprocessing": {"image_size": 32, "aspect": "squash", "interpolation": "area", "voi": "none"},
    "operating_point": {"threshold": 0.5, "criterion": "sensitivity=0.95"},
    "calibration": {"scale": 1.5, "bias": -0.25},
    "scope": {"modalities": ["DX"], "body_parts": [], "views": ["PA", "AP"]},
    "files": {
        "model.onnx": {"bytes": 3, "sha256": "0" * 64},
        "saved_model/variables/variables.index": {"bytes": 0, "sha256": "1" * 64},
    },
    "fingerprints": {
        "checkpoint": {"step": 7, "sha256": "2" * 64},
        "config": {},
        "data": {},
        "code": {"packages": {"jax": "0.10.2"}},
    },
    "config": {"optimizer": {"learning_rate": 0.001}},
}
NAN, INF = float("nan"), float("inf")


def put(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy with another value at `key`, such as "calibration.scale"."""
    content = copy.deepcopy(content)
    *parents, last = key.split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return content


def test_a_whole_description_has_no_fault():
    assert schema.fault(WHOLE) is None


def test_of_several_findings_each_needs_its_calibration_and_operating_point():
    several = {key: value for key, value in WHOLE.items() if key != "labels"}
    several["findings"] = ["Mass", "e.g. Hernia"]
    for key in ("calibration", "operating_point"):
        several[key] = {name: dict(WHOLE[key]) for name in several["findings"]}
    assert schema.fault(several) is None
    wrong = copy.deepcopy(several)
    wrong["operating_point"]["e.g. Hernia"]["threshold"] = 2
    assert schema.fault(wrong) == (
        "operating_point.threshold is 2, not a number in [0, 1], for 'e.g. Hernia'"
    )
    del wrong["calibration"]["Mass"]
    assert schema.fault(wrong) == "calibration of 'Mass' is missing"
    for names in ([], ["Mass"], ["Mass", "Mass"], "Mass", None, [1, 2]):
        assert schema.fault(several | {"findings": names}).startswith("findings is ")
    assert schema.fault(several | {"operating_point": None}) == (
        "operating_point of 'Mass' is missing"
    )


MEMBERS = [{"weights_sha256": "3" * 64, "step": 9, "seed": seed} for seed in (0, 1)]


POINTING = {"value": 0.5, "low": 0.25, "high": 1}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("operating_point.threshold", v) for v in (NAN, 1e9, -0.1, "0.5", True, None, 10**400)),
        *(("operating_point.criterion", v) for v in ("", "yuoden", "recall=0.9", 3, [])),
        *(("calibration.scale", v) for v in (0, -1.5, INF, NAN, "1", False, 10**400)),
        *(("calibration.bias", v) for v in (NAN, -INF, [0], 10**400)),
        *(
            ("labels", v)
            for v in ("no", ["no"], ["no", "no"], ["", "yes"], ["a", "b", "c"], [0, 1])
        ),
        *(("preprocessing.image_size", v) for v in (0, -32, 32.0, True, "32", 10**9, [32])),
        *(("preprocessing.prepared_size", v) for v in (16, 31, 64.0, True, "64", 10**9, [64])),
        *(("preprocessing.aspect", v) for v in ("crop", None, ["squash"], {})),
        ("preprocessing.interpolation", "cubic"),
        ("preprocessing.voi", 1),
        *(("input.shape", v) for v in (32, [1, 32, 32, 1], ["batch", 32, 33, 1], ["batch"], [[]])),
        ("input.shape", ["batch", 64, 64, 1]),  # of another image_size
        ("input.dtype", "uint8"),
        *(("input.range", v) for v in ([0, 255], [1, 0], [False, True], "01")),
        *(("outputs", v) for v in ([], {"probability": {}}, "probability, attention")),
        *(("scope.views", v) for v in ("PA", [1], [""], None, {"PA": 1})),
        *(("fingerprints.checkpoint.step", v) for v in (-1, "7", 7.0)),
        ("fingerprints.checkpoint.sha256", "2" * 63),
        *(("ensemble", v) for v in ([], {"combine": "logit"}, {"members": [{}, {}]}, MEMBERS[:1])),
        ("ensemble", {"members": MEMBERS, "combine": "median"}),
        ("ensemble", {"members": [*MEMBERS, {"step": 1}], "combine": "logit"}),
        ("tta", "rotate"),
        *(
            ("saliency", v)
            for v in ([], {}, {"method": "gate"}, {"method": "lime", "pointing": {}})
        ),
        *(
            ("saliency", {"method": "gate", "pointing": pointing, "images": 3})
            for pointing in (None, {"lime": POINTING}, {"gate": {"value": 0.5}}, {"gate": []})
        ),
        ("saliency", {"method": "gate", "pointing": {"gate": POINTING | {"low": -1}}, "images": 3}),
        ("saliency", {"method": "gate", "pointing": {"gate": POINTING}}),
        *(("files", v) for v in ([], "model.onnx", {"model.onnx": None}, {"model.onnx": {}})),
        *(
            ("files", {name: {"bytes": 3, "sha256": "0" * 64}})
            for name in ("/etc/passwd", "../model.onnx", "a//b", "./a", ".", "", "a\\b", "a\0b")
        ),
        ("files", {"model.onnx": {"bytes": -3, "sha256": "0" * 64}}),
        ("files", {"model.onnx": {"bytes": 3, "sha256": "Z" * 64}}),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(key, value):
    fault = schema.fault(put(WHOLE, key, value))
    assert fault is not None
    assert fault.startswith(key)
    assert "not " in fault or "is missing" in fault
    assert len(fault) < 300
    assert "\n" not in fault


def test_a_map_may_be_named_with_and_without_figures():
    for pointing in ({}, {"occlusion": POINTING, "gate": POINTING}):
        found = {"method": "occlusion", "pointing": pointing, "images": 35}
        assert schema.fault(put(WHOLE, "saliency", found)) is None


def test_the_size_that_was_prepared_may_be_said():
    for size in (None, 32, 33, 4096):
        assert schema.fault(put(WHOLE, "preprocessing.prepared_size", size)) is None


def test_every_criterion_of_evaluation_is_known():
    from cbam_flax.evaluate import calibration

    for criterion in ("youden", "sensitivity=0.95", "specificity=.9", "sensitivity=1.0"):
        calibration.parse_criterion(criterion)
        assert schema.fault(put(WHOLE, "operating_point.criterion", criterion)) is None


def key_paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*above, key)
            yield from key_paths(value[key], (*above, key))


# On a busy machine drawing examples can be slow, which is no fault.
MANY = settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
SEALED = WHOLE | {"sha256": bundle.content_sha256(WHOLE)}
PATHS = list(key_paths(SEALED))
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**400, -(10**4000), 2**63]),
    st.floats(),
    st.sampled_from([0.0, 1.0, 1e308, -0.0]),
    st.text(max_size=8),
    st.sampled_from(["yes", "no", "youden", "letterbox", "\ud800", "0" * 64]),
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner)
)
CHANGES = st.tuples(
    st.sampled_from(PATHS), st.sampled_from(["drop", "replace", "wrap", "reorder"]), VALUES
)


def change(content: Any, path: tuple[Any, ...], how: str, value: Any) -> None:
    """Alters `content` at `path`; nothing where an earlier change took the path away."""
    try:
        for key in path[:-1]:
            content = content[key]
        old = content[path[-1]]
        if how == "replace":
            content[path[-1]] = value
        elif how == "wrap":
            content[path[-1]] = [old]
        elif how == "drop" or isinstance(content, list):
            del content[path[-1]]
        else:
            content[path[-1]] = content.pop(path[-1])  # now the last key
    except (KeyError, IndexError, TypeError):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    return tmp_path_factory.mktemp("bundle")


def read(folder: pathlib.Path, text: bytes) -> dict[str, Any] | None:
    """What read_bundle makes of a bundle.json; None where it refuses in one sentence."""
    (folder / "bundle.json").write_bytes(text)
    try:
        return bundle.read_bundle(folder)
    except UserError as error:
        message = str(error)
    assert "bundle.json" in message
    assert "\n" not in message
    return None


def exact(content: dict[str, Any]) -> str:
    """Tells 1 from 1.0 and true, which == does not."""
    return json.dumps(content, sort_keys=True)


@MANY
@given(changes=st.lists(CHANGES, min_size=1, max_size=4), reseal=st.booleans())
@example(changes=[(("labels",), "replace", ["yes", "no"])], reseal=False)
@example(changes=[(("config",), "replace", NAN)], reseal=True)
def test_any_change_is_refused_or_changes_nothing(folder, changes, reseal):
    content = copy.deepcopy(SEALED)
    for path, how, value in changes:
        change(content, path, how, copy.deepcopy(value))
    try:
        json.dumps(content, allow_nan=False)
    except ValueError:  # it is no JSON, even where no hash says that it was altered
        content.pop("sha256", None)
        assert read(folder, json.dumps(content).encode()) is None
        return
    if reseal:
        content["sha256"] = bundle.content_sha256(content)
    found = read(folder, json.dumps(content).encode())
    if found is not None:  # without a hash it is an older bundle, which is read with a warning
        assert exact(found) == exact(content if reseal or "sha256" not in content else SEALED)


@MANY
@given(
    start=st.integers(0, 2000),
    length=st.integers(0, 50),
    new=st.binary(max_size=4) | st.sampled_from([b"NaN", b"1e999", b"[" * 99999, b"9" * 5000]),
)
@example(start=json.dumps(SEALED).index('"sha256": "' + SEALED["sha256"]) + 1, length=0, new=b" ")
def test_any_damage_to_the_text_is_refused_or_changes_nothing(folder, start, length, new):
    text = json.dumps(SEALED).encode()
    start %= len(text)
    text = text[:start] + new + text[start + length :]
    found = read(folder, text)
    if found is not None:
        assert exact(found) == exact(SEALED if "sha256" in found else json.loads(text))
