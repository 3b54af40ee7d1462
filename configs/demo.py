"""The demo of `make demo`: a small model on synthetic data at 64 px; minutes on two CPU cores."""

from ml_collections import ConfigDict

from cbam_flax.config import apply_argument, default_config, duration


def get_config(argument: str = "") -> ConfigDict:
    config = default_config()
    config.image_size = 64
    config.batch_size = 32
    config.duration = duration(epochs=12.0)
    config.model.width = 0.25
    config.optimizer.ema = 0.98
    config.log_every_steps = 10
    return apply_argument(config, argument)
