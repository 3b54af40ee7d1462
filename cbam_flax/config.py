"""The configuration: its defaults, ways to change it, and the check.

The files in `configs/` start from `default_config()` and change what their data set needs. Override
keys on the command line with `--config.model.width=0.5`. `config_keys.py` declares the keys.
"""

import difflib
import json
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict, config_dict

from cbam_flax.config_keys import KEYS, UNITS
from data_prep.cli import UserError

DURATIONS = [path for path, key in KEYS.items() if isinstance(key.default, dict)]
FREE_ON_RESUME = {path for path, key in KEYS.items() if key.may_change}
DROPPED = {"model.channels": 1, "model.param_dtype": "float32"}  # keys of older runs, fixed now
MAX_STEPS = 2**31 - 1  # the state counts them in int32


def duration(**amount: float) -> ConfigDict:
    """A length of training, such as `duration(epochs=30)`: exactly one of `UNITS` is not None."""
    fields: dict[str, Any] = {unit: config_dict.placeholder(kind) for unit, kind in UNITS.items()}
    return ConfigDict(fields | amount)


def default_config() -> ConfigDict:
    """Every key, with a default that suits RSNA at 256 px."""
    nested: dict[str, Any] = {}
    for path, key in KEYS.items():
        group, _, name = path.rpartition(".")
        parent = nested.setdefault(group, {}) if group else nested
        parent[name] = duration(**key.default) if isinstance(key.default, dict) else key.default
    return ConfigDict(nested)


def stored_config(values: Any, where: Any) -> ConfigDict:
    """The checked config of a run on disk, which an older version may have written.

    Args:
        values: as read from JSON; keys that it lacks take their defaults.
        where: what was read, for the message.

    Raises:
        UserError: an unknown key, or a value that its key does not take.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where} is {values!r:.60}, no config; restore the file of the run")
    config = default_config()
    known = dict(_leaves(config))
    with config.ignore_type():
        for path, value in _leaves(values):
            if path in DROPPED and value == DROPPED[path]:
                continue
            if path not in known:
                raise UserError(
                    f"{where} has {path}={_short(value)}, which this version does not know; "
                    f"restore the file or use the version that wrote it"
                )
            group, _, name = path.rpartition(".")
            parent = _lookup(config, group)
            parent[name] = tuple(value) if isinstance(value, list) else value
    config.model.findings = config.model.findings or 1  # before there was the key
    try:
        check(config)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return config


def apply_argument(config: ConfigDict, argument: str) -> ConfigDict:
    """Applies what follows the colon of `--config=configs/rsna.py:pool=max,attention=none`.

    A name is a key of `model` (`pool` is short for `pooling`) or a dotted path from the root.

    Raises:
        UserError: a part is not NAME=VALUE, or the name or the type of the value is wrong.
    """
    for part in filter(None, argument.split(",")):
        name, equals, text = part.partition("=")
        path = {"pool": "pooling"}.get(name, name)
        path = f"model.{path}" if f"model.{path}" in KEYS else path
        if not equals:
            raise UserError(f"config argument {part!r} is not NAME=VALUE, as in attention=none")
        try:
            config.update_from_flattened_dict({path: _parse(text, path)})
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"config argument {part!r} does not fit: {name!r} is not a key of the config "
                f"or does not take such a value"
            ) from error
        replace_durations(config, [path])
    return config


def _parse(text: str, path: str) -> Any:
    """`text` as the kind of value that the key at `path` takes."""
    group, _, unit = path.rpartition(".")
    kind = UNITS[unit] if group in DURATIONS else type(KEYS[path].default)
    if kind is bool:
        return {"true": True, "false": False}[text.lower()]
    if kind not in (int, float, str):
        raise TypeError("a single value is no tuple and no group")
    return kind(text)


def replace_durations(config: ConfigDict, overridden: Iterable[str]) -> None:
    """Lets `--config.duration.steps=100` replace `epochs` rather than conflict with it.

    Args:
        config: changed in place.
        overridden: dotted keys that were set on the command line.
    """
    for path in DURATIONS:
        given = [unit for unit in UNITS if f"{path}.{unit}" in overridden]
        if given:
            for unit in UNITS.keys() - set(given):
                _lookup(config, path)[unit] = None


def to_steps(length: ConfigDict, *, name: str, batch_size: int, examples: int) -> int:
    """A duration in optimizer steps, rounded up.

    Raises:
        UserError: not exactly one unit is set, or it is out of range; more than `MAX_STEPS`.
    """
    _check_value(name, length)
    [(unit, amount)] = [(unit, length[unit]) for unit in UNITS if length[unit] is not None]
    steps = {
        "steps": amount,
        "epochs": amount * examples / batch_size,
        "examples": amount / batch_size,
    }[unit]
    if steps > MAX_STEPS:
        raise UserError(f"config.{name}.{unit} {amount} is more than {MAX_STEPS} steps; lower it")
    return math.ceil(round(steps, 6))  # 0.1 epochs of 640 examples are 64, not 64.00000000000001


def with_findings(config: ConfigDict, names: Sequence[str]) -> ConfigDict:
    """The config for data with these findings: `model.findings` is their number.

    Raises:
        UserError: it asks for another number, or for what is defined for one finding only.
    """
    if config.model.findings not in (0, len(names)):
        raise UserError(
            f"config.model.findings is {config.model.findings} and the data have {len(names)} "
            f"({', '.join(names)}); leave it at 0 or prepare other data"
        )
    if len(names) > 1 and config.sampling == "balanced":
        raise UserError(
            f"config.sampling=balanced is for one finding and the data have {len(names)}: an image "
            f"may be positive for some and negative for others; use uniform"
        )
    config = config.copy_and_resolve_references()
    config.model.findings = len(names)
    return config


def check(config: ConfigDict) -> None:
    """Checks that the config has the keys of `KEYS`, each with a value that it takes.

    `fold` must also be one of the `folds`.

    Raises:
        UserError: names the first that does not fit, and what would.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"the config is {_short(config)}; give what get_config() of a file in configs/ returns"
        )
    leaves = dict(_leaves(config, stop=KEYS))
    for path, value in leaves.items():
        _check_value(path, value)
    if missing := [path for path in KEYS if path not in leaves]:
        raise UserError(
            f"the config lacks {', '.join(missing)}; start from default_config() and set keys one "
            f"by one, as in --config.{_example(missing[0])}"
        )
    if config.fold >= max(config.folds, 1):
        raise UserError(
            f"config.fold is {config.fold} and config.folds {config.folds}; the folds count from "
            f"0, so give a smaller fold or more folds"
        )


