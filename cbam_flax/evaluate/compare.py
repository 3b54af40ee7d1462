"""Several evaluated runs side by side, on the same images and the same resamples of patients."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from cbam_flax.config import FREE_ON_RESUME, flatten, stored_config
from cbam_flax.evaluate import bootstrap, distinct, folder, seeds, statistics
from cbam_flax.evaluate.patients import with_known_patients
from cbam_flax.evaluate.plots import shown
from data_prep.cli import UserError
from data_prep.multiple_testing import holm

FIGURES = ("auroc", "average_precision", "brier")
NOT_A_DIFFERENCE = {"seed", "evaluate.batch_size", "evaluate.at_end", *FREE_ON_RESUME}
ONE_SEED = "patients only, training noise unknown"


def compare(
    workdirs: Sequence[str], name: str, resamples: int = bootstrap.RESAMPLES, seed: int = 0
) -> dict[str, Any]:
    """Groups the runs by config; returns the groups' metrics and their paired differences.

    Runs that differ only in the seed are one group, reported by the mean over its runs. Every
    difference is paired by image, and by seed where both groups have the same seeds.

    Args:
        name: of the evaluation folders.

    Returns:
        `groups`: for each its `runs`, their `seeds`, `FIGURES` with intervals and `sd_over_seeds`
        (None for one run); `differences`: for each pair of groups and figure the difference
        first - second with its interval, `p` and, over the observed table, Holm's `p_adjusted`,
        and whether it is `paired_by_seed`. Both p are None where a group has one seed. `over`
        says what an interval is over.

    Raises:
        UserError: a run that was not evaluated, or not on the same images, or one seed twice.
    """
    from etils import epath

    distinct.refuse_repeats(
        workdirs, [distinct.resolved(workdir) for workdir in workdirs], "one folder"
    )
    found = [folder.read(epath.Path(w) / "evaluation" / name) for w in workdirs]
    runs = [
        (metrics, with_known_patients(predictions, metrics["data"]["split_scheme"]))
        for metrics, predictions in found
    ]
    first = runs[0][1]
    for workdir, (_, predictions) in zip(workdirs, runs, strict=True):
        for column in ("image_id", "label", "patient_id"):
            if not np.array_equal(predictions[column], first[column]):
                raise UserError(
                    f"{workdir} and {workdirs[0]} were not evaluated on the same images "
                    f"({column} differs); evaluate both on one data set and split"
                )
    sources = [metrics["provenance"] for metrics, _ in runs]
    weights = [source.get("weights_sha256") for source in sources]  # not in older evaluations
    distinct.refuse_repeats(workdirs, weights, "the same weights")
    named = names(workdirs, [metrics for metrics, _ in runs])
    seed_of = [source["config"]["seed"] for source in sources]
    distinct.refuse_repeats(
        workdirs, list(zip(named, seed_of, strict=True)), "one config and one seed"
    )

    label, patient = first["label"], first["patient_id"]
    of_runs = [
        statistics.figures_statistic(label, each["probability"], 0.5, score=each["logit"])
        for _, each in runs
    ]

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        """(r, n) -> each figure (r, runs)."""
        found = [statistic(weights) for statistic in of_runs]
        return {figure: np.stack([each[figure] for each in found], axis=1) for figure in FIGURES}

    observed = figures(np.ones((1, label.size)))
    samples = bootstrap.resample(figures, patient, resamples, seed)
    behind = statistics.patients_behind(label, label == 1, patient)
    members = {
        group: sorted((i for i, each in enumerate(named) if each == group), key=seed_of.__getitem__)
        for group in dict.fromkeys(named)
    }
    seeds_of = {group: [seed_of[run] for run in chosen] for group, chosen in members.items()}

    def arm(group: str, figure: str) -> seeds.Arm:
        return observed[figure][0, members[group]], samples[figure][:, members[group]]

    table: dict[str, dict[str, Any]] = {}
    for group, chosen in members.items():
        alone = len(chosen) == 1
        table[group] = {
            "runs": [workdirs[run] for run in chosen],
            "seeds": seeds_of[group],
            "over": ONE_SEED if alone else "patients and seeds",
            **{figure: seeds.mean(arm(group, figure), behind[figure]) for figure in FIGURES},
            "sd_over_seeds": {
                figure: None
                if alone
                else round(float(np.std(arm(group, figure)[0], ddof=1)), bootstrap.DECIMALS)
                for figure in FIGURES
            },
        }
    differences: list[dict[str, Any]] = []
    for (one, other), figure in itertools.product(itertools.combinations(members, 2), FIGURES):
        alone = 1 in (len(members[one]), len(members[other]))
        paired = not alone and seeds_of[one] == seeds_of[other]
        limits, p = seeds.difference(
            arm(one, figure), arm(other, figure), behind[figure], paired=paired
        )
        differences.append(
            {
                "first": one,
                "second": other,
                "figure": figure,
                "difference": limits,
                "over": ONE_SEED if alone else "patients and seeds",
                "paired_by_seed": paired,
                "p": p,
                "p_adjusted": None,
            }
        )
    tested = [row for row in differences if row["p"] is not None]
    for row, p in zip(tested, holm(np.array([row["p"] for row in tested])), strict=True):
        row["p_adjusted"] = float(p)
    return {"name": name, "n": int(label.size), "groups": table, "differences": differences}


def markdown(comparison: dict[str, Any]) -> str:
    """The comparison as two tables."""
    lines = [
        f"{comparison['n']:,} images ({comparison['name']}); in brackets the 95 % interval, then "
        f"the standard deviation over seeds",
        "",
        "| config | runs | " + " | ".join(FIGURES) + " | intervals over |",
        "|---|--:|" + "---|" * len(FIGURES) + "---|",
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
        lines.append(f"| {group} | {len(row['runs'])} | {' | '.join(cells)} | {row['over']} |")
    if comparison["differences"]:
        lines += [
            "",
            "| difference | figure | first - second | interval over | paired by | p | p (Holm) |",
            "|---|---|---|---|---|--:|--:|",
        ]
    for row in comparison["differences"]:
        paired = "image and seed" if row["paired_by_seed"] else "image"
        p_values = f"{_shown_p(row['p'])} | {_shown_p(row['p_adjusted'])}"
        lines.append(
            f"| {row['first']} - {row['second']} | {row['figure']} | {shown(row['difference'])} "
            f"| {row['over']} | {paired} | {p_values} |"
        )
    return "\n".join(lines)


def _shown_p(p: float | None) -> str:
    return "-" if p is None else "<0.0001" if p < 0.0001 else f"{p:.4f}"


def names(
    workdirs: Sequence[str],
    of_runs: Sequence[Mapping[str, Any]],
    ignored: Collection[str] = NOT_A_DIFFERENCE,
) -> list[str]:
    """Each evaluated run by what differs: keys of the config, and whether more than it scored.

    Args:
        of_runs: what their metrics.json hold.
        ignored: keys of the config that make no difference.
    """
    configs = []
    for workdir, metrics in zip(workdirs, of_runs, strict=True):
        config = metrics["provenance"]["config"]
        leaves = flatten(stored_config(config, f"the evaluated config of {workdir}"))
        several = metrics.get("ensemble")
        configs.append(
            {key: value for key, value in leaves.items() if key not in ignored}
            | {
                "ensemble": f"{several['combine']}s of {len(several['members'])}"
                if several
                else "none",
                "tta": metrics.get("tta", "none"),
            }
        )
    keys = sorted(set().union(*configs))
    differing = [key for key in keys if len({str(config.get(key)) for config in configs}) > 1]
    return [
        ", ".join(f"{key}={config.get(key)}" for key in differing) or "all" for config in configs
    ]
