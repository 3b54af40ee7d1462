import numpy as np
import pytest

from studies import differences
from studies.study import Comparison, Study

STUDY = Study(
    config="configs/pneumoniamnist.py",
    variants={"old": {}, "better": {}, "worse": {}, "alike": {}, "never": {}},
    comparisons=[
        Comparison("better", "better", "old"),
        Comparison("worse", "worse", "old"),
        Comparison("alike", "alike", "old"),
        Comparison("never", "never", "old"),
    ],
    figures=("auroc",),
)


def test_known_differences_get_their_verdicts(draw_lines):
    rng = np.random.default_rng(0)
    world = 0.01 * rng.normal(size=101)
    true = {"old": 0.90, "better": 0.92, "worse": 0.88, "alike": 0.90}
    table = [
        line
        for name, auroc in true.items()
        for line in draw_lines(rng, name, auroc, range(10), world=world)
    ]
    found = {one.comparison.idea: one for one in differences.differences_of(STUDY, table)}
    verdicts = {idea: one.verdict for idea, one in found.items()}
    assert verdicts == {
        "better": "helps",
        "worse": "hurts",
        "alike": "not distinguishable",
        "never": "not run yet",
    }
    assert found["better"].figures["auroc"]["value"] == pytest.approx(0.02, abs=0.006)
    assert found["alike"].of == list(range(10))
    assert 0.003 < found["alike"].detectable < 0.02
    p = sorted(one.p for one in found.values() if one.p is not None)
    adjusted = sorted(one.p_adjusted for one in found.values() if one.p is not None)
    assert adjusted[0] == pytest.approx(3 * p[0])  # Holm, over the three that were run
    assert adjusted[-1] == pytest.approx(p[-1])


def test_what_a_seed_does_to_both_is_no_difference(draw_lines):
    rng = np.random.default_rng(0)
    table = [
        line
        for seed in range(5)
        for shift in [0.03 * rng.normal()]
        for name, auroc in (("old", 0.80), ("better", 0.81))
        for line in draw_lines(rng, name, auroc + shift, [seed], own=0.001, patients=0.001)
    ]
    found = differences.differences_of(STUDY, table)[0]
    assert found.verdict == "helps"
    assert found.detectable < 0.01


def test_a_lower_brier_score_is_better(draw_lines):
    rng = np.random.default_rng(0)
    study = Study(
        config="",
        variants={"a": {}, "b": {}},
        comparisons=[Comparison("a", "a", "b")],
        figures=("brier",),
    )
    table = draw_lines(rng, "a", 0.1, range(5)) + draw_lines(rng, "b", 0.2, range(5))
    for line in table:
        line |= {"brier": line["auroc"], "brier_resamples": line["auroc_resamples"]}
    [found] = differences.differences_of(study, table)
    assert (found.verdict, found.figures["brier"]["value"] < 0) == ("helps", True)


def test_the_intervals_hold_the_truth_and_so_does_the_power(draw_lines):
    rng = np.random.default_rng(1)
    study = Study(
        config="", variants={}, comparisons=[Comparison("b", "b", "a")], figures=("auroc",)
    )

    def judge(true):
        world = 0.01 * rng.normal(size=61)
        table = [
            line
            for name, auroc in (("a", 0.8), ("b", 0.8 + true))
            for line in draw_lines(rng, name, auroc, range(10), world=world, resamples=60)
        ]
        [found] = differences.differences_of(study, table)
        return found

    held = [
        one.figures["auroc"]["low"] <= 0.01 <= one.figures["auroc"]["high"]
        for one in (judge(0.01) for _ in range(300))
    ]
    assert np.mean(held) == pytest.approx(0.95, abs=0.03)
    typical = np.mean([judge(0.0).detectable for _ in range(40)])
    seen = [judge(typical).verdict == "helps" for _ in range(200)]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.08)


def test_one_seed_gives_no_verdict_and_whole_seeds_only_count(draw_lines):
    rng = np.random.default_rng(0)
    table = draw_lines(rng, "old", 0.9, [0]) + draw_lines(rng, "better", 0.95, [0, 1])
    found = differences.differences_of(STUDY, table)[0]
    assert (found.verdict, found.of, found.p_adjusted) == ("no verdict from one seed", [0], None)
    assert found.figures["auroc"]["low"] < found.figures["auroc"]["high"]

    folds = Study(config="", variants={"a": {}}, folds=2, figures=("auroc",), judged=STUDY.judged)
    halves = [
        line | {"fold": str(fold)}
        for fold, auroc in enumerate((0.8, 0.9))
        for line in draw_lines(rng, "a", auroc, [0, 1], own=0, patients=0)
    ]
    [row] = differences.rows_of(folds, halves[:-1])
    assert row.seeds == [0]
    assert row.figures["auroc"]["value"] == pytest.approx(0.85, abs=1e-4)
