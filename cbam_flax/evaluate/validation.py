"""Validation during training: a few metrics of the current model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cbam_flax.evaluate import bootstrap, statistics
from cbam_flax.evaluate.predict_split import Predictions, of_finding, predict_split
from cbam_flax.input_pipeline import Split
from cbam_flax.labels import has_both_classes
from cbam_flax.models import CBAMResNet


def validate(
    model: CBAMResNet, variables: dict[str, Any], split: Split, batch_size: int, mesh: Mesh
) -> dict[str, float]:
    """The metrics of `summarise` on a split; the arguments are those of `predict_split`.

    With several findings, those of `summarise_several`.
    """
    predictions = predict_split(model, variables, split, batch_size, mesh)
    if len(split.findings) == 1:
        return summarise(predictions)
    return summarise_several(predictions, split.findings)


def summarise(predictions: Predictions) -> dict[str, float]:
    """The metrics that need no operating point, without intervals, so quick to compute."""
    label, probability, logit = (predictions[k] for k in ("label", "probability", "logit"))
    found = statistics.figures(label, probability, 0.5, score=logit)
    names = ("auroc", "average_precision", "log_loss", "brier", "ece")
    return {name: round(float(found[name]), bootstrap.DECIMALS) for name in names}


def summarise_several(predictions: Predictions, findings: Sequence[str]) -> dict[str, float]:
    """The means of `summarise` over the findings of which both classes are there.

    Also, as `auroc/<finding>`, the AUROC of each of these.
    """
    found = {
        name: summarise(of_finding(predictions, number))
        for number, name in enumerate(findings)
        if has_both_classes(predictions["label"])[number]
    }
    names = next(iter(found.values()))
    return {
        name: round(float(np.mean([each[name] for each in found.values()])), bootstrap.DECIMALS)
        for name in names
    } | {f"auroc/{finding}": each["auroc"] for finding, each in found.items()}
