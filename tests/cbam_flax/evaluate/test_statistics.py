import numpy as np
import pytest
import scipy.special
import sklearn.metrics

from cbam_flax.evaluate import bootstrap, statistics


@pytest.fixture
def data():
    rng = np.random.default_rng(3)
    label = (rng.random(200) < 0.3).astype(np.int64)
    # Two decimals: many ties, within and across the classes.
    probability = np.round(scipy.special.expit(rng.normal(size=200) + 1.5 * label - 1), 2)
    patient = rng.integers(70, size=200).astype(str)
    return label, probability, patient


def test_weighted_figures_are_scikit_learns(data):
    label, probability, _ = data
    weights = np.random.default_rng(0).integers(0, 4, size=(3, 200)).astype(float)
    found = statistics.figures_statistic(label, probability, 0.4)(weights)
    called = probability >= 0.4
    for i, w in enumerate(weights):
        expected = {
            "auroc": sklearn.metrics.roc_auc_score(label, probability, sample_weight=w),
            "average_precision": sklearn.metrics.average_precision_score(
                label, probability, sample_weight=w
            ),
            "brier": sklearn.metrics.brier_score_loss(label, probability, sample_weight=w),
            "log_loss": sklearn.metrics.log_loss(label, probability, sample_weight=w),
            "sensitivity": sklearn.metrics.recall_score(label, called, sample_weight=w),
            "specificity": sklearn.metrics.recall_score(
                label, called, pos_label=0, sample_weight=w
            ),
            "ppv": sklearn.metrics.precision_score(label, called, sample_weight=w),
            "npv": sklearn.metrics.precision_score(label, called, pos_label=0, sample_weight=w),
            "f1": sklearn.metrics.f1_score(label, called, sample_weight=w),
            "accuracy": sklearn.metrics.accuracy_score(label, called, sample_weight=w),
        }
        for name, value in expected.items():
            assert found[name][i] == pytest.approx(value, abs=1e-12), name


def test_whole_number_weights_are_repetitions(data):
    label, probability, _ = data
    weights = np.random.default_rng(0).integers(0, 4, size=(1, 200))
    repeated = np.repeat(np.arange(200), weights[0])
    found = statistics.figures_statistic(label, probability, 0.4)(weights.astype(float))
    for name, value in statistics.figures(label[repeated], probability[repeated], 0.4).items():
        assert found[name][0] == pytest.approx(value, abs=1e-12), name


def test_expected_calibration_error_by_hand():
    label = np.array([0, 1, 1, 1])
    probability = np.array([0.01, 0.03, 0.99, 1.0])  # bins 0, 0, 14, 14
    expected = (abs(1 - 0.04) + abs(2 - 1.99)) / 4
    assert statistics.expected_calibration_error(label, probability) == pytest.approx(expected)


def test_bootstrap_ignores_the_order_of_images_and_the_size_of_chunks(data, monkeypatch):
    label, probability, patient = data
    order = np.random.default_rng(1).permutation(200)
    kwargs = {"threshold": 0.4, "resamples": 100}
    first = statistics.figures_with_intervals(label, probability, patient, **kwargs)
    shuffled = (x[order] for x in (label, probability, patient))
    assert statistics.figures_with_intervals(*shuffled, **kwargs) == first
    monkeypatch.setattr(bootstrap, "_CHUNK_ELEMENTS", 200 * 7)
    assert statistics.figures_with_intervals(label, probability, patient, **kwargs) == first
    other = statistics.figures_with_intervals(label, probability, patient, **kwargs, seed=1)
    assert other != first


def test_correlated_images_widen_the_interval(data):
    label, probability, patient = data
    repeat = lambda x: np.tile(x, 5)  # noqa: E731
    alone = statistics.figures_with_intervals(label, probability, patient, 0.4, 500)["auroc"]
    # Five copies of each image, of the same patients: no new information, so the same width.
    copied = statistics.figures_with_intervals(
        repeat(label), repeat(probability), repeat(patient), 0.4, 500
    )["auroc"]
    assert copied == alone
    # The same copies taken for independent patients would look certain.
    apart = np.arange(1000).astype(str)
    wrong = statistics.figures_with_intervals(repeat(label), repeat(probability), apart, 0.4, 500)
    assert wrong["auroc"]["high"] - wrong["auroc"]["low"] < 0.6 * (alone["high"] - alone["low"])


