"""Evaluates a checkpoint on a split: exact predictions, metrics, saliency maps, the report."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from cbam_flax import checkpoint, lineage
from cbam_flax.evaluate import (
    analysis,
    bootstrap,
    calibration,
    ensemble,
    findings,
    findings_report,
    localisation,
    operating_point,
    pictures,
    plots,
    report,
)
from cbam_flax.evaluate import folder as evaluation_folder
from cbam_flax.evaluate.patients import with_known_patients
from cbam_flax.evaluate.predict_split import Predictions
from cbam_flax.input_pipeline import Split, open_splits
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
    with_runs: Sequence[str] = (),
    combine: str = "logit",
    tta: str | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run and writes its evaluation folder.

    Args:
        data_dir, dataset: other prepared data than the run's, for external validation.
        step: of the checkpoint; by default the best by validation AUROC.
        name: of the folder; by default the split, with the data set before it where external
            (see `folder.default_name` for ensembles).
        criterion: of the operating point (see `calibration.fit`); by default that of these
            weights' evaluation `test`, else youden.
        explained: positive images whose saliency maps are scored against their boxes; 0: no maps.
            An ensemble has none.
        with_runs: further runs, which score together with this one; the folder is in this one.
        combine, tta: as of `ensemble.Ensemble`.

    Returns:
        What metrics.json holds; empty on all processes but the first.

    Raises:
        UserError: no such run, checkpoint or data, data other than what the run was trained on,
            runs that cannot score together, or a folder in which files of somebody else are in the
            way.
    """
    from etils import epath

    if name is not None:
        folders.check_name(name)
    if criterion:
        calibration.parse_criterion(criterion)  # refused before anything is computed
    folder = epath.Path(workdir)
    judged = ensemble.load([workdir, *with_runs], step, combine, tta)
    restored = judged.members[0]  # the others have the same data
    explained = 0 if with_runs else explained
    config = restored.config
    given = (data_dir or config.data_dir, dataset or config.dataset)
    evaluated, load_own, external = _open(restored, given, split)
    if name is None:
        name = f"{evaluated.manifest['dataset'].replace('/', '-')}-" * external + split
        name = evaluation_folder.default_name(name, members=len(judged.members), tta=tta)
    target = folder / "evaluation" / name
    records = epath.Path(given[0]) / evaluated.manifest["dataset"]
    evaluation_folder.check(target, [folder / "checkpoints", records])
    batch_size = batch_size or config.evaluate.batch_size
    predict = functools.partial(judged.predict, batch_size=batch_size)
    fitted = _calibration(folder, judged, criterion, lambda: predict(load_own("validation"))[0])
    predictions, logits = predict(evaluated)
    predictions["probability"] = fitted.probability(predictions["logit"])
    if with_runs:
        predictions["spread"] = ensemble.spread(logits, fitted)
    if jax.process_index() != 0:
        return {}

    try:
        train = load_own("train")
    except UserError:  # external validation without access to the training data
        train = None
    training = None
    if train:
        named = {"patient_id": lineage.patients_as_in(evaluated, train)} if external else {}
        training = with_known_patients(train.columns | named, train.manifest["split_scheme"])
    several = len(restored.findings) > 1  # then the same steps, by other modules
    figures = (findings if several else analysis).analyse(
        predictions,
        fitted,
        training,
        prevalences=prevalences,
        resamples=resamples,
    )
    if not several:  # boxes are of one finding
        figures["localisation"] = localisation.localise(
            restored.model,
            restored.variables,
            with_known_patients(evaluated.columns, evaluated.manifest["split_scheme"]),
            evaluated.images,
            train.columns["boxes"] if train else None,
            explained,
            resamples,
        )
        figures["calibration"] = dataclasses.asdict(fitted)
    metrics = {
        "schema": 1,
        "dataset": evaluated.manifest["dataset"],
        "split": split,
        "external": external,
        "name": name,
        **judged.description,
        **figures,
        "data": {
            **{key: evaluated.manifest[key] for key in ("dataset", "split_scheme", "splits")},
            **{key: evaluated.manifest[key] for key in ("fold",) if key in evaluated.manifest},
            "synthetic": is_synthetic(evaluated.manifest),
        },
        "provenance": evaluation_folder.provenance(restored, evaluated)
        | {"weights_sha256": judged.weights_sha256}
        | ({"ancestors": judged.ancestors} if judged.ancestors else {}),
    }
    if judged.ancestors:
        runs = [folder, *map(epath.Path, with_runs)]
        before = lineage.read_before(runs, judged.ancestors)
        metrics["ancestors"] = lineage.judged(judged.ancestors, before, evaluated)
    metrics["warnings"] = (findings if several else analysis).warnings(metrics)
    metrics["warnings"] += findings.other_name(evaluated, restored.findings)
    drawn = (findings_report if several else pictures).draw(
        metrics, predictions, evaluated, restored, folder, with_maps=explained > 0
    )
    if with_runs:
        drawn.files.pop("training", None)  # of the first run alone
    curves = operating_point.curves(metrics, predictions)
    page = (findings_report if several else report).render(metrics, drawn, curves)
    evaluation_folder.write(target, metrics, predictions, drawn.files, page)
    pictures.write_to_tensorboard(folder / "tensorboard", restored.step, name, drawn.files)
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


def _open(
    restored: checkpoint.Restored, given: tuple[str, str], split: str
) -> tuple[Split, Callable[[str], Split], bool]:
    """What is evaluated, how splits of the run's own data are loaded, and whether these are others.

    Args:
        given: data_dir and dataset of what is evaluated.

    Raises:
        UserError: data that are missing, or the run's own, which have changed.
    """
    config = restored.config
    own, size = (config.data_dir, config.dataset), config.image_size
    of_fold = (config.folds, config.fold)
    load = open_splits(*given, size, *of_fold)
    load_own = functools.partial(_load_own, restored, given[0], load)
    try:  # the run's own, which may have been moved
        return load_own(split), load_own, False
    except UserError:
        if given == own:
            raise
    if config.folds:
        load = open_splits(*given, size)  # as prepared
    load_own = functools.partial(_load_own, restored, own[0], open_splits(*own, size, *of_fold))
    return findings.align(load(split), restored.findings), load_own, True


def _load_own(
    restored: checkpoint.Restored, data_dir: str, load: Callable[[str], Split], split: str
) -> Split:
    """A split of the data that the run was trained on.

    Args:
        load: of the data in `data_dir`.

    Raises:
        UserError: the data are missing or have changed.
    """
    found = load(split)
    if not _trained_on(restored, found):
        raise UserError(
            f"{data_dir} no longer holds the data that the run was trained on; "
            f"prepare them again with the same settings"
        )
    return found


def _calibration(
    folder: Any,
    judged: ensemble.Ensemble,
    criterion: str | None,
    validation: Callable[[], Predictions],
) -> Any:
    """What an evaluation of these weights with this criterion has fitted already, or a new fit.

    A `Calibration`, or `Calibrations` of several findings.

    Args:
        validation: () -> predictions of the run's validation split, called only where needed.
    """
    found = evaluation_folder.calibrations(folder, judged.weights_sha256, judged.tta)
    test = evaluation_folder.default_name("test", members=len(judged.members), tta=judged.tta)
    criterion = criterion or (found[test].criterion if test in found else "youden")
    for fitted in found.values():
        if fitted.criterion == criterion:
            return fitted
    return findings.fit(
        validation(),
        judged.members[0].findings,
        criterion,
        step=judged.members[0].step,
        split="validation",
    )
