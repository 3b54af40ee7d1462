"""What a training step reports."""

from clu import metrics

# Means over the steps since the last report, from what `step.train_step` returns.
TrainMetrics = metrics.Collection.create(
    loss=metrics.Average.from_output("loss"),
    accuracy=metrics.Average.from_output("accuracy"),
    gradient_norm=metrics.Average.from_output("gradient_norm"),
    skipped=metrics.Average.from_output("skipped"),
)
