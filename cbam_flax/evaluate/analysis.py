"""Predictions -> the metrics of metrics.json."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special

from cbam_flax import lineage
from cbam_flax.evaluate import baselines, bootstrap, patients, statistics, subgroups
from cbam_flax.evaluate.calibration import MEASURES, NOT_FITTED, Calibration
from data_prep.manifest import SYNTHETIC_WARNING

Columns = Mapping[str, np.ndarray]
PREVALENCES = (0.01, 0.05, 0.2)
SMALL = 30  # images of a class, below which a warning says so


def analyse(
    predictions: Columns,
    calibration: Calibration,
    train: Columns | None,
    *,
    prevalences: Sequence[float] = PREVALENCES,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Metrics with intervals, at the operating point and against shortcut baselines, as plain JSON.

    Args:
        predictions: as `evaluate.predict_split` gives them, `probability` already calibrated.
        train: columns of the training split, for the baselines; None if not available.
        prevalences: at which PPV and NPV are also reported.
    """
    label, patient = predictions["label"], predictions["patient_id"]
    probability, threshold = predictions["probability"], calibration.threshold
    logit = predictions["logit"]
    draws: dict[str, Any] = {"resamples": resamples, "seed": seed}
    found = statistics.figures_with_intervals(
        label, probability, patient, threshold, score=logit, **draws
    )
    raw = statistics.figures_with_intervals(
        label, scipy.special.expit(logit), patient, 0.5, names=statistics.ERRORS, **draws
    )
    called = probability >= threshold
    analysis: dict[str, Any] = {
        "n": int(label.size),
        "n_positive": int(label.sum()),
        **patients.count(predictions),
        "threshold": round(threshold, bootstrap.DECIMALS),
        **found,
        "uncalibrated": raw,
        "confusion": {
            "tp": int(np.sum(called & (label == 1))),
            "fp": int(np.sum(called & (label == 0))),
            "fn": int(np.sum(~called & (label == 1))),
            "tn": int(np.sum(~called & (label == 0))),
        },
        "at_prevalence": at_prevalence(predictions, found, threshold, prevalences, **draws),
        "subgroups": subgroups.subgroup_figures(predictions, threshold, **draws),
        "baselines": None,
        "overlap": None,
        "bootstrap": {
            "unit": patients.resampling_unit(predictions),
            "level": bootstrap.LEVEL,
            **draws,
        },
    }
    if train is not None:
        scores = baselines.shortcut_scores(train, predictions)
        gains = baselines.gain_over_shortcuts(predictions, scores, **draws)
        best = max(gains, key=lambda name: gains[name]["auroc"]["value"] or 0)
        analysis |= {
            "baselines": gains,
            "best_baseline": best,
            "overlap": patients.overlap(train, predictions),
        }
    return analysis


