"""PneumoniaMNIST (MedMNIST v2) at 28 px, official split, model chosen on validation AUROC.

python -m data_prep.prepare --dataset=pneumonia_mnist --raw=pneumoniamnist.npz --data_dir=data
python -m cbam_flax.main --config=configs/pneumoniamnist.py --workdir=runs/mnist \\
        --config.data_dir=data
"""

from ml_collections import ConfigDict

from cbam_flax.config import apply_argument, default_config, duration


def get_config(argument: str = "") -> ConfigDict:
    config = default_config()
    config.dataset = "pneumonia_mnist"
    config.image_size = 28
    config.batch_size = 64
    config.duration = duration(epochs=15.0)
    config.evaluate.batch_size = 256
    config.model.width = 0.5
    config.model.dropout = 0.3
    config.optimizer.ema = 0.99
    config.augment.flip_horizontal = False
    return apply_argument(config, argument)
