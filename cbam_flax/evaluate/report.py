"""An evaluation folder -> report.html, a self-contained file.

The pictures are the folder's PNG files, inlined; the rest comes from metrics.json.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from cbam_flax import lineage
from cbam_flax.evaluate import ensemble, html_page, operating_point, patients
from cbam_flax.evaluate.html_page import flatten, page, table, text, unbroken
from cbam_flax.evaluate.pictures import Pictures
from cbam_flax.folds import division

# File, heading, and alternative text.
CURVES = (
    ("roc", "ROC curve", "sensitivity against 1 - specificity, with its 95 % band"),
    ("precision_recall", "Precision and recall", "precision against recall, with its 95 % band"),
    ("reliability", "Calibration", "observed frequency against predicted probability"),
    ("scores", "Scores by class", "histograms of the calibrated probability by class"),
    ("confusion", "Operating point", "confusion matrix at the threshold"),
)
FOREST = ("subgroups", "AUROC by subgroup", "AUROC of each subgroup with its interval")
FINDINGS = ("findings", "AUROC by finding", "AUROC of each finding with its interval")
TRAINING = ("training", "Training", "training loss and validation AUROC by step")
RADIOGRAPHS = (
    ("mistakes", "Confident mistakes", "radiograph with a confident error and saliency maps"),
    ("examples", "Examples drawn at random", "radiograph drawn at random and saliency maps"),
)
NAMES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "log_loss": "log loss",
    "ece": "calibration error (ECE)",
    "ppv": "PPV",
    "npv": "NPV",
    "f1": "F1",
}
FIGURES = (
    "auroc", "average_precision", "brier", "log_loss", "ece",
    "sensitivity", "specificity", "ppv", "npv", "f1", "accuracy",
)  # fmt: skip


def render(
    metrics: Mapping[str, Any], drawn: Pictures, curves: Sequence[dict[str, Any]] = ()
) -> str:
    """The page.

    Args:
        metrics: what metrics.json holds.
        drawn: pictures by name; those missing are left out.
        curves: the one of `operating_point.curve`, or none.
    """
    synthetic = "SYNTHETIC images: " if metrics["data"]["synthetic"] else ""
    title = f"{synthetic}{metrics['dataset']}, {metrics['split']}"
    prevalence = metrics["n_positive"] / metrics["n"]
    parts = [
        f"<h1>{text(title)}</h1>",
        _headline(metrics),
        f"<p>{metrics['n']:,} images of {patients.described(metrics)}, "
        f"{metrics['n_positive']:,} positive ({prevalence:.1%}). In brackets: the 95 % "
        f"interval from {metrics['bootstrap']['resamples']:,} resamples of "
        f"{metrics['bootstrap']['unit']}.</p>",
        f"<p>{text(scored)}</p>" if (scored := ensemble.described(metrics)) else "",
        *(f"<p class=warning>{text(warning)}</p>" for warning in metrics["warnings"]),
        "<h2>Metrics</h2>",
        _figures(metrics),
        "<div class=grid>",
        *(html_page.picture(drawn.files, *picture) for picture in CURVES),
        "</div>",
        operating_point.section(curves, "the operating point of the figures above"),
        _baselines(metrics),
        _subgroups(metrics),
        html_page.picture(drawn.files, *FOREST),
        _localisation(metrics),
        *(
            html_page.radiographs(*group, drawn.radiographs.get(group[0], ()))
            for group in RADIOGRAPHS
        ),
        data_section(metrics),
        ancestors_section(metrics),
        html_page.picture(drawn.files, *TRAINING),
        provenance_section(metrics),
    ]
    return page(title, parts)


def _headline(metrics: Mapping[str, Any]) -> str:
    cards = [
        ("AUROC", unbroken(metrics["auroc"]), ""),
        (
            "sensitivity / specificity",
            f"{_short(metrics['sensitivity'])} / {_short(metrics['specificity'])}",
            f"at probability {metrics['threshold']:.3f}, chosen on validation",
        ),
    ]
    if metrics["baselines"]:
        best = metrics["best_baseline"]
        gain = unbroken(metrics["baselines"][best]["gain"])
        cards.append(("AUROC above the best shortcut", gain, f"which is {best}"))
    return (
        "<div class='grid headlines'>"
        + "".join(
            f"<div><div>{name}</div><div class=headline>{value}</div><small>{note}</small></div>"
            for name, value, note in cards
        )
        + "</div>"
    )


def _figures(metrics: Mapping[str, Any]) -> str:
    point = metrics["calibration"]
    rows = [(NAMES.get(name, name), unbroken(metrics[name])) for name in FIGURES]
    shifted = [
        (f"{row['prevalence']:.1%}", unbroken(row["ppv"]), unbroken(row["npv"]))
        for row in metrics["at_prevalence"]
    ]
    return (
        f"<div class=grid><div>{table(('metric', 'value'), rows)}</div><div>"
        f"<p>Operating point: positive if the calibrated probability is at least "
        f"{metrics['threshold']:.3f} ({text(point['criterion'])}). It and the calibration "
        f"were fitted only on the run's {text(point['split'])} split "
        f"({point['n']:,} images).</p><h3>At other prevalences</h3>"
        f"{table(('prevalence', 'PPV', 'NPV'), shifted)}</div></div>"
    )


def _baselines(metrics: Mapping[str, Any]) -> str:
    if not metrics["baselines"]:
        return ""
    rows = [
        (name, unbroken(row["auroc"]), unbroken(row["gain"]))
        for name, row in metrics["baselines"].items()
    ]
    return (
        "<h2>Shortcut baselines</h2><p>Predictors that never see the lungs, fitted to the training "
        "labels and evaluated on the same images. <em>patient</em> repeats the patient's training "
        "labels; in a split by patient its AUROC must be 0.5.</p>"
        + table(("baseline", "its AUROC", "gain of the model"), rows)
    )


def _subgroups(metrics: Mapping[str, Any]) -> str:
    rows = [
        (
            f"{row['group']}: {row['member']}",
            f"{row['n_positive']:,} / {row['n']:,}",
            unbroken(row["auroc"]),
            unbroken(row["sensitivity"]),
            unbroken(row["specificity"]),
            "small" if row["small"] else "",
        )
        for row in metrics["subgroups"]
    ]
    head = ("subgroup", "positive / images", "AUROC", "sensitivity", "specificity", "")
    return (
        "<h2>Subgroups</h2><p>Small: fewer than ten patients in one of the classes. Each "
        "kind of negative is compared with all positives.</p>" + table(head, rows)
    )


def _localisation(metrics: Mapping[str, Any]) -> str:
    if not metrics.get("localisation"):
        return ""
    rows = [
        (
            source.replace("_", " "),
            unbroken(row["pointing"]),
            unbroken(row["energy"]),
            unbroken(row["energy_gain"]) if "energy_gain" in row else "",
        )
        for source, row in metrics["localisation"]["scores"].items()
    ]
    head = ("map", "maximum in a box", "share inside the boxes", "share, above the boxes' area")
    return (
        f"<h2>Saliency maps</h2><p>Maps of {metrics['localisation']['n']} positive images against "
        "the radiologists' boxes, which training never uses. <em>area</em> is the score of a "
        "uniform map, <em>mean box</em> of the mean training box, <em>random</em> of an untrained "
        "model.</p>" + table(head, rows)
    )


def data_section(metrics: Mapping[str, Any]) -> str:
    data = metrics["data"]
    rows = [
        (name, f"{split['images']:,}", _count(split["patients"]), f"{split['positive']:,}")
        for name, split in data["splits"].items()
    ]
    return f"<h2>Data</h2><p>{text(data['dataset'])}, {text(division(data))}.</p>" + table(
        ("split", "images", "patients", "positive"), rows
    )


def ancestors_section(metrics: Mapping[str, Any]) -> str:
    if not metrics.get("ancestors"):
        return ""
    rows = []
    for ancestor in metrics["ancestors"]:
        train, validation = (ancestor["shared"][part] for part in lineage.PARTS)
        seen = (train["images_of_known_patients"], validation["images_of_known_patients"])
        shown = ["unknown" if count is None else f"{count:,}" for count in seen]
        rows.append((lineage.described(ancestor), *shown, f"{train['unchecked']:,}"))
    head = ("trained on", "in its training", "in its validation", "unchecked")
    models = "The models before this one, the nearest first"
    if "ensemble" in metrics:
        models = "The models before the members of the ensemble"
    return (
        f"<h2>Started from</h2><p>{models}, and how many of the evaluated images, or images of "
        "their patients, each has seen.</p>" + table(head, rows)
    )


def _count(patients: int) -> str:
    return f"{patients:,}" if patients else "unknown"


def provenance_section(metrics: Mapping[str, Any]) -> str:
    rest = dict(metrics["provenance"])
    config = table(("", ""), flatten(rest.pop("config")))
    return (
        "<h2>Provenance</h2>"
        f"<div class=long>{table(('', ''), flatten(rest))}"
        f"<details><summary>Configuration</summary>{config}</details></div>"
    )


def _short(figure: Mapping[str, float | None]) -> str:
    return "undefined" if figure["value"] is None else f"{figure['value']:.2f}"
