import argparse

import pytest

from cbam_flax.evaluate.__main__ import check_flags
from cbam_flax.evaluate.scoring_flags import add_scoring_flags, check_scoring_flags
from data_prep.cli import UserError


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ensemble", "a"], "at least two runs"),
        (["--workdir=a", "--combine=logit"], "--combine is for --ensemble only"),
    ],
)
def test_an_ensemble_has_several_runs_and_only_it_combines(flags, words):
    parser = argparse.ArgumentParser()
    add_scoring_flags(parser)
    with pytest.raises(UserError, match=words):
        check_scoring_flags(parser.parse_args(flags))


def given(**flags):
    names = ("workdir", "ensemble", "compare", "pool", "combine", "tta", "out", "step", "data_dir")
    more = ("dataset", "criterion", "prevalences", "resamples", "explained", "batch_size")
    return argparse.Namespace(**dict.fromkeys((*names, *more)) | flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"pool": ["a"], "criterion": "youden"}, "--criterion is for --workdir or --ensemble"),
        ({"compare": ["a"], "prevalences": [0.1]}, "--prevalence is for --workdir or --ensemble"),
        ({"compare": ["a"], "tta": "flip"}, "--tta is for --workdir or --ensemble"),
        ({"compare": ["a"], "out": "b"}, "--out is for --pool"),
        ({"ensemble": ["a", "b"], "explained": 5}, "--explained is for --workdir"),
    ],
)
def test_a_flag_that_would_do_nothing_is_refused(flags, words):
    with pytest.raises(UserError, match=words):
        check_flags(given(**flags))


def test_flags_that_belong_together_pass():
    check_flags(given(workdir="a", explained=0, tta="flip", step=3))
    check_flags(given(pool=["a", "b"], out="c"))
