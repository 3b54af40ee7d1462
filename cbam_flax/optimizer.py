"""The learning-rate schedule and the optax chain, both from the config."""

from typing import Any

import jax
import optax
from ml_collections import ConfigDict


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


def make_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clipping by the global norm, then AdamW, Adam or SGD with Nesterov momentum.

    Weight decay (decoupled, for AdamW and SGD) acts on kernels only: biases and BN scales are
    not decayed.
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
    return chain


def kernels(params: Any) -> Any:
    """A tree of booleans: True at the leaves named `kernel`."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)
