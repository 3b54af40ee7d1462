import numpy as np
import pytest
import sklearn.metrics

from data_prep.cli import UserError
from studies import measure
from studies.study import Judged


def columns():
    rng = np.random.default_rng(0)
    view = np.where(rng.random(400) < 0.5, "AP", "PA")
    label = (rng.random(400) < np.where(view == "AP", 0.7, 0.2)).astype(int)
    return {"view": view, "label": label}


def test_balancing_leaves_a_score_that_sees_only_the_view_with_nothing():
    found = columns()
    score = (found["view"] == "AP").astype(float)
    plain = measure.weights(found, Judged("all"))
    balanced = measure.weights(found, Judged("balanced", balance="view"))

    def auroc(weight):
        return sklearn.metrics.roc_auc_score(found["label"], score, sample_weight=weight)

    assert auroc(plain) > 0.7
    assert auroc(balanced) == pytest.approx(0.5)


def test_a_subset_weighs_nothing_outside_and_an_empty_one_is_refused():
    found = columns()
    weight = measure.weights(found, Judged("AP", where={"view": "AP"}))
    np.testing.assert_array_equal(weight, found["view"] == "AP")
    with pytest.raises(UserError, match=r"no image of test has \{'view': 'LL'\}"):
        measure.weights(found, Judged("LL", where={"view": "LL"}))
