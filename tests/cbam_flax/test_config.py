import dataclasses
import json
import math
import pathlib

import pytest
from ml_collections import ConfigDict

from cbam_flax import config as config_lib
from cbam_flax.config import apply_argument, default_config, duration, to_steps
from cbam_flax.config_keys import KEYS, UNITS, Key
from cbam_flax.models import CBAMResNet
from cbam_flax.models.cbam_resnet import SWITCHES
from configs import demo, notebook, pneumoniamnist, rsna
from data_prep.cli import UserError
from docs import list_config


@pytest.mark.parametrize("module", [demo, notebook, pneumoniamnist, rsna])
def test_every_config_passes_its_own_check_and_takes_an_argument(module):
    config = module.get_config("pool=max,attention=none,seed=3")
    config_lib.check(config)
    assert (config.model.pooling, config.model.attention, config.seed) == ("max", "none", 3)


def test_the_model_section_has_every_field_of_the_model_with_its_default_and_choices():
    # A run is trained on grey images, with float32 parameters; the model alone can do more.
    internal = {"stage_ops", "parent", "name", "channels", "param_dtype"}
    fields = {f.name: f.default for f in dataclasses.fields(CBAMResNet) if f.name not in internal}
    section = default_config().model.to_dict()
    assert section.keys() == fields.keys()
    # The config names the dtype as text, and "auto" depends on the platform.
    # 0 findings are as many as the data have, which a model alone does not know.
    other = {"dtype": None, "findings": None}
    assert section | other == fields | other
    for name, choices in SWITCHES.items():
        assert KEYS[f"model.{name}"].allowed == " | ".join(choices)


@pytest.mark.parametrize(
    "argument", ["attention", "nothing=1", "seed=one", "model=3", "=1", "duration=3", "stages=4"]
)
def test_wrong_argument_is_named(argument):
    with pytest.raises(UserError, match=argument):
        apply_argument(default_config(), argument)


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        (duration(steps=7), 7),
        (duration(epochs=2.0), 20),
        (duration(epochs=0.25), 3),  # 2.5, rounded up
        (duration(examples=641), 11),
    ],
)
def test_durations_in_steps(length, steps):
    assert to_steps(length, name="duration", batch_size=64, examples=640) == steps


def test_duration_with_two_units_or_none_is_refused():
    for length in (duration(steps=1, epochs=1.0), duration()):
        with pytest.raises(UserError, match="exactly one of steps, epochs, examples"):
            to_steps(length, name="duration", batch_size=1, examples=1)


def test_duration_on_the_command_line_replaces_the_one_of_the_config():
    config = default_config()
    config.duration.steps = 5
    config_lib.replace_durations(config, {"duration.steps"})
    assert (config.duration.steps, config.duration.epochs) == (5, None)
    assert config.evaluate.every.epochs == 1


def test_an_argument_can_set_a_duration():
    config = apply_argument(default_config(), "duration.steps=5,evaluate.every.epochs=0.5")
    assert to_steps(config.duration, name="duration", batch_size=1, examples=9) == 5
    assert config.evaluate.every.epochs == 0.5


def test_a_run_has_no_more_steps_than_its_counter():
    with pytest.raises(UserError, match="more than 2147483647 steps"):
        to_steps(duration(epochs=2e9), name="duration", batch_size=1, examples=2)


