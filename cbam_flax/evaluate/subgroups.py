"""The same metrics by view, sex, age and kind of negative."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cbam_flax.evaluate import bootstrap, statistics

AGE_BOUNDS = (0, 18, 40, 60, 80, np.inf)  # years, each from its lower bound on
SMALL = 10  # with fewer patients in either class, metrics are unreliable
FIGURES = ("auroc", "sensitivity", "specificity")


def subgroups(columns: Mapping[str, np.ndarray]) -> Iterator[tuple[str, str, np.ndarray]]:
    """(group, member, mask) for every member that occurs; missing values are a member.

    The group `negatives` compares the positives with one kind of negative at a time.
    """
    for group in ("view", "sex"):
        for value in np.unique(columns[group]):
            yield group, str(value) or "missing", columns[group] == value
    age = columns["age"]
    for low, high in itertools.pairwise(AGE_BOUNDS):
        name = f"{low}-{high - 1}" if np.isfinite(high) else f"{low}+"
        yield "age", name, (age >= low) & (age < high)
    yield "age", "missing", np.isnan(age)
    positive = columns["label"] == 1
    kinds = np.unique(columns["detailed_class"][~positive])
    if len(kinds) > 1:
        for kind in kinds:
            yield "negatives", str(kind), positive | (columns["detailed_class"] == kind)


def subgroup_figures(
    predictions: Mapping[str, np.ndarray],
    threshold: float,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row for each subgroup: counts, whether it is small, and `FIGURES` with intervals."""
    rows = []
    for group, member, mask in subgroups(predictions):
        if not mask.any():
            continue
        label, patient = predictions["label"][mask], predictions["patient_id"][mask]
        found = statistics.figures_with_intervals(
            label,
            predictions["probability"][mask],
            patient,
            threshold,
            resamples,
            seed,
            score=predictions["logit"][mask],
            names=FIGURES,
        )
        classes = [len(np.unique(patient[label == value])) for value in (0, 1)]
        rows.append(
            {
                "group": group,
                "member": member,
                "n": int(label.size),
                "n_positive": int(label.sum()),
                "n_patients": len(np.unique(patient)),
                "small": min(classes) < SMALL,
                **found,
            }
        )
    return rows
