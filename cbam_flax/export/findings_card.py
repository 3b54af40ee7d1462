"""The sections of a model card that differ where there are several findings."""

from typing import Any

from cbam_flax.evaluate import patients
from cbam_flax.export.markdown import interval, table

Metrics = dict[str, Any]


def results(metrics: Metrics) -> str:
    """A line for each finding, and their mean."""
    rows: list[tuple[Any, ...]] = []
    for name, found in metrics["findings"].items():
        figures: tuple[str, ...] = ("not judged", "", "", "")
        if name in metrics["mean"]["of"]:
            shown = ("auroc", "average_precision", "sensitivity", "specificity")
            figures = tuple(interval(found[each]) for each in shown)
        rows.append((name, found["n"], found["n_positive"], *figures))
    if metrics["mean"]["of"]:
        mean = metrics["mean"]
        shown = ("auroc", "average_precision", "sensitivity", "specificity")
        rows.append(("mean", "", "", *(interval(mean[each]) for each in shown)))
    head = (
        *("finding", "labelled", "positive", "AUROC", "average precision"),
        *("sensitivity", "specificity"),
    )
    return (
        f"Evaluation `{metrics['name']}`: the {metrics['split']} split of `{metrics['dataset']}`, "
        f"{metrics['n']:,} images of {patients.described(metrics)}. Each finding is judged on the "
        f"images that are labelled for it; the mean is over the findings of which both classes are "
        f"there. 95 % intervals from a bootstrap over {metrics['bootstrap']['unit']}.\n\n"
        + table(head, rows)
    )


def operating_points(bundle: dict[str, Any]) -> str:
    """The calibration and the threshold of each finding."""
    rows = []
    for name in bundle["findings"]:
        line, point = bundle["calibration"][name], bundle["operating_point"][name]
        formula = f"sigmoid({line['scale']:g} x logit + {line['bias']:g})"
        threshold = f"{point['threshold']:.4g} ({point['criterion']})"
        rows.append((name, formula, threshold, line["source"]))
    return (
        "The calibration is inside every artefact. A finding is called present at its threshold or "
        "above.\n\n" + table(("finding", "probability", "threshold", "source"), rows)
    )


def subgroups(metrics: Metrics) -> str:
    """Only where they are: a table for each finding would fill pages."""
    return "The evaluation's report has them for each finding."


def shortcuts(metrics: Metrics | None) -> str:
    """The best baseline of each finding and what the model gains over it."""
    intro = (
        "A model can score well by correlates of a finding instead of the finding. The table "
        "compares the best of the baselines that never see the image (the view, all metadata, the "
        "patient's other images) with the model on the same images."
    )
    found = metrics["findings"] if metrics else {}
    rows = []
    for name, each in found.items():
        if each.get("baselines"):
            best = each["best_baseline"]
            row = each["baselines"][best]
            rows.append((name, best, interval(row["auroc"]), interval(row["gain"])))
    if not rows:
        return f"{intro}\n\nThey were not evaluated for this run."
    head = ("finding", "best baseline", "its AUROC", "gain of the model")
    return f"{intro}\n\n{table(head, rows)}"