def _check_value(path: str, value: Any) -> None:
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if group := [key for key in KEYS if key.startswith(f"{path}.")]:
        raise UserError(
            f"config.{path} is a group; set its keys one by one, "
            f"as in --config.{_example(group[0])}"
        )
    if path not in KEYS:
        similar = difflib.get_close_matches(path, KEYS, n=1)
        hint = f"did you mean {similar[0]}?" if similar else "docs/config.md lists all keys"
        raise UserError(f"the config has no key {path}; {hint}")
    if not KEYS[path].accepts(value):
        mend = f", as in --config.{_example(path)}" if path in DURATIONS else ""
        if isinstance(value, dict):
            value = {unit: amount for unit, amount in value.items() if amount is not None}
        raise UserError(f"config.{path} is {_short(value)}; it must be {KEYS[path].kind}{mend}")


def _example(path: str) -> str:
    default = KEYS[path].default
    if isinstance(default, dict):
        [(unit, default)] = default.items()
        path = f"{path}.{unit}"
    return f"{path}={default}"


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """The keys, but those of `FREE_ON_RESUME`, in which two configs differ: `key: old -> new`."""
    flat_old, flat_new = flatten(old), flatten(new)
    return [
        f"{key}: {flat_old.get(key)} -> {flat_new.get(key)}"
        for key in sorted(flat_old.keys() | flat_new.keys())
        if key not in FREE_ON_RESUME and flat_old.get(key) != flat_new.get(key)
    ]


def flatten(config: ConfigDict) -> dict[str, Any]:
    """The leaves by dotted path, with tuples as lists, as JSON gives them back."""
    return dict(_leaves(json.loads(config.to_json())))


def _leaves(values: Any, stop: Container[str] = (), prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested config by dotted path, down to those of `stop` and empty groups."""
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict | ConfigDict) and len(value) and path not in stop:
            yield from _leaves(value, stop, f"{path}.")
        else:
            yield path, value


def _lookup(config: ConfigDict, path: str) -> Any:
    for key in filter(None, path.split(".")):
        config = config[key]
    return config


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
