"""Intervals from a bootstrap over patients.

The images of one patient are not independent, so patients are drawn with replacement: a
resample is a vector of integer weights, one per image, equal within a patient (the cluster
bootstrap: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
A statistic is a function of such weights, `(r, n) -> {name: (r,)}`, and works on many resamples
at once.
"""

import concurrent.futures
from collections.abc import Callable, Mapping

import numpy as np
import scipy.special

from data_prep import cli

Weights = np.ndarray
Statistic = Callable[[Weights], Mapping[str, np.ndarray]]
Interval = dict[str, float | None]

RESAMPLES = 2000
LEVEL = 0.95
DECIMALS = 5  # of every figure in metrics.json
UNDEFINED: Interval = {"value": None, "low": None, "high": None}
_CHUNK_ELEMENTS = 150_000  # of weights worked on at once, 1.2 MB: they stay in a core's cache
_CHUNKS = 32  # drawn ahead of the threads


def resample(
    statistic: Statistic, patient_id: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, np.ndarray]:
    """`statistic` on `resamples` draws of as many patients as there are, (resamples,) each.

    The draws are a function of the seed and of the set of patients alone: not of the order of
    the images. They are the same for every statistic, so that differences are paired.
    """
    patients, of_image = np.unique(np.asarray(patient_id, str), return_inverse=True)
    n = len(patients)
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_ELEMENTS // max(1, of_image.size))

    def of_drawn(drawn: np.ndarray) -> Mapping[str, np.ndarray]:
        r = len(drawn)
        cells = (drawn + n * np.arange(r)[:, None]).ravel()
        weights = np.bincount(cells, minlength=r * n).reshape(r, n)
        return statistic(weights[:, of_image].astype(np.float64))

    parts: list[Mapping[str, np.ndarray]] = []
    with concurrent.futures.ThreadPoolExecutor(cli.cores()) as threads:
        # A few chunks at a time: the pool would else hold the draws of all of them.
        for start in range(0, resamples, _CHUNKS * chunk):
            firsts = range(start, min(start + _CHUNKS * chunk, resamples), chunk)
            rows = [min(chunk, resamples - first) for first in firsts]
            parts += threads.map(of_drawn, [rng.integers(n, size=(r, n)) for r in rows])
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def interval(value: float, samples: np.ndarray, patients: int, level: float = LEVEL) -> Interval:
    """The figure with its interval, `{"value", "low", "high"}`, rounded; None where undefined.

    Bias-corrected percentiles (Efron 1987, Better bootstrap confidence intervals, without the
    acceleration), expanded by Student's t for the number of patients behind the figure, because
    percentiles are too narrow for few patients (Hesterberg 2015, What teachers should know about
    the bootstrap, section 5.3). Resamples that leave the figure undefined are left out.
    """
    samples = samples[np.isfinite(samples)]
    if not np.isfinite(value) or not samples.size or not patients:
        return dict(UNDEFINED)
    m = max(2, patients)
    shift = _normal_score(samples, value)  # the bias of the resamples, in standard deviations
    tail = scipy.special.stdtrit(m - 1, (1 + level) / 2) * (m / (m - 1)) ** 0.5
    low, high = np.quantile(samples, scipy.special.ndtr(2 * shift + np.array([-tail, tail])))
    return rounded(value, min(low, value), max(high, value))


def share_interval(value: float, samples: np.ndarray, patients: int) -> Interval:
    """`interval` of a figure in [0, 1]; `exact_interval` where it is 0 or 1 in every resample."""
    constant = np.all((samples == value) | np.isnan(samples))
    if value in (0, 1) and constant and patients:
        return exact_interval(value, patients)
    return interval(value, samples, patients)


def exact_interval(value: float, patients: int, level: float = LEVEL) -> Interval:
    """The binomial limit of a figure that is exactly 0 or 1 (Clopper and Pearson 1934).

    Every resample of such a figure is the same, so that a bootstrap would give it no width.
    """
    limit = ((1 - level) / 2) ** (1 / patients)
    return rounded(value, limit, 1.0) if value == 1 else rounded(value, 0.0, 1 - limit)


def _normal_score(samples: np.ndarray, value: float) -> float:
    """Where `value` lies among the samples, as a quantile of the normal distribution."""
    below = np.mean(samples < value) + np.mean(samples == value) / 2
    return float(scipy.special.ndtri(np.clip(below, 1 / samples.size, 1 - 1 / samples.size)))


def rounded(value: float, low: float, high: float) -> Interval:
    """`{"value", "low", "high"}` to `DECIMALS`."""
    numbers = {"value": value, "low": low, "high": high}
    return {name: round(float(number), DECIMALS) for name, number in numbers.items()}
