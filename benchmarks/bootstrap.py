"""Does the 95 % interval hold the truth 95 % of the time, and what does it cost?

Simulates a population of patients with one to nine images each, draws many data sets from it, and
counts how often each figure's interval holds the figure of the population. Then times the
bootstrap of as many predictions as RSNA has images.

    python -m benchmarks.bootstrap --patients 60 150 600 --datasets 2000
"""

import argparse
import time

import numpy as np
import scipy.special
from tqdm import tqdm

from cbam_flax.evaluate import statistics

THRESHOLD = 0.3


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patients", type=int, nargs="+", default=[60, 150, 600])
    parser.add_argument("--datasets", type=int, default=2000, help="simulated data sets for each")
    parser.add_argument("--resamples", type=int, default=1000)
    args = parser.parse_args()

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
