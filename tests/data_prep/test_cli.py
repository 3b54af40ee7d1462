import errno
import io
import sys

import pytest

from data_prep import cli


@pytest.fixture
def at_once(monkeypatch):
    """Lines of progress are due as soon as there is something to tell."""
    monkeypatch.setattr(cli, "PROGRESS_SECONDS", 1e-9)


@pytest.mark.parametrize("total", [3, 1000])
def test_a_log_file_gets_a_few_whole_lines(capsys, at_once, total):
    assert list(cli.progress(iter(range(total)), "decoding", total)) == list(range(total))
    text = capsys.readouterr().err
    lines = text.splitlines()
    assert 1 <= len(lines) <= cli.PROGRESS_LINES
    assert lines[-1].startswith(f"decoding: {total} of {total} images, ")
    assert lines[0].endswith(" left")
    assert "\r" not in text


def test_updates_by_hand_are_as_few(capsys, at_once):
    with cli.progress(None, "predicting", 1000) as progress:
        for _ in range(500):
            progress.update(2)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= cli.PROGRESS_LINES


def test_quick_work_leaves_nothing_in_a_log_file(capsys):
    assert list(cli.progress([1, 2, 3], "decoding")) == [1, 2, 3]
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    list(cli.progress([1, 2, 3], "decoding", unit="file"))
    assert "\rdecoding: 100%|" in terminal.getvalue()


def test_a_full_disk_is_one_sentence_with_the_file_and_the_mend(capsys):
    def main():
        raise OSError(errno.ENOSPC, "No space left on device", "out/records")

    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    assert stopped.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out/records: No space left on device; make room")


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0)
