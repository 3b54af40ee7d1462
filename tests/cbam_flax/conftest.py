"""The smallest config that still has every part of the model."""

from collections.abc import Callable

import pytest
from ml_collections import ConfigDict

from cbam_flax.config import default_config, duration


def _make() -> ConfigDict:
    config = default_config()
    config.image_size = 32
    config.batch_size = 16
    config.duration = duration(steps=4)
    config.evaluate.batch_size = 16
    config.model.width = 0.0625
    config.model.reduction = 4
    config.optimizer.warmup = duration(steps=1)
    return config


@pytest.fixture(scope="session")
def make_tiny_config() -> Callable[[], ConfigDict]:
    return _make


@pytest.fixture
def tiny_config() -> ConfigDict:
    return _make()
