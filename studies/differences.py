"""Lines of a study -> figures of its variants and the differences that it asks for.

Seeds and patients are crossed in every interval (`cbam_flax.evaluate.seeds`). Of several folds the
figure is the mean over them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cbam_flax.evaluate import seeds
from cbam_flax.evaluate.bootstrap import UNDEFINED, Interval
from data_prep.multiple_testing import holm
from studies.lines import decode
from studies.study import Comparison, Study

LEVEL, POWER = 0.05, 0.8
LOWER_IS_BETTER = {"brier", "log_loss", "ece"}
NOT_RUN, ONE_SEED, SAME = "not run yet", "no verdict from one seed", "not distinguishable"
Line = dict[str, str]


class Row(NamedTuple):
    """A variant on a set of images: means over its whole seeds, with intervals."""

    variant: str
    judged: str
    seeds: list[int]
    figures: dict[str, Interval]
    sd: dict[str, float | None]
    line: Line


class Difference(NamedTuple):
    """A comparison, paired by seed, and by image where both sides judge the same images.

    Attributes:
        figures: first - second with intervals, by figure.
        p, p_adjusted: of the study's first figure; adjusted by Holm over the study's comparisons.
        detectable: the smallest difference in that figure that had a chance of `POWER` to be told.
        of: the seeds that it rests on.
    """

    comparison: Comparison
    figures: dict[str, Interval]
    p: float | None
    p_adjusted: float | None
    detectable: float | None
    verdict: str
    of: list[int]


class _Side:
    """The lines of one variant on one set of images, by seed and fold."""

    def __init__(self, study: Study, table: Sequence[Line], name: str) -> None:
        self.variant, _, judged = name.partition("@")
        self.judged = judged or study.judged[0].name
        lines = [
            line
            for line in table
            if (line["variant"], line["judged"]) == (self.variant, self.judged)
        ]
        self._folds = max(1, study.folds)
        self._of = {(int(line["seed"]), int(line["fold"])): line for line in lines}

    @property
    def whole_seeds(self) -> list[int]:
        """Those of which every fold is there."""
        found = {seed for seed, _ in self._of}
        return sorted(s for s in found if all((s, k) in self._of for k in range(self._folds)))

    def lines(self, of: Sequence[int]) -> list[list[Line]]:
        """By seed and fold."""
        return [[self._of[seed, fold] for fold in range(self._folds)] for seed in of]

    def arm(self, figure: str, of: Sequence[int]) -> seeds.Arm:
        values = [[float(line[figure]) for line in each] for each in self.lines(of)]
        samples = [
            np.mean([decode(line[f"{figure}_resamples"]) for line in each], axis=0)
            for each in self.lines(of)
        ]
        return np.mean(values, axis=1), np.stack(samples, axis=1)

    def patients(self, figure: str, of: Sequence[int]) -> int:
        """Behind the figure (see `statistics.patients_behind`), over all folds."""
        [first, *_] = self.lines(of)
        positive, negative, every = (
            sum(int(line[f"patients{group}"]) for line in first)
            for group in ("_positive", "_negative", "")
        )
        known = {"sensitivity": positive, "specificity": negative}
        known |= dict.fromkeys(("auroc", "average_precision", "f1"), min(positive, negative))
        return known.get(figure, every)


def rows_of(study: Study, table: Sequence[Line]) -> list[Row]:
    """The variants that have a whole seed, on each set of images."""
    rows = []
    for variant in study.variants:
        for judged in study.judged:
            side = _Side(study, table, f"{variant}@{judged.name}")
            if not (of := side.whole_seeds):
                continue
            arms = {figure: side.arm(figure, of) for figure in study.figures}
            rows.append(
                Row(
                    *(variant, judged.name, of),
                    {name: seeds.mean(arm, side.patients(name, of)) for name, arm in arms.items()},
                    {
                        name: float(np.std(values, ddof=1)) if len(of) > 1 else None
                        for name, (values, _) in arms.items()
                    },
                    side.lines(of)[0][0],
                )
            )
    return rows


def differences_of(study: Study, table: Sequence[Line]) -> list[Difference]:
    """The study's comparisons, in its order."""
    found = [_difference(study, table, one) for one in study.comparisons]
    tested = [number for number, one in enumerate(found) if one.p is not None]
    adjusted = holm(np.array([found[number].p for number in tested], float))
    for number, p in zip(tested, adjusted, strict=True):
        one = found[number]
        found[number] = one._replace(p_adjusted=float(p), verdict=_verdict(study, one, float(p)))
    return found


def _difference(study: Study, table: Sequence[Line], comparison: Comparison) -> Difference:
    first, second = (_Side(study, table, name) for name in (comparison.first, comparison.second))
    of = sorted(set(first.whole_seeds) & set(second.whole_seeds))
    if not of:
        nothing: dict[str, Any] = {name: UNDEFINED for name in study.figures}
        return Difference(comparison, nothing, None, None, None, NOT_RUN, of)
    figures, p_of = {}, {}
    for name in study.figures:
        arms = first.arm(name, of), second.arm(name, of)
        patients = min(first.patients(name, of), second.patients(name, of))
        figures[name], p_of[name] = seeds.difference(*arms, patients, paired=True)
    name = study.figures[0]
    detectable = seeds.detectable(
        *(first.arm(name, of), second.arm(name, of)),
        min(first.patients(name, of), second.patients(name, of)),
        paired=True,
        level=LEVEL / len(study.comparisons),  # what Holm asks of the smallest p-value
        power=POWER,
    )
    return Difference(comparison, figures, p_of[name], None, detectable, ONE_SEED, of)


def _verdict(study: Study, found: Difference, p: float) -> str:
    value = found.figures[study.figures[0]]["value"]
    if p >= LEVEL or not value:
        return SAME
    better = (value > 0) != (study.figures[0] in LOWER_IS_BETTER)
    return "helps" if better else "hurts"
