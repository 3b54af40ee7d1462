"""The configuration: every key with its default, and the checks.

The files in `configs/` start from `default_config()` and change what their data set needs. Override
keys on the command line with `--config.model.width=0.5`; ml_collections refuses unknown ones.
"""

import json
import math
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict, config_dict

from data_prep.cli import UserError

UNITS = ("steps", "epochs", "examples")

# What may change when a run is resumed: paths, devices, and what is only logged.
FREE_ON_RESUME = ("data_dir", "mesh", "log_every_steps", "profile")


def duration(**amount: float) -> ConfigDict:
    """A length of training, such as `duration(epochs=30)`: exactly one of `UNITS` is not None."""
    fields: dict[str, Any] = {
        "steps": config_dict.placeholder(int),
        "epochs": config_dict.placeholder(float),
        "examples": config_dict.placeholder(int),
    }
    return ConfigDict(fields | {unit: value for unit, value in amount.items()})


def default_config() -> ConfigDict:
    """Every key, with a default that suits RSNA at 256 px."""
    config = ConfigDict()
    config.seed = 0
    config.data_dir = "data"  # as given to data_prep.prepare; local or gs://
    config.dataset = "rsna_pneumonia"  # or with a variant, as in rsna_pneumonia/256px-row
    config.image_size = 256  # height and width in pixels; names the variant of the data set
    config.batch_size = 64  # global: over all devices and hosts
    config.sampling = "uniform"  # or "balanced": positives repeated until they are half of an epoch
    config.shuffle_labels = False  # negative control: train and select on permuted labels
    config.duration = duration(epochs=30.0)

    config.evaluate = ConfigDict({"every": duration(epochs=1.0), "batch_size": 16})
    config.evaluate.at_end = ("test",)  # splits that the best checkpoint is evaluated on
    config.checkpoint = ConfigDict(
        {"every": duration(epochs=1.0), "keep_latest": 2, "keep_best": 1}
    )
    config.early_stopping = 0  # stop after N evaluations without a better AUROC; 0: off
    config.log_every_steps = 20
    config.profile = False  # a trace of a few early steps in WORKDIR/tensorboard
    config.non_finite = "stop"  # or "skip": discard the step and go on

    # -1 takes all devices that the other axes leave.
    config.mesh = ConfigDict({"data": -1, "fsdp": 1, "spatial": 1})

    config.model = ConfigDict(
        {
            "preset": "cbam_resnet",  # or "notebook"
            "attention": "cbam",  # none | se | channel | spatial | cbam
            "pooling": "mixed",  # max | avg | mixed
            "context": "aspp",  # none | aspp
            "dilations": (2, 4, 8),
            "image_level": False,  # DeepLab v3's global branch in the atrous pyramid
            "head": "flatten",  # flatten | gap
            "spatial_norm": "none",  # none | batch
            "stages": (64, 128, 128, 256),
            "width": 1.0,  # multiplies the stages
            "hidden": 256,
            "reduction": 16,
            "dropout": 0.0,
            "channels": 1,
            "dtype": "auto",  # compute: bfloat16 on TPU and GPU, float32 on CPU
            "param_dtype": "float32",
            "kernel_init": "auto",  # as the preset does; or he_normal | glorot_uniform
            "zero_init_last_bn": False,
            "remat": False,  # recompute each block in the backward pass: less memory, more time
        }
    )
    config.loss = ConfigDict(
        {
            "label_smoothing": 0.0,
            "positive_weight": 1.0,  # multiplies the loss of positive examples
            "l2": 0.0,  # times the sum of squares of the blocks' 3x3 kernels, as in the notebook
        }
    )
    config.optimizer = ConfigDict(
        {
            "name": "adamw",  # adamw | adam | sgd
            "learning_rate": 1e-3,
            "schedule": "cosine",  # cosine | constant
            "warmup": duration(epochs=1.0),
            "weight_decay": 0.05,  # on kernels only
            "momentum": 0.9,  # sgd
            "gradient_clip": 1.0,  # global norm; 0: off
            "accumulate": 1,  # microbatches per step
            "ema": 0.999,  # decay of the averaged parameters that are evaluated; 0: off
        }
    )
    config.augment = ConfigDict(
        {
            "rotation": 10.0,  # degrees, uniform in +-
            "scale": 0.1,  # uniform in 1 +- scale
            "shift": 0.05,  # of the side, uniform in +-
            "flip_horizontal": True,
            "flip_vertical": False,
            "brightness": 0.1,  # added, uniform in +-
            "contrast": 0.2,  # factor about the mean, uniform in 1 +- contrast
            "gamma": 0.2,  # exponent exp(u), u uniform in +-
            "erase": 0.0,  # probability that a rectangle is set to the fill value
            "mixup": 0.0,  # alpha of the beta distribution; 0: off
        }
    )
    return config


