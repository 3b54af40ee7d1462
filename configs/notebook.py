"""The original Keras notebook: its graph, its recipe, and on request its leaky split by row.

    python -m data_prep.prepare --dataset=rsna --raw=RAW --mapping=MAPPING --data_dir=data \\
        --image_size=224 --interpolation=nearest
    python -m cbam_flax.main --config=configs/notebook.py --workdir=runs/notebook \\
        --config.data_dir=data

For the notebook's own split, whose figures are inflated, prepare with `--split=row` and add
`--config.dataset=rsna_pneumonia/224px-row-nearest`.
"""

from ml_collections import ConfigDict

from cbam_flax.config import apply_argument, default_config, duration


def get_config(argument: str = "") -> ConfigDict:
    config = default_config()
    config.dataset = "rsna_pneumonia/224px-nearest"
    config.image_size = 224
    config.batch_size = 32
    config.duration = duration(steps=20 * 30)
    config.evaluate.every = duration(steps=20)
    config.checkpoint.every = duration(steps=20)
    config.model.preset = "notebook"
    config.model.dtype = "float32"
    config.loss.l2 = 0.001
    config.optimizer.update(name="adam", schedule="constant", gradient_clip=0.0, ema=0.0)
    config.optimizer.warmup = duration(steps=0)
    config.augment.update(rotation=20.0, flip_horizontal=True, flip_vertical=True)
    config.augment.update(scale=0.0, shift=0.0, brightness=0.0, contrast=0.0, gamma=0.0)
    return apply_argument(config, argument)