@pytest.mark.parametrize("path", KEYS)
def test_every_key_takes_its_default_and_refuses_what_lies_outside(path):
    default = default_config()
    config_lib.check(default)
    key = KEYS[path]
    wrong = [None, "", "nope\n", float("nan"), float("inf"), -float("inf"), -2, {}, [], (-2,), b""]
    for value in wrong:
        if isinstance(key.default, dict):
            for amount in ({"steps": value}, {"epochs": value}, {"epochs": 1.0, "steps": 1}):
                assert not key.accepts(dict.fromkeys(UNITS) | amount)
        assert not key.accepts(value), value
    assert isinstance(key.default, bool) or not key.accepts(True)
    assert key.meaning


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[1, inf)", (1, 10**400), (0, 0.999, math.inf, math.nan)),
        ("(0, 1]", (1e-300, 1), (0, 1.0001, -1)),
        ("-1 | [1, 3]", (-1, 1, 3), (-2, 0, -0.5, 4)),
    ],
)
def test_intervals(interval, inside, outside):
    key = Key(1.0, interval, "")
    assert [value for value in inside + outside if key.accepts(value)] == list(inside)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("optimizer.name", "adamax", r"config.optimizer.name is 'adamax'; .*adamw, adam, sgd"),
        ("optimizer.ema", 2.0, r"config.optimizer.ema is 2.0; it must be a number in \[0, 1\)"),
        (
            "seed",
            10**99,
            r"config.seed is 1000.*\.\.\.; it must be an integer in \[0, 4294967295\]",
        ),
        ("evaluate.at_end", ("nope",), r"a tuple of a length in .*one of train, validation, test"),
        ("model.stages", (8, 8), "a tuple of length 4, each element an integer in"),
        (
            "mesh.data",
            0,
            r"config.mesh.data is 0; it must be an integer that is -1 or in \[1, inf\)",
        ),
        ("batchsize", 3, "the config has no key batchsize; did you mean batch_size?"),
        ("model.depth.of", 3, "the config has no key model.depth.of; "),
        ("model", ConfigDict(), "config.model is a group; set its keys one by one"),
        ("model", {"width": 0.5}, "the config lacks model.preset, model.attention"),
        (
            "duration",
            {"epochs": 2},
            r"config.duration is {'epochs': 2}; .*--config.duration.epochs",
        ),
        ("evaluate.every", duration(steps=0), "config.evaluate.every is {'steps': 0}"),
        ("duration", duration(steps=1, epochs=1.0), "exactly one of steps, epochs, examples"),
    ],
    ids=str,
)
def test_check_names_the_key_and_what_it_takes(path, value, sentence):
    config = default_config()
    group = config
    *groups, name = path.split(".")
    with config.ignore_type():
        for each in groups:
            group[each] = group.get(each, ConfigDict())
            group = group[each]
        group[name] = value
    with pytest.raises(UserError, match=sentence):
        config_lib.check(config)


def test_the_page_of_keys_is_what_the_table_gives():
    """If it is not: python -m docs.list_config."""
    assert pathlib.Path(list_config.__file__).with_name("config.md").read_text() == (
        list_config.page()
    )


def test_a_run_of_an_older_version_loads():
    values = json.loads(default_config().to_json())
    del values["loss"]["l2"], values["augment"]
    values["model"] |= {"channels": 1, "param_dtype": "float32", "width": 0.5}
    config = config_lib.stored_config(values, "config.json")
    expected = default_config()
    expected.model.width, expected.model.findings = 0.5, 1
    assert config == expected
    assert config_lib.differences(config, expected) == []


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([], r"config.json is \[\], no config"),
        ({"model": {"channels": 3}}, "config.json has model.channels=3, which this version"),
        ({"model": 3}, "config.json has model=3"),
        ({"seed": -1}, "config.json: config.seed is -1"),
        ({"model": {"stages": [1, 2]}}, r"config.json: config.model.stages is \(1, 2\)"),
    ],
)
def test_a_stored_config_that_does_not_fit_is_named(values, sentence):
    with pytest.raises(UserError, match=sentence):
        config_lib.stored_config(values, "config.json")


def test_differences_survive_json_and_pass_over_what_may_change():
    old = default_config()
    new = ConfigDict(json.loads(old.to_json()))
    new.data_dir, new.mesh.fsdp = "elsewhere", 4
    assert config_lib.differences(old, new) == []
    new.model.width = 0.5
    assert config_lib.differences(old, new) == ["model.width: 1.0 -> 0.5"]


def test_the_number_of_findings_is_that_of_the_data():
    config = default_config()
    assert config_lib.with_findings(config, ["Mass", "Hernia"]).model.findings == 2
    assert config.model.findings == 0, "the caller's config was changed"
    config.model.findings = 3
    with pytest.raises(UserError, match=r"findings is 3 and the data have 2 \(Mass, Hernia\)"):
        config_lib.with_findings(config, ["Mass", "Hernia"])
    config.model.findings, config.sampling = 0, "balanced"
    assert config_lib.with_findings(config, ["pneumonia"]).model.findings == 1
    with pytest.raises(UserError, match="sampling=balanced is for one finding"):
        config_lib.with_findings(config, ["Mass", "Hernia"])


def test_a_run_from_before_there_were_findings_has_one():
    stored = json.loads(default_config().to_json())
    del stored["model"]["findings"]
    assert config_lib.stored_config(stored, "config.json").model.findings == 1


@pytest.mark.parametrize(("folds", "fold"), [(0, 1), (3, 3)])
def test_a_fold_is_one_of_the_folds(folds, fold):
    config = default_config()
    config.folds, config.fold = folds, fold
    with pytest.raises(UserError, match=rf"config.fold is {fold} and config.folds {folds}"):
        config_lib.check(config)
    config.folds, config.fold = 3, 2
    config_lib.check(config)
