"""What makes the recipe of configs/pneumoniamnist.py better, judged on validation?

One change at a time, five seeds each. The test split is not read, so that the best of them can be
taken over into the config. Accuracy is at a threshold that was fitted on the same images.
"""

from studies.study import Comparison, Judged, Overrides, Study

LEVERS: dict[str, Overrides] = {
    "full_width": {"model.width": 1.0},
    "longer": {"duration.epochs": 30.0},
    "mixup": {"augment.mixup": 0.2},
    "erase": {"augment.erase": 0.25},
    "dropout": {"model.dropout": 0.5},
    "smoothing": {"loss.label_smoothing": 0.1},
    "flips": {"augment.flip_horizontal": True},
    "balanced": {"sampling": "balanced"},
    "slower_average": {"optimizer.ema": 0.999},
}

STUDY = Study(
    config="configs/pneumoniamnist.py",
    cpu_minutes=5.5,
    seeds=range(100, 105),
    variants={"as_configured": {}, **LEVERS},
    judged=[Judged("validation", split="validation")],
    comparisons=[Comparison(name.replace("_", " "), name, "as_configured") for name in LEVERS],
)
