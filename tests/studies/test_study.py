import pathlib

import pytest

from cbam_flax.config_keys import KEYS, Key
from data_prep.cli import UserError
from studies import study

OUT = pathlib.Path("/out")


@pytest.mark.parametrize("name", study.names())
def test_every_study_fits_the_config_and_compares_what_it_has(name):
    found, text = study.load(name)
    assert text.split("\n\n")[0].strip().endswith("?")
    runs = list(study.runs_of(found, OUT, "data"))
    assert len({run.name for run in runs}) == len(runs)
    of_variant = {(run.variant, run.config_sha256) for run in runs}
    assert len(of_variant) == len(found.variants)  # one hash for all seeds
    place = {run.name: number for number, run in enumerate(runs)}
    assert all(place[run.parent] < place[run.name] for run in runs if run.parent)
    judged = {one.name for one in found.judged}
    for one in found.comparisons:
        for side in (one.first, one.second):
            variant, _, on = side.partition("@")
            assert variant in found.variants
            assert variant not in found.helpers
            assert not on or on in judged


def test_seeds_are_outermost_and_parents_are_of_the_same_seed():
    found, _ = study.load("transfer")
    runs = list(study.runs_of(found, OUT, "data"))
    assert [run.name for run in runs[:4]] == [
        *("pretrained-seed0", "scratch-seed0", "transfer-seed0", "pretrained-seed1")
    ]
    assert runs[2].config.init.from_run == "/out/pretrained-seed0"
    assert (runs[0].judged, runs[0].config.evaluate.at_end) == ((), ("validation",))


def test_the_hash_is_of_what_is_trained_and_of_nothing_else():
    def hash_of(out="/out", data_dir="data", **changed):
        one = study.Study(
            config="configs/pneumoniamnist.py",
            common=changed,
            variants={"base": {}, "child": {"init.from_run": "{base}"}},
        )
        runs = list(study.runs_of(one, pathlib.Path(out), data_dir))
        return {run.variant: run.config_sha256 for run in runs}

    first = hash_of()
    assert first == hash_of("/elsewhere", "/other")
    changed = hash_of(batch_size=32)
    assert first["base"] != changed["base"]
    assert first["child"] != changed["child"]
    assert first["base"] != first["child"]


def test_a_new_key_at_its_default_changes_no_hash(monkeypatch):
    def hash_of(**common):
        found = study.Study(config="configs/demo.py", common=common, variants={"a": {}})
        return study.config_hashes(found)["a"]

    before = hash_of()
    monkeypatch.setitem(KEYS, "augment.noise", Key(0.0, "[0, 1]", "of the future"))
    assert hash_of() == hash_of(**{"augment.noise": 0.0, "data_dir": "/other"}) == before
    assert hash_of(**{"augment.noise": 0.1}) != before


def test_a_study_that_there_is_not_and_a_key_that_there_is_not():
    with pytest.raises(UserError, match=r"there is no study 'nothing'; give one of ablation, "):
        study.load("nothing")
    wrong = study.Study(config="configs/demo.py", variants={"a": {"modle.width": 1}})
    with pytest.raises(UserError, match="the config has no key"):
        list(study.runs_of(wrong, OUT, "data"))
