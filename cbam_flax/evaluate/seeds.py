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
    return _over_seeds(_arms_of_difference(first, second, paired), patients, floor=-1.0)


def detectable(
    first: Arm, second: Arm, patients: int, *, paired: bool, level: float, power: float = 0.8
) -> float | None:
    """The smallest true difference that such arms would show at this level with this power.

    It is Student's quantiles of both, times the standard error of the difference as observed: what
    another study of the same size could see. None where `difference` has no p-value.

    Args:
        first, second, patients, paired: as of `difference`.
        level: of the two-sided test, such as 0.05.
    """
    if min(len(first[0]), len(second[0])) == 1:
        return None
    found = _estimate(_arms_of_difference(first, second, paired), patients)
    if found is None or found[1] == 0:
        return None
    _, variance, freedom = found
    quantiles = scipy.special.stdtrit(freedom, np.array([1 - level / 2, power]))
    return float(quantiles.sum() * variance**0.5)


def _arms_of_difference(first: Arm, second: Arm, paired: bool) -> list[Arm]:
    """What `_estimate` sums; paired seeds are one arm."""
    (values, samples), (others, drawn) = first, second
    if paired:
        return [(values - others, samples - drawn)]
    return [first, (-others, -drawn)]


def _over_seeds(
    arms: Sequence[Arm], patients: int, *, floor: float
) -> tuple[Interval, float | None]:
    """The sum of the arms' means, within [floor, 1]."""
    found = _estimate(arms, patients)
    if found is None:
        return bootstrap.UNDEFINED, None
    value, variance, freedom = found
    if variance == 0:
        return bootstrap.rounded(value, value, value), float(value == 0)
    tail = scipy.special.stdtrit(freedom, (1 + bootstrap.LEVEL) / 2) * variance**0.5
    p = 2 * scipy.special.stdtr(freedom, -abs(value) / variance**0.5)
    return bootstrap.rounded(value, max(floor, value - tail), min(1.0, value + tail)), float(p)


def _estimate(arms: Sequence[Arm], patients: int) -> tuple[float, float, float] | None:
    """The sum of the arms' means, its variance and the degrees of freedom; None if undefined."""
    value = float(sum(values.mean() for values, _ in arms))
    defined = np.all([np.isfinite(samples).all(axis=1) for _, samples in arms], axis=0)
    if not np.isfinite(value) or defined.sum() < 2 or not patients:
        return None
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
        return value, 0.0, np.inf
    freedom = variance**2 / (
        sum(part**2 / (len(values) - 1) for part, (values, _) in zip(seeds, arms, strict=True))
        + of_patients**2 / (m - 1)
    )
    return value, float(variance), float(freedom)
