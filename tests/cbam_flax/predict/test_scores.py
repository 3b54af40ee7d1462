import numpy as np
import pytest

from cbam_flax.predict import results, scores

ONE = {"labels": ["no pneumonia", "pneumonia"], "operating_point": {"threshold": 0.25}}
SEVERAL = {
    "findings": ["Mass", "Hernia"],
    "operating_point": {"Mass": {"threshold": 0.25}, "Hernia": {"threshold": 0.75}},
}


def result(probability, flags=()):
    return results.Result(None, list(flags), probability, np.zeros((1, 1)))


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


def test_the_line_of_a_picture_names_the_highest_findings_first():
    line = results.score_line(result(np.float32([0.3, 0.9])), SEVERAL)
    assert line == "Hernia 0.900 (present), Mass 0.300 (present), of 2 findings"
    line = results.score_line(result(np.float32([0.3, 0.9]), ["view=LL"]), SEVERAL)
    assert line == "Hernia 0.900, Mass 0.300, of 2 findings: out of scope view=LL"
    line = results.score_line(result(0.5), ONE)
    assert line == "pneumonia 0.500, operating point 0.250: pneumonia "


@pytest.mark.parametrize("bundle", [ONE, SEVERAL])
def test_names(bundle):
    assert scores.findings(bundle) == bundle.get("findings", [])
