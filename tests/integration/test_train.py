"""`python -m cbam_flax.main` as a user starts it: to the end, interrupted, killed, misused."""

import hashlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from cbam_flax.metrics_log import read_scalars

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 12
INTERRUPTED = 75


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """One device, and a compilation cache for all runs of this file."""
    cache = str(tmp_path_factory.mktemp("jax"))
    return os.environ | {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": cache}


def command(data_dir, workdir, *more):
    """A tiny run with augmentation, dropout, EMA and accumulation."""
    return [
        sys.executable,
        "-m",
        "cbam_flax.main",
        "--config=configs/pneumoniamnist.py:pool=max,context=none,head=gap",
        f"--workdir={workdir}",
        f"--config.data_dir={data_dir}",
        "--config.model.width=0.0625",
        "--config.model.dropout=0.3",
        "--config.batch_size=8",
        "--config.optimizer.accumulate=2",
        f"--config.duration.steps={STEPS}",
        "--config.evaluate.every.steps=6",
        "--config.checkpoint.every.steps=3",
        "--config.log_every_steps=1",
        *more,
    ]


def run(line, environment):
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)


def start(line, environment):
    return subprocess.Popen(line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def run_until(line, environment, mark, what):
    """Starts a command, sends the signal when a line of its log holds the mark, waits."""
    process = start(line, environment)
    for text in process.stderr:
        if mark in text:
            process.send_signal(what)
            break
    process.stderr.read()
    return process.wait()


def state_hash(workdir, step):
    """SHA-256 over every array of the state that the checkpoint of this step holds."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(workdir / "checkpoints" / str(step) / "state")
    import jax

    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def finished(prepared, environment, tmp_path_factory):
    """A run from start to end without a break."""
    workdir = tmp_path_factory.mktemp("finished")
    done = run(command(prepared, workdir), environment)
    assert done.returncode == 0, done.stderr
    workdir.with_suffix(".log").write_text(done.stderr)
    return workdir


def test_the_console_tells_the_story_in_order_and_no_more(finished):
    lines = finished.with_suffix(".log").read_text().splitlines()
    starts = [
        "data: ",
        "  train ",
        "  validation ",
        "model: ",
        "  total ",
        "training: ",
        "devices: ",
    ]
    starts += [f"step {number:2}/{STEPS} " for number in range(1, STEPS + 1)]
    starts += ["best checkpoint: step ", "evaluating ", "21 images of the test split: AUROC "]
    starts += ["warning: ", "report: "]
    places = [next(i for i, line in enumerate(lines) if line.startswith(s)) for s in starts]
    assert places == sorted(places)
    assert places[-1] == len(lines) - 1
    stages = places[starts.index("  total ")] - places[starts.index("model: ")]
    assert len(lines) <= len(starts) + stages + 4  # two validations, and warnings


def test_a_run_leaves_every_file_behind(finished):
    assert json.loads((finished / "config.json").read_text())["model"]["width"] == 0.0625
    assert list(finished.glob("tensorboard/events*"))
    lines = read_scalars(finished / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines if "validation/auroc" in line] == [6, 12]
    folder = finished / "evaluation" / "test"
    figures = json.loads((folder / "metrics.json").read_text())
    assert figures["n"] == 21
    assert figures["auroc"]["low"] <= figures["auroc"]["value"] <= figures["auroc"]["high"]
    assert len((folder / "predictions.csv").read_text().splitlines()) == 22
    assert (folder / "report.html").exists()


def test_the_same_command_again_changes_nothing(finished, prepared, environment):
    before = state_hash(finished, STEPS)
    done = run(command(prepared, finished), environment)
    assert done.returncode == 0, done.stderr
    assert state_hash(finished, STEPS) == before


def test_sigterm_saves_and_the_same_command_ends_in_the_same_state(
    finished, prepared, environment, tmp_path
):
    line = command(prepared, tmp_path)
    assert run_until(line, environment, f"step {1:2}/{STEPS} ", signal.SIGTERM) == INTERRUPTED
    steps = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert steps
    assert max(steps) < STEPS
    done = run(line, environment)
    assert f"continuing after step {max(steps)} of {STEPS}" in done.stderr
    assert state_hash(tmp_path, STEPS) == state_hash(finished, STEPS)
    lines = read_scalars(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))


def test_sigterm_at_the_end_leaves_only_the_evaluation_to_do(prepared, environment, tmp_path):
    line = command(prepared, tmp_path)
    assert run_until(line, environment, f"step {STEPS}/{STEPS} ", signal.SIGTERM) == INTERRUPTED
    done = run(line, environment)
    assert done.returncode == 0, done.stderr
    assert f"continuing after step {STEPS} of {STEPS}" in done.stderr
    assert (tmp_path / "evaluation" / "test" / "metrics.json").exists()


def test_a_run_that_stopped_early_stays_stopped(prepared, environment, tmp_path):
    line = command(
        prepared,
        tmp_path,
        "--config.early_stopping=1",
        "--config.shuffle_labels=true",  # or the AUROC would only rise
        "--config.evaluate.every.steps=1",
        "--config.evaluate.at_end=()",
    )
    newest = []
    for _ in range(2):
        done = run(line, environment)
        assert done.returncode == 0, done.stderr
        newest.append(max(int(path.name) for path in (tmp_path / "checkpoints").iterdir()))
    assert newest[0] == newest[1] < STEPS


def test_the_negative_control_learns_and_chooses_without_the_truth(prepared, environment, tmp_path):
    def one_step(shuffle):
        """The step's training loss, and the AUROC on validation as seen by the run and in truth."""
        workdir = tmp_path / shuffle
        line = command(
            prepared,
            workdir,
            f"--config.shuffle_labels={shuffle}",
            "--config.duration.steps=1",
            "--config.optimizer.warmup.steps=0",
            "--config.evaluate.at_end=('validation',)",
        )
        done = run(line, environment)
        assert done.returncode == 0, done.stderr
        [seen] = read_scalars(workdir / "metrics.jsonl")
        true = json.loads((workdir / "evaluation/validation/metrics.json").read_text())
        return seen["loss"], seen["validation/auroc"], true["auroc"]["value"]

    loss, seen, true = one_step("false")
    assert seen == true
    control_loss, seen, true = one_step("true")
    assert abs(seen - true) > 0.01
    assert abs(loss - control_loss) > 0.001


def test_kill_9_loses_no_checkpoint_and_changes_no_bit(finished, prepared, environment, tmp_path):
    line = command(prepared, tmp_path)
    assert run_until(line, environment, f"step {7:2}/{STEPS} ", signal.SIGKILL) == -signal.SIGKILL
    done = run(line, environment)
    assert done.returncode == 0, done.stderr
    assert state_hash(tmp_path, STEPS) == state_hash(finished, STEPS)


def test_a_second_run_in_the_workdir_is_refused_and_the_first_never_notices(
    prepared, environment, tmp_path
):
    line = command(prepared, tmp_path, "--config.evaluate.at_end=()")
    with subprocess.Popen(
        line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as one:
        for text in one.stderr:
            if text.startswith("step "):
                one.send_signal(signal.SIGSTOP)  # so that it does not end before the other starts
                break
        second = run(line, environment)
        one.send_signal(signal.SIGCONT)
        one.stderr.read()
    assert (second.returncode, one.returncode) == (2, 0)
    [sentence] = second.stderr.splitlines()
    assert f"{tmp_path} is being trained by process {one.pid} on " in sentence
    lines = read_scalars(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("what", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("mark", ["| jax._src.core", "Compiling jit(train_step"])
def test_a_signal_before_the_first_step_is_one_line(prepared, environment, tmp_path, what, mark):
    line = command(prepared, tmp_path)
    line[1:1] = ["-X", "importtime"]  # says what it imports, and JAX what it compiles
    environment = environment | {
        "JAX_LOG_COMPILES": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
    }
    with subprocess.Popen(
        line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as one:
        for text in one.stderr:
            if mark in text.replace("  ", ""):
                one.send_signal(what)
                break
        else:
            pytest.fail(f"it never said {mark!r}")
        errors = one.stderr.read()
    assert one.returncode == {signal.SIGTERM: INTERRUPTED, signal.SIGINT: 130}[what]
    assert "Traceback" not in errors
    last = {signal.SIGTERM: "SIGTERM: run the same command to continue"}.get(what, "interrupted")
    assert errors.splitlines()[-1] == last


def test_a_full_disk_is_one_sentence_and_with_room_the_same_command_goes_on(
    prepared, environment, small_disk
):
    line = command(
        prepared, "$disk/run", "--config.evaluate.at_end=()", "--config.log_every_steps=100"
    )
    train = " ".join(line).replace("()", "\\(\\)")
    done = small_disk(
        "4m",
        f"head -c 3400k /dev/zero > $disk/other && {train}; echo status $?; rm $disk/other; "
        f"echo the second run >&2; {train}; echo status $?; cat $disk/run/metrics.jsonl",
        env=environment,
    )
    first, then = done.stderr.split("the second run\n")
    assert "Traceback" not in done.stderr
    [sentence] = [text for text in first.splitlines() if "No space left" in text]
    assert sentence.startswith("error: /")
    assert sentence == first.splitlines()[-1]
    assert "best checkpoint" in then
    one, other, *lines = done.stdout.splitlines()
    assert (one, other) == ("status 2", "status 0")
    # Fewer steps than are averaged in one report: the last one has the mean all the same.
    assert any("loss" in json.loads(line) for line in lines)


def test_a_disk_without_room_for_the_decoded_images_is_one_sentence(
    prepared, environment, small_disk
):
    train = " ".join(command("$disk/data", "$disk/run"))
    done = small_disk(
        "4m",
        f"cp -r {prepared} $disk/data; rm -rf $disk/data/*/*/*/decoded-*; "
        f"cat /dev/zero >$disk/other 2>/dev/null; truncate -s -32k $disk/other; "  # images: 55 kB
        f"{train}; echo status $?",
        env=environment,
    )
    assert done.stdout.split() == ["status", "2"], done.stderr
    [sentence] = [text for text in done.stderr.splitlines() if "No space left" in text]
    assert "/images.npy: No space left on device; make room" in sentence
    assert sentence == done.stderr.splitlines()[-1]


@pytest.mark.parametrize("where", ["file", 300 * "x"])
def test_a_workdir_that_cannot_be_is_one_sentence(prepared, environment, tmp_path, where):
    (tmp_path / "file").touch()
    done = run(command(prepared, tmp_path / where), environment)
    assert done.returncode == 2
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("error: ")
    assert where in sentence
    assert os.listdir(tmp_path) == ["file"]


def test_two_processes_train_the_same_as_one(finished, prepared, environment, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    processes = [
        subprocess.Popen(
            command(
                prepared,
                tmp_path,
                "--distributed",
                f"--coordinator_address=localhost:{port}",
                "--num_processes=2",
                f"--process_id={number}",
            ),
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (0, 1)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    ours, theirs = (
        [row["loss"] for row in read_scalars(folder / "metrics.jsonl")]
        for folder in (tmp_path, finished)
    )
    assert ours[:3] == pytest.approx(theirs[:3], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--config.seed=1", "another config or other data (seed: 0 -> 1)"),
        ("--config.sed=1", "no key sed; Did you mean seed"),
        ("--config.data_dir=nowhere", "no prepared data in nowhere"),
        ("--config=configs/nothing.py", "configs/nothing.py"),
        ("--config.mesh.data=3", "does not fit 1 devices"),
        ("--config.batch_size=72", "more than the 70 images of an epoch"),
        ("--config.model.attention=all", "model.attention is 'all'"),
        ("--config.duration.epochs=1", "exactly one of steps, epochs, examples"),
    ],
)
def test_wrong_use_is_one_sentence(finished, prepared, environment, change, message):
    done = run(command(prepared, finished, change), environment)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


def test_help_shows_an_example():
    done = run([sys.executable, "-m", "cbam_flax.main", "--help"], os.environ)
    assert done.returncode == 0
    assert "--config=configs/rsna.py --workdir=" in done.stdout
