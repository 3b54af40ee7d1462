"""Lines of runs that were drawn, with differences that are known."""

import numpy as np
import pytest

from studies import lines


@pytest.fixture(scope="session")
def draw_lines():
    """A function that draws the lines of a variant with a true AUROC.

    The patients move all variants alike and each by its own; so do the seeds. `world` says which
    draw of patients, `rng` draws everything else.
    """

    def draw(
        rng, variant, auroc, seeds, *, world=None, own=0.004, patients=0.01, resamples=100, **line
    ):
        shared = np.zeros(resamples + 1) if world is None else world
        moved = shared + patients / 5 * rng.normal(size=resamples + 1)
        found = []
        for seed in seeds:
            value = auroc + own * rng.normal() + moved[0]
            samples = value + moved[1:]
            found.append(
                {
                    **{"variant": variant, "seed": seed, "fold": 0, "judged": "test"},
                    **{"config_sha256": f"of {variant}", "code_sha256": "c", "trained_on": "t"},
                    **{"evaluated_on": "e", "unit": "patients", "images": 600, "positive": 300},
                    **{"patients": 400, "patients_positive": 200, "patients_negative": 200},
                    **{"parameters": 1000, "mflop": 2.5, "cpu_seconds": 36},
                    "auroc": round(value, 5),
                    "auroc_resamples": lines.encode(samples.clip(0, 1)),
                    **line,
                }
            )
        return [{name: str(cell) for name, cell in one.items()} for one in found]

    return draw
