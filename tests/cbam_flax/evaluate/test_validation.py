import numpy as np
import pytest

from cbam_flax.evaluate.predict_split import of_finding
from cbam_flax.evaluate.validation import summarise, summarise_several


@pytest.fixture
def several(make_predictions):
    """Predictions of three findings: the first everywhere labelled, the second in part, the third
    never positive."""
    first, second = make_predictions(60, 1), make_predictions(60, 2)
    label = np.stack([first["label"], second["label"], np.zeros(60)], axis=1).astype(np.int32)
    label[::4, 1] = -1
    logit = np.stack([first["logit"], second["logit"], second["logit"]], axis=1)
    return first | {"label": label, "logit": logit, "probability": 1 / (1 + np.exp(-logit))}


def test_the_mean_is_over_the_findings_that_can_be_judged(several):
    found = summarise_several(several, ["Mass", "Nodule", "Hernia"])
    each = [summarise(of_finding(several, number)) for number in (0, 1)]
    for name in ("auroc", "average_precision", "log_loss", "brier", "ece"):
        assert found[name] == pytest.approx(np.mean([one[name] for one in each]), abs=1e-5)
    assert found["auroc/Nodule"] == each[1]["auroc"]
    assert "auroc/Hernia" not in found


def test_the_predictions_of_a_finding_are_of_the_images_labelled_for_it(several):
    second = of_finding(several, 1)
    labelled = np.arange(60) % 4 != 0
    np.testing.assert_array_equal(second["label"], several["label"][labelled, 1])
    np.testing.assert_array_equal(second["logit"], several["logit"][labelled, 1])
    np.testing.assert_array_equal(second["image_id"], several["image_id"][labelled])
