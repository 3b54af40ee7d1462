"""The pictures and the report.html of an evaluation of several findings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sklearn.metrics
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve

from cbam_flax.checkpoint import Restored
from cbam_flax.evaluate import (
    ensemble,
    html_page,
    operating_point,
    patients,
    pictures,
    plots,
    report,
    saliency,
)
from cbam_flax.evaluate.html_page import table, text, unbroken
from cbam_flax.evaluate.predict_split import Predictions, of_finding
from cbam_flax.input_pipeline import Split
from cbam_flax.metrics_log import read_scalars

Metrics = Mapping[str, Any]
COLUMNS = 4  # curves beside each other
EXAMPLES = 6  # images, drawn at random
CURVES = (
    ("roc", "ROC curves", "sensitivity against 1 - specificity of each finding"),
    ("reliability", "Calibration", "observed frequency against predicted probability, by finding"),
)


def draw(
    metrics: Metrics,
    predictions: Predictions,
    split: Split,
    restored: Restored,
    workdir: Any,
    *,
    with_maps: bool,
) -> pictures.Pictures:
    """All pictures that the data allow; the arguments are those of `pictures.draw`."""
    figures: dict[str, Figure] = {}
    if metrics["mean"]["of"]:
        figures = {
            "findings": forest(metrics),
            "roc": _grid(metrics, predictions, _roc, "1 - specificity", "sensitivity"),
            "reliability": _grid(metrics, predictions, _reliability, "predicted", "observed"),
        }
    log = workdir / "metrics.jsonl"
    if log.exists():
        figures["training"] = plots.training(read_scalars(log), restored.step)
    radiographs = {}
    if with_maps:
        radiographs["examples"] = _examples(metrics, predictions, split, restored)
    return pictures.together(figures, radiographs)


def forest(metrics: Metrics) -> Figure:
    """The AUROC of every finding with its interval, and their mean."""
    mean, names = metrics["mean"]["auroc"], metrics["mean"]["of"]
    figure = Figure(figsize=(5, 1.2 + 0.4 * len(names)), dpi=plots.DPI, layout="constrained")
    axes = figure.subplots()
    axes.axvspan(mean["low"], mean["high"], color=plots.BLUE, alpha=0.15, lw=0)
    axes.axvline(mean["value"], color=plots.BLUE, label="mean, with interval")
    axes.axvline(0.5, color=plots.GREY, ls=":", label="chance")
    for y, name in enumerate(names):
        found = metrics["findings"][name]["auroc"]
        axes.plot([found["low"], found["high"]], [y, y], color="black", lw=1.5)
        axes.plot(found["value"], y, "s", color="black", ms=5)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -1.2)
    axes.set_xlabel("AUROC")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="upper left", ncols=2)
    return figure


def _grid(
    metrics: Metrics, predictions: Predictions, draw_one: Any, xlabel: str, ylabel: str
) -> Figure:
    """A small square for each finding that is judged."""
    names = metrics["mean"]["of"]
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(1.9 * columns, 2.1 * rows + 0.3), dpi=plots.DPI, layout="constrained")
    squares = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    order = list(metrics["findings"])
    for axes, name in zip(squares, names, strict=False):
        axes.plot([0, 1], [0, 1], color=plots.GREY, ls=":", lw=1)
        draw_one(axes, of_finding(predictions, order.index(name)), metrics["findings"][name])
        axes.set_title(name, fontsize=8, loc="left")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in squares[len(names) :]:
        axes.set_axis_off()
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    return figure


def _roc(axes: Axes, one: Predictions, found: Metrics) -> None:
    false, true, _ = sklearn.metrics.roc_curve(one["label"], one["logit"])
    axes.plot(false, true, color=plots.BLUE)
    point = 1 - found["specificity"]["value"], found["sensitivity"]["value"]
    axes.plot(*point, "D", color=plots.ORANGE, mec="black", ms=5)


def _reliability(axes: Axes, one: Predictions, _: Metrics) -> None:
    observed, predicted = calibration_curve(
        one["label"], one["probability"], n_bins=10, strategy="quantile"
    )
    axes.plot(predicted, observed, "o-", color=plots.BLUE, ms=3)


def _examples(
    metrics: Metrics, predictions: Predictions, split: Split, restored: Restored
) -> list[tuple[str, bytes]]:
    """Random images with the gate of the last block, which is the same for all findings."""
    chosen = np.random.default_rng(0).permutation(len(split))[:EXAMPLES]
    names = np.array(list(metrics["findings"]))
    images = split.images[chosen]
    maps = {}
    if "attention" in saliency.methods_of(restored.model):
        maps = {"attention": saliency.maps("attention", restored.model, restored.variables, images)}
    titles = []
    for row in chosen:
        probability = predictions["probability"][row]
        likely = np.argsort(-probability, kind="stable")[:2]
        positive = ", ".join(names[predictions["label"][row] == 1]) or "none"
        told = ", ".join(f"{names[i]} {probability[i]:.2f}" for i in likely)
        titles.append(f"labelled: {positive}\nmodel: {told}\n{predictions['image_id'][row]}")
    return pictures.one_by_one(images, list(split.columns["boxes"][chosen]), maps, titles)


def render(
    metrics: Metrics, drawn: pictures.Pictures, curves: Sequence[dict[str, Any]] = ()
) -> str:
    """The page: the mean, one table of all findings, curves, and details where asked for.

    Args:
        metrics: what metrics.json holds.
        drawn: pictures by name; those missing are left out.
        curves: of `operating_point.curve`, one for each finding that is judged.
    """
    synthetic = "SYNTHETIC images: " if metrics["data"]["synthetic"] else ""
    title = f"{synthetic}{metrics['dataset']}, {metrics['split']}: {len(metrics['findings'])} "
    title += "findings"
    parts = [
        f"<h1>{text(title)}</h1>",
        _headline(metrics),
        f"<p>{metrics['n']:,} images of {patients.described(metrics)}. Each finding is judged on "
        f"the images that are labelled for it. In brackets: the 95 % interval from "
        f"{metrics['bootstrap']['resamples']:,} resamples of {metrics['bootstrap']['unit']}, the "
        f"same for all findings.</p>",
        f"<p>{text(scored)}</p>" if (scored := ensemble.described(metrics)) else "",
        *(f"<p class=warning>{text(warning)}</p>" for warning in metrics["warnings"]),
        "<h2>Findings</h2>",
        _overview(metrics),
        "<p>Sensitivity and specificity are at the finding's own threshold on its calibrated "
        "probability; threshold and calibration were fitted only on the run's validation "
        "split.</p>",
        html_page.picture(drawn.files, *report.FINDINGS),
        *(html_page.picture(drawn.files, *picture) for picture in CURVES),
        operating_point.section(curves, "the finding's operating point in the table above"),
        _means(metrics),
        "<h2>Each finding in detail</h2>",
        *(_details(name, found) for name, found in metrics["findings"].items() if found["n"]),
        html_page.radiographs(*report.RADIOGRAPHS[1], drawn.radiographs.get("examples", ())),
        report.data_section(metrics),
        report.ancestors_section(metrics),
        html_page.picture(drawn.files, *report.TRAINING),
        report.provenance_section(metrics),
    ]
    return html_page.page(title, parts)


def _headline(metrics: Metrics) -> str:
    mean = metrics["mean"]
    if not mean["of"]:
        return "<p>No finding can be judged.</p>"
    count = f"{len(mean['of'])} of {len(metrics['findings'])} findings"
    cards = (
        ("mean AUROC", unbroken(mean["auroc"]), count),
        ("mean average precision", unbroken(mean["average_precision"]), count),
    )
    divisions = (
        f"<div><div>{name}</div><div class=headline>{value}</div><small>{note}</small></div>"
        for name, value, note in cards
    )
    return f"<div class='grid headlines'>{''.join(divisions)}</div>"


def _overview(metrics: Metrics) -> str:
    rows: list[tuple[str, ...]] = []
    for name, found in metrics["findings"].items():
        counts = (name, f"{found['n']:,}", f"{found['n_positive']:,}")
        if name not in metrics["mean"]["of"]:
            rows.append((*counts, "not judged", "", "", "", ""))
            continue
        rows.append(
            (
                *counts,
                unbroken(found["auroc"]),
                unbroken(found["average_precision"]),
                f"{_short(found['sensitivity'])} / {_short(found['specificity'])}",
                f"{found['threshold']:.3f}",
                _short(found["ece"]),
            )
        )
    if metrics["mean"]["of"]:
        mean = metrics["mean"]
        rates = f"{_short(mean['sensitivity'])} / {_short(mean['specificity'])}"
        figures = (unbroken(mean[name]) for name in ("auroc", "average_precision"))
        rows.append(("mean", "", "", *figures, rates, "", _short(mean["ece"])))
    head = (
        *("finding", "labelled", "positive", "AUROC", "average precision"),
        *("sensitivity / specificity", "threshold", "ECE"),
    )
    return table(head, rows)


def _means(metrics: Metrics) -> str:
    if not metrics["mean"]["of"]:
        return ""
    rows = [
        (report.NAMES.get(name, name), unbroken(metrics["mean"][name])) for name in report.FIGURES
    ]
    return f"<h2>Means over findings</h2>{table(('metric', 'mean'), rows)}"


def _details(name: str, found: Metrics) -> str:
    """All figures, baselines and subgroups of a finding, folded away."""
    rows = [(report.NAMES.get(each, each), unbroken(found[each])) for each in report.FIGURES]
    baselines = found["baselines"] or {}
    shortcuts = [
        (each, unbroken(row["auroc"]), unbroken(row["gain"])) for each, row in baselines.items()
    ]
    subgroups = [
        (
            f"{row['group']}: {row['member']}",
            f"{row['n_positive']:,} / {row['n']:,}",
            unbroken(row["auroc"]),
            "small" if row["small"] else "",
        )
        for row in found["subgroups"]
    ]
    counts = f"{found['n_positive']:,} positive of {found['n']:,}"
    return (
        f"<details><summary>{text(name)}: {counts}, AUROC {unbroken(found['auroc'])}</summary>"
        f"<div class=grid><div>{table(('metric', 'value'), rows)}</div><div>"
        + table(("shortcut baseline", "its AUROC", "gain of the model"), shortcuts)
        + f"</div></div>{table(('subgroup', 'positive / images', 'AUROC', ''), subgroups)}"
        + "</details>"
    )


def _short(figure: Mapping[str, float | None]) -> str:
    return "undefined" if figure["value"] is None else f"{figure['value']:.2f}"
