"""How many greys an image uses: an image with the wrong bits or window uses far too few."""

from collections.abc import Sequence
from typing import Any

import numpy as np

FEW_LEVELS = (
    32  # 12 bits declared as 16, without a window, are 17 levels; radiographs have over 100
)


def grey_range(image: np.ndarray) -> dict[str, int]:
    """Of a uint8 image: `levels`, its different greys, and `spread`, its 1st to 99th percentile."""
    low, high = np.percentile(image, (1, 99))
    return {"levels": len(np.unique(image)), "spread": round(high - low)}


def distribution(ranges: Sequence[dict[str, int]]) -> dict[str, dict[str, int]]:
    """Minimum and median over the images of a split, per figure of `grey_range`."""
    return {
        name: {
            "minimum": min(one[name] for one in ranges),
            "median": round(np.median([one[name] for one in ranges])),
        }
        for name in ranges[0]
    }


def never_seen(greys: dict[str, int], training: dict[str, Any] | None) -> list[str]:
    """The figures of `grey_range` below all training images', as `grey_levels=17`.

    Args:
      greys: `grey_range` of an image prepared as the training images were.
      training: `distribution` of the training split; None where it is not known.
    """
    if not training:
        return []
    return [
        f"grey_{name}={value}" for name, value in greys.items() if value < training[name]["minimum"]
    ]
