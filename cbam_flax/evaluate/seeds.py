"""Figures averaged over seeds, with intervals and p-values over patients and seeds together.

Seeds and patients are crossed: every seed scores every patient. That is a multi-reader multi-case
study with seeds as readers, and the method is that field's: Obuchowski and Rockette 1995
(Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests), with the
degrees of freedom of Hillis 2007 (A comparison of denominator degrees of freedom methods for
multiple observer ROC analysis). The variance that the patients bring is from the bootstrap. That of
the seeds is from the spread over them, with Student's t for their number: resampling a handful of
seeds as well would give intervals that are too narrow.
"""

from collections.abc import Sequence

import numpy as np
import scipy.special

from cbam_flax.evaluate import bootstrap
from cbam_flax.evaluate.bootstrap import Interval

Arm = tuple[np.ndarray, np.ndarray]  # a figure by seed (j,), and on resamples of patients (r, j)


def mean(arm: Arm, patients: int) -> Interval:
    """The mean over seeds with its interval: over patients alone where there is one seed.

    Args:
        arm: of a figure in [0, 1].
        patients: behind the figure.
    """
    values, samples = arm
    drawn = samples.mean(axis=1)
    if len(values) == 1 or np.all(drawn == values.mean()):
        return bootstrap.share_interval(values.mean(), drawn, patients)
    return _over_seeds([arm], patients, floor=0.0)[0]


def difference(
    first: Arm, second: Arm, patients: int, *, paired: bool
) -> tuple[Interval, float | None]:
    """The difference of the means over seeds with its interval, and its two-sided p-value.

    Args:
        paired: the arms have the same seeds in the same order. Otherwise the seeds are taken for
            independent and the arms may differ in their number and spread (Welch's t).

    Returns:
        Where an arm has one seed, the interval is over patients alone and p is None: how much
        another seed changes is unknown.
    """
    (values, samples), (others, drawn) = first, second
    if min(len(values), len(others)) == 1:
        value = values.mean() - others.mean()
        return bootstrap.interval(value, samples.mean(axis=1) - drawn.mean(axis=1), patients), None
    if paired:
        return _over_seeds([(values - others, samples - drawn)], patients, floor=-1.0)
    return _over_seeds([first, (-others, -drawn)], patients, floor=-1.0)


def _over_seeds(
    arms: Sequence[Arm], patients: int, *, floor: float
) -> tuple[Interval, float | None]:
    """The sum of the arms' means, within [floor, 1]."""
    value = sum(values.mean() for values, _ in arms)
    defined = np.all([np.isfinite(samples).all(axis=1) for _, samples in arms], axis=0)
    if not np.isfinite(value) or defined.sum() < 2 or not patients:
        return bootstrap.UNDEFINED, None
    arms = [(values, samples[defined]) for values, samples in arms]
    # The seeds differ by themselves and because each meets the patients differently; the second
    # part is in the bootstrap too and is counted once.
    seeds = [np.var(values, ddof=1) / len(values) for values, _ in arms]
    twice = sum(np.var(s - s.mean(axis=0), axis=1, ddof=1).mean() / s.shape[1] for _, s in arms)
    drawn = np.sum([samples.mean(axis=1) for _, samples in arms], axis=0)
    m = max(2, patients)
    of_patients = max(0.0, np.var(drawn, ddof=1) - twice) * m / (m - 1)
    variance = sum(seeds) + of_patients
    if variance == 0:
        return bootstrap.rounded(value, value, value), float(value == 0)
    freedom = variance**2 / (
        sum(part**2 / (len(values) - 1) for part, (values, _) in zip(seeds, arms, strict=True))
        + of_patients**2 / (m - 1)
    )
    tail = scipy.special.stdtrit(freedom, (1 + bootstrap.LEVEL) / 2) * variance**0.5
    p = 2 * scipy.special.stdtr(freedom, -abs(value) / variance**0.5)
    return bootstrap.rounded(value, max(floor, value - tail), min(1.0, value + tail)), float(p)
