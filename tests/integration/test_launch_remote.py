"""launch/remote.sh: what it does on one worker."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FAILED, INTERRUPTED, STOPPED = 70, 75, 76

# Stands in for cbam_flax.main: ends with the status asked for, or waits for SIGTERM.
TRAINING = """
import pathlib, signal, sys
print("started with", sys.argv[1:], flush=True)
if sys.argv[1] != "wait":
    sys.exit(int(sys.argv[1]))
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
pathlib.Path(sys.argv[2]).write_text("waiting")
signal.pause()
"""

# Stands in for Python where packages are installed: notes what is asked of pip.
INSTALLER = """#!/bin/sh
case "$*" in
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip "*) echo "$*" >>"$HOME/pip" && [ ! -e "$HOME/no-network" ] ;;
esac
"""


class Worker:
    """A home folder with the code in it, as the launcher leaves it."""

    def __init__(self, home: pathlib.Path):
        self.home, self.base = home, home / "cbam_flax"
        self.code = self.base / "code"
        (self.code / "cbam_flax").mkdir(parents=True)
        (self.code / "cbam_flax" / "main.py").write_text(TRAINING)
        shutil.copytree(ROOT / "launch", self.code / "launch")
        (self.base / "venv" / "bin").mkdir(parents=True)
        write_script(self.base / "venv" / "bin" / "python", f'exec {sys.executable} "$@"')
        self.pipe = home / "pipe"
        os.mkfifo(self.pipe)

    def remote(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["bash", self.code / "launch" / "remote.sh", *arguments],
            cwd=self.home,
            env={**os.environ, "HOME": str(self.home), **environment},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start_waiting(self) -> None:
        self.remote("start", "r1", "--", "wait", str(self.pipe))
        assert self.pipe.read_text() == "waiting"


def write_script(path: pathlib.Path, text: str) -> None:
    path.write_text(text if text.startswith("#!") else f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def worker(tmp_path):
    worker = Worker(tmp_path)
    yield worker
    worker.remote("stop", "r1")


@pytest.mark.parametrize(
    ("ended", "told"),
    [(0, 0), (75, INTERRUPTED), (143, INTERRUPTED), (1, FAILED), (2, FAILED), (255, FAILED)],
)
def test_follow_shows_the_log_and_tells_how_it_ended(worker, ended, told):
    assert worker.remote("start", "r1", "--", str(ended), "a  b", "c'd").returncode == 0
    followed = worker.remote("follow", "r1", "1")
    assert followed.returncode == told
    assert followed.stdout.splitlines()[0] == f"""started with ['{ended}', 'a  b', "c'd"]"""


def test_follow_starts_at_the_line_asked_for(worker):
    worker.remote("start", "r1", "--", "3")
    worker.remote("follow", "r1", "1")
    assert worker.remote("follow", "r1", "2").stdout == "cbam_flax.main ended with status 3\n"


def test_start_starts_once(worker):
    worker.start_waiting()
    again = worker.remote("start", "r1", "--", "0")
    assert again.returncode == 0
    assert "already running" in again.stdout
    assert "training; started with ['wait'" in worker.remote("status", "r1").stdout
    assert (worker.base / "runs" / "r1" / "log").read_text().count("started with") == 1


def test_stop_lets_the_training_save_and_is_told_apart_from_a_preemption(worker):
    worker.start_waiting()
    assert worker.remote("stop", "r1").returncode == 0
    assert worker.remote("follow", "r1", "1").returncode == STOPPED
    assert "ended with status 75" in worker.remote("status", "r1").stdout
    assert worker.remote("stop", "r1").returncode == 0  # nothing to stop is fine
    worker.remote("start", "r1", "--", "0")
    assert worker.remote("follow", "r1", "1").returncode == 0


def test_a_machine_that_went_down_counts_as_an_interruption(worker):
    worker.start_waiting()
    os.killpg(int((worker.base / "runs" / "r1" / "pid").read_text()), signal.SIGKILL)
    assert worker.remote("follow", "r1", "1").returncode == INTERRUPTED
    assert "not started" in worker.remote("status", "r1").stdout


def test_setup_installs_once_for_each_set_of_pins_and_never_half(worker, tmp_path):
    for name in ("requirements-tpu.txt", "requirements.txt", "constraints.txt"):
        (worker.code / name).write_text("")
    shutil.rmtree(worker.base / "venv")
    binaries = tmp_path / "bin"
    binaries.mkdir()
    write_script(binaries / "python3.11", INSTALLER)
    path = f"{binaries}:{os.environ['PATH']}"

    (worker.home / "no-network").touch()
    assert worker.remote("setup", PATH=path).returncode == FAILED
    assert not (worker.base / "venv").exists()
    (worker.home / "no-network").unlink()
    for _ in range(2):
        assert worker.remote("setup", PATH=path).returncode == 0
    (worker.code / "constraints.txt").write_text("numpy==2.4.6")
    assert worker.remote("setup", PATH=path).returncode == 0

    asked = (worker.home / "pip").read_text().splitlines()
    assert sum("install" in line for line in asked) == 3  # broken off, whole, other pins
    assert len(list((worker.base / "venvs").glob("*/installed"))) == 2
    assert (worker.base / "venv" / "bin" / "python").exists()
