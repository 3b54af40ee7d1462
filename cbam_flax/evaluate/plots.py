"""The plots of the report, each a matplotlib Figure of about a phone's width.

Colours are Okabe and Ito's colour-blind-safe palette; no two lines differ by colour alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special
import sklearn.metrics
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.calibration import calibration_curve

from cbam_flax.evaluate import bootstrap, statistics
from cbam_flax.evaluate.saliency import NAMES
from cbam_flax.predict import overlay
from cbam_flax.predict.saliency import BLANK, TITLES

Columns = Mapping[str, np.ndarray]
BLUE, ORANGE, CYAN, GREY = "#0072B2", "#E69F00", "#56B4E9", "#666666"
DPI = 160
BAND_RESAMPLES = 500
_GRID = np.linspace(0, 1, 201)


def roc(predictions: Columns, metrics: Mapping[str, Any]) -> Figure:
    """ROC curve with a pointwise 95 % band over patients and the operating point."""
    figure, axes = _square("1 - specificity", "sensitivity")
    false, true, _ = sklearn.metrics.roc_curve(predictions["label"], predictions["logit"])
    low, high = _band(predictions, lambda t, f: np.interp(_GRID, f / f[-1], t / t[-1]))
    axes.fill_between(_GRID, low, high, color=BLUE, alpha=0.2, lw=0, label="95 % band")
    axes.plot(false, true, color=BLUE, label=f"model, AUROC {shown(metrics['auroc'])}")
    axes.plot([0, 1], [0, 1], color=GREY, ls=":", label="chance")
    specificity, sensitivity = metrics["specificity"]["value"], metrics["sensitivity"]["value"]
    axes.plot(1 - specificity, sensitivity, "D", color=ORANGE, mec="black", label="operating point")
    axes.legend(loc="lower right", fontsize=8)
    return figure


def precision_recall(predictions: Columns, metrics: Mapping[str, Any]) -> Figure:
    """Precision against recall with a pointwise 95 % band over patients."""
    figure, axes = _square("recall (sensitivity)", "precision (PPV)")
    precision, recall, _ = sklearn.metrics.precision_recall_curve(
        predictions["label"], predictions["logit"]
    )
    # Where the data end: no points at recall 0, and of those at recall 1 the highest threshold.
    shown_points = slice(int(np.flatnonzero(recall == 1)[-1]), int(np.sum(recall > 0)))
    low, high = _band(predictions, lambda t, f: np.interp(_GRID, t / t[-1], t / (t + f)))
    # At recall 1 it would fall to the prevalence, along the vertical line that is left out above.
    grid, low, high = (values[:-1] for values in (_GRID, low, high))
    axes.fill_between(grid, low, high, color=BLUE, alpha=0.2, lw=0, label="95 % band")
    name = f"model, AP {shown(metrics['average_precision'])}"
    axes.plot(
        recall[shown_points],
        precision[shown_points],
        color=BLUE,
        drawstyle="steps-post",
        label=name,
    )
    prevalence = metrics["n_positive"] / metrics["n"]
    axes.axhline(prevalence, color=GREY, ls=":", label=f"prevalence {prevalence:.2f}")
    if metrics["ppv"]["value"] is not None:
        point = metrics["sensitivity"]["value"], metrics["ppv"]["value"]
        axes.plot(*point, "D", color=ORANGE, mec="black", label="operating point")
    axes.legend(loc="lower left", fontsize=8)
    return figure


def reliability(predictions: Columns, metrics: Mapping[str, Any]) -> Figure:
    """Observed frequency against predicted probability, by tenths of the images."""
    figure, axes = _square("predicted probability", "observed frequency")
    axes.plot([0, 1], [0, 1], color=GREY, ls=":", label="perfect")
    raw = scipy.special.expit(predictions["logit"])
    for probability, colour, style, name, ece in (
        (raw, ORANGE, "s--", "as trained", metrics["uncalibrated"]["ece"]),
        (predictions["probability"], BLUE, "o-", "calibrated", metrics["ece"]),
    ):
        observed, predicted = calibration_curve(
            predictions["label"], probability, n_bins=10, strategy="quantile"
        )
        axes.plot(predicted, observed, style, color=colour, label=f"{name}, ECE {shown(ece)}")
    axes.legend(fontsize=8)
    return figure


def scores(predictions: Columns, metrics: Mapping[str, Any]) -> Figure:
    """Histograms of the calibrated probability of both classes, with the threshold."""
    figure, axes = _axes("calibrated probability", "share of the class")
    bins = np.linspace(0, 1, 21)
    for value, colour, hatch, name in ((0, BLUE, "", "negative"), (1, ORANGE, "//", "positive")):
        chosen = predictions["probability"][predictions["label"] == value]
        axes.hist(
            chosen,
            bins.tolist(),
            weights=np.full(chosen.size, 1 / max(1, chosen.size)),
            color=colour,
            alpha=0.6,
            hatch=hatch,
            edgecolor="white",
            label=f"{name} (n = {chosen.size:,})",
        )
    axes.axvline(metrics["threshold"], color="black", ls="--", label="threshold")
    axes.legend(fontsize=8)
    return figure


def confusion(metrics: Mapping[str, Any]) -> Figure:
    """Counts at the operating point, shaded by their share of the true class."""
    figure, axes = _axes("model says", "truth", size=(4.2, 3.6))
    counts = np.array(
        [[metrics["confusion"][name] for name in row] for row in (("tn", "fp"), ("fn", "tp"))]
    )
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.2)
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        colour = "white" if share > 0.7 else "black"
        axes.text(column, row, f"{count:,}\n{share:.0%}", ha="center", va="center", color=colour)
    for set_ticks in (axes.set_xticks, axes.set_yticks):
        set_ticks([0, 1], ["negative", "positive"])
    axes.spines[:].set_visible(False)
    return figure


def subgroup_forest(metrics: Mapping[str, Any]) -> Figure:
    """AUROC of every subgroup with its interval; hollow where the subgroup is small."""
    rows = [row for row in metrics["subgroups"] if row["auroc"]["value"] is not None]
    figure, axes = _axes("AUROC", "", size=(5, 1.2 + 0.5 * len(rows)))
    overall = metrics["auroc"]
    axes.axvspan(overall["low"], overall["high"], color=BLUE, alpha=0.15, lw=0)
    axes.axvline(overall["value"], color=BLUE, label="all images, with interval")
    axes.axvline(0.5, color=GREY, ls=":", label="chance")
    for y, row in enumerate(rows):
        low, value, high = (row["auroc"][key] for key in ("low", "value", "high"))
        axes.plot([low, high], [y, y], color="black", lw=1.5)
        axes.plot(value, y, "s", color="black", mfc="white" if row["small"] else "black", ms=6)
        text = f"{row['group']}: {row['member']} ({row['n_positive']:,} of {row['n']:,} positive)"
        axes.text(0, y - 0.2, text, fontsize=8, transform=axes.get_yaxis_transform(), va="bottom")
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_ylim(len(rows) - 0.5, -1.4)
    axes.legend(fontsize=8, loc="upper left", ncols=2)
    return figure


def training(rows: Sequence[Mapping[str, float]], step: int) -> Figure:
    """Loss and validation AUROC by step, from the lines of metrics.jsonl."""
    figure = Figure(figsize=(5, 4.6), dpi=DPI, layout="constrained")
    upper, lower = figure.subplots(2, sharex=True)
    for axes, lines in (
        (upper, {"loss": (GREY, "-", "training loss")}),
        (upper, {"validation/log_loss": (BLUE, "o-", "validation log loss")}),
        (lower, {"validation/auroc": (BLUE, "o-", "validation AUROC")}),
    ):
        for key, (colour, style, name) in lines.items():
            points = [(row["step"], row[key]) for row in rows if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=colour, ms=3, label=name)
        axes.axvline(step, color=ORANGE, ls="--", lw=1)
        if axes.get_legend_handles_labels()[0]:  # matplotlib warns about an empty legend
            axes.legend(fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    lower.set_xlabel(f"step (dashed: the evaluated checkpoint, {step:,})")
    return figure


def radiographs(
    images: np.ndarray,
    boxes: Sequence[np.ndarray],
    maps: Mapping[str, np.ndarray],
    titles: Sequence[str],
) -> Figure:
    """A row per image: with its boxes, then under each saliency map.

    Args:
        images: uint8 (n, S, S).
        boxes: n arrays (k, 4) of ymin, xmin, ymax, xmax in [0, 1].
        maps: by the name of their method, (n, h, w), each scaled to its own range.
        titles: n lines.
    """
    n, width = len(images), 1 + len(maps)
    figure = Figure(figsize=(6, (5.4 / width + 0.35) * n), dpi=DPI, layout="constrained")
    square = np.array([0.0, 0.0, 1.0, 1.0])
    for line, row in enumerate(figure.subplots(n, width, squeeze=False)):
        image = np.repeat(images[line][..., None], 3, axis=2)
        row[0].imshow(image)
        row[0].set_title(titles[line], fontsize=7, loc="left")
        for axes, (name, of_all) in zip(row[1:], maps.items(), strict=True):
            method = NAMES[name]
            each, low, high = overlay.scaled(of_all[line])
            axes.imshow(overlay.blend(image, overlay.place(each, square, image.shape[:2])))
            legend = TITLES[method]
            if low == high:
                legend = "no map: " + BLANK[method].replace(": ", ":\n")
            else:
                _scale(axes, low, high)
            axes.text(0.02, 0.02, legend, color="white", fontsize=6, transform=axes.transAxes)
        for axes in row:
            for ymin, xmin, ymax, xmax in boxes[line] * len(image):
                sides = {"width": xmax - xmin, "height": ymax - ymin}
                axes.add_patch(Rectangle((xmin - 0.5, ymin - 0.5), **sides, fill=False, ec=CYAN))
            axes.set_axis_off()
    return figure


def _scale(axes: Axes, low: float, high: float) -> None:
    """A colour bar, of the colours of `overlay.blend`, with its smallest and largest value."""
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    colours = overlay.blend(np.full((1, 256, 3), overlay.BEHIND), ramp)[0] / 255
    scale = ScalarMappable(Normalize(low, high), ListedColormap(colours))
    bar = axes.figure.colorbar(scale, ax=axes, ticks=[low, high], shrink=0.6, aspect=12, pad=0.03)
    bar.ax.set_yticklabels([f"{low:.2g}", f"{high:.2g}"], fontsize=6)


def shown(figure: Mapping[str, float | None]) -> str:
    """`0.874 (0.850 to 0.900)`: a figure with its interval, for people."""
    if figure["value"] is None:
        return "undefined"
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _axes(xlabel: str, ylabel: str, size: tuple[float, float] = (4.6, 3.6)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _square(xlabel: str, ylabel: str) -> tuple[Figure, Axes]:
    figure, axes = _axes(xlabel, ylabel, size=(4.2, 4.2))
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    return figure, axes


def _band(
    predictions: Columns, read: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The 2.5th and 97.5th percentiles of a curve over resampled patients.

    Args:
        read: (true, false) positives along falling thresholds -> the curve's height on `_GRID`.
    """
    curve = statistics.curve_statistic(predictions["label"], predictions["logit"])

    def heights(weights: np.ndarray) -> dict[str, np.ndarray]:
        both = zip(*curve(weights), strict=True)
        nothing = np.full(_GRID.size, np.nan)
        rows = [read(t[t + f > 0], f[t + f > 0]) if t[-1] * f[-1] > 0 else nothing for t, f in both]
        return {"heights": np.array(rows)}

    drawn = bootstrap.resample(heights, predictions["patient_id"], BAND_RESAMPLES)["heights"]
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return low, high
