"""Which part of the attention, and which pooling, is it that matters?

The described model with each of the gates that CBAM is made of or that came before it, and with
average pooling; the bare one (no attention, max pooling, no pyramid) with each of them alone. Cost
differs by less than 2 % between the gates, so none has a control of its own.

PneumoniaMNIST as in the ablation: a quarter of the width, 5 epochs.
"""

import dataclasses

from studies.questions import ablation
from studies.questions.ablation import BARE
from studies.study import Comparison

STUDY = dataclasses.replace(
    ablation.STUDY,
    variants={
        "described": {},
        "bare": BARE,
        "no_attention": {"model.attention": "none"},
        "se": {"model.attention": "se"},
        "channel": {"model.attention": "channel"},
        "spatial": {"model.attention": "spatial"},
        "avg_pooling": {"model.pooling": "avg"},
        "bare_se": BARE | {"model.attention": "se"},
        "bare_channel": BARE | {"model.attention": "channel"},
        "bare_spatial": BARE | {"model.attention": "spatial"},
        "bare_avg": BARE | {"model.pooling": "avg"},
    },
    comparisons=[
        Comparison("squeeze and excitation in the described model", "se", "no_attention"),
        Comparison("channel gate in the described model", "channel", "no_attention"),
        Comparison("spatial gate in the described model", "spatial", "no_attention"),
        Comparison("CBAM instead of squeeze and excitation", "described", "se"),
        Comparison("mixed instead of average pooling", "described", "avg_pooling"),
        Comparison("squeeze and excitation alone", "bare_se", "bare"),
        Comparison("channel gate alone", "bare_channel", "bare"),
        Comparison("spatial gate alone", "bare_spatial", "bare"),
        Comparison("average instead of max pooling, alone", "bare_avg", "bare"),
    ],
)
