"""Does the 95 % interval hold the truth 95 % of the time, and what does it cost?

Simulates a population of patients with one to nine images each, draws many data sets from it, and
counts how often each figure's interval holds the figure of the population. Then times the
bootstrap of as many predictions as RSNA has images.

    python -m benchmarks.bootstrap --patients 60 150 600 --datasets 2000

With `--seeds` it simulates `evaluate --compare` instead: two groups of so many seeds each, on the
same images. It counts p < 0.05 for the difference in AUROC where both groups are of one method,
where they are of two methods that are equally good (of both 5 % are right), and where one method's
AUROC is 0.02 higher (the power).

    python -m benchmarks.bootstrap --seeds 5 10 --patients 150 --datasets 4000 --resamples 100
"""

import argparse
import itertools
import time

import numpy as np
import scipy.special
from tqdm import tqdm

from cbam_flax.evaluate import bootstrap, seeds, statistics

THRESHOLD = 0.3
# What a seed adds to the logits of `draw`: noise that leaves a correlation of 0.95 between seeds,
# and a shift of the positives with a standard deviation of 0.010 in the true AUROC.
SEED_NOISE, SEED_QUALITY = 0.3, 0.06
METHOD_NOISE = 0.4  # by which the logits of two methods differ on each patient
BETTER = 0.13  # shift of the positives that is worth 0.02 of AUROC
CASES = {"one method": (0, 0), "equal methods": (METHOD_NOISE, 0), "power": (METHOD_NOISE, BETTER)}


def draw(rng: np.random.Generator, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label, probability and patient of every image; both vary more between patients than within.

    About a quarter of the images are positive and the true AUROC is about 0.80.
    """
    images = rng.choice([1, 2, 3, 5, 9], p=[0.55, 0.2, 0.1, 0.1, 0.05], size=patients)
    patient = np.repeat(np.arange(patients), images)
    sickness, habitus = rng.normal(size=(2, patients))[:, patient]
    label = (1.2 * sickness + rng.normal(size=patient.size) > 1.1).astype(np.int64)
    score = 1.1 * label + 0.3 * sickness + 0.7 * habitus + rng.normal(size=patient.size) - 1.2
    return label, scipy.special.expit(score), patient


def coverage(patients: int, datasets: int, resamples: int) -> dict[str, float]:
    """The fraction of simulated data sets whose interval holds the population's figure."""
    rng = np.random.default_rng(1)
    label, probability, _ = draw(rng, 400_000)
    truth = statistics.figures(label, probability, THRESHOLD)
    held = dict.fromkeys(truth, 0)
    for seed in tqdm(range(datasets), desc=f"{patients} patients"):
        label, probability, patient = draw(rng, patients)
        found = statistics.figures_with_intervals(
            label, probability, patient, THRESHOLD, resamples, seed
        )
        for name, figure in found.items():
            if figure["value"] is not None:
                held[name] += figure["low"] <= truth[name] <= figure["high"]
    return {name: count / datasets for name, count in held.items()}


def draw_groups(
    rng: np.random.Generator, patients: int, size: int, noise: float, better: float
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Label and patient of every image, and the logits of `size` seeds of each of two methods."""
    label, probability, patient = draw(rng, patients)
    logits = {}
    for method, shift in enumerate((0, better)):
        own = scipy.special.logit(probability) + noise * rng.normal(size=patients)[patient]
        for seed in range(size):
            quality = shift + SEED_QUALITY * rng.normal()
            logits[f"{method} {seed}"] = (
                own + quality * label + SEED_NOISE * rng.normal(size=label.size)
            )
    return label, patient, logits


def rejections(
    patients: int, size: int, case: str, datasets: int, resamples: int
) -> dict[str, float]:
    """The fraction of comparisons with p < 0.05, or whose interval over patients excludes zero."""
    rng = np.random.default_rng(2)
    found = {"paired by seed": 0, "not paired": 0, "over patients only": 0}
    for seed in tqdm(range(datasets), desc=f"{case}, {size} seeds, {patients} patients"):
        label, patient, logits = draw_groups(rng, patients, size, *CASES[case])
        statistic = statistics.auroc_statistic(label, logits)
        values = np.stack(list(statistic(np.ones((1, label.size))).values()), axis=1)[0]
        drawn = bootstrap.resample(statistic, patient, resamples, seed)
        samples = np.stack(list(drawn.values()), axis=1)
        first, second = (values[:size], samples[:, :size]), (values[size:], samples[:, size:])
        behind = statistics.patients_behind(label, label == 1, patient)["auroc"]
        for name, paired in (("paired by seed", True), ("not paired", False)):
            _, p = seeds.difference(first, second, behind, paired=paired)
            found[name] += p is not None and p < 0.05
        means = [(v.mean(keepdims=True), s.mean(axis=1, keepdims=True)) for v, s in (first, second)]
        limits, _ = seeds.difference(*means, behind, paired=False)
        found["over patients only"] += limits["low"] > 0 or limits["high"] < 0
    return {name: count / datasets for name, count in found.items()}


def show_rejections(args: argparse.Namespace) -> None:
    """A table with the Monte Carlo error (standard error) of each rate."""
    for patients, size, case in itertools.product(args.patients, args.seeds, CASES):
        found = rejections(patients, size, case, args.datasets, args.resamples)
        cells = (
            f"{name} {100 * rate:.1f} +- {100 * (rate * (1 - rate) / args.datasets) ** 0.5:.1f} %"
            for name, rate in found.items()
        )
        print(f"{patients} patients, {size} seeds, {case}:", "; ".join(cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, nargs="+", default=[60, 150, 600])
    parser.add_argument("--datasets", type=int, default=2000, help="simulated data sets for each")
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", help="of each group: simulates --compare")
    args = parser.parse_args()
    if args.seeds:
        show_rejections(args)
        return

    rng = np.random.default_rng(0)
    label, probability, _ = draw(rng, 15_000)
    n = 26_684
    patient = rng.integers(11_439, size=n)
    start = time.perf_counter()
    statistics.figures_with_intervals(label[:n], probability[:n], patient, THRESHOLD, 2000)
    print(f"{n:,} predictions x 2,000 resamples: {time.perf_counter() - start:.1f} s")

    table = {n: coverage(n, args.datasets, args.resamples) for n in args.patients}
    print("patients".ljust(20), *(f"{n:>7}" for n in table))
    for name in next(iter(table.values())):
        print(name.ljust(20), *(f"{100 * table[n][name]:6.1f}%" for n in table))


if __name__ == "__main__":
    main()
