import numpy as np
import pytest

from cbam_flax.predict import results, scores

ONE = {"labels": ["no pneumonia", "pneumonia"], "operating_point": {"threshold": 0.25}}
SEVERAL = {
    "findings": ["Mass", "Hernia"],
    "operating_point": {"Mass": {"threshold": 0.25}, "Hernia": {"threshold": 0.75}},
}


def result(probability, flags=()):
    return results.Result(None, list(flags), probability)


def test_each_finding_meets_its_own_operating_point():
    mass, hernia = scores.scores(SEVERAL, np.float32([0.5, 0.5]), out_of_scope=False)
    assert (mass.finding, mass.decision, mass.text) == ("Mass", True, "Mass")
    assert (hernia.finding, hernia.decision, hernia.text) == ("Hernia", False, "no Hernia")
    [alone] = scores.scores(ONE, np.float32(0.25), out_of_scope=False)
    assert (alone.text, alone.probability) == ("pneumonia", 0.25)
    for score in scores.scores(SEVERAL, np.float32([0.5, 0.5]), out_of_scope=True):
        assert (score.decision, score.text) == (None, "out of scope")


def test_the_decision_is_that_of_the_exact_threshold():
    """The threshold is a little more than float32's 0.1, and in float32 they would be equal."""
    point = {"operating_point": {"threshold": float(np.nextafter(float(np.float32(0.1)), 1))}}
    [score] = scores.scores(ONE | point, np.float32(0.1), out_of_scope=False)
    assert score.decision is False


def test_the_columns_of_several_findings():
    assert results.columns(ONE) is results.COLUMNS
    assert results.columns(SEVERAL)[:7] == (
        *("image_id", "path", "probability:Mass", "decision:Mass"),
        *("probability:Hernia", "decision:Hernia", "flags"),
    )


def test_the_line_of_a_picture_is_of_the_highest_scores_and_no_diagnosis():
    both = np.float32([0.3, 0.7])
    assert results.score_line(result(both), SEVERAL) == (
        "scores of 2 findings: Hernia 0.700 (below 0.750), Mass 0.300 (above 0.250)"
    )
    assert results.score_line(result(both, ["view=LL"]), SEVERAL) == (
        "scores of 2 findings: Hernia 0.700, Mass 0.300, out of scope: view=LL"
    )
    line = results.score_line(result(0.5), ONE)
    assert line == "pneumonia score 0.500, above the operating point 0.250"
    line = results.score_line(result(0.5, ["view=LL"]), ONE)
    assert line == "pneumonia score 0.500, out of scope: view=LL"


@pytest.mark.parametrize("bundle", [ONE, SEVERAL])
def test_names(bundle):
    assert scores.findings(bundle) == bundle.get("findings", [])
