"""Every key of the config: its default, what it may be, and what it means.

This is the one place for all three. The defaults and the checks of `config.py`, the list that
`python -m cbam_flax.main --help` prints and docs/config.md come from it.
"""

import re
from typing import Any, NamedTuple

UNITS = {"steps": int, "epochs": float, "examples": int}  # of a duration
SWITCH = "false | true"
TEXT = "text"


class Key(NamedTuple):
    """A key of the config.

    Attributes:
        default: its type is the key's kind; a dict, `{unit: amount}`, is a duration.
        allowed: words, numbers and intervals with ` | ` between them, or `TEXT`. "[1, inf)" is 1
            and more, "(0, 1]" leaves out 0; neither takes inf or nan. It holds for the amount of a
            duration and for each element of a tuple.
        meaning: in a few words, with the unit.
        length: an interval, of the number of elements of a tuple.
        may_change: when a run is resumed: paths, devices, and what is only logged.
    """

    default: Any
    allowed: str
    meaning: str
    length: str = ""
    may_change: bool = False

    @property
    def shown(self) -> str:
        """The default as it is written for people."""
        if isinstance(self.default, dict):
            return ", ".join(f"{unit}={amount}" for unit, amount in self.default.items())
        return str(self.default)

    def accepts(self, value: Any) -> bool:
        """Whether the key may have this value, with a duration as a dict."""
        if isinstance(self.default, dict):
            if not isinstance(value, dict) or value.keys() != UNITS.keys():
                return False
            given = {unit: amount for unit, amount in value.items() if amount is not None}
            return len(given) == 1 and all(_fits(given[u], UNITS[u], self.allowed) for u in given)
        if isinstance(self.default, tuple):
            return (
                isinstance(value, tuple)
                and _fits(len(value), int, self.length)
                and all(_fits(each, self._one, self.allowed) for each in value)
            )
        return _fits(value, type(self.default), self.allowed)

    @property
    def _one(self) -> type:
        """The type of the value, or of each element; an empty tuple is one of texts."""
        if not isinstance(self.default, tuple):
            return type(self.default)
        return type(self.default[0]) if self.default else str

    @property
    def kind(self) -> str:
        """What a value is and where it lies, as in "a number in (0, 1]"."""
        choices = f"one of {self.allowed.replace(' | ', ', ')}"
        words = {
            bool: choices,
            str: "printable text" if self.allowed == TEXT else choices,
            int: f"an integer in {self.allowed}",
            float: f"a number in {self.allowed}",
            dict: f"set by exactly one of {', '.join(UNITS)}, to a number in {self.allowed}",
        }[self._one]
        words = re.sub(r"in (-1|0) \| ", r"that is \1 or in ", words)
        if not self.length:
            return words
        length = f"length {self.length}" if self.length.isdigit() else f"a length in {self.length}"
        return f"a tuple of {length}, each element {words}"


def _fits(value: Any, kind: type, allowed: str) -> bool:
    """Whether a single value is of a kind and among what is allowed; an int is also a float."""
    if type(value) not in ((int, float) if kind is float else (kind,)):
        return False
    if allowed == TEXT:
        return value.isprintable() and not value.isspace() and value != ""
    if kind is str:
        return value in allowed.split(" | ")
    return kind is bool or any(_lies_in(value, part) for part in allowed.split(" | "))


def _lies_in(value: float, part: str) -> bool:
    """Whether a number is this one, or lies in this interval."""
    if part[0] not in "[(":
        return value == float(part)
    low, high = map(float, part[1:-1].split(","))
    above = low <= value if part[0] == "[" else low < value
    return above and (value <= high if part[-1] == "]" else value < high)


