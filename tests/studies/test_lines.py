import numpy as np
import pytest

from data_prep.cli import UserError
from studies import lines


def test_resamples_survive_to_the_last_digits_that_count():
    samples = np.array([0.0, 0.123456, 0.97731, 1.0, np.nan])
    back = lines.decode(lines.encode(samples))
    np.testing.assert_allclose(back, samples, atol=8e-6)


def test_a_line_made_again_takes_the_place_of_the_old_one(tmp_path, draw_lines):
    path = tmp_path / "results" / "study.csv"
    rng = np.random.default_rng(0)
    table = draw_lines(rng, "b", 0.9, [10, 2]) + draw_lines(rng, "a", 0.9, [0])
    lines.add(path, table, ["b", "a"])
    assert [line["seed"] for line in lines.read(path)] == ["2", "10", "0"]
    before = path.read_bytes()
    lines.add(path, [table[0] | {"auroc": "0.5"}], ["b", "a"])
    assert [line["auroc"] == "0.5" for line in lines.read(path)] == [False, True, False]
    lines.add(path, [table[0]], ["b", "a"])
    assert path.read_bytes() == before


def test_a_broken_table_is_one_sentence(tmp_path):
    path = tmp_path / "study.csv"
    path.write_text("variant,seed\na,0\n")
    with pytest.raises(UserError, match=r"has no column fold; restore the file"):
        lines.read(path)
