import dataclasses
import types

import numpy as np
import pytest
import scipy.special
from ml_collections import ConfigDict

from cbam_flax.evaluate import ensemble
from cbam_flax.evaluate.calibration import Calibration
from data_prep.cli import UserError

FITTED = Calibration(2.0, -0.5, 0.4, "youden", 5, "validation", 9, 3)


@dataclasses.dataclass(frozen=True)
class Member:
    """What `checkpoint.load_for_inference` gives, as far as an ensemble asks for it."""

    weights_sha256: str
    model: float = 1.0
    variables: float = 0.0
    step: int = 5
    config: ConfigDict = dataclasses.field(
        default_factory=lambda: ConfigDict({"seed": 1, "image_size": 28, "model": {}})
    )
    fingerprint: dict = dataclasses.field(default_factory=lambda: {"train": "a"})


@pytest.fixture
def members(monkeypatch):
    """By workdir; a test may change them."""
    there = {name: Member(name * 3, model=i + 1.0) for i, name in enumerate("abc")}
    monkeypatch.setattr(
        ensemble.checkpoint, "load_for_inference", lambda workdir, step: there[workdir]
    )
    return there


@pytest.fixture
def scores(monkeypatch):
    """In place of `predict_split`: the logit is the model times the first pixel of a row."""

    def predict(model, variables, split, batch_size, flip=False):
        return {"logit": model * split.images[:, 0, -1 if flip else 0].astype(float)}

    monkeypatch.setattr(ensemble, "predict_split", predict)
    pixels = np.random.default_rng(0).integers(-5, 5, (20, 4, 4)).astype(float)
    return types.SimpleNamespace(images=pixels)


def test_the_mean_logit_and_the_mean_probability(members, scores):
    own = np.outer([1, 2, 3], scores.images[:, 0, 0])
    found, logits = ensemble.load(list("abc")).predict(scores, 16)
    np.testing.assert_array_equal(logits, own)
    np.testing.assert_allclose(found["logit"], own.mean(axis=0), atol=1e-4)
    found, _ = ensemble.load(list("abc"), combine="probability").predict(scores, 16)
    mean = scipy.special.expit(own).mean(axis=0)
    np.testing.assert_allclose(found["probability"], mean, atol=1e-4)


def test_extreme_probabilities_still_have_an_order():
    logits = np.array([[60.0, 80.0, -60.0], [70.0, 90.0, -80.0]])
    found = ensemble.combined(logits, "probability")
    assert np.isfinite(found).all()
    assert found[2] < found[0] < found[1]


def test_a_flip_is_the_mean_of_two_views(members, scores):
    found, _ = ensemble.load(["b"], tta="flip").predict(scores, 16)
    both = scores.images[:, 0, 0] + scores.images[:, 0, -1]
    np.testing.assert_allclose(found["logit"], both, atol=1e-4)


def test_one_model_alone_is_itself(members, scores):
    one = ensemble.load(["b"], step=5)
    found, _ = one.predict(scores, 16)
    np.testing.assert_array_equal(found["logit"], 2 * scores.images[:, 0, 0])
    assert one.description == {}
    assert one.weights_sha256 == "bbb"


def test_the_spread_is_the_deviation_of_the_calibrated_probabilities():
    logits = np.array([[0.0, 2.0], [1.0, 2.0]])
    first = scipy.special.expit([-0.5, 1.5])
    np.testing.assert_allclose(ensemble.spread(logits, FITTED), [np.ptp(first) / 2, 0])


def test_the_hash_tells_members_and_their_combination_apart(members):
    hashes = {
        ensemble.load(list(names), combine=combine).weights_sha256
        for names, combine in (("ab", "logit"), ("ac", "logit"), ("ab", "probability"))
    }
    assert len(hashes) == 3


def test_what_cannot_score_together_is_refused(members):
    config = ConfigDict({"seed": 1, "image_size": 32, "model": {}})
    members["d"] = dataclasses.replace(members["a"], weights_sha256="d", config=config)
    members["e"] = dataclasses.replace(
        members["a"], weights_sha256="e", fingerprint={"train": "other"}
    )
    members["f"] = members["a"]
    for other, words in (
        ("a", "one folder"),
        ("f", "the same weights"),
        ("d", "different image sizes"),
        ("e", "different training and validation data"),
    ):
        with pytest.raises(UserError, match=words):
            ensemble.load(["a", other])
    with pytest.raises(UserError, match="best checkpoint of each"):
        ensemble.load(["a", "b"], step=5)
