"""A column of texts as categories that can be tested against a label, or why it cannot."""

import dataclasses

import numpy as np
import pandas as pd

BINS = 10  # of numbers; as many different numbers or fewer are categories as they are
FEW = 10  # images of one value, below which it is pooled with other such values
RARE, GIVEN = "(rare values)", "(given)"
_ID = 0.9  # of the images: from so many different values on, a column tells images apart


@dataclasses.dataclass(frozen=True)
class Column:
    """One property of the images.

    Attributes:
      values: (images,) str; "" where it is missing.
      applies: (images,) bool; False where the image's table has no such column, which is not the
        same as a missing value.
    """

    values: np.ndarray
    applies: np.ndarray

    def of(self, images: np.ndarray) -> "Column":
        """The same of some images, as bool (images,)."""
        return Column(self.values[images], self.applies[images])


def why_untested(values: np.ndarray) -> str | None:
    """Why texts (images,) can predict nothing of other images; None if they can."""
    if len(set(values)) < 2:
        return f"always {str(values[0])!r}" if len(values) and values[0] else "empty"
    if _is_id(values) and "" not in values:
        return f"an id: {len(set(values)):,} different values of {len(values):,} images"
    return None


def categories(values: np.ndarray) -> np.ndarray:
    """Texts (images,) as categories: numbers by quantiles, as "40 to 49"; rare values as one.

    Of an id it is a category whether it is given.
    """
    given = values != ""
    if _is_id(values):
        return np.where(given, GIVEN, "")
    numbers = _numbers(values[given])
    if numbers is None or len(set(numbers)) <= BINS:
        names, place, images = np.unique(values, return_inverse=True, return_counts=True)
        rare = (images < FEW) & (names != "")
        return np.where(rare & (rare.sum() > 1), RARE, names)[place]
    bins = pd.Series(pd.qcut(numbers, BINS, labels=False, duplicates="drop"))
    limits = pd.Series(numbers).groupby(bins).agg(["min", "max"])
    result = values.astype(object)
    result[given] = bins.map({place: _name(*ends) for place, *ends in limits.itertuples()})
    return result.astype(str)


def _name(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _numbers(texts: np.ndarray) -> np.ndarray | None:
    """The texts as numbers; None where one is none."""
    numbers = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy(float)
    return numbers if np.isfinite(numbers).all() else None


def _is_id(values: np.ndarray) -> bool:
    """Whether nearly all values that are given differ, and are no measured fractions."""
    given = values[values != ""]
    numbers = _numbers(given)
    is_measured = numbers is not None and (numbers != np.round(numbers)).any()
    return len(set(given)) > _ID * len(given) and not is_measured
