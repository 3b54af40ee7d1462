"""Several trained models that score together, or one with each image also flipped.

The members' logits are combined before anything is fitted: calibration and operating point are of
the ensemble as a whole, fitted on the validation split that its members share.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.special

from cbam_flax import checkpoint, provenance
from cbam_flax.evaluate import distinct
from cbam_flax.evaluate.calibration import Calibration
from cbam_flax.evaluate.findings import Calibrations
from cbam_flax.evaluate.predict_split import LOGIT_DECIMALS, Predictions, predict_split
from cbam_flax.input_pipeline import Split
from data_prep.cli import UserError


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Trained models of the same data; one alone without `tta` scores as it does by itself.

    Attributes:
        combine: what is averaged over the members, "logit" or "probability".
        tta: "flip" if a member's logit is the mean of those of the image and of its mirror image.
    """

    members: tuple[checkpoint.Restored, ...]
    combine: str = "logit"
    tta: str | None = None

    @functools.cached_property
    def weights_sha256(self) -> str:
        """Of one model its own hash; of several one over theirs and how they are combined."""
        hashes = [member.weights_sha256 for member in self.members]
        return hashes[0] if len(hashes) == 1 else provenance.sha256_of_json([hashes, self.combine])

    @property
    def step(self) -> int:
        """Of the first member."""
        return self.members[0].step

    @property
    def fingerprint(self) -> dict[str, str]:
        """Of the data, which the members share."""
        return self.members[0].fingerprint

    @property
    def ancestors(self) -> list[dict[str, Any]]:
        """The models that the members started from, each once (`cbam_flax.lineage`)."""
        of_all = [ancestor for member in self.members for ancestor in member.ancestors]
        return list({provenance.sha256_of_json(each): each for each in of_all}.values())

    @property
    def description(self) -> dict[str, Any]:
        """`ensemble` and `tta` as metrics.json and bundle.json have them, where they apply."""
        members = [
            {
                "weights_sha256": member.weights_sha256,
                "step": member.step,
                "seed": member.config.seed,
            }
            for member in self.members
        ]
        several = {"ensemble": {"members": members, "combine": self.combine}}
        return (several if len(members) > 1 else {}) | ({"tta": self.tta} if self.tta else {})

    def predict(self, split: Split, batch_size: int) -> tuple[Predictions, np.ndarray]:
        """As `predict_split`, with the combined logit; and the members' own logits (m, ...)."""
        found = [self._predict(member, split, batch_size) for member in self.members]
        logits = np.stack([each["logit"] for each in found])
        logit = np.round(combined(logits, self.combine), LOGIT_DECIMALS)
        return found[0] | {"logit": logit, "probability": scipy.special.expit(logit)}, logits

    def _predict(self, member: checkpoint.Restored, split: Split, batch_size: int) -> Predictions:
        predict = functools.partial(
            predict_split, member.model, member.variables, split, batch_size
        )
        found = predict()
        if self.tta:
            views = np.stack([found["logit"], predict(flip=True)["logit"]])
            found["logit"] = np.round(combined(views), LOGIT_DECIMALS)
        return found


def load(
    workdirs: Sequence[str],
    step: int | None = None,
    combine: str = "logit",
    tta: str | None = None,
) -> Ensemble:
    """The best checkpoints of the runs, or that of `step` of a single run.

    Raises:
        UserError: as `checkpoint.load_for_inference`; a run twice; runs of other data, splits,
            image sizes or findings than the first's; a step for several runs.
    """
    if len(workdirs) > 1 and step is not None:
        raise UserError("--step is of one run; an ensemble takes the best checkpoint of each")
    distinct.refuse_repeats(workdirs, [distinct.resolved(w) for w in workdirs], "one folder")
    members = tuple(checkpoint.load_for_inference(workdir, step) for workdir in workdirs)
    hashes = [member.weights_sha256 for member in members] if len(members) > 1 else [None]
    distinct.refuse_repeats(workdirs, hashes, "the same weights")
    for workdir, member in zip(workdirs, members, strict=True):
        for what, value, first in (
            ("image sizes", member.config.image_size, members[0].config.image_size),
            ("findings", *(one.config.model.get("findings") for one in (member, members[0]))),
            ("training and validation data", member.fingerprint, members[0].fingerprint),
        ):
            if value != first:
                raise UserError(
                    f"{workdirs[0]} and {workdir} have different {what}; an ensemble needs runs of "
                    f"one data set, split and image size, so that an image is unseen by all"
                )
    return Ensemble(members, combine, tta)


def combined(logits: np.ndarray, combine: str = "logit") -> np.ndarray:
    """One logit of several (m, ...): their mean, or the logit of their mean probability."""
    if len(logits) == 1:
        return logits[0]
    if combine == "logit":
        return logits.mean(axis=0)
    # By logarithms, since the probabilities of extreme logits are 0 or 1.
    of_classes = (scipy.special.log_expit(sign * logits) for sign in (1, -1))
    positive, negative = (scipy.special.logsumexp(each, axis=0) for each in of_classes)
    return positive - negative


def spread(logits: np.ndarray, fitted: Calibration | Calibrations) -> np.ndarray:
    """How far the members (m, N) disagree: the standard deviation of their probabilities (N,).

    Of several findings (m, N, k) and (N, k).
    Each member's probability is by the ensemble's own calibration. The deviation is that of these
    members (divided by m), not an estimate for others.
    """
    return np.std([fitted.probability(each) for each in logits], axis=0)


def described(metrics: Mapping[str, Any]) -> str:
    """What scored, in a sentence; empty for one model without `tta`."""
    of, flip = metrics.get("ensemble"), metrics.get("tta")
    if not of and not flip:
        return ""
    what = (
        f"the mean {of['combine']} of {len(of['members'])} runs, calibrated as a whole"
        if of
        else "the mean logit of two views"
    )
    return f"The score is {what}" + (
        "; each run sees the image and its mirror image." if flip else "."
    )
