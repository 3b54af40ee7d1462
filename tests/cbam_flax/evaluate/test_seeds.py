import numpy as np
import pytest
import scipy.stats

from cbam_flax.evaluate import bootstrap, seeds


@pytest.fixture
def arms():
    """Two arms of four and five seeds whose resamples never move: patients add nothing."""
    rng = np.random.default_rng(0)
    values = rng.normal(0.80, 0.01, 5), rng.normal(0.82, 0.03, 4)
    return [(each, np.tile(each, (50, 1))) for each in values]


def test_without_patients_it_is_welchs_t_test(arms):
    (first, _), (second, _) = arms
    found, p = seeds.difference(*arms, patients=100, paired=False)
    expected = scipy.stats.ttest_ind(first, second, equal_var=False)
    assert p == pytest.approx(expected.pvalue)
    limits = expected.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx((limits.low, limits.high), abs=1e-5)


def test_without_patients_and_with_the_same_seeds_it_is_the_paired_t_test(arms):
    (first, drawn), second = arms
    _, p = seeds.difference((first[:4], drawn[:, :4]), second, patients=100, paired=True)
    assert p == pytest.approx(scipy.stats.ttest_rel(first[:4], second[0]).pvalue)


def test_variances_add_as_obuchowski_and_rockette_say():
    rng = np.random.default_rng(1)
    # Every seed moves with the patients, and a little on its own.
    values = 0.8 + 0.02 * rng.normal(size=6)
    samples = values + 0.03 * rng.normal(size=(400, 1)) + 0.01 * rng.normal(size=(400, 6))
    covariance = np.cov(samples.T)
    between = covariance[~np.eye(6, dtype=bool)].mean() * 400 / 399  # of two seeds
    seed_part = values.var(ddof=1) / 6
    freedom = (seed_part + between) ** 2 / (seed_part**2 / 5 + between**2 / 399)
    tail = scipy.stats.t.ppf(0.975, freedom) * (seed_part + between) ** 0.5
    found = seeds.mean((values, samples), patients=400)
    assert found["high"] - found["value"] == pytest.approx(tail, abs=2e-5)


def test_with_one_seed_there_is_no_p_value(arms):
    (first, drawn), second = arms
    one = first[:1], drawn[:, :1] + np.random.default_rng(0).normal(0, 0.01, (50, 1))
    found, p = seeds.difference(one, second, patients=100, paired=False)
    assert p is None
    assert found["low"] < found["value"] < found["high"]
    assert seeds.mean(one, 100) == bootstrap.interval(one[0][0], one[1][:, 0], 100)


def test_two_groups_of_one_method_seldom_differ():
    rng = np.random.default_rng(0)
    found = {"both": 0, "patients": 0}
    for _ in range(1000):
        own = 0.01 * rng.normal(size=(2, 5, 1))  # of a seed: how good it is
        drawn = own + 0.005 * rng.normal(size=(2, 5, 101)) + 0.02 * rng.normal(size=101)
        drawn[..., 1:] += drawn[..., :1] - own  # resamples lie around what was observed
        arms = [(each[:, 0], each[:, 1:].T) for each in drawn]
        found["both"] += seeds.difference(*arms, patients=200, paired=False)[1] < 0.05
        means = [(v.mean(keepdims=True), s.mean(axis=1, keepdims=True)) for v, s in arms]
        limits, _ = seeds.difference(*means, patients=200, paired=False)
        found["patients"] += limits["low"] > 0 or limits["high"] < 0
    assert found["both"] / 1000 <= 0.06
    assert found["patients"] / 1000 > 0.2  # what this is for


def test_equal_arms_do_not_differ(arms):
    constant = np.full(3, 0.5), np.full((20, 3), 0.5)
    zero = {"value": 0, "low": 0, "high": 0}
    assert seeds.difference(constant, constant, 100, paired=True) == (zero, 1)
    assert seeds.difference(arms[0], arms[0], 100, paired=False)[1] == pytest.approx(1)


def test_a_perfect_mean_still_has_an_interval():
    found = seeds.mean((np.ones(3), np.ones((20, 3))), patients=10)
    assert found == {"value": 1, "low": pytest.approx(0.025**0.1, abs=1e-5), "high": 1}


def test_undefined_resamples_are_left_out(arms):
    (values, drawn), _ = arms
    holes = np.vstack([drawn + np.arange(50)[:, None] / 1e4, np.full((9, 5), np.nan)])
    assert seeds.mean((values, holes), 100) == seeds.mean((values, holes[:50]), 100)
    nothing = np.full(5, np.nan), np.full((50, 5), np.nan)
    assert seeds.mean(nothing, 100) == bootstrap.UNDEFINED
