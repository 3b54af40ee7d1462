import numpy as np
import pytest
import scipy.stats

from cbam_flax.evaluate import bootstrap


def mean_of(values):
    return lambda weights: {"mean": weights @ values / weights.sum(axis=1)}


def test_patients_are_drawn_whole():
    patient = np.random.default_rng(0).integers(70, size=200).astype(str)
    same = patient[:, None] == patient[None, :]

    def check(weights):
        for w in weights:
            assert (w[:, None] == w[None, :])[same].all()
        return {"patients": weights @ (1 / same.sum(axis=1))}

    drawn = bootstrap.resample(check, patient, resamples=50)["patients"]
    np.testing.assert_allclose(drawn, len(np.unique(patient)))


def test_draws_depend_on_the_seed_and_the_patients_alone():
    rng = np.random.default_rng(0)
    values, patient = rng.normal(size=200), rng.integers(70, size=200)
    first = bootstrap.resample(mean_of(values), patient, 50)["mean"]
    order = rng.permutation(200)
    again = bootstrap.resample(mean_of(values[order]), patient[order], 50)["mean"]
    np.testing.assert_allclose(again, first, rtol=1e-12)
    assert not np.allclose(bootstrap.resample(mean_of(values), patient, 50, seed=1)["mean"], first)


def test_interval_holds_the_truth_of_a_simulated_population():
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        of_patient = np.repeat(rng.normal(size=40), 3)  # three equal images each
        samples = bootstrap.resample(
            mean_of(of_patient),
            np.repeat(np.arange(40), 3),
            resamples=300,
            seed=seed,
        )
        found = bootstrap.interval(of_patient.mean(), samples["mean"], patients=40)
        held += found["low"] <= 0 <= found["high"]
    assert 0.90 <= held / 200 <= 0.99


def test_interval_is_wider_for_fewer_patients():
    samples = np.random.default_rng(0).normal(size=4000)
    widths = [
        bootstrap.interval(0.0, samples, patients)["high"]
        - bootstrap.interval(0.0, samples, patients)["low"]
        for patients in (5, 20, 10_000)
    ]
    assert widths[0] > widths[1] > widths[2] == pytest.approx(2 * 1.96, abs=0.15)


def test_interval_corrects_the_bias_of_the_resamples():
    samples = np.random.default_rng(0).normal(loc=0.5, size=4000)
    found = bootstrap.interval(0.0, samples, 10_000)
    assert found["low"] == pytest.approx(-0.5 - 1.96, abs=0.2)
    assert found["high"] == pytest.approx(-0.5 + 1.96, abs=0.2)


def test_undefined_resamples_are_left_out():
    samples = np.append(np.random.default_rng(0).normal(size=500), [np.nan] * 100)
    assert bootstrap.interval(0.0, samples, 50) == bootstrap.interval(0.0, samples[:500], 50)
    undefined = {"value": None, "low": None, "high": None}
    assert bootstrap.interval(np.nan, samples, 50) == undefined
    assert bootstrap.interval(0.5, np.full(9, np.nan), 50) == undefined


def test_exact_interval_is_clopper_and_pearsons():
    expected = scipy.stats.binomtest(12, 12).proportion_ci(0.95, method="exact")
    assert bootstrap.exact_interval(1, 12)["low"] == pytest.approx(expected.low, abs=1e-5)
    expected = scipy.stats.binomtest(0, 12).proportion_ci(0.95, method="exact")
    assert bootstrap.exact_interval(0, 12)["high"] == pytest.approx(expected.high, abs=1e-5)


def test_a_share_without_any_variation_has_an_exact_interval():
    undefined = np.append(np.ones(90), [np.nan] * 10)
    assert bootstrap.share_interval(1, undefined, 12) == bootstrap.exact_interval(1, 12)
    assert bootstrap.share_interval(0, np.zeros(90), 12) == bootstrap.exact_interval(0, 12)
    varied = np.random.default_rng(0).uniform(0.8, 1, 90)
    assert bootstrap.share_interval(1, varied, 12) == bootstrap.interval(1, varied, 12)
    assert bootstrap.share_interval(1, undefined, 0) == bootstrap.UNDEFINED
