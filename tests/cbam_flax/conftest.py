"""The smallest config that still has every part of the model."""

from collections.abc import Callable

import numpy as np
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
    config.model.findings = 1  # as training finds it in the data
    config.optimizer.warmup = duration(steps=1)
    return config


@pytest.fixture(scope="session")
def make_tiny_config() -> Callable[[], ConfigDict]:
    return _make


@pytest.fixture
def tiny_config() -> ConfigDict:
    return _make()


def _make_columns(n: int, seed: int = 0, name: str = "test") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 3 == 0
    negative = np.where(rng.random(n) < 0.5, "Normal", "No Lung Opacity / Not Normal")
    boxes = np.empty(n, object)
    for i in range(n):
        corner = rng.uniform(0.1, 0.5, 2)
        boxes[i] = np.float32([[*corner, *corner + 0.3]] if label[i] else np.zeros((0, 4)))
    return {
        "image_id": np.array([f"{name}-{i:04}" for i in range(n)]),
        "patient_id": np.array([f"{name}-{i:03}" for i in rng.integers(n // 2 + 1, size=n)]),
        "patient_known": np.ones(n, bool),
        "source_image": np.array([f"{name}-{i:04}" for i in range(n)]),
        "label": label.astype(np.int32),
        "view": np.where(rng.random(n) < 0.3 + 0.3 * label, "AP", "PA"),
        "sex": rng.choice(["F", "M", ""], size=n),
        "age": np.where(rng.random(n) < 0.1, np.nan, rng.integers(5, 90, n)).astype(np.float32),
        "spacing": rng.choice([0.139, 0.143, 0.168], size=n).astype(np.float32),
        "detailed_class": np.where(label, "Lung Opacity", negative),
        "boxes": boxes,
    }


@pytest.fixture(scope="session")
def make_columns() -> Callable[..., dict[str, np.ndarray]]:
    """A function (n, seed, name) -> columns of a made-up split: a third positive, with boxes."""
    return _make_columns


@pytest.fixture(scope="session")
def make_predictions() -> Callable[..., dict[str, np.ndarray]]:
    """A function (n, seed, name) -> predictions whose logits tell the classes apart, not wholly."""

    def make(n: int, seed: int = 0, name: str = "test") -> dict[str, np.ndarray]:
        columns = _make_columns(n, seed, name)
        noise = np.random.default_rng(seed + 1).normal(size=n)
        logit = np.round(noise + 1.5 * columns["label"] - 1, 4)
        return columns | {"logit": logit, "probability": 1 / (1 + np.exp(-logit))}

    return make
