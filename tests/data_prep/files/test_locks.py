import json
import os
import signal
import subprocess
import sys
import threading

import pytest
from etils import epath

from data_prep.cli import UserError
from data_prep.files import locks

# Takes the lock, says so, and holds it until it reads the end of its input.
HOLDER = """
import sys
from data_prep import cli
from data_prep.files import locks
def main():
    with locks.hold(sys.argv[1], "trained"):
        print("held", flush=True)
        sys.stdin.read()
cli.run(main)
"""


def start(path):
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def forge(path, **changes):
    """A lock file that a process which ended without a word has left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    left = {"host": "elsewhere", "pid": 1, "started": "1", "kernel": "other", "since": "noon"}
    path.write_text(json.dumps(left | changes))


@pytest.fixture
def without_kernel(monkeypatch):
    """As on a disk without locks, on gs:// or on Windows."""
    monkeypatch.setattr(locks, "fcntl", None)


def test_the_lock_and_what_was_made_for_it_are_gone_at_the_end(tmp_path):
    with locks.hold(tmp_path / "a" / "b" / "lock", "trained"):
        assert os.listdir(tmp_path / "a" / "b") == ["lock"]
    assert os.listdir(tmp_path) == []


def test_folders_that_are_used_stay(tmp_path):
    with locks.hold(tmp_path / "a" / "lock", "trained"):
        (tmp_path / "a" / "records").touch()
    assert os.listdir(tmp_path / "a") == ["records"]


def test_the_second_is_refused_and_the_first_never_notices(tmp_path):
    path = tmp_path / "lock"
    with start(path) as first:
        assert first.stdout.readline() == "held\n"
        written = path.read_text()
        with pytest.raises(UserError, match=rf"being trained by process {first.pid} on .*stop it"):
            locks.hold(path, "trained").__enter__()
        assert path.read_text() == written
        first.communicate()
        assert first.returncode == 0
    with locks.hold(path, "trained"):
        pass


def test_of_a_process_that_was_killed_it_is_free_at_once(tmp_path):
    path = tmp_path / "lock"
    with start(path) as first:
        assert first.stdout.readline() == "held\n"
        first.send_signal(signal.SIGKILL)
    assert path.exists()
    with locks.hold(path, "trained"):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_of_many_takers_of_a_dead_lock_exactly_one_wins(tmp_path):
    path = tmp_path / "lock"
    forge(path, kernel=locks._kernel_id())
    takers = [start(path) for _ in range(6)]
    # The winner holds it until its input ends, so the others have to end first.
    said = {}
    threads = [
        threading.Thread(target=lambda taker=taker: said.update({taker: taker.stdout.readline()}))
        for taker in takers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for taker in takers:
        taker.communicate()
    assert sorted(said.values()) == [""] * 5 + ["held\n"]
    assert sorted(taker.returncode for taker in takers) == [0] + [2] * 5


def test_another_host_counts_as_dead_when_it_no_longer_beats(tmp_path):
    path = tmp_path / "lock"
    forge(path)
    with pytest.raises(UserError, match=r"process 1 on elsewhere since noon;.* delete .*lock"):
        locks.hold(path, "trained").__enter__()
    assert os.listdir(tmp_path) == ["lock"]
    old = path.stat().st_mtime - locks.STALE_SECONDS - 1
    os.utime(path, (old, old))
    with locks.hold(path, "trained"):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("is_held", [True, False])
def test_without_locks_of_the_kernel_the_process_decides(tmp_path, without_kernel, is_held):
    path = tmp_path / "lock"
    started = locks._start_of(os.getpid()) if is_held else "another time"
    host = os.uname().nodename
    forge(path, host=host, kernel=locks._kernel_id(), pid=os.getpid(), started=started)
    if is_held:
        with pytest.raises(UserError, match="by process"):
            locks.hold(path, "trained").__enter__()
    else:
        with locks.hold(path, "trained"):
            pass
        assert not path.exists()


def test_a_new_file_without_text_belongs_to_someone_where_no_kernel_knows(tmp_path, without_kernel):
    (tmp_path / "lock").touch()
    with pytest.raises(UserError, match="another process"):
        locks.hold(tmp_path / "lock", "trained").__enter__()


def test_the_holder_beats_until_it_loses_the_lock(tmp_path):
    path = epath.Path(tmp_path / "lock")

    class Beats:
        """An event that is over after two beats; another process is faster after the first."""

        def __init__(self):
            self.count = 0

        def wait(self, seconds):
            self.count += 1
            if self.count == 2:
                beaten.append(path.stat().mtime)
                path.write_text("another's")
                os.utime(path, (0, 0))
            return self.count > 3

    beaten = []
    path.write_text("mine")
    os.utime(path, (0, 0))
    locks._beat(path, "mine", Beats())
    assert beaten[0] > 0
    assert path.stat().mtime == 0
    assert path.read_text() == "another's"


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locks.hold(tmp_path / "file" / "lock", "trained"):
        pass
    assert os.listdir(tmp_path) == ["file"]
