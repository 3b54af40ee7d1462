"""Evaluates a checkpoint on a split: exact predictions, metrics, saliency maps, the report.

Calling this module calls its function `evaluate`.
"""

import os
import sys
import types
from collections.abc import Sequence
from typing import Any

__all__ = ["evaluate"]


def evaluate(
    workdir: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    split: str = "test",
    *,
    data_dir: str | None = None,
    dataset: str | None = None,
    step: int | None = None,
    name: str | None = None,
    criterion: str | None = None,
    prevalences: Sequence[float] = (0.01, 0.05, 0.2),
    resamples: int = 2000,
    explained: int = 100,
    batch_size: int | None = None,
    combine: str = "logit",
    tta: str | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint of a run and writes WORKDIR/evaluation/NAME with its report.html.

    As `python -m cbam_flax.evaluate`; the AUROC, the warnings and the report's path go to stderr.

    Args:
        workdir: folder of the run, local or gs://; of several runs, which score together as
            --ensemble does, a list, and the evaluation is in the first.
        split: "train", "validation" or "test".
        data_dir, dataset: other prepared data than the run's, for external validation.
        step: of the checkpoint (default: the best by validation AUROC).
        name: of the folder (default: the split, with the data set before it where external).
        criterion: of the operating point, fitted on validation: "youden", "sensitivity=X" or
            "specificity=X" with X in (0, 1] (default: that of the evaluation `test` of these
            weights, else "youden").
        prevalences: for further PPV and NPV, each in (0, 1).
        resamples: of patients, for every interval.
        explained: positive images whose saliency maps are scored against their boxes; 0: no maps.
            Several runs have none.
        batch_size: images per call of the model; changes no metric.
        combine: what several runs take the mean of, "logit" or "probability".
        tta: test-time augmentation; "flip" is the mean logit of the image and its mirror image.

    Returns:
        What metrics.json holds: a figure such as `metrics["auroc"]` is a dict of `value`, `low`
        and `high`, the 95 % interval over patients; `metrics["warnings"]` is a list of sentences.
        Empty on all processes but the first.

    Raises:
        data_prep.cli.UserError: no such run, checkpoint or data, data other than what the run was
            trained on, runs that cannot score together, or a folder in which files of somebody
            else are in the way.
    """
    from cbam_flax import logs

    logs.quiet_tensorflow()
    from absl import logging

    from cbam_flax.evaluate.run import conclusion, evaluate_workdir

    runs = [workdir] if isinstance(workdir, str | os.PathLike) else workdir
    first, *others = [os.fspath(run) for run in runs]
    with logs.own_lines():
        metrics = evaluate_workdir(
            first,
            split,
            data_dir=data_dir,
            dataset=dataset,
            step=step,
            name=name,
            criterion=criterion,
            prevalences=prevalences,
            resamples=resamples,
            explained=explained,
            batch_size=batch_size,
            with_runs=others,
            combine=combine,
            tta=tta,
        )
        for line in conclusion(first, metrics):
            logging.info("%s", line)
    return metrics


class _Callable(types.ModuleType):
    """Importing this module binds it to `cbam_flax.evaluate`; a function there would be lost."""

    __call__ = staticmethod(evaluate)


sys.modules[__name__].__class__ = _Callable
