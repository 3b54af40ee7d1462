"""The runs of the folds of one data set as one evaluation: every image judged by a model that has
never seen its patient.

Each run brings its own evaluation, calibrated on its own validation split. Scores of different
models are on one scale only as far as the calibration brings them there, so there are two AUROCs:
`auroc` ranks the calibrated probabilities of all images together, `auroc_mean_of_folds` is the mean
of the AUROCs within the folds. Calls are made at each run's own threshold.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special

from cbam_flax.evaluate import (
    analysis,
    bootstrap,
    compare,
    fold_runs,
    folder,
    operating_point,
    patients,
    pictures,
    plots,
    pool_report,
    seeds,
    statistics,
)
from cbam_flax.evaluate.fold_runs import Run
from cbam_flax.evaluate.predict_split import Predictions
from data_prep.manifest import SYNTHETIC_WARNING

FIGURES = (
    *("auroc", "average_precision", "brier", "ece", "sensitivity", "specificity"),
    *("ppv", "npv", "f1", "accuracy"),
)
MEAN_OF_FOLDS = "auroc_mean_of_folds"


def pool(
    workdirs: Sequence[str],
    name: str = "test",
    out: str | None = None,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Writes one evaluation of all runs into a folder, and returns what its metrics.json holds.

    With several runs (seeds) a fold, the first runs of all folds are one replicate of the whole,
    the second ones another, and so on; the figures are means over the replicates, with intervals
    over patients and replicates (`seeds`). Missing folds are told in a warning.

    Args:
        name: of the runs' evaluation folders.
        out: by default `pooled-<name>` beside the first run.

    Raises:
        UserError: a run without such an evaluation or without folds; runs of other data or another
            config; the same run twice; not as many runs for every fold; or as `folders.writing`.
    """
    from etils import epath

    target = epath.Path(out) if out else epath.Path(workdirs[0]).parent / f"pooled-{name}"
    inputs = [epath.Path(workdir) / "evaluation" / name for workdir in workdirs]
    folder.check(target, inputs)
    runs = fold_runs.read(workdirs, name)
    replicates = fold_runs.replicates_of(runs)
    whole = replicates[0]
    metrics = {
        "schema": 1,
        "dataset": runs[0].metrics["dataset"],
        "split": runs[0].metrics["split"],
        "external": False,
        "name": target.name,
        "n": len(whole["label"]),
        "n_positive": int(whole["label"].sum()),
        **patients.count(whole),
        **_figures(replicates, resamples, seed),
        "pooled": _description(runs, len(replicates)),
        "overlap": _overlap(runs),
        "bootstrap": {
            "unit": patients.resampling_unit(whole),
            "level": bootstrap.LEVEL,
            "resamples": resamples,
            "seed": seed,
        },
        "data": {
            key: runs[0].metrics["data"][key] for key in ("dataset", "split_scheme", "synthetic")
        },
        "provenance": _provenance(runs),
    }
    metrics["warnings"] = _warnings(metrics, runs)
    drawn = {}
    if len(replicates) == 1 and metrics["auroc"]["value"] is not None:
        ranked = whole | {"logit": whole["calibrated"]}
        drawn = {
            "roc": pictures.to_png(plots.roc(ranked, metrics)),
            "precision_recall": pictures.to_png(plots.precision_recall(ranked, metrics)),
        }
    rows = {key: np.concatenate([run.predictions[key] for run in runs]) for key in whole}
    curves = []
    if 0 < metrics["n_positive"] < metrics["n"]:
        probability = scipy.special.expit(rows["calibrated"])
        at = float(np.median([run.metrics["threshold"] for run in runs]))
        curves = [operating_point.curve("", rows["label"], probability, at)]
    folder.write(target, metrics, rows, drawn, pool_report.render(metrics, drawn, curves))
    return metrics | {"report": str(target / "report.html")}


def conclusion(metrics: Mapping[str, Any]) -> list[str]:
    """The last lines of the command, as `run.conclusion` has them.

    Args:
        metrics: what `pool` returned.
    """
    of = metrics["pooled"]
    return [
        f"{metrics['n']:,} images of {len(of['judged_folds'])} of {of['folds']} folds, "
        f"runs a fold: {of['runs_per_fold']}; 95 % intervals over {of['over']}",
        f"AUROC {plots.shown(metrics['auroc'])} of the pooled calibrated probabilities",
        f"AUROC {plots.shown(metrics[MEAN_OF_FOLDS])} as the mean of the folds",
        *([f"warning: {text}" for text in metrics["warnings"]] or ["warnings: none"]),
        f"report: {metrics['report']}",
    ]


