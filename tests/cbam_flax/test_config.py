import dataclasses
import json

import pytest
from ml_collections import ConfigDict

from cbam_flax import config as config_lib
from cbam_flax.config import apply_argument, default_config, duration, to_steps
from cbam_flax.models import CBAMResNet
from configs import demo, notebook, pneumoniamnist, rsna
from data_prep.cli import UserError


@pytest.mark.parametrize("module", [demo, notebook, pneumoniamnist, rsna])
def test_every_config_passes_its_own_check_and_takes_an_argument(module):
    config = module.get_config("pool=max,attention=none,seed=3")
    config_lib.check(config)
    assert (config.model.pooling, config.model.attention, config.seed) == ("max", "none", 3)


def test_the_model_section_has_every_field_of_the_model_with_its_default():
    internal = {"stage_ops", "parent", "name"}
    fields = {f.name: f.default for f in dataclasses.fields(CBAMResNet) if f.name not in internal}
    section = default_config().model.to_dict()
    assert section.keys() == fields.keys()
    # The config names dtypes as text, and "auto" depends on the platform.
    dtypes = {"dtype", "param_dtype"}
    assert {k: v for k, v in section.items() if k not in dtypes} == {
        k: v for k, v in fields.items() if k not in dtypes
    }


@pytest.mark.parametrize("argument", ["attention", "nothing=1", "seed=one", "model=3"])
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


def test_check_names_the_key_and_the_choices():
    config = default_config()
    config.optimizer.name = "adamax"
    with pytest.raises(UserError, match=r"config.optimizer.name is 'adamax'.*adamw, adam, sgd"):
        config_lib.check(config)


def test_differences_survive_json_and_pass_over_what_may_change():
    old = default_config()
    new = ConfigDict(json.loads(old.to_json()))
    new.data_dir, new.mesh.fsdp = "elsewhere", 4
    assert config_lib.differences(old, new) == []
    new.model.width = 0.5
    assert config_lib.differences(old, new) == ["model.width: 1.0 -> 0.5"]
