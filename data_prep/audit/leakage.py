"""How much of a test split a model has already seen in train, by what the split keeps together."""

from collections.abc import Iterator

import numpy as np
from sklearn.metrics import roc_auc_score

from data_prep.records import assign_split


def leakage(
    label: np.ndarray,
    patient: np.ndarray,
    image_of_row: np.ndarray,
    in_train: np.ndarray,
    in_test: np.ndarray,
    duplicates: np.ndarray | None = None,
) -> dict[str, float]:
    """What leaks in one split.

    Args:
      label, patient: (images,) 0 or 1, and a number per real patient.
      image_of_row: (rows,) the image of each row of the table of labels.
      in_train, in_test: (rows,) bool.
      duplicates: (pairs, 2) images that look alike, if known.

    Returns:
      Shares of the test images: `patients` whose own patient is in train; `images` that are
      themselves in train; `positive_images`, the same among the positive ones;
      `near_duplicates` that look like another image in train. And the AUROC in test of the
      `patient_memoriser`: the share of positive images of the same patient in train, and the
      mean of train for an unknown patient. nan where test has one class only.
    """
    train, test = np.zeros((2, len(label)), bool)
    train[image_of_row[in_train]] = True
    test[image_of_row[in_test]] = True
    seen = np.bincount(patient[train], minlength=patient.max() + 1)
    positive = np.bincount(patient[train], label[train], minlength=len(seen))
    memory = np.where(seen > 0, positive / np.maximum(seen, 1), label[train].mean())
    has_both = len(np.unique(label[test])) == 2
    result = {
        "patients": _share(seen[patient[test]] > 0),
        "images": _share(train[test]),
        "positive_images": _share(train[test & (label == 1)]),
        "patient_memoriser": (
            float(roc_auc_score(label[test], memory[patient[test]])) if has_both else np.nan
        ),
    }
    if duplicates is not None:
        alike = np.zeros(len(label), bool)
        for here, there in (duplicates.T, duplicates.T[::-1]):
            alike[here[train[there]]] = True
        result["near_duplicates"] = _share(alike[test])
    return result


def _share(selected: np.ndarray) -> float:
    return float(selected.mean()) if selected.size else np.nan


def random_splits(
    unit: np.ndarray, share: float, draws: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(in_train, in_test) by row, with `share` of the units (a number per row) in test."""
    rng = np.random.default_rng(0)
    units = unit.max() + 1
    for _ in range(draws):
        in_test = (rng.permutation(units) < round(share * units))[unit]
        yield ~in_test, in_test


def prepared_split(unit_names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """(in_train, in_test) by row, as `prepare` assigns the units with these names (by row)."""
    split = np.array([assign_split(name) for name in unit_names])
    return split == "train", split == "test"


def mean_and_range(draws: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """figure -> its mean, and the middle 95 % of the draws as `low` and `high`."""
    result = {}
    for key in draws[0]:
        values = [draw[key] for draw in draws]
        low, high = np.quantile(values, (0.025, 0.975))
        result[key] = {"value": float(np.mean(values)), "low": float(low), "high": float(high)}
    return result
