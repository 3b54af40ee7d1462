"""Whether one property of the images alone predicts the label, as a whole or by a rare value."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, hypergeom

from data_prep import cli
from data_prep.audit.columns import Column, categories, why_untested
from data_prep.audit.confounders import confounder_auroc
from data_prep.multiple_testing import holm

AUROC_BOUND = 0.55  # for the lower limit of the interval
ODDS_BOUND = 2.0  # for a value's odds of the label against those of all others, either way
LEVEL = 0.05  # that any value of any column is called out by chance
_FEW = 10  # patients with the finding, or without: fewer are too few for five folds
_RESAMPLINGS = 25  # of an image per patient


def judge(
    label: np.ndarray, patient: np.ndarray, columns: Mapping[str, Column], draws: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """Tests each column alone.

    Args:
      label, patient: (images,) 0 or 1, and a number per patient.
      draws: of the bootstrap.

    Returns:
      By column its `auroc` (None where patients are too few), whether it is a `shortcut`, and its
      `values` with what `rates` says, the p-value of `independence` after Holm's correction over
      all values of all columns, and whether the value is a `shortcut`. And by column why it was
      not tested.
    """
    found: dict[str, Any] = {}
    untested = {}
    groupings: dict[bytes, str] = {}
    for name, column in cli.progress(columns.items(), "testing columns", unit="column"):
        own_label, own_patient = label[column.applies], patient[column.applies]
        values = column.values[column.applies]
        if why := why_untested(values):
            untested[name] = why
            continue
        values = categories(values)
        grouping = column.applies.tobytes() + pd.factorize(values)[0].tobytes()
        if (same := groupings.setdefault(grouping, name)) != name:
            untested[name] = f"it groups the images as {same} does"
            continue
        auroc = None
        if min(len(np.unique(own_patient[own_label == one])) for one in (0, 1)) >= _FEW:
            auroc = confounder_auroc(own_label, own_patient, [values], draws)
        found[name] = {
            "images": len(values),
            "auroc": auroc,
            "shortcut": auroc is not None and auroc["low"] > AUROC_BOUND,
            "values": rates(own_label, own_patient, values),
        }
        chance = independence(own_label, own_patient, values)
        for value, p in zip(found[name]["values"].values(), chance, strict=True):
            value["p"] = float(p)
    every = [value for column in found.values() for value in column["values"].values()]
    for value, p in zip(every, holm(np.array([value["p"] for value in every])), strict=True):
        is_odd = not 1 / ODDS_BOUND < value["odds_ratio"] < ODDS_BOUND
        value |= {"p": float(p), "shortcut": bool(p < LEVEL and is_odd)}
    return found, untested


def rates(label: np.ndarray, patient: np.ndarray, values: np.ndarray) -> dict[str, Any]:
    """By value: images, patients, positive images, their share, and the odds ratio.

    The limits are Wilson's, for images; the odds ratio is to the images of all other values, with
    half an image added to each of the four counts.
    """
    result: dict[str, Any] = {}
    positive = int(label.sum())
    for value in np.unique(values):
        here = values == value
        images, found = int(here.sum()), int(label[here].sum())
        limits = binomtest(found, images).proportion_ci(method="wilson")
        odds = (found + 0.5) / (images - found + 0.5)
        elsewhere = positive - found
        others = (elsewhere + 0.5) / (len(label) - images - elsewhere + 0.5)
        result[str(value)] = {
            "images": images,
            "patients": len(np.unique(patient[here])),
            "positive": found,
            "value": found / images,
            "low": float(limits.low),
            "high": float(limits.high),
            "odds_ratio": odds / others,
        }
    return result


def independence(label: np.ndarray, patient: np.ndarray, values: np.ndarray) -> np.ndarray:
    """p-values (values,), in sorted order, that a value says nothing of the label.

    An AUROC hides a small group: 79 images with another rate of 1,145 hardly move it. Here each
    value is Fisher's exact test of its images against all others, of one image per patient, since
    two images of a patient are no independent evidence. Which one is drawn anew each time; twice
    the median of the p-values is again one (Rueschendorf, 1982).
    """
    codes = np.unique(values, return_inverse=True)[1]
    rng = np.random.default_rng(0)
    draws = []
    for _ in range(_RESAMPLINGS):
        order = rng.permutation(len(label))
        one = order[np.unique(patient[order], return_index=True)[1]]
        images = np.bincount(codes[one], minlength=codes.max() + 1)
        found = np.bincount(codes[one], label[one], minlength=len(images)).astype(int)
        all_of = (len(one), int(label[one].sum()), images)
        tails = hypergeom.cdf(found, *all_of), hypergeom.sf(found - 1, *all_of)
        draws.append(2 * np.minimum(*tails))
    return np.minimum(1, 2 * np.median(draws, axis=0))
