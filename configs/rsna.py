"""RSNA 2018 pneumonia at 256 px, the described model, split by real patient.

    python -m cbam_flax.main --config=configs/rsna.py --workdir=runs/rsna --config.data_dir=data

To try it on one CPU, with data prepared at 64 px: `--config.image_size=64
--config.model.width=0.25 --config.duration.epochs=3`. Ablations:
`--config=configs/rsna.py:pool=max,attention=none`.
"""

from ml_collections import ConfigDict

from cbam_flax.config import apply_argument, default_config


def get_config(argument: str = "") -> ConfigDict:
    config = default_config()
    config.model.dropout = 0.2
    return apply_argument(config, argument)
