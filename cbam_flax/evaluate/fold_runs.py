"""The evaluated runs of the folds of one data set, read and put together."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cbam_flax.evaluate import compare, distinct, folder, patients
from cbam_flax.evaluate.calibration import Calibration
from cbam_flax.evaluate.predict_split import Predictions
from data_prep.cli import UserError


@dataclasses.dataclass(frozen=True)
class Run:
    """An evaluated run of a fold.

    Attributes:
        predictions: also `fold`, `run` (the folder's name), `threshold`, and `calibrated`,
            the logit of the calibrated probability.
    """

    workdir: str
    fold: int
    seed: int
    metrics: dict[str, Any]
    predictions: Predictions


def read(workdirs: Sequence[str], name: str) -> list[Run]:
    """The runs by fold and seed.

    Args:
        name: of their evaluation folders.

    Raises:
        UserError: they have no such evaluation, or these do not belong together.
    """
    from etils import epath

    distinct.refuse_repeats(workdirs, [distinct.resolved(w) for w in workdirs], "one folder")
    runs = []
    for workdir in workdirs:
        metrics, found = folder.read(epath.Path(workdir) / "evaluation" / name)
        of_fold, config = metrics["data"].get("fold"), metrics["provenance"]["config"]
        if not of_fold:
            raise UserError(
                f"{workdir} was not trained and evaluated on a fold; give runs that were trained "
                f"with --config.folds and --config.fold, and evaluations of their own data"
            )
        fitted = Calibration(**metrics["calibration"])
        count = len(found["label"])
        found |= {
            "calibrated": fitted.scale * found["logit"] + fitted.bias,
            "threshold": np.full(count, fitted.threshold),
            "fold": np.full(count, of_fold["fold"]),
            "run": np.full(count, distinct.resolved(workdir).rpartition("/")[2]),
        }
        found = patients.with_known_patients(found, metrics["data"]["split_scheme"])
        runs.append(Run(workdir, of_fold["fold"], config["seed"], metrics, found))
    for what, values in (
        ("the data", [run.metrics["data"]["fold"]["prepared_sha256"] for run in runs]),
        ("the number of folds", [run.metrics["data"]["fold"]["folds"] for run in runs]),
        ("the split", [run.metrics["split"] for run in runs]),
        ("--tta", [run.metrics.get("tta") for run in runs]),
        # Each fold may start from a model of its own, which has not seen its patients either.
        ("what they start from", ["ancestors" in run.metrics["provenance"] for run in runs]),
    ):
        for workdir, value in zip(workdirs, values, strict=True):
            if value != values[0]:
                raise UserError(
                    f"{workdirs[0]} and {workdir} differ in {what}; pool evaluations of one "
                    f"division of one data set"
                )
    if (split := runs[0].metrics["split"]) != "test":
        raise UserError(
            f"the evaluation {name} is of the {split} split, whose images are in several folds; "
            f"pool evaluations of the test split"
        )
    weights = [run.metrics["provenance"].get("weights_sha256") for run in runs]
    distinct.refuse_repeats(workdirs, weights, "the same weights")
    ignored = {*compare.NOT_A_DIFFERENCE, "fold", "init.from_run"}
    named = compare.names(workdirs, [run.metrics for run in runs], ignored)
    if len(set(named)) > 1:
        raise UserError(
            f"the runs have different configs ({'; '.join(sorted(set(named)))}); pool runs that "
            f"differ in fold and seed only"
        )
    keys = [(run.fold, run.seed) for run in runs]
    distinct.refuse_repeats(workdirs, keys, "one fold and one seed")
    return sorted(runs, key=lambda run: (run.fold, run.seed))


def replicates_of(runs: Sequence[Run]) -> list[Predictions]:
    """Every image once, by fold and id, for each of the runs that a fold has.

    Raises:
        UserError: not as many runs of every fold, or not the same images.
    """
    by_fold: dict[int, list[Run]] = {}
    for run in runs:
        by_fold.setdefault(run.fold, []).append(run)
    if len({len(members) for members in by_fold.values()}) > 1:
        counts = ", ".join(f"{len(members)} of fold {fold}" for fold, members in by_fold.items())
        raise UserError(
            f"the folds have different numbers of runs ({counts}); give as many of each"
        )
    replicates = []
    for members in zip(*by_fold.values(), strict=True):
        columns = [run.predictions for run in members]
        whole = {key: np.concatenate([each[key] for each in columns]) for key in columns[0]}
        replicates.append(whole)
    first = replicates[0]
    if len(np.unique(first["image_id"])) < len(first["image_id"]):
        raise UserError("an image is in the test split of two folds; train the folds again")
    for each in replicates[1:]:
        if not all(np.array_equal(each[key], first[key]) for key in ("image_id", "label")):
            raise UserError("runs of one fold judged different images; evaluate them again")
    return replicates
