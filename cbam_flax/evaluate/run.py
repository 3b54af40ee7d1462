"""Evaluates a checkpoint on a split: exact predictions, metrics, saliency maps, the report."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from cbam_flax import checkpoint
from cbam_flax.evaluate import (
    analysis,
    bootstrap,
    calibration,
    findings,
    findings_report,
    localisation,
    pictures,
    plots,
    report,
)
from cbam_flax.evaluate import folder as evaluation_folder
from cbam_flax.evaluate.patients import with_known_patients
from cbam_flax.evaluate.predict_split import Predictions, predict_split
from cbam_flax.input_pipeline import Split, load_split
from data_prep.cli import UserError
from data_prep.files import folders
from data_prep.manifest import is_synthetic

EXPLAINED = 100  # positive images whose saliency maps are scored against their boxes


def evaluate_workdir(
    workdir: str,
    split: str = "test",
    *,
    data_dir: str | None = None,
    dataset: str | None = None,
    step: int | None = None,
    name: str | None = None,
    criterion: str | None = None,
    prevalences: Sequence[float] = analysis.PREVALENCES,
    resamples: int = bootstrap.RESAMPLES,
    explained: int = EXPLAINED,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run and writes its evaluation folder.

    Args:
        data_dir, dataset: other prepared data than the run's, for external validation.
        step: of the checkpoint; by default the best by validation AUROC.
        name: of the folder; by default the split, with the data set before it where external.
        criterion: of the operating point (see `calibration.fit`); by default that of these
            weights' evaluation `test`, else youden.
        explained: positive images whose saliency maps are scored against their boxes; 0: no maps.

    Returns:
        What metrics.json holds; empty on all processes but the first.

    Raises:
        UserError: no such run, checkpoint or data, data other than what the run was trained on, or
            a folder in which files of somebody else are in the way.
    """
    from etils import epath

    if name is not None:
        folders.check_name(name)
    if criterion:
        calibration.parse_criterion(criterion)  # refused before anything is computed
    folder = epath.Path(workdir)
    restored = checkpoint.load_for_inference(workdir, step)
    config = restored.config
    own = (config.data_dir, config.dataset)
    given = (data_dir or config.data_dir, dataset or config.dataset)
    evaluated = load_split(*given, config.image_size, split)
    evaluated = findings.align(evaluated, restored.findings)
    external = not _trained_on(restored, evaluated)
    if name is None:
        name = f"{evaluated.manifest['dataset'].replace('/', '-')}-" * external + split
    target = folder / "evaluation" / name
    records = epath.Path(given[0]) / evaluated.manifest["dataset"]
    evaluation_folder.check(target, [folder / "checkpoints", records])
    load_own = functools.partial(_load_own, restored, *(own if external else given))
    if given == own:
        evaluated = load_own(split)
    batch_size = batch_size or config.evaluate.batch_size
    predict = functools.partial(
        predict_split, restored.model, restored.variables, batch_size=batch_size
    )
    fitted = _calibration(folder, restored, criterion, lambda: predict(load_own("validation")))
    predictions = predict(evaluated)
    predictions["probability"] = fitted.probability(predictions["logit"])
    if jax.process_index() != 0:
        return {}

    try:
        train = load_own("train")
    except UserError:  # external validation without access to the training data
        train = None
    scheme = train.manifest["split_scheme"] if train else ""
    several = len(restored.findings) > 1  # then the same steps, by other modules
    judged = (findings if several else analysis).analyse(
        predictions,
        fitted,
        with_known_patients(train.columns, scheme) if train else None,
        prevalences=prevalences,
        resamples=resamples,
    )
    if not several:  # boxes are of one finding
        judged["localisation"] = localisation.localise(
            restored.model,
            restored.variables,
            with_known_patients(evaluated.columns, evaluated.manifest["split_scheme"]),
            evaluated.images,
            train.columns["boxes"] if train else None,
            explained,
            resamples,
        )
        judged["calibration"] = dataclasses.asdict(fitted)
    metrics = {
        "schema": 1,
        "dataset": evaluated.manifest["dataset"],
        "split": split,
        "external": external,
        "name": name,
        **judged,
        "data": {
            **{key: evaluated.manifest[key] for key in ("dataset", "split_scheme", "splits")},
            "synthetic": is_synthetic(evaluated.manifest),
        },
        "provenance": evaluation_folder.provenance(restored, evaluated),
    }
    metrics["warnings"] = (findings if several else analysis).warnings(metrics)
    metrics["warnings"] += findings.other_name(evaluated, restored.findings)
    drawn = (findings_report if several else pictures).draw(
        metrics, predictions, evaluated, restored, folder, with_maps=explained > 0
    )
    page = (findings_report if several else report).render(metrics, drawn)
    evaluation_folder.write(target, metrics, predictions, drawn, page)
    pictures.write_to_tensorboard(folder / "tensorboard", restored.step, name, drawn)
    return metrics


def conclusion(workdir: str, metrics: Mapping[str, Any]) -> list[str]:
    """The last lines of a command: AUROC with its interval, the warnings, the report.

    Args:
        metrics: what `evaluate_workdir` returned, possibly nothing.
    """
    if not metrics:
        return []
    name, figure = "AUROC", metrics.get("auroc", bootstrap.UNDEFINED)
    if "findings" in metrics:
        name = f"mean AUROC of {len(metrics['mean']['of'])} findings"
        figure = metrics["mean"].get("auroc", bootstrap.UNDEFINED)
    return [
        f"{metrics['n']:,} images of the {metrics['split']} split: "
        f"{name} {plots.shown(figure)}, with the 95 % interval over "
        f"{metrics['bootstrap']['unit']}",
        *([f"warning: {text}" for text in metrics["warnings"]] or ["warnings: none"]),
        f"report: {workdir}/evaluation/{metrics['name']}/report.html",
    ]


def _trained_on(restored: checkpoint.Restored, split: Split) -> bool:
    """Whether the split is from the prepared data that the run was trained on."""
    there = split.manifest["splits"]
    return all(
        there.get(name, {}).get("content_sha256") == content
        for name, content in restored.fingerprint.items()
    )


def _load_own(restored: checkpoint.Restored, data_dir: str, dataset: str, split: str) -> Split:
    """A split of the data that the run was trained on.

    Raises:
        UserError: the data are missing or have changed.
    """
    found = load_split(data_dir, dataset, restored.config.image_size, split)
    if not _trained_on(restored, found):
        raise UserError(
            f"{data_dir} no longer holds the data that the run was trained on; "
            f"prepare them again with the same settings"
        )
    return found


def _calibration(
    folder: Any,
    restored: checkpoint.Restored,
    criterion: str | None,
    validation: Callable[[], Predictions],
) -> Any:
    """What an evaluation of these weights with this criterion has fitted already, or a new fit.

    A `Calibration`, or `Calibrations` of several findings.

    Args:
        validation: () -> predictions of the run's validation split, called only where needed.
    """
    found = evaluation_folder.calibrations(folder, restored.weights_sha256)
    criterion = criterion or (found["test"].criterion if "test" in found else "youden")
    for fitted in found.values():
        if fitted.criterion == criterion:
            return fitted
    return findings.fit(
        validation(), restored.findings, criterion, step=restored.step, split="validation"
    )
