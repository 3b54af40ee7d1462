"""Every figure of the audit, and how they are shown."""

from typing import Any

import numpy as np

from data_prep import cli
from data_prep.audit import leakage as leak
from data_prep.audit.confounders import category, confounder_auroc
from data_prep.audit.inputs import CONFOUNDERS, Splits, Table

# The share of test by what is drawn: the literature's, and the original notebook's for rows.
TEST_SHARES = {"patient": 0.15, "image": 0.15, "row": 0.25}


def audit(
    table: Table,
    metadata: dict[str, dict[str, str]] | None,
    duplicates: Any,
    draws: int,
    published: Splits | None = None,
) -> dict[str, Any]:
    """Every figure, as it is written to the JSON file."""
    patient = np.unique(table.patients, return_inverse=True)[1]
    image_of_row = np.repeat(np.arange(len(table.ids)), table.rows)
    row_of_image = np.concatenate([np.arange(count) for count in table.rows])
    names = [table.ids[image] for image in image_of_row]
    units = {  # a number and a name per row
        "patient": (patient[image_of_row], [table.patients[image] for image in image_of_row]),
        "image": (image_of_row, names),
        "row": (
            np.arange(len(names)),
            [f"{name}#{row}" for name, row in zip(names, row_of_image, strict=True)],
        ),
    }

    def figures(in_train: Any, in_test: Any) -> dict[str, float]:
        return leak.leakage(table.label, patient, image_of_row, in_train, in_test, duplicates)

    leakage = {}
    for scheme, (unit, unit_names) in cli.progress(units.items(), "splitting", unit="scheme"):
        share = TEST_SHARES[scheme]
        splits = leak.random_splits(unit, share, draws)
        leakage[f"by {scheme}, {1 - share:.0%} / {share:.0%}"] = leak.mean_and_range(
            [figures(*split) for split in splits]
        )
        prepared = figures(*leak.prepared_split(unit_names))
        leakage[f"by {scheme}, as prepared"] = {k: {"value": v} for k, v in prepared.items()}
    if published is not None:
        for name in sorted(set(published.name) - {"train"}):
            found = leak.leakage(
                table.label,
                patient,
                published.image,
                published.name == "train",
                published.name == name,
                duplicates,
            )
            images = len(np.unique(published.image[published.name == name]))
            leakage[f"as published, {name}"] = {
                "judged_images": {"value": images},
                **{key: {"value": value} for key, value in found.items()},
            }
    return {
        "images": len(table.ids),
        "patients": int(patient.max()) + 1,
        "rows": len(names),
        "positive": int(table.label.sum()),
        "left_out": table.left_out,
        "published_rows_unknown": published and published.unknown,
        "near_duplicate_pairs": None if duplicates is None else len(duplicates),
        "leakage": leakage,
        "confounders": metadata and confounders(table, patient, metadata, draws),
    }


def confounders(
    table: Table, patient: Any, metadata: dict[str, dict[str, str]], draws: int
) -> dict[str, Any]:
    """Per confounder the positive rate of each value, and the AUROC; and the union's AUROC."""
    values = {
        name: np.array([category(name, metadata[image_id].get(name, "")) for image_id in table.ids])
        for name in CONFOUNDERS
    }
    groups = {name: [value] for name, value in values.items()} | {"union": list(values.values())}
    result: dict[str, Any] = {}
    for name, group in cli.progress(groups.items(), "confounders", unit="value"):
        result[name] = {"auroc": confounder_auroc(table.label, patient, group, draws)}
        if name in values:
            result[name]["positive_rate"] = {
                str(one): {
                    "images": int((values[name] == one).sum()),
                    "value": float(table.label[values[name] == one].mean()),
                }
                for one in np.unique(values[name])
            }
    return result


def render(result: dict[str, Any]) -> str:
    """The figures as a table for people."""
    lines = [
        f"{result['images']:,} images of {result['patients']:,} real patients, "
        f"{result['positive']:,} positive; {result['rows']:,} rows; {result['left_out']} left out",
        "",
        *render_leakage(result["leakage"]),
    ]
    if result["published_rows_unknown"]:
        lines.append(
            f"{result['published_rows_unknown']:,} rows of --splits are not judged: their images "
            "have no usable label or no known patient"
        )
    if result["near_duplicate_pairs"] is None:
        lines.append("look-alikes: not looked for, the folder of images is missing")
    if not result["confounders"]:
        return "\n".join([*lines, "confounders: unknown without --metadata or the images"])
    lines += ["", "AUROC of the confounders alone, on patients not fitted on"]
    for name, found in result["confounders"].items():
        rates = [
            f"{value or 'missing'} {rate['value']:.1%}"
            for value, rate in found.get("positive_rate", {}).items()
        ]
        text = "; positive: " + ", ".join(rates) if 0 < len(rates) <= 4 else ""
        lines.append(f"{name:10}{show_auroc(found['auroc'])}{text}")
    return "\n".join(lines)


def render_leakage(leakage: dict[str, Any]) -> list[str]:
    """The lines of a table; a figure that a split does not have is left empty."""
    lines = [
        "share of the test images whose ... is in train; AUROC of the patient memoriser",
        f"{'split':28}{'own patient':>20}{'own image':>20}{'own image, positive':>20}"
        f"{'look-alike':>20}{'memoriser':>22}",
    ]
    for name, figures in leakage.items():
        shares = ("patients", "images", "positive_images", "near_duplicates")
        lines.append(
            f"{name:28}"
            + "".join(f"{_percent(figures.get(key)):>20}" for key in shares)
            + f"{show_auroc(figures.get('patient_memoriser')):>22}"
        )
    return lines


def _percent(figure: dict[str, float] | None) -> str:
    if figure is None:
        return ""
    interval = f" ({figure['low']:.1%}-{figure['high']:.1%})" if "low" in figure else ""
    return f"{figure['value']:.1%}{interval}"


def show_auroc(figure: dict[str, float] | None) -> str:
    if figure is None:
        return ""
    interval = f" ({figure['low']:.3f}-{figure['high']:.3f})" if "low" in figure else ""
    return f"{figure['value']:.3f}{interval}"
