"""The learning-rate schedule and the optax chain, both from the config."""

import fnmatch
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from data_prep.cli import UserError

FROZEN, REST = "frozen", "rest"
MAX_SCALE = 1000.0


def make_schedule(config: ConfigDict, *, total_steps: int, warmup_steps: int) -> optax.Schedule:
    """Linear warm-up from 0 to `learning_rate`, then a cosine to 0 or a constant.

    A warm-up longer than the run is cut to it.
    """
    warmup_steps = min(warmup_steps, total_steps)
    peak = config.learning_rate
    after = (
        optax.cosine_decay_schedule(peak, max(1, total_steps - warmup_steps))
        if config.schedule == "cosine"
        else optax.constant_schedule(peak)
    )
    warmup = optax.linear_schedule(0.0, peak, max(1, warmup_steps))
    return optax.join_schedules([warmup, after], [warmup_steps])


def make_optimizer(
    config: ConfigDict, schedule: optax.Schedule, init: ConfigDict | None = None
) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW, Adam or SGD with Nesterov momentum.

    Weight decay (decoupled, for AdamW and SGD) acts on kernels only: biases and BN scales are
    not decayed.

    Args:
        config: `config.optimizer`.
        init: `config.init`. What `freeze` matches has no update, no decay, no moments and no part
            in the clipped norm. Updates, decay included, are multiplied by the factor of the first
            pattern of `learning_rate_scale` that matches.

    Raises:
        UserError: a factor is none; from the optimizer's `init`: a pattern matches no parameter, or
            all are frozen.
    """
    if config.name == "adamw":
        chain = optax.adamw(schedule, weight_decay=config.weight_decay, mask=kernels)
    elif config.name == "adam":
        chain = optax.adam(schedule)
    else:
        chain = optax.chain(
            optax.trace(config.momentum, nesterov=True),
            optax.add_decayed_weights(config.weight_decay, mask=kernels),
            optax.scale_by_learning_rate(schedule),
        )
    if config.gradient_clip:
        chain = optax.chain(optax.clip_by_global_norm(config.gradient_clip), chain)
    if init is not None and init.learning_rate_scale:
        factors = _factors(init.learning_rate_scale)
        parts = {pattern: f"part{number}" for number, pattern in enumerate(factors)}
        scaled = {parts[pattern]: optax.scale(factor) for pattern, factor in factors.items()}
        label = functools.partial(_labels, "learning_rate_scale", parts)
        chain = optax.chain(chain, optax.multi_transform({REST: optax.identity(), **scaled}, label))
    if init is not None and init.freeze:
        label = functools.partial(_labels, "freeze", dict.fromkeys(init.freeze, FROZEN))
        chain = optax.multi_transform({REST: chain, FROZEN: optax.set_to_zero()}, label)
    return chain


def _factors(texts: Sequence[str]) -> dict[str, float]:
    """What `learning_rate_scale` says: factors by pattern.

    Raises:
        UserError: a text that is not PATTERN=FACTOR, or a factor out of range.
    """
    factors: dict[str, float] = {}
    for text in texts:
        pattern, _, factor = text.rpartition("=")
        try:
            fits = pattern and 0 < float(factor) <= MAX_SCALE
        except ValueError:
            fits = False
        if not fits:
            raise UserError(
                f"config.init.learning_rate_scale has {text!r}, which is not PATTERN=FACTOR with a "
                f"factor in (0, {MAX_SCALE:g}], as in block?/*=0.1; init.freeze stops a part"
            )
        factors.setdefault(pattern, float(factor))
    return factors


def _labels(key: str, label_of: Mapping[str, str], params: Any) -> Any:
    """The tree of the labels of the first patterns that match; `REST` where none does.

    Raises:
        UserError: a pattern matches nothing, or nothing is left to train.
    """
    paths = {
        path: "/".join(part.key for part in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    }
    for pattern in label_of:
        if not fnmatch.filter(paths.values(), pattern):
            first = next(iter(paths.values()))
            parts = dict.fromkeys(f"{path.split('/')[0]}/*" for path in paths.values())
            raise UserError(
                f"config.init.{key} has the pattern {pattern!r}, which matches no parameter that "
                f"is trained; there are {', '.join(parts)}, and in them paths such as {first}"
            )
    labels = {
        path: next((label for p, label in label_of.items() if fnmatch.fnmatchcase(name, p)), REST)
        for path, name in paths.items()
    }
    if set(labels.values()) == {FROZEN}:
        raise UserError(f"config.init.{key} freezes every parameter; leave some to be trained")
    return jax.tree_util.tree_map_with_path(lambda path, _: labels[path], params)


def kernels(params: Any) -> Any:
    """A tree of booleans: True at the leaves named `kernel`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