def apply_argument(config: ConfigDict, argument: str) -> ConfigDict:
    """Applies what follows the colon of `--config=configs/rsna.py:pool=max,attention=none`.

    A name is a key of `model` (`pool` is short for `pooling`) or a dotted path from the root.

    Raises:
        UserError: a part is not NAME=VALUE, or the name or the type of the value is wrong.
    """
    for part in filter(None, argument.split(",")):
        name, equals, value = part.partition("=")
        path = {"pool": "pooling"}.get(name, name)
        path = f"model.{path}" if path in config.model else path
        if not equals:
            raise UserError(f"config argument {part!r} is not NAME=VALUE, as in attention=none")
        try:
            config.update_from_flattened_dict({path: _parse(value, _lookup(config, path))})
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise UserError(
                f"config argument {part!r} does not fit: {name!r} is not a key of the config "
                f"or does not take such a value"
            ) from error
    return config


def _lookup(config: ConfigDict, path: str) -> Any:
    for key in path.split("."):
        config = config[key]
    return config


def _parse(text: str, old: Any) -> Any:
    """`text` as the type of the value that it replaces."""
    if isinstance(old, bool):
        return {"true": True, "false": False}[text.lower()]
    if isinstance(old, ConfigDict | tuple):
        raise TypeError("a single value cannot replace a section")
    return text if old is None else type(old)(text)


def replace_durations(config: ConfigDict, overridden: set[str]) -> None:
    """Lets `--config.duration.steps=100` replace `epochs` rather than conflict with it.

    Args:
        config: changed in place.
        overridden: dotted keys that were set on the command line.
    """
    for path in ("duration", "evaluate.every", "checkpoint.every", "optimizer.warmup"):
        given = [unit for unit in UNITS if f"{path}.{unit}" in overridden]
        if given:
            for unit in set(UNITS) - set(given):
                _lookup(config, path)[unit] = None


def to_steps(length: ConfigDict, *, name: str, batch_size: int, examples: int) -> int:
    """A duration in optimizer steps, rounded up.

    Raises:
        UserError: not exactly one unit is set, or it is negative.
    """
    given = {unit: length[unit] for unit in UNITS if length[unit] is not None}
    if len(given) != 1:
        units = ", ".join(given) or "none"
        raise UserError(f"config.{name} needs exactly one of {', '.join(UNITS)}; it has {units}")
    [(unit, amount)] = given.items()
    if amount < 0:
        raise UserError(f"config.{name}.{unit} is {amount}; it cannot be negative")
    steps = {
        "steps": amount,
        "epochs": amount * examples / batch_size,
        "examples": amount / batch_size,
    }[unit]
    return math.ceil(round(steps, 6))  # 0.1 epochs of 640 examples are 64, not 64.00000000000001


def check(config: ConfigDict) -> None:
    """Checks values whose later errors would be unclear.

    Raises:
        UserError: the first key found whose value is not among the choices or out of range.
    """
    choices = {
        "sampling": ("uniform", "balanced"),
        "non_finite": ("stop", "skip"),
        "optimizer.name": ("adamw", "adam", "sgd"),
        "optimizer.schedule": ("cosine", "constant"),
        "model.dtype": ("auto", "float32", "bfloat16"),
    }
    for path, allowed in choices.items():
        if (value := _lookup(config, path)) not in allowed:
            raise UserError(f"config.{path} is {value!r}; it must be one of {', '.join(allowed)}")
    for path in ("batch_size", "image_size", "evaluate.batch_size", "optimizer.accumulate"):
        if (value := _lookup(config, path)) < 1:
            raise UserError(f"config.{path} is {value}; it must be at least 1")
    if config.batch_size % config.optimizer.accumulate:
        raise UserError(
            f"config.batch_size {config.batch_size} cannot be cut into "
            f"config.optimizer.accumulate {config.optimizer.accumulate} equal pieces"
        )


def differences(old: ConfigDict, new: ConfigDict) -> list[str]:
    """The keys, but those of `FREE_ON_RESUME`, in which two configs differ: `key: old -> new`."""
    flat_old, flat_new = flatten(old), flatten(new)
    return [
        f"{key}: {flat_old.get(key)} -> {flat_new.get(key)}"
        for key in sorted(flat_old.keys() | flat_new.keys())
        if key.split(".")[0] not in FREE_ON_RESUME and flat_old.get(key) != flat_new.get(key)
    ]


def flatten(config: ConfigDict) -> dict[str, Any]:
    """The leaves by dotted path, with tuples as lists, as JSON gives them back."""
    return traverse_util.flatten_dict(json.loads(config.to_json()), sep=".")