def _figures(replicates: Sequence[Predictions], resamples: int, seed: int) -> dict[str, Any]:
    """`FIGURES` and `MEAN_OF_FOLDS` with intervals, and `sd_over_seeds`."""
    first = replicates[0]
    label, fold = first["label"], first["fold"]
    statistic_of = [
        statistics.figures_statistic(
            label, each["probability"], each["threshold"], score=each["calibrated"]
        )
        for each in replicates
    ]
    in_fold = [
        [
            (
                fold == k,
                statistics.auroc_statistic(label[fold == k], {"": each["calibrated"][fold == k]}),
            )
            for k in np.unique(fold)
        ]
        for each in replicates
    ]

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        """(r, n) -> each figure (r, replicates)."""
        found = [statistic(weights) for statistic in statistic_of]
        means = [
            np.mean([auroc(weights[:, here])[""] for here, auroc in of_one], axis=0)
            for of_one in in_fold
        ]
        return {name: np.stack([each[name] for each in found], axis=1) for name in FIGURES} | {
            MEAN_OF_FOLDS: np.stack(means, axis=1)
        }

    observed = {name: each[0] for name, each in figures(np.ones((1, label.size))).items()}
    samples = bootstrap.resample(figures, first["patient_id"], resamples, seed)
    # As in `statistics.figures_with_intervals`.
    mirrored = np.maximum(0, 2 * observed["ece"] - samples["ece"])
    samples["ece"] = np.concatenate([samples["ece"], mirrored])
    behind = [
        statistics.patients_behind(
            label, each["probability"] >= each["threshold"], first["patient_id"]
        )
        for each in replicates
    ]
    fewest = {name: min(each[name] for each in behind) for name in FIGURES}
    fewest[MEAN_OF_FOLDS] = fewest["auroc"]
    return {
        **{
            name: seeds.mean((values, samples[name]), fewest[name])
            for name, values in observed.items()
        },
        "sd_over_seeds": {
            name: round(float(np.std(values, ddof=1)), bootstrap.DECIMALS)
            for name, values in observed.items()
        }
        if len(replicates) > 1
        else None,
    }


def _description(runs: Sequence[Run], replicates: int) -> dict[str, Any]:
    return {
        "folds": runs[0].metrics["data"]["fold"]["folds"],
        "judged_folds": sorted({run.fold for run in runs}),
        "runs_per_fold": replicates,
        "over": "patients and seeds" if replicates > 1 else compare.ONE_SEED,
        "runs": [
            {
                "run": str(run.predictions["run"][0]),
                "fold": run.fold,
                "seed": run.seed,
                "threshold": run.metrics["threshold"],
                **{key: run.metrics[key] for key in ("n", "n_positive", "auroc", "calibration")},
            }
            for run in runs
        ],
    }


def _provenance(runs: Sequence[Run]) -> dict[str, Any]:
    """What differs between the runs by run, and the config that they share."""
    made = {f"fold {run.fold}, seed {run.seed}": run.metrics["provenance"] for run in runs}
    config = made[next(iter(made))]["config"]
    own = ("checkpoint_step", "weights_sha256", "trained_on", "evaluated_on", "ancestors")
    return {
        "prepared_sha256": runs[0].metrics["data"]["fold"]["prepared_sha256"],
        "runs": {
            name: {key: each[key] for key in own if key in each} for name, each in made.items()
        },
        "config": {key: value for key, value in config.items() if key not in ("fold", "seed")},
    }


def _overlap(runs: Sequence[Run]) -> dict[str, int] | None:
    """The sums over the folds; None where a run could not tell."""
    found = {run.fold: run.metrics["overlap"] for run in runs}
    if None in found.values():
        return None
    return {key: sum(each[key] for each in found.values()) for key in next(iter(found.values()))}


def _warnings(metrics: Mapping[str, Any], runs: Sequence[Run]) -> list[str]:
    of, found = metrics["pooled"], []
    if metrics["data"]["synthetic"]:
        found.append(SYNTHETIC_WARNING)
    if missing := sorted(set(range(of["folds"])) - set(of["judged_folds"])):
        found.append(
            f"PARTIAL: the folds {missing} of {of['folds']} are missing, so only a part of the "
            f"images was judged."
        )
    positive = metrics["n_positive"]
    if min(positive, metrics["n"] - positive) < analysis.SMALL:
        found.append(f"SMALL: {positive} positive of {metrics['n']} images.")
    for run in runs:
        for text in run.metrics["warnings"]:
            if not text.startswith(("SMALL", "SYNTHETIC")):
                found.append(f"Fold {run.fold}, seed {run.seed}: {text}")
    return found