def test_every_interval_holds_its_figure(data):
    for name, figure in statistics.figures_with_intervals(*data, 0.4, 300).items():
        assert figure["low"] <= figure["value"] <= figure["high"], name
        assert figure["low"] < figure["high"], name


def test_a_perfect_figure_still_has_an_interval():
    label = np.array([0] * 30 + [1] * 10)
    found = statistics.figures_with_intervals(label, label * 0.8, np.arange(40), 0.5, 100)
    assert found["auroc"]["value"] == found["auroc"]["high"] == 1
    assert found["auroc"]["low"] == pytest.approx(0.025**0.1, abs=1e-5)
    assert found["specificity"]["low"] == pytest.approx(0.025 ** (1 / 30), abs=1e-5)


def test_undefined_figures_are_none():
    found = statistics.figures_with_intervals(
        np.zeros(9, int), np.full(9, 0.2), np.arange(9), 0.5, 50
    )
    for name in ("auroc", "average_precision", "sensitivity", "ppv"):
        assert found[name] == {"value": None, "low": None, "high": None}
    assert found["specificity"]["value"] == 1


def test_predictive_values_by_bayes():
    ppv, npv = statistics.predictive_values(np.array(0.9), np.array(0.8), 0.1)
    assert ppv == pytest.approx(0.09 / (0.09 + 0.18))
    assert npv == pytest.approx(0.72 / (0.72 + 0.01))


@pytest.mark.parametrize(("prevalence", "low"), [(0.01, 0.0717), (0.2, 0.6565)])
def test_a_ppv_of_one_is_as_uncertain_as_its_specificity(prevalence, low):
    # 27 of 30 found, none of 30 alarmed: the false alarms may be 11.57 %.
    sensitivity = {"value": 0.9, "low": 0.7347, "high": 0.9789}
    specificity = bootstrap.exact_interval(1, 30)
    odds = (1 - prevalence) / prevalence
    found = statistics.exact_predictive_value(sensitivity, specificity, odds)
    assert (found["value"], found["high"]) == (1, 1)
    assert found["low"] == pytest.approx(low, abs=1e-4)
    # A certain sensitivity leaves Bayes' rule at the limit of the specificity.
    certain = {"value": 0.9, "low": 0.9, "high": 0.9}
    limit = statistics.exact_predictive_value(certain, specificity, odds)["low"]
    expected, _ = statistics.predictive_values(0.9, specificity["low"], prevalence)
    assert limit == pytest.approx(expected, abs=1e-5)
    # The mirror image: none found, so that the PPV is 0 at least.
    missed = statistics.exact_predictive_value(
        bootstrap.exact_interval(0, 30), {"value": 0.1, "low": 0.0211, "high": 0.2653}, 1 / odds
    )
    assert (missed["value"], missed["low"]) == (0, 0)
    assert missed["high"] == pytest.approx(1 - low, abs=1e-4)


def test_logits_rank_where_probabilities_are_both_one():
    label, logit = np.array([0, 1, 0, 1]), np.array([40.0, 50.0, -1.0, 60.0])
    probability = scipy.special.expit(logit)
    assert statistics.figures(label, probability, 0.5)["auroc"] == 0.75
    assert statistics.figures(label, probability, 0.5, score=logit)["auroc"] == 1
    found = statistics.figures_with_intervals(
        label, probability, np.arange(4), 0.5, 20, score=logit
    )
    assert found["auroc"]["value"] == found["average_precision"]["value"] == 1
    assert found["auroc"]["low"] < 1
    weighted = statistics.figures_statistic(label, probability, 0.5, score=logit)(np.ones((1, 4)))
    assert weighted["auroc"][0] == 1


def test_patients_behind_each_figure_by_hand():
    label = np.array([1, 1, 0, 0, 0, 0])
    called = np.array([True, True, True, False, False, False])
    patient = np.array(["a", "a", "b", "b", "c", "d"])
    found = statistics.patients_behind(label, called, patient)
    assert found["sensitivity"] == 1
    assert found["specificity"] == 3
    assert (found["ppv"], found["npv"]) == (2, 3)
    assert found["auroc"] == found["average_precision"] == found["f1"] == 1
    assert found["accuracy"] == found["brier"] == 4


def test_interval_of_ece_reaches_below_the_figure(data):
    # The resamples alone would not: each adds its own scatter to the bins.
    label, probability, patient = data
    found = statistics.figures_with_intervals(label, probability, patient, 0.4, 300)["ece"]
    assert found["value"] - found["low"] == pytest.approx(found["high"] - found["value"], rel=0.3)
