"""The RSNA-labelled radiographs of two sources as one data set, at 128 px: minutes on two cores.

docs/data.md, "Your own images", has the two commands that prepare `rsna_nih`.
"""

from ml_collections import ConfigDict

from cbam_flax.config import apply_argument, default_config, duration


def get_config(argument: str = "") -> ConfigDict:
    config = default_config()
    config.dataset = "rsna_nih"
    config.image_size = 128
    config.batch_size = 32
    config.duration = duration(epochs=10)
    config.model.width = 0.25
    return apply_argument(config, argument)
