"""Every figure of the audit of a table or of folders, and how they are shown."""

from typing import Any

import numpy as np

from data_prep.audit import leakage as leak
from data_prep.audit.planned import Planned
from data_prep.audit.run import render_leakage, show_auroc
from data_prep.audit.shortcuts import AUROC_BOUND, LEVEL, ODDS_BOUND, judge
from data_prep.manifest import NOT_LABELLED

TEST_SHARE = 0.15
LEGEND = (
    f"SHORTCUT means: the lower limit of the AUROC is above {AUROC_BOUND}; or the odds of a value "
    f"are at least {ODDS_BOUND:g} times those of all others, or the inverse, with p < {LEVEL} "
    "corrected for all values. A model can learn it where the images show it."
)
_OF_PATIENTS = ("patients", "patient_memoriser")  # figures that need to know them


def audit_plan(planned: Planned, draws: int) -> dict[str, Any]:
    """Every figure, as it is written to the JSON file."""
    is_known = bool((planned.patients != "").all())
    names = np.where(planned.patients == "", planned.ids, planned.patients)
    patient = np.unique(names, return_inverse=True)[1]
    findings = {}
    for place, finding in enumerate(planned.findings):
        label = planned.labels[:, place]
        columns, untested = judge_labelled(planned, label, patient, draws)
        findings[finding] = {
            "images": int((label != NOT_LABELLED).sum()),
            "positive": int((label == 1).sum()),
            "columns": columns,
            "untested": dict(planned.untested) | untested,
        }
    return {
        "images": len(planned.ids),
        "patients": int(patient.max()) + 1 if is_known else None,
        "positive": int((planned.labels == 1).any(axis=1).sum()),
        "refused": dict(planned.refused),
        "near_duplicate_pairs": len(planned.duplicates),
        "of_different_patients": _of_different_patients(planned) if is_known else None,
        "leakage": _leakage(planned, patient, is_known, draws),
        "findings": findings,
    }


def judge_labelled(
    planned: Planned, label: np.ndarray, patient: np.ndarray, draws: int
) -> tuple[dict[str, Any], dict[str, str]]:
    """`shortcuts.judge` on the images that have this label."""
    known = label != NOT_LABELLED
    columns = {name: column.of(known) for name, column in planned.columns.items()}
    patient = np.unique(patient[known], return_inverse=True)[1]
    return judge(label[known], patient, columns, draws)


def _leakage(planned: Planned, patient: np.ndarray, is_known: bool, draws: int) -> dict[str, Any]:
    images = np.arange(len(planned.ids))
    label = (planned.labels == 1).any(axis=1).astype(int)

    def figures(in_train: np.ndarray, in_test: np.ndarray) -> dict[str, float]:
        found = leak.leakage(label, patient, images, in_train, in_test, planned.duplicates)
        return {key: found[key] for key in found if is_known or key not in _OF_PATIENTS}

    result: dict[str, Any] = {}
    for scheme, unit in {"patient": patient, "image": images}.items():
        if scheme == "image" or is_known:
            splits = leak.random_splits(unit, TEST_SHARE, draws)
            result[f"by {scheme}, {1 - TEST_SHARE:.0%} / {TEST_SHARE:.0%}"] = leak.mean_and_range(
                [figures(*split) for split in splits]
            )
    if {"train", "test"} <= set(planned.splits):  # a data set may be there to test on only
        prepared = figures(planned.splits == "train", planned.splits == "test")
        result[f"by {planned.scheme}, as prepared"] = {
            key: {"value": value} for key, value in prepared.items()
        }
    return result


def _of_different_patients(planned: Planned) -> list[list[str]]:
    pairs = planned.duplicates
    different = planned.patients[pairs[:, 0]] != planned.patients[pairs[:, 1]]
    return planned.ids[pairs[different]].tolist()


def render(result: dict[str, Any]) -> str:
    """The figures as a table for people."""
    patients = "unknown" if result["patients"] is None else f"{result['patients']:,} real"
    refused = sum(result["refused"].values())
    lines = [
        f"{result['images']:,} images of {patients} patients, {result['positive']:,} positive; "
        f"{refused:,} refused",
        "",
        *render_leakage(result["leakage"]),
        f"{result['near_duplicate_pairs']:,} pairs of images look alike",
    ]
    if pairs := result["of_different_patients"]:
        lines.append(
            f"WARNING: {len(pairs):,} of them are said to be of different patients, such as "
            f"{' and '.join(pairs[0])}"
        )
    for finding, found in result["findings"].items():
        lines += ["", *_render_finding(finding, found)]
    is_found = any("  SHORTCUT" in line for line in lines)
    return "\n".join([*lines, "", LEGEND if is_found else "no SHORTCUT found"])


def _render_finding(finding: str, found: dict[str, Any]) -> list[str]:
    lines = [
        f"{finding}: {found['positive']:,} of {found['images']:,} images. What one property alone "
        "predicts, on patients not fitted on:",
        f"{'':28}{'AUROC':>22}{'images':>10}{'values':>8}",
    ]
    for name, column in found["columns"].items():
        auroc = show_auroc(column["auroc"]) or "too few patients"
        lines.append(
            f"{name:28}{auroc:>22}{column['images']:10,}{len(column['values']):8,}"
            + "  SHORTCUT" * column["shortcut"]
            + " (or the label in other words)" * _is_label(column)
        )
        lines += [
            f"    {value or 'missing'}: {_rate(rate)}"
            for value, rate in column["values"].items()
            if rate["shortcut"]
        ]
    names: dict[str, list[str]] = {}
    for name, why in found["untested"].items():
        names.setdefault(why, []).append(name)
    lines += [f"not tested: {', '.join(those)}: {why}" for why, those in names.items()]
    return lines


def _is_label(column: dict[str, Any]) -> bool:
    """Whether every value, where there are several, decides the label."""
    return all(value["value"] in (0, 1) for value in column["values"].values())


def _rate(rate: dict[str, Any]) -> str:
    return (
        f"{rate['positive']:,} of {rate['images']:,} images positive, {rate['value']:.1%} "
        f"({rate['low']:.1%}-{rate['high']:.1%}), {rate['patients']:,} patients, "
        f"odds ratio {rate['odds_ratio']:.2g}, p {rate['p']:.2g}  SHORTCUT"
    )
