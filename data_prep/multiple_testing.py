"""p-values of several tests."""

import numpy as np


def holm(p: np.ndarray) -> np.ndarray:
    """p-values (tests,) adjusted so that they hold for all tests at once.

    Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    order = np.argsort(p, kind="stable")
    scaled = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return adjusted
