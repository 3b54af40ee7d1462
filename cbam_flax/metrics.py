"""What a training step reports."""

import flax
from clu import metrics


@flax.struct.dataclass
class TrainMetrics(metrics.Collection):
    """Means over the steps since the last report, from what `step.train_step` returns."""

    loss: metrics.Average.from_output("loss")
    accuracy: metrics.Average.from_output("accuracy")
    gradient_norm: metrics.Average.from_output("gradient_norm")
    skipped: metrics.Average.from_output("skipped")