def at_prevalence(
    predictions: Columns,
    found: Mapping[str, bootstrap.Interval],
    threshold: float,
    prevalences: Sequence[float],
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """PPV and NPV with intervals at other prevalences.

    Args:
        found: the figures of these predictions at this threshold, with their intervals.
    """
    label, patient = predictions["label"], predictions["patient_id"]
    probability = predictions["probability"]
    value = statistics.figures(label, probability, threshold)
    decisions = statistics.figures_statistic(
        label, probability, threshold, names=statistics.DECISIONS
    )
    samples = bootstrap.resample(decisions, patient, resamples, seed)
    behind = statistics.patients_behind(label, probability >= threshold, patient)
    sensitivity, specificity = found["sensitivity"], found["specificity"]
    rows = []
    for prevalence in prevalences:
        values, draws = (
            statistics.predictive_values(
                np.asarray(x["sensitivity"]), np.asarray(x["specificity"]), prevalence
            )
            for x in (value, samples)
        )
        odds = (1 - prevalence) / prevalence
        exact = {
            "ppv": (sensitivity, specificity, odds),
            "npv": (specificity, sensitivity, 1 / odds),
        }
        row: dict[str, Any] = {"prevalence": prevalence}
        for (name, rates), each, drawn in zip(exact.items(), values, draws, strict=True):
            row[name] = (
                statistics.exact_predictive_value(*rates)
                if each in (0, 1)
                else bootstrap.interval(float(each), drawn, behind[name])
            )
        rows.append(row)
    return rows


def warnings(metrics: Mapping[str, Any]) -> list[str]:
    """Warnings about the metrics, most serious first."""
    return [
        *warnings_of_data(metrics),
        *warnings_of_figures(metrics),
        *warnings_of_selection(metrics),
    ]


def warnings_of_data(metrics: Mapping[str, Any]) -> list[str]:
    """Drawn images, and what of the training split is among those evaluated."""
    found = [SYNTHETIC_WARNING] if metrics["data"]["synthetic"] else []
    shared = metrics["overlap"]
    if shared is None:
        found.append("The training split was not available: leaks and shortcuts were not checked.")
    elif shared["images"]:
        found.append(
            f"LEAK: {shared['images']} of {metrics['n']} images are in the training split too. "
            f"The metrics measure memorisation."
        )
    elif shared["images_of_known_patients"]:
        found.append(
            f"LEAK: {shared['images_of_known_patients']} of {metrics['n']} images show patients "
            f"of the training split. The metrics are too good for new patients."
        )
    if shared and shared["unchecked"]:
        found.append(
            f"UNKNOWN PATIENTS: leaks are unchecked for {shared['unchecked']} of {metrics['n']} "
            f"images, since they or the training images name no patient. Intervals are over "
            f"{metrics['bootstrap']['unit']}: too narrow if patients have several images."
        )
    found += lineage.warnings(
        metrics.get("ancestors", []), metrics["n"], of_ensemble="ensemble" in metrics
    )
    return found


def warnings_of_figures(metrics: Mapping[str, Any]) -> list[str]:
    """Of one finding: shortcuts, a calibration that does harm, few images."""
    found = []
    if metrics["baselines"]:
        name = metrics["best_baseline"]
        gain = metrics["baselines"][name]["gain"]
        if gain["value"] is not None and gain["low"] <= 0:
            found.append(
                f"SHORTCUT: the model is not clearly better than the {name} baseline, which never "
                f"sees the image (gain in AUROC {gain['value']:.3f}, 95 % interval "
                f"{gain['low']:.3f} to {gain['high']:.3f})."
            )
    found += _calibration_warnings(metrics)
    positive, negative = metrics["n_positive"], metrics["n"] - metrics["n_positive"]
    if min(positive, negative) < SMALL:
        found.append(
            f"SMALL: {positive} positive and {negative} negative images; the intervals are wide "
            f"and approximate."
        )
    return found


def warnings_of_selection(metrics: Mapping[str, Any]) -> list[str]:
    """Whether the figures are of the split that the model was chosen on."""
    if metrics["split"] != "validation" or metrics["external"]:
        return []
    return [
        "The checkpoint, the calibration and the operating point were chosen on this "
        "split: its metrics are optimistic."
    ]


def _calibration_warnings(metrics: Mapping[str, Any]) -> list[str]:
    """Where calibration made the Brier score or the ECE worse, as far as three decimals show."""
    fitted = metrics["calibration"]
    if fitted["criterion"] == NOT_FITTED:
        return []
    if not fitted.get("before"):
        return [
            "CALIBRATION: it was fitted by an older version, which did not record whether it "
            "helped on the split that it was fitted on."
        ]
    places = {
        f"the {fitted['split']} split, on which it was fitted": (fitted["before"], fitted["after"])
    }
    if metrics["split"] != fitted["split"] or metrics["external"]:
        before, after = (
            {name: each[name]["value"] for name in fitted["before"]}
            for each in (metrics["uncalibrated"], metrics)
        )
        places["the split that is evaluated here"] = (before, after)
    found = []
    for place, (before, after) in places.items():
        worse = [
            f"{title} {before[name]:.3f} before, {after[name]:.3f} after"
            for name, title in MEASURES.items()
            if round(after[name], 3) > round(before[name], 3)
        ]
        if worse:
            found.append(f"CALIBRATION: it is worse than none on {place}: {'; '.join(worse)}.")
    return found
