"""The page of pooled folds."""

from collections.abc import Mapping, Sequence
from typing import Any

from cbam_flax.evaluate import operating_point, patients
from cbam_flax.evaluate.html_page import page, picture, table, text, unbroken
from cbam_flax.evaluate.report import CURVES, NAMES, provenance_section


def render(
    metrics: Mapping[str, Any],
    pictures: Mapping[str, bytes],
    curves: Sequence[dict[str, Any]] = (),
) -> str:
    """The page.

    Args:
        metrics: what metrics.json holds.
        pictures: PNG bytes by file name without ending; those missing are left out.
        curves: the one of `operating_point.curve`, or none.
    """
    of = metrics["pooled"]
    names = NAMES | {
        "auroc": "AUROC of all calibrated probabilities together",
        "auroc_mean_of_folds": "mean of the AUROCs within the folds",
    }
    deviations = metrics["sd_over_seeds"]  # None of one seed
    head = ("metric", "value", *(["standard deviation over seeds"] if deviations else []))
    figures = [
        (
            *(names.get(name, name), unbroken(figure)),
            *([f"{deviations[name]:.3f}"] if deviations else []),
        )
        for name, figure in metrics.items()
        if isinstance(figure, dict) and figure.keys() == {"value", "low", "high"}
    ]
    runs = [
        (
            *(str(run[key]) for key in ("run", "fold", "seed")),
            f"{run['n_positive']:,} / {run['n']:,}",
            unbroken(run["auroc"]),
            f"{run['threshold']:.3f}",
        )
        for run in of["runs"]
    ]
    title = (
        f"{'SYNTHETIC images: ' * metrics['data']['synthetic']}{metrics['dataset']}, "
        f"{len(of['judged_folds'])} of {of['folds']} folds pooled"
    )
    unseen = (
        "it, nor its patient where that is known" if metrics["n_patient_unknown"] else "its patient"
    )
    parts = [
        f"<h1>{text(title)}</h1>",
        f"<p>{metrics['n']:,} images of {patients.described(metrics)}, "
        f"{metrics['n_positive']:,} positive, each judged by a model that has never seen {unseen} "
        f"(runs a fold: {of['runs_per_fold']}). In brackets: the 95 % interval over "
        f"{text(of['over'])}, with {metrics['bootstrap']['resamples']:,} resamples of "
        f"{metrics['bootstrap']['unit']}.</p>",
        *(f"<p class=warning>{text(warning)}</p>" for warning in metrics["warnings"]),
        "<h2>Metrics</h2>",
        "<p>Every run was calibrated on its own validation split, and calls are made at its own "
        "threshold. The scores of different models are on one scale only as far as calibration "
        "brings them there; the mean within the folds does not depend on that.</p>",
        table(head, figures),
        "<div class=grid>",
        *(picture(pictures, *curve) for curve in CURVES),
        "</div>",
        operating_point.section(
            curves,
            "the median of the runs' thresholds, and applies one threshold to the calibrated "
            "probabilities of all runs together, where the figures above are at each run's own",
        ),
        "<h2>Runs</h2>",
        table(("run", "fold", "seed", "positive / images", "AUROC", "threshold"), runs),
        provenance_section(metrics),
    ]
    return page(title, parts)
