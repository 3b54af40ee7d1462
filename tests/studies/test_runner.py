"""The runner on a tiny study of real runs: killed, continued, and a line that is made again."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from studies import lines, runner, study

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = '''
"""Does it go on?"""

from studies.study import Study

STUDY = Study(
    config="configs/pneumoniamnist.py",
    common={"model.width": 0.0625, "model.hidden": 8, "batch_size": 8, "duration.steps": 30},
    variants={
        "wrong": {"dataset": "no_such_data"},
        "child": {"init.from_run": "{wrong}"},
        "good": {"checkpoint.every.steps": 5, "evaluate.every.steps": 15},
    },
    seeds=[3],
)
'''
# The command, with a folder of the test among those that studies are looked for in.
COMMAND = """
import pathlib, sys
import studies.questions, studies.study
folder = sys.argv.pop(1)
studies.questions.__path__.append(folder)
studies.study.QUESTIONS = pathlib.Path(folder)
from studies import run
run.command()
"""


def test_killed_and_continued_and_a_line_made_again(tmp_path, prepared):
    (tmp_path / "tiny.py").write_text(TINY)
    command = [sys.executable, "-c", COMMAND, tmp_path, "tiny", f"--out={tmp_path / 'out'}"]
    command += [f"--data_dir={prepared}", f"--results={tmp_path / 'results'}", "--workers=2"]
    own = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = {"cwd": ROOT, "env": own, "text": True}
    good, table = tmp_path / "out" / "good-seed3", tmp_path / "results" / "tiny.csv"

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **run) as first:
        while not any(path.name.isdigit() for path in good.glob("checkpoints/*")):
            assert first.poll() is None
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
    assert not table.exists()

    def to_the_end():
        done = subprocess.run(command, capture_output=True, **run)
        assert done.returncode == 2, done.stdout + done.stderr
        lines_told = done.stderr.strip().split("\n")
        [told, skipped, last] = [one for one in lines_told if not one.startswith("tiny: ")]
        assert told.startswith("wrong-seed3 failed: status 2, ")
        assert "no_such_data" in told
        assert told.endswith(
            f"see {tmp_path / 'out' / 'logs' / 'wrong-seed3.log'}; the rest goes on"
        )
        assert skipped.startswith("child-seed3 failed: it starts from wrong-seed3, which failed")
        assert last.startswith("error: 2 of 3 runs failed (wrong-seed3, child-seed3); mend what ")
        [line] = lines.read(table)
        return {name: cell for name, cell in line.items() if name != "cpu_seconds"}

    continued = to_the_end()
    log = (tmp_path / "out" / "logs" / "good-seed3.log").read_text()
    assert "continuing after step" in log
    assert (continued["variant"], continued["seed"], continued["images"]) == ("good", "3", "21")

    table.unlink()
    shutil.rmtree(good)
    assert to_the_end() == continued


def test_a_helper_that_is_finished_leaves_no_line(tmp_path, monkeypatch):
    asked = study.Study(
        config="configs/demo.py",
        variants={"first": {}, "second": {"init.from_run": "{first}"}},
        helpers=["first"],
        seeds=[0],
    )
    monkeypatch.setattr(study, "load", lambda name: (asked, ""))
    done = tmp_path / "first-seed0" / "evaluation" / "validation"
    done.mkdir(parents=True)
    (done / "metrics.json").write_text("{}")
    (tmp_path / "second-seed0").mkdir()
    (tmp_path / "second-seed0" / "config.json").write_text("broken")
    found = runner.Runner("small", tmp_path, "data", tmp_path / "results", 1, {}).carry_out()
    assert found == (2, ["second-seed0"])
    assert not (tmp_path / "results").exists()


def test_a_folder_of_another_config_is_refused(tmp_path, monkeypatch, capsys):
    small = study.Study(config="configs/demo.py", variants={"a": {}}, seeds=[0])
    monkeypatch.setattr(study, "load", lambda name: (small, ""))
    [run] = study.runs_of(small, tmp_path, "data")
    (tmp_path / run.name).mkdir()
    config = run.config.copy_and_resolve_references()
    with config.unlocked():
        config.batch_size = 7
    (tmp_path / run.name / "config.json").write_text(config.to_json())
    total, failed = runner.Runner("small", tmp_path, "data", tmp_path, 1, {}).carry_out()
    assert (total, failed) == (1, ["a-seed0"])
    told = capsys.readouterr().err
    assert "has another config (batch_size: 7 -> 32); give another --out or move the run" in told


@pytest.mark.skipif(sys.platform != "linux", reason="needs the kernel's signal of a parent's death")
def test_a_run_ends_with_its_runner():
    run = "import time; print('began', flush=True); time.sleep(20); print('survived')"
    parent = f"""
import os, subprocess, sys
core = str(min(os.sched_getaffinity(0)))
child = [sys.executable, "-m", "studies.child", str(os.getpid()), core]
subprocess.run([*child, sys.executable, "-c", {run!r}])
"""
    with subprocess.Popen(
        [sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as runner_process:
        assert runner_process.stdout.readline() == "began\n"
        runner_process.kill()
        assert runner_process.stdout.read() == ""  # which ends when nobody can write any more
