"""A column of texts as categories that can be tested against a label, or why it cannot."""

import dataclasses

import numpy as np
import pandas as pd

BINS = 10  # of numbers; as many different numbers or fewer are categories as they are
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
    given = values[values != ""]
    if len(set(values)) < 2:
        return f"always {values[0]!r}" if len(given) else "empty"
    different = len(set(given))
    if different > _ID * len(given) and not _is_measured(_numbers(given)):
        return f"an id: {different:,} different values of {len(given):,} images"
    return None


def categories(values: np.ndarray) -> np.ndarray:
    """Texts as categories: numbers of more than `BINS` values by quantiles, as "40 to 49"."""
    given = values != ""
    numbers = _numbers(values[given])
    if numbers is None or len(set(numbers)) <= BINS:
        return values
    bins = pd.Series(pd.qcut(numbers, BINS, labels=False, duplicates="drop"))
    limits = pd.Series(numbers).groupby(bins).agg(["min", "max"])
    names = {place: _name(low, high) for place, low, high in limits.itertuples()}
    result = values.astype(object)
    result[given] = bins.map(names)
    return result.astype(str)


def _name(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _numbers(texts: np.ndarray) -> np.ndarray | None:
    """The texts as numbers; None where one is none."""
    numbers = pd.to_numeric(pd.Series(texts, dtype=object), errors="coerce").to_numpy(float)
    return numbers if np.isfinite(numbers).all() else None


def _is_measured(numbers: np.ndarray | None) -> bool:
    """Fractions are measured; whole numbers may be ids."""
    return numbers is not None and bool((numbers != np.round(numbers)).any())
