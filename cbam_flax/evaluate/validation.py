"""Validation during training: a few metrics of the current model."""

from typing import Any

from jax.sharding import Mesh

from cbam_flax.evaluate import bootstrap, statistics
from cbam_flax.evaluate.predict_split import Predictions, predict_split
from cbam_flax.input_pipeline import Split
from cbam_flax.models import CBAMResNet


def validate(
    model: CBAMResNet, variables: dict[str, Any], split: Split, batch_size: int, mesh: Mesh
) -> dict[str, float]:
    """The metrics of `summarise` on a split; the arguments are those of `predict_split`."""
    return summarise(predict_split(model, variables, split, batch_size, mesh))


def summarise(predictions: Predictions) -> dict[str, float]:
    """The metrics that need no operating point, without intervals, so quick to compute."""
    label, probability, logit = (predictions[k] for k in ("label", "probability", "logit"))
    found = statistics.figures(label, probability, 0.5, score=logit)
    names = ("auroc", "average_precision", "log_loss", "brier", "ece")
    return {name: round(float(found[name]), bootstrap.DECIMALS) for name in names}
