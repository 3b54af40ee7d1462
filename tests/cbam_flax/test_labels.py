import numpy as np
import pytest

from cbam_flax.input_pipeline import Split
from cbam_flax.labels import check_labels, finding_lines
from data_prep.cli import UserError


def a_split(labels, name="validation", findings=("pneumonia",)):
    images = np.zeros((len(labels), 4, 4), np.uint8)
    return Split(name, images, {"label": np.int32(labels)}, {"findings": findings})


def several(labels, name="validation"):
    return a_split(labels, name, ("Mass", "Hernia"))


def test_labels_that_teach_nothing_are_refused():
    check_labels(a_split([0, 1]))
    with pytest.raises(UserError, match="both classes"):
        check_labels(a_split([1, 1]))
    with pytest.raises(UserError, match="not 0 and 1"):
        check_labels(a_split([0, 2]))


def test_of_several_findings_training_needs_both_classes_of_each_and_other_splits_of_one():
    rare = [[0, 0], [1, -1], [-1, 0]]
    check_labels(several(rare))
    with pytest.raises(UserError, match=r"train split .* one class for Hernia;"):
        check_labels(several(rare, "train"))
    check_labels(several([*rare, [0, 1]], "train"))
    with pytest.raises(UserError, match="one class for Mass, Hernia"):
        check_labels(several([[0, 0], [0, -1]]))
    with pytest.raises(UserError, match="not 0, 1 and -1"):
        check_labels(several([[0, 2], [1, 0]]))


def test_a_log_tells_each_of_several_findings():
    assert finding_lines(a_split([0, 1])) == []
    assert finding_lines(several([[0, 0], [1, -1], [-1, 0]])) == [
        "Mass: 1 of 2 labelled images positive",
        "Hernia: 0 of 2 labelled images positive; one class only, so not judged",
    ]
