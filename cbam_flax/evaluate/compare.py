"""Several evaluated runs side by side, on the same images and the same resamples of patients."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from cbam_flax.config import FREE_ON_RESUME, flatten
from cbam_flax.evaluate import bootstrap, folder, statistics
from cbam_flax.evaluate.plots import shown
from data_prep.cli import UserError

FIGURES = ("auroc", "average_precision", "brier")
NOT_A_DIFFERENCE = {"seed", "evaluate.batch_size", "evaluate.at_end", *FREE_ON_RESUME}


def compare(
    workdirs: Sequence[str], name: str, resamples: int = bootstrap.RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Groups the runs by config; returns the groups' metrics and their paired differences.

    Runs that differ only in the seed are one group, reported by the mean over its runs. The
    intervals are over patients; `sd_over_seeds` is the spread over seeds.

    Args:
        name: of the evaluation folders.

    Returns:
        `groups`: for each its `runs`, `FIGURES` with intervals and `sd_over_seeds` (None for one
        run); `differences`: for each pair of groups and figure the difference first - second with
        its interval, `p` and, over the observed table, Holm's `p_adjusted`.

    Raises:
        UserError: a run that was not evaluated, or not on the same images.
    """
    from etils import epath

    runs = [folder.read(epath.Path(w) / "evaluation" / name) for w in workdirs]
    for workdir, (metrics, _) in zip(workdirs, runs, strict=True):
        folder.check_metrics(metrics, f"{workdir}/evaluation/{name}/metrics.json")
    first = runs[0][1]
    for workdir, (_, predictions) in zip(workdirs, runs, strict=True):
        for column in ("image_id", "label", "patient_id"):
            if not np.array_equal(predictions[column], first[column]):
                raise UserError(
                    f"{workdir} and {workdirs[0]} were not evaluated on the same images "
                    f"({column} differs); evaluate both on one data set and split"
                )
    groups = _group(workdirs, [metrics["provenance"]["config"] for metrics, _ in runs])
    label, patient = first["label"], first["patient_id"]

    statistics_of = {
        workdir: statistics.figures_statistic(label, each["probability"], metrics["threshold"])
        for workdir, (metrics, each) in zip(workdirs, runs, strict=True)
    }

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for workdir, statistic in statistics_of.items():
            each = statistic(weights)
            found |= {f"{workdir} {figure}": each[figure] for figure in FIGURES}
        return found

    observed = {key: float(value[0]) for key, value in figures(np.ones((1, label.size))).items()}
    samples = bootstrap.resample(figures, patient, resamples, seed)
    behind = statistics.patients_behind(label, label == 1, patient)

    def of_group(values: dict[str, Any], group: str, figure: str) -> Any:
        return np.mean([values[f"{run} {figure}"] for run in groups[group]], axis=0)

    table: dict[str, dict[str, Any]] = {}
    for group, members in groups.items():
        table[group] = {"runs": members, "sd_over_seeds": {}}
        for figure in FIGURES:
            table[group][figure] = bootstrap.interval(
                of_group(observed, group, figure), of_group(samples, group, figure), behind[figure]
            )
            spread = np.std([observed[f"{run} {figure}"] for run in members], ddof=len(members) > 1)
            table[group]["sd_over_seeds"][figure] = (
                round(float(spread), bootstrap.DECIMALS) if len(members) > 1 else None
            )
    differences: list[dict[str, Any]] = []
    for (one, other), figure in itertools.product(itertools.combinations(groups, 2), FIGURES):
        value = of_group(observed, one, figure) - of_group(observed, other, figure)
        drawn = of_group(samples, one, figure) - of_group(samples, other, figure)
        differences.append(
            {
                "first": one,
                "second": other,
                "figure": figure,
                "difference": bootstrap.interval(value, drawn, behind[figure]),
                "p": round(bootstrap.p_value(value, drawn, behind[figure]), 5),
            }
        )
    adjusted = bootstrap.holm([float(row["p"]) for row in differences])
    for row, p in zip(differences, adjusted, strict=True):
        row["p_adjusted"] = round(p, 5)
    return {"name": name, "n": int(label.size), "groups": table, "differences": differences}


def markdown(comparison: dict[str, Any]) -> str:
    """The comparison as two tables."""
    lines = [
        f"{comparison['n']:,} images ({comparison['name']}); in brackets the 95 % interval over "
        f"patients, then the standard deviation over seeds",
        "",
        "| config | runs | " + " | ".join(FIGURES) + " |",
        "|---|--:|" + "---|" * len(FIGURES),
    ]
    for group, row in comparison["groups"].items():
        cells = [
            shown(row[figure])
            + (
                ""
                if row["sd_over_seeds"][figure] is None
                else f", sd {row['sd_over_seeds'][figure]:.3f}"
            )
            for figure in FIGURES
        ]
        lines.append(f"| {group} | {len(row['runs'])} | " + " | ".join(cells) + " |")
    if comparison["differences"]:
        lines += [
            "",
            "| difference | figure | first - second | p | p (Holm) |",
            "|---|---|---|--:|--:|",
        ]
    for row in comparison["differences"]:
        lines.append(
            f"| {row['first']} - {row['second']} | {row['figure']} | {shown(row['difference'])} "
            f"| {row['p']:.4f} | {row['p_adjusted']:.4f} |"
        )
    return "\n".join(lines)


def _group(workdirs: Sequence[str], of_runs: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """The runs of each config, under the names of the keys in which the configs differ."""
    configs = []
    for config in of_runs:
        leaves = flatten(ConfigDict(config))
        configs.append(
            {k: v for k, v in leaves.items() if not NOT_A_DIFFERENCE & {k, k.split(".")[0]}}
        )
    keys = sorted(set().union(*configs))
    differing = [key for key in keys if len({str(config.get(key)) for config in configs}) > 1]
    groups: dict[str, list[str]] = {}
    for workdir, config in zip(workdirs, configs, strict=True):
        name = ", ".join(f"{key}={config.get(key)}" for key in differing) or "all"
        groups.setdefault(name, []).append(workdir)
    return groups