# fmt: off
KEYS = {
    "seed": Key(0, "[0, 4294967295]", "of initial weights, order of examples and augmentation"),
    "data_dir": Key("data", TEXT, "as given to data_prep.prepare; local or gs://", may_change=True),
    "dataset": Key("rsna_pneumonia", TEXT, "or with a variant, as in rsna_pneumonia/256px-row"),
    "image_size": Key(256, "[28, 4096]", "pixels; data of this or else the next larger size"),
    "folds": Key(0, "0 | [2, 20]", "divide all images anew, by patient, into so many; 0: off"),
    "fold": Key(0, "[0, 19]", "which of the folds is the test split, from 0"),
    "batch_size": Key(64, "[1, 65536]", "images per step, over all devices and hosts"),
    "sampling": Key("uniform", "uniform | balanced",
                    "balanced repeats positives until they are half of an epoch"),
    "shuffle_labels": Key(False, SWITCH, "negative control: train and select on permuted labels"),
    "duration": Key({"epochs": 30.0}, "(0, 2147483647]", "length of the training"),

    "evaluate.every": Key({"epochs": 1.0}, "(0, 2147483647]", "between evaluations on validation"),
    "evaluate.batch_size": Key(16, "[1, 65536]", "images per forward pass"),
    "evaluate.at_end": Key(("test",), "train | validation | test",
                           "splits that the best checkpoint is evaluated on", length="[0, 3]"),
    "checkpoint.every": Key({"epochs": 1.0}, "(0, 2147483647]", "between checkpoints"),
    "checkpoint.keep_latest": Key(2, "[1, inf)", "newest checkpoints that are kept"),
    "checkpoint.keep_best": Key(1, "[1, inf)", "best checkpoints by AUROC that are kept"),
    "early_stopping": Key(0, "[0, inf)", "stop after N evaluations without a better AUROC; 0: off"),
    "log_every_steps": Key(20, "[1, inf)", "steps between two log entries", may_change=True),
    "profile": Key(False, SWITCH, "a trace of a few early steps in WORKDIR/tensorboard",
                   may_change=True),
    "non_finite": Key("stop", "stop | skip", "at a loss of nan or inf; skip discards the step"),

    "mesh.data": Key(-1, "-1 | [1, inf)", "devices that share the batch; -1 is all that are left",
                     may_change=True),
    "mesh.fsdp": Key(1, "-1 | [1, inf)", "devices that share the batch and the large weights",
                     may_change=True),
    "mesh.spatial": Key(1, "-1 | [1, inf)", "devices that share the rows of each image",
                        may_change=True),

    "model.preset": Key("cbam_resnet", "cbam_resnet | notebook", "what the other keys change"),
    "model.attention": Key("cbam", "none | se | channel | spatial | cbam", "gates of each block"),
    "model.pooling": Key("mixed", "max | avg | mixed", "halves the maps after each block"),
    "model.context": Key("aspp", "none | aspp", "atrous pyramid after the pools 2 and 4"),
    "model.dilations": Key((2, 4, 8), "[1, 256]", "rates of the atrous pyramid, in pixels",
                           length="[1, 16]"),
    "model.image_level": Key(False, SWITCH, "DeepLab v3's global branch in the atrous pyramid"),
    "model.head": Key("flatten", "flatten | gap", "of the last maps; gap takes their mean"),
    "model.spatial_norm": Key("none", "none | batch", "before the sigmoid of the spatial gate"),
    "model.stages": Key((64, 128, 128, 256), "[1, 8192]", "channels of the four blocks",
                        length="4"),
    "model.width": Key(1.0, "(0, 16]", "multiplies the stages"),
    "model.hidden": Key(256, "[1, 65536]", "units of the head's dense layer"),
    "model.reduction": Key(16, "[1, inf)", "channels per unit of the channel gate's bottleneck"),
    "model.findings": Key(0, "[0, 1024]", "logits of the head; 0: as many as the data have"),
    "model.dropout": Key(0.0, "[0, 1)", "probability, on the features that enter the head"),
    "model.dtype": Key("auto", "auto | float32 | bfloat16",
                       "of maps; auto is bfloat16 on TPU and GPU, float32 on CPU"),
    "model.kernel_init": Key("auto", "auto | he_normal | glorot_uniform",
                             "of 3x3 kernels and head; auto does as the preset"),
    "model.zero_init_last_bn": Key(False, SWITCH, "each block starts as ReLU of its first half"),
    "model.remat": Key(False, SWITCH, "recompute blocks in the backward pass: less memory, slower"),

    "init.from_run": Key("none", TEXT, "what the parameters start from: a run, a folder of its "
                         "checkpoints, or an imported .npz"),
    "init.batch_stats": Key("kept", "kept | fresh", "BatchNorm's running statistics at the start"),
    "init.freeze": Key((), TEXT, "patterns of parameters that do not change, as in block1/*",
                       length="[0, inf)"),
    "init.learning_rate_scale": Key((), TEXT, "factors by pattern, as in block?/*=0.1",
                                    length="[0, inf)"),

    "loss.label_smoothing": Key(0.0, "[0, 1)", "share of a label that is spread over both classes"),
    "loss.positive_weight": Key(1.0, "(0, 1000000]", "multiplies the loss of positive examples"),
    "loss.l2": Key(0.0, "[0, 1000]", "times the sum of squares of the blocks' 3x3 kernels"),

    "optimizer.name": Key("adamw", "adamw | adam | sgd", "the update rule; sgd has momentum"),
    "optimizer.learning_rate": Key(1e-3, "(0, 1000]", "the peak, after the warm-up"),
    "optimizer.schedule": Key("cosine", "cosine | constant", "after the warm-up"),
    "optimizer.warmup": Key({"epochs": 1.0}, "[0, 2147483647]", "linear from 0; 0: off"),
    "optimizer.weight_decay": Key(0.05, "[0, 1000]", "on kernels only, by adamw and sgd"),
    "optimizer.momentum": Key(0.9, "[0, 1)", "of sgd"),
    "optimizer.gradient_clip": Key(1.0, "[0, 1000000]", "largest global norm; 0: off"),
    "optimizer.accumulate": Key(1, "[1, 65536]", "microbatches per step"),
    "optimizer.ema": Key(0.999, "[0, 1)", "decay of the averaged, evaluated parameters; 0: off"),

    "augment.rotation": Key(10.0, "[0, 180]", "degrees, uniform in +-"),
    "augment.scale": Key(0.1, "[0, 1)", "uniform in 1 +- scale"),
    "augment.shift": Key(0.05, "[0, 1]", "share of the side, uniform in +-"),
    "augment.flip_horizontal": Key(True, SWITCH, "of every second image"),
    "augment.flip_vertical": Key(False, SWITCH, "of every second image"),
    "augment.brightness": Key(0.1, "[0, 1]", "added to grey levels in [0, 1], uniform in +-"),
    "augment.contrast": Key(0.2, "[0, 1]", "factor about the mean, uniform in 1 +- contrast"),
    "augment.gamma": Key(0.2, "[0, 5]", "exponent exp(u), u uniform in +-"),
    "augment.erase": Key(0.0, "[0, 1]", "probability that a rectangle is set to 0"),
    "augment.mixup": Key(0.0, "[0, 1000]", "alpha of the beta distribution; 0: off"),
}
# fmt: on
