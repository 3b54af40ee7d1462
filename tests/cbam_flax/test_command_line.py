"""Config files and overrides that users write, through the flags of the commands."""

import pytest
from absl import flags
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ml_collections import config_flags

from cbam_flax.command_line import ConfigFile, key_help, parse_flags
from cbam_flax.config import UNITS, check, flatten
from cbam_flax.config_keys import KEYS
from data_prep.cli import UserError

GROUPS = sorted({path.rpartition(".")[0] for path in KEYS} - {""})
UNITS_OF_DURATIONS = [
    f"{path}.{unit}"
    for path, key in KEYS.items()
    if isinstance(key.default, dict)
    for unit in UNITS
]


def parse(file, *overrides):
    """The config that a command would get from `--config=FILE` and these flags."""
    values = flags.FlagValues()
    argv = ["command", f"--config={file}", *overrides]
    config_flags.DEFINE_config_file("config", None, flag_values=values, sys_argv=argv)
    values["config"].parser = ConfigFile()
    parse_flags(values, argv, needed=("config",))
    return values["config"].value


def test_overrides_arrive_and_a_unit_replaces_the_other():
    config = parse(
        "configs/demo.py:attention=se",
        "--config.seed=7",
        "--config.duration.steps=5",
        "--config.evaluate.at_end=()",
        "--config.model.dilations=(1, 2)",
        "--config.optimizer.learning_rate=1",
        "--noconfig.augment.flip_horizontal",
    )
    assert (config.model.attention, config.seed) == ("se", 7)
    assert config.duration.to_dict() == {"steps": 5, "epochs": None, "examples": None}
    assert (config.evaluate.at_end, config.model.dilations) == ((), (1, 2))
    assert (config.optimizer.learning_rate, config.augment.flip_horizontal) == (1.0, False)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("--config.batch_size=abc", "batch_size=abc"),
        ("--config.model=3", "config.model=3"),
        ("--config.model={}", "config.model is a group"),
        ("--config.model={'width': 0.5}", "lacks model.preset"),
        ("--config.duration={'epochs': 2}", "as in --config.duration.epochs=30.0"),
        ("--config.=3", "see --help"),
        ("--config.modle.width=1", "no key"),
        ("--config.model.wdith=1", "no key"),
        ("--config.model.width.x=1", "no key"),
        ("--config.seed.x=1", "no key"),
        ("--config.optimizer.ema=nan", "optimizer.ema is nan"),
        ("--config.evaluate.at_end=nope", r"evaluate.at_end is \('nope',\)"),
        ("--config.model.param_dtype=foo", "no key"),
        ("--config.model.stages=((((", r"config.model.stages is \("),
    ],
)
def test_a_wrong_override_is_one_sentence(override, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        parse("configs/demo.py", override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("def get_config(:\n", r"c.py, line 1: SyntaxError"),
        ("x = 1\nx.y\n", r"c.py, line 2: AttributeError: 'int' object has no attribute 'y'"),
        ("def get_config():\n    return 1 / 0\n", "c.py, line 2: ZeroDivisionError"),
        ("def get_config():\n    raise ValueError('two\\nlines')\n", "c.py, line 2: .*: two lines"),
        ("def get_config():\n    open('missing')\n", "c.py, line 2: FileNotFoundError"),
        ("config = 3\n", r"c.py lacks a function get_config"),
        ("def get_config(): pass\n", "get_config of .*c.py returns a NoneType"),
        ("def get_config(): return {}\n", "get_config of .*c.py returns a dict"),
        ("def get_config(needed): pass\n", "c.py: TypeError: get_config"),
        (
            "from cbam_flax.config import default_config\n"
            "def get_config():\n"
            "    config = default_config()\n"
            "    config.epochs = 3\n"
            "    return config\n",
            "the config has no key epochs",
        ),
        (
            "from cbam_flax.config import default_config\n"
            "def get_config():\n"
            "    config = default_config()\n"
            "    config.seed = 'x'\n",
            "c.py, line 4: TypeError",
        ),
    ],
)
@pytest.mark.parametrize("override", [(), ("--config.seed=1",)], ids=["", "override"])
def test_a_broken_config_file_is_named_with_its_line(text, sentence, override, tmp_path):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(UserError, match=sentence) as caught:
        parse(tmp_path / "c.py", *override)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named():
    for override in ((), ("--config.seed=1",)):
        with pytest.raises(UserError, match=r"there is no config file nope.py"):
            parse("nope.py", *override)


def test_configs_are_found_where_there_is_no_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parse("configs/rsna.py:attention=se").model.attention == "se"
    (tmp_path / "configs").mkdir()
    with pytest.raises(UserError, match=r"there is no config file configs/rsna.py"):
        parse("configs/rsna.py")


VALUES = st.one_of(
    st.booleans(),
    st.integers(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(),
    st.none(),
    st.tuples(st.integers()),
    st.lists(st.one_of(st.integers(), st.text(), st.floats()), max_size=5).map(tuple),
    st.dictionaries(st.sampled_from([*UNITS, "width", "x"]), st.floats() | st.integers()),
)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.sampled_from([*KEYS, *GROUPS, *UNITS_OF_DURATIONS, "", "nope", "seed.x"]), VALUES)
@example("seed", 10**20)
@example("seed", "9" * 5000)
@example("mesh.data", -2)
@example("duration", {"epochs": 2})
@example("evaluate.at_end", "test")
def test_any_value_of_any_key_is_taken_or_refused_in_one_sentence(path, value):
    config, sentence = None, ""
    try:
        config = parse("configs/demo.py", f"--config.{path}={value}")
    except UserError as error:
        sentence = str(error)
    if config is None:
        assert sentence
        assert "\n" not in sentence
        return
    check(config)
    leaves = flatten(config)
    for key in KEYS:
        if key in leaves:
            found = leaves[key]
            assert KEYS[key].accepts(tuple(found) if isinstance(found, list) else found)


def test_help_lists_every_key():
    text = key_help()
    assert all(f"  {path} = " in text for path in KEYS)
    assert max(map(len, text.splitlines())) <= 100
