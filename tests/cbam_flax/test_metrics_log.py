import json

import numpy as np
import pytest

from cbam_flax import metrics_log
from cbam_flax.metrics_log import JsonlWriter, read_scalars
from data_prep.cli import UserError


@pytest.fixture
def log(tmp_path):
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def clock(monkeypatch):
    """The seconds that the writer reads."""
    seconds = [100.0]
    monkeypatch.setattr(metrics_log.time, "monotonic", lambda: seconds[0])
    return seconds


def test_a_line_is_appended_and_nothing_else_is_written(tmp_path, log):
    writer = JsonlWriter(str(tmp_path), start=0)
    writer.write_scalars(1, {"loss": 0.5})
    inode = log.stat().st_ino
    writer.write_scalars(2, {"loss": np.float32(0.25)})
    assert log.stat().st_ino == inode
    assert [json.loads(line) for line in log.read_text().splitlines()] == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.25},
    ]


def test_lines_of_one_step_are_read_as_one(tmp_path, log):
    writer = JsonlWriter(str(tmp_path), start=0)
    writer.write_scalars(1, {"loss": 0.5})
    writer.write_scalars(2, {"loss": 0.25})
    writer.write_scalars(2, {"validation/auroc": 0.75})
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25, "validation/auroc": 0.75}]
    assert read_scalars(log) == rows
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))  # as older versions wrote it
    assert read_scalars(log) == rows


def test_a_resumed_run_drops_the_lines_it_will_write_again(tmp_path, log):
    first = JsonlWriter(str(tmp_path), start=0)
    for step in (1, 2, 3):
        first.write_scalars(step, {"loss": step})
    JsonlWriter(str(tmp_path), start=2).write_scalars(3, {"loss": 30})
    assert [line["loss"] for line in read_scalars(log)] == [1, 2, 30]


def test_what_a_kill_left_of_a_line_is_dropped(tmp_path, log):
    log.write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    assert read_scalars(log) == [{"step": 1, "loss": 0.5}]
    JsonlWriter(str(tmp_path), start=2).write_scalars(3, {"loss": 0.25})
    assert log.read_text() == '{"step": 1, "loss": 0.5}\n{"step": 3, "loss": 0.25}\n'


@pytest.mark.parametrize(
    "line", ["", "{", "[]", "3", '{"loss": 1}', '{"step": "1"}', '{"step": 1, "loss": null}']
)
def test_a_broken_line_of_an_earlier_log_is_named(tmp_path, log, line):
    log.write_text('{"step": 1, "loss": 0.5}\n' + line + "\n")
    with pytest.raises(UserError, match=r"line 2 of .*metrics.jsonl .*delete the file"):
        JsonlWriter(str(tmp_path), start=5)


def test_an_object_in_a_bucket_is_replaced_now_and_then(tmp_path, log, clock, monkeypatch):
    monkeypatch.setattr(metrics_log, "_is_object", lambda path: True)
    JsonlWriter(str(tmp_path), start=0).write_scalars(1, {"loss": 1})

    writer = JsonlWriter(str(tmp_path), start=1)
    seen = []
    for step in range(2, 8):
        writer.write_scalars(step, {"loss": step})
        seen.append(read_scalars(log)[-1]["step"])
        clock[0] += metrics_log.OBJECT_SECONDS / 2
    assert seen == [2, 2, 4, 4, 6, 6]
    writer.flush()
    assert [row["loss"] for row in read_scalars(log)] == [1, 2, 3, 4, 5, 6, 7]

    inode = log.stat().st_ino
    writer.flush()  # nothing new
    assert log.stat().st_ino == inode
