"""Which images there are: whose, from which view, with what in them; everything but the pixels."""

import dataclasses
import itertools
import uuid
from collections.abc import Iterator

import numpy as np

from data_prep.synthetic import phantom

# P(opacity | view). The challenge has 0.383 and 0.093; nearer here, so that the view alone stays
# a weak shortcut (AUROC about 0.6), and higher, so that a small set has positives enough.
_OPACITY_RATE = {"AP": 0.46, "PA": 0.27}
_SPACINGS = {"AP": (0.139, 0.168, 0.171), "PA": (0.143, 0.139, 0.171)}  # mm
_CLASSES = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything about one image but its pixels."""

    index: int
    patient: int
    follow_up: int  # which of the patient's images, from 0
    image_id: str
    female: bool
    age: int
    view: str
    spacing: float
    opacities: int
    findings: tuple[str, ...]

    @property
    def detailed_class(self) -> str:
        return _CLASSES[2 if self.opacities else bool(self.findings)]


def plans(seed: int) -> Iterator[Plan]:
    """All images of a seed, without end, patient after patient: a longer set extends a shorter."""
    index = itertools.count()
    for patient in itertools.count():
        rng = np.random.default_rng([seed, 0, patient])
        female = bool(rng.random() < 0.43)
        age = int(np.clip(rng.normal(47, 16), 2, 92))
        if rng.random() < 0.004:
            age = int(rng.choice((148, 150, 151, 153, 155)))  # the challenge has such ages
        sickness = rng.uniform(0.3, 1.7)  # images of one patient are alike in their label too
        bedridden = rng.beta(1, 1)
        for follow_up in range(int(rng.geometric(0.4))):
            view = "AP" if rng.random() < bedridden else "PA"
            opacities = 0
            if rng.random() < _OPACITY_RATE[view] * sickness:
                opacities = int(rng.choice((1, 2, 3), p=(0.45, 0.45, 0.10)))
            yield Plan(
                index=next(index),
                patient=patient,
                follow_up=follow_up,
                image_id=str(uuid.UUID(bytes=rng.bytes(16), version=4)),
                female=female,
                age=age,
                view=view,
                spacing=float(rng.choice(_SPACINGS[view])),
                opacities=opacities,
                findings=_findings(rng, view, opacities),
            )


def _findings(rng: np.random.Generator, view: str, opacities: int) -> tuple[str, ...]:
    """Other findings: in about half of the images, with and without an opacity alike."""
    if rng.random() < 0.45:
        return ()
    odds = np.array([0.35, 0.25, 0.45 if view == "AP" else 0.2, 0.2, 0.25])
    chosen = rng.random(len(phantom.FINDINGS)) < odds
    return tuple(name for name, there in zip(phantom.FINDINGS, chosen, strict=True) if there)
