import errno
import io
import os
import signal
import subprocess
import sys

import pytest

from data_prep import cli


@pytest.fixture(autouse=True)
def own_signals(monkeypatch):
    """`cli.run` belongs to a whole process, which it may end: here it is given a part of one."""
    before = signal.getsignal(signal.SIGINT), sys.unraisablehook
    monkeypatch.setattr(os, "_exit", sys.exit)
    yield
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, before[0])
    sys.unraisablehook = before[1]


@pytest.mark.parametrize(
    ("argv0", "name", "other"),
    [
        ("/opt/bin/cbam-predict", "cbam-predict", "cbam-train"),
        (
            "predict/__main__.py",
            "python -m cbam_flax.predict",
            "python -m cbam_flax.main",
        ),
    ],
)
def test_help_names_the_commands_as_they_were_started(monkeypatch, capsys, argv0, name, other):
    monkeypatch.setattr(sys, "argv", [argv0])
    example = "example:\n  python -m cbam_flax.predict x\n  python -m cbam_flax.main"
    parser = cli.parser("cbam_flax.predict", "What it does.", example)
    help = parser.format_help()
    assert help.startswith(f"usage: {name} [-h]\n")
    assert help.endswith(f"example:\n  {name} x\n  {other}\n")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--wrong"])
    assert f"\n{name}: error: " in capsys.readouterr().err


def test_what_has_no_installed_name_keeps_its_own(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["cbam-prepare"])
    text = "python -m data_prep.synthetic; python -m data_prep.prepare"
    assert cli.as_started(text) == "python -m data_prep.synthetic; cbam-prepare"


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


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_library_that_quotes_the_system_is_understood(capsys, wrapped):
    def main():
        inner = ValueError('Error writing "/run/d/1": [OS error 28: No space left on device]')
        if wrapped:
            raise RuntimeError("a thread failed") from inner
        raise inner

    with pytest.raises(SystemExit) as stopped:
        cli.run(main)
    assert stopped.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: /run/d/1: No space left on device; make room")


# Stops itself by a signal in the middle of what `main` does.
STOPPED = """
import ctypes, os, signal, sys, threading, time
from data_prep import cli, interruption
interruption.PATIENCE_SECONDS = 0.1
sys.path.insert(0, sys.argv[1])
def stop():
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
class Loud:
    def __del__(self):
        stop()
        time.sleep(600)
def deaf():  # as a compiler is: waits for its own lock, without ever returning to Python
    lock, c = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    c.pthread_mutex_lock(lock)
    c.pthread_mutex_lock(lock)
def convert():
    try:
        stop()
        time.sleep(600)
    except KeyboardInterrupt:
        raise ImportError("broken")
def main():
    exec(sys.argv[3])
cli.run(main, sigterm=75)
"""


@pytest.mark.parametrize(
    ("name", "status", "line"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 75, "SIGTERM: run the same command to continue")],
)
@pytest.mark.parametrize("where", ["import", "destructor", "C code", "another exception"])
def test_a_signal_is_one_line_wherever_it_arrives(tmp_path, name, status, line, where):
    (tmp_path / "stuck.py").write_text("import __main__, time; __main__.stop(); time.sleep(600)")
    code = {
        "import": "import stuck",
        "destructor": "Loud(); time.sleep(600)",
        "C code": "threading.Timer(0.3, stop).start(); deaf()",
        "another exception": "convert()",
    }[where]
    done = subprocess.run(
        [sys.executable, "-c", STOPPED, tmp_path, name, code], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (status, f"{line}\n")


def test_a_defect_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0)


@pytest.mark.parametrize(
    ("before", "ends"),
    [
        ("sys.argv = ['/bin/cbam-predict']", True),
        ("sys.argv = ['/bin/cbam-predict']; import multiprocessing.spawn", False),  # its worker
        ("sys.argv = ['-m']", True),
        ("sys.argv = ['notebook']", False),
    ],
)
def test_a_command_that_is_being_imported_ends_with_one_line(before, ends):
    code = (
        f"import sys, os, signal; {before}; import data_prep; os.kill(os.getpid(), signal.SIGINT)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stderr == "interrupted\n") == ends
    assert (result.returncode == 130) == ends


def test_what_jax_compiles_is_kept_in_the_users_cache(monkeypatch):
    environment = {"XDG_CACHE_HOME": "/cache"}
    monkeypatch.setattr(cli.os, "environ", environment)
    cli.keep_compiled_programs()
    assert environment["JAX_COMPILATION_CACHE_DIR"] == "/cache/cbam_flax/jax"
    environment["JAX_COMPILATION_CACHE_DIR"] = "/own"
    cli.keep_compiled_programs()
    assert environment["JAX_COMPILATION_CACHE_DIR"] == "/own"
