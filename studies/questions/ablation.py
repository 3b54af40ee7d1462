"""Does CBAM attention, mixed pooling or the atrous pyramid make a better classifier?

Each is taken out of the model as it is described, and put alone into the bare one (no attention,
max pooling, no pyramid). CBAM and mixed pooling have 0.5 % and 4.7 % of the parameters of the
described model, the pyramid more than half, so there are wider networks without it, of as many
parameters or FLOPs. `notebook` is the graph that the notebook built instead of the described one.

PneumoniaMNIST at 28 px, official split, a quarter of the width, 5 epochs: 8 changed little on
validation (AUROC .996 instead of .995, seed 100). A verdict is one at this size and this budget.
"""

from studies.study import Comparison, Study

BARE = {"model.attention": "none", "model.pooling": "max", "model.context": "none"}

STUDY = Study(
    config="configs/pneumoniamnist.py",
    cpu_minutes=1.4,
    common={"model.width": 0.25, "duration.epochs": 5.0},
    variants={
        "described": {},
        "bare": BARE,
        "no_attention": {"model.attention": "none"},
        "max_pooling": {"model.pooling": "max"},
        "no_context": {"model.context": "none"},
        "bare_cbam": BARE | {"model.attention": "cbam"},
        "bare_mixed": BARE | {"model.pooling": "mixed"},
        "bare_aspp": BARE | {"model.context": "aspp"},
        "wide_parameters": BARE | {"model.width": 1.0, "model.stages": (27, 53, 53, 106)},
        "wide_flops": BARE | {"model.width": 1.0, "model.stages": (18, 37, 37, 74)},
        "no_context_wide": {
            **{"model.context": "none", "model.width": 1.0},
            "model.stages": (24, 49, 49, 100),
        },
        "max_pooling_wide": {
            **{"model.pooling": "max", "model.width": 1.0},
            "model.stages": (16, 33, 32, 66),
        },
        "notebook": {"model.preset": "notebook"},
    },
    comparisons=[
        Comparison("CBAM in the described model", "described", "no_attention"),
        Comparison("mixed pooling in the described model", "described", "max_pooling"),
        Comparison("atrous pyramid in the described model", "described", "no_context"),
        Comparison("CBAM alone", "bare_cbam", "bare"),
        Comparison("mixed pooling alone", "bare_mixed", "bare"),
        Comparison("atrous pyramid alone", "bare_aspp", "bare"),
        Comparison("all three", "described", "bare"),
        Comparison(
            "mixed pooling, against as many parameters without", "described", "max_pooling_wide"
        ),
        Comparison(
            "atrous pyramid, against as many parameters without", "described", "no_context_wide"
        ),
        Comparison(
            "all three, against a plain network of as many parameters",
            *("described", "wide_parameters"),
        ),
        Comparison(
            "all three, against a plain network of as many FLOPs", "described", "wide_flops"
        ),
        Comparison("the notebook's graph, against the described", "notebook", "described"),
    ],
)
