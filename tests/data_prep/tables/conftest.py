"""Small drawn PNG files, and the table of a stranger."""

import pathlib

import cv2
import numpy as np
import pytest


def draw(path: pathlib.Path, number: int = 0, size: int = 40) -> pathlib.Path:
    """Writes an 8-bit grey PNG of its own."""
    image = np.random.default_rng(number).integers(0, 256, (size, size), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)
    return path


@pytest.fixture(name="draw", scope="session")
def draw_fixture():
    return draw
