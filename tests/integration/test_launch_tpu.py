"""launch_tpu.sh against a fake gcloud that keeps its cloud on disk (fake_gcloud.py)."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CAPACITY = 'There is no more capacity in the zone "my-zone"; you can try in another zone'
QUOTA = "RESOURCE_EXHAUSTED: Quota limit 'TPUV5LITEPODPerProjectPerZone' has been exceeded."
LOST = {"vm": "PREEMPTED", "status": 255}
RUN = ["run", "--name=r1", "--spot", "--workdir=gs://bucket/r1"]

PREFLIGHT = [
    "config project",
    "config compute/zone",
    "auth list",
    "accelerator-types describe",
    "storage ls",
    "storage cp",
]
SET_UP = ["tpu-vm scp", "unpack on all", "setup on all", "start on all", "follow on 0"]
END = ["storage rsync", "tpu-vm delete"]


class World:
    """A checkout with the launcher in it, and a cloud."""

    def __init__(self, folder: pathlib.Path):
        self.checkout, self.cloud = folder / "checkout", folder / "cloud"
        binaries = folder / "bin"
        for path in (self.checkout / "configs", self.cloud, binaries):
            path.mkdir(parents=True)
        shutil.copy(ROOT / "launch_tpu.sh", self.checkout)
        shutil.copytree(ROOT / "launch", self.checkout / "launch")
        (self.checkout / "configs" / "rsna.py").write_text("")
        (self.checkout / ".gitignore").write_text("/runs/\n")
        git(self.checkout, "init", "--quiet")
        self.commit()
        fake = ROOT / "tests" / "integration" / "fake_gcloud.py"
        (binaries / "gcloud").write_text(f'#!/bin/sh\nexec {sys.executable} -IS {fake} "$@"\n')
        (binaries / "sleep").write_text('#!/bin/sh\necho "$1" >>"$FAKE_CLOUD/sleeps"\n')
        for binary in binaries.iterdir():
            binary.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{binaries}:{os.environ['PATH']}",
            "FAKE_CLOUD": str(self.cloud),
        }
        self.set()

    def commit(self) -> None:
        git(self.checkout, "add", "--all")
        git(self.checkout, "commit", "--quiet", "--message=state")

    def set(self, vm=None, request=None, workers=0) -> None:
        """What there is in the cloud."""
        world = {"vm": vm, "request": request, "workers": workers, "script": {}}
        (self.cloud / "world.json").write_text(json.dumps(world))

    def script(self, **events: list) -> None:
        """How gcloud will answer, call by call; success once the list is empty."""
        world = json.loads((self.cloud / "world.json").read_text())
        (self.cloud / "world.json").write_text(json.dumps(world | {"script": events}))

    def launch(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.checkout / "launch_tpu.sh", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=1200,  # for a hang, not for a slow machine
        )

    def close(self) -> None:
        """Ends what a test that failed half-way left running on the workers."""
        for pid in self.cloud.glob("worker*/cbam_flax/runs/*/pid"):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid.read_text()), signal.SIGKILL)

    @property
    def calls(self) -> list[str]:
        """What was asked of gcloud, in order, without the polls."""
        return [label for label, _ in self.all_calls() if label != "list"]

    def all_calls(self) -> list[tuple[str, list[str]]]:
        path = self.cloud / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def commands(self, label: str) -> list[list[str]]:
        """The arguments that remote.sh got in each call of this label, as bash splits them."""
        found = []
        for name, arguments in self.all_calls():
            if name == label:
                command = next(word for word in arguments if word.startswith("--command="))
                found.append(shlex.split(command.removeprefix("--command=")))
        return found

    @property
    def vm(self) -> str | None:
        world = json.loads((self.cloud / "world.json").read_text())
        return world["vm"] or world["request"]

    @property
    def sleeps(self) -> list[int]:
        path = self.cloud / "sleeps"
        return [int(line) for line in path.read_text().split()] if path.exists() else []


def git(folder: pathlib.Path, *arguments: str) -> str:
    identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.com"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_run_creates_trains_fetches_and_deletes(world):
    done = world.launch(*RUN)
    assert done.returncode == 0, done.stderr
    assert world.calls == [*PREFLIGHT, "tpu-vm create", *SET_UP, *END]
    assert world.vm is None
    assert "left running: nothing called r1" in done.stderr
    assert (world.checkout / "runs/r1/metrics.jsonl").exists()


def test_create_fails_twice_and_then_works(world):
    world.script(create=[CAPACITY, CAPACITY])
    done = world.launch(*RUN)
    assert done.returncode == 0, done.stderr
    assert world.calls == [*PREFLIGHT, *["tpu-vm create"] * 3, *SET_UP, *END]
    assert CAPACITY in done.stderr
    assert world.vm is None


def test_backoff_doubles_up_to_a_bound_and_tries_are_limited(world):
    world.script(create=[CAPACITY] * 99)
    done = world.launch(*RUN, "--max-tries=8")
    assert done.returncode == 3
    assert world.calls == [*PREFLIGHT, *["tpu-vm create"] * 8]
    assert world.sleeps == [30, 60, 120, 240, 480, 900, 900]
    assert "giving up after 8 tries" in done.stderr
    assert world.vm is None


def test_it_waits_until_the_vm_is_ready(world):
    world.script(vm=[0, "CREATING", 1, "CREATING", "STARTING", "READY"])
    done = world.launch(*RUN)
    assert done.returncode == 0, done.stderr
    assert world.calls == [*PREFLIGHT, "tpu-vm create", *SET_UP, *END]
    for state in ("CREATING", "UNKNOWN", "STARTING"):
        assert f"waiting: VM {state}" in done.stderr


def test_a_refused_quota_is_not_asked_for_again(world):
    world.script(create=[QUOTA])
    done = world.launch(*RUN)
    assert done.returncode == 3
    assert world.calls == [*PREFLIGHT, "tpu-vm create"]
    assert QUOTA in done.stderr
    assert world.vm is None


def test_two_preemptions_in_the_middle_continue_the_same_run(world):
    world.script(follow=[LOST, LOST])
    done = world.launch(*RUN, "--", "--config.seed=3")
    assert done.returncode == 0, done.stderr
    again = ["tpu-vm delete", "tpu-vm create", *SET_UP]
    assert world.calls == [*PREFLIGHT, "tpu-vm create", *SET_UP, *again, *again, *END]
    starts = world.commands("start on all")
    assert len(starts) == 3
    assert all(start == starts[0] for start in starts)
    assert starts[0][-2:] == ["--workdir=gs://bucket/r1", "--config.seed=3"]
    assert world.vm is None


def test_a_vm_that_vanishes_during_set_up_is_made_again(world):
    world.script(setup=[{"vm": None, "status": 255}])
    done = world.launch(*RUN)
    assert done.returncode == 0, done.stderr
    first = [*SET_UP[:3], "tpu-vm create", *SET_UP]
    assert world.calls == [*PREFLIGHT, "tpu-vm create", *first, *END]


def test_a_failure_while_the_vm_is_being_taken_away_is_a_preemption(world):
    # A worker that lost its peers fails before Google says PREEMPTED.
    world.script(follow=[70], vm=[0, "READY", "READY", "READY", "PREEMPTED"])
    done = world.launch(*RUN)
    assert done.returncode == 0, done.stderr
    again = ["tpu-vm delete", "tpu-vm create", *SET_UP]
    assert world.calls == [*PREFLIGHT, "tpu-vm create", *SET_UP, *again, *END]


def test_an_interruption_that_leaves_the_vm_is_continued_on_it(world):
    world.script(follow=[75])
    done = world.launch(*RUN)
    assert done.returncode == 0, done.stderr
    assert world.calls == [*PREFLIGHT, "tpu-vm create", *SET_UP, *SET_UP, *END]


def test_flaky_ssh_is_tried_again_and_the_log_is_taken_up_where_it_broke(world):
    world.script(
        scp=[255, 1],
        setup=[255],
        start=[255],
        follow=[{"print": "step 1\nstep 2\nstep 3", "status": 255}, {"print": "step 4"}],
    )
    done = world.launch(*RUN)
    assert done.returncode == 0, done.stderr
    copy, unpack, setup, start, follow = SET_UP
    assert world.calls == [
        *PREFLIGHT,
        "tpu-vm create",
        *[copy] * 3,
        unpack,
        *[setup] * 2,
        *[start] * 2,
        *[follow] * 2,
        *END,
    ]
    assert [command[-1] for command in world.commands(follow)] == ["1", "4"]
    log = (world.checkout / "runs/r1/launch/log").read_text()
    assert log.split("\n")[:4] == ["step 1", "step 2", "step 3", "step 4"]


def test_a_worker_that_answers_no_more_is_given_up_with_its_vm(world):
    # READY, reachable at times, but the log brings nothing: a machine that was made anew, say.
    world.script(follow=[{"print": "step 1", "status": 255}, *[127] * 5])
    done = world.launch(*RUN)
    assert done.returncode == 0, done.stderr
    again = ["tpu-vm delete", "tpu-vm create", *SET_UP]
    broken = [*SET_UP, *SET_UP[-1:] * 5]
    assert world.calls == [*PREFLIGHT, "tpu-vm create", *broken, *again, *END]


def test_ssh_that_never_works_ends_it_with_advice(world):
    world.script(scp=[255] * 5)
    done = world.launch(*RUN)
    assert done.returncode == 3
    assert world.calls == [*PREFLIGHT, "tpu-vm create", *["tpu-vm scp"] * 5, "tpu-vm delete"]
    assert "ssh never worked" in done.stderr
    assert world.vm is None


def test_a_failing_training_is_shown_and_not_tried_again(world):
    world.script(follow=[{"print": "ValueError: no such data", "status": 70}])
    done = world.launch(*RUN)
    assert done.returncode == 1
    assert world.calls == [*PREFLIGHT, "tpu-vm create", *SET_UP, "status on all", *END]
    assert "ValueError: no such data" in done.stderr.split("The last lines of the log")[1]
    assert world.vm is None


def test_keep_leaves_the_vm_and_says_what_it_costs(world):
    done = world.launch(*RUN, "--keep", "--price=1.2")
    assert done.returncode == 0, done.stderr
    assert world.calls == [*PREFLIGHT, "tpu-vm create", *SET_UP, "storage rsync"]
    assert world.vm == "READY"
    assert "LEFT RUNNING AND BILLED: r1 in my-zone" in done.stderr
    assert "./launch_tpu.sh delete --name=r1 --zone=my-zone --project=my-project" in done.stderr
    assert "chip-hours on 8 chips, at 1.2 each" in done.stderr


def test_a_vm_that_is_there_is_taken_over(world):
    world.set(vm="READY")
    done = world.launch(*RUN)
    assert done.returncode == 0, done.stderr
    assert world.calls == [*PREFLIGHT, *SET_UP, *END]


def test_a_queued_request_is_waited_for_and_asked_again_when_suspended(world):
    waiting = ["WAITING_FOR_RESOURCES", "PROVISIONING", "SUSPENDED"]
    world.script(request=[0, *waiting], vm=[0] * 4)
    done = world.launch(*RUN, "--queued")
    assert done.returncode == 0, done.stderr
    ask, end = "queued-resources create", "queued-resources delete"
    assert world.calls == [*PREFLIGHT, ask, end, ask, *SET_UP, "storage rsync", end]
    assert "queued request WAITING_FOR_RESOURCES" in done.stderr
    creates = [arguments for label, arguments in world.all_calls() if label == ask]
    assert {"--node-id=r1", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"} <= set(creates[0])
    assert world.vm is None


def test_ctrl_c_leaves_the_training_and_says_how_to_go_on(world):
    pipe = world.cloud / "pipe"
    os.mkfifo(pipe)
    world.script(follow=[{"print": "step 1", "wait": str(pipe)}])
    running = subprocess.Popen(
        [world.checkout / "launch_tpu.sh", *RUN, "--", "--config.note=two words"],
        env=world.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert pipe.read_text() == "here"  # waits until the log is being followed
    os.killpg(running.pid, signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert world.calls == [*PREFLIGHT, "tpu-vm create", *SET_UP]
    assert world.vm == "READY"
    assert "LEFT RUNNING AND BILLED: r1" in stderr
    again = next(line for line in stderr.splitlines() if "./launch_tpu.sh run" in line)
    assert shlex.split(again)[2:] == [*RUN, "--", "--config.note=two words"]


def test_max_hours_saves_fetches_and_deletes(world):
    # `timeout` guards the following of the log; this one finds that the time is up.
    timeout = world.cloud.parent / "bin" / "timeout"
    timeout.write_text('#!/bin/sh\necho "$2" >"$FAKE_CLOUD/timeout"\nexit 124\n')
    timeout.chmod(0o755)
    done = world.launch(*RUN, "--max-hours=2.5")
    assert done.returncode == 4
    assert 8900 < int((world.cloud / "timeout").read_text()) <= 9000
    assert world.calls == [*PREFLIGHT, "tpu-vm create", *SET_UP[:-1], "stop on all", *END]
    assert world.vm is None


def test_stop_ends_the_training_and_its_watcher_but_keeps_the_vm(world):
    world.set(vm="READY")
    done = world.launch("stop", "--name=r1")
    assert done.returncode == 0, done.stderr
    assert world.calls[2:] == ["stop on all"]
    assert "LEFT RUNNING AND BILLED" in done.stderr

    world.script(follow=[76])
    done = world.launch(*RUN)
    assert done.returncode == 75
    assert world.vm == "READY"


def test_delete_of_nothing_is_fine(world):
    done = world.launch("delete", "--name=r1")
    assert done.returncode == 0, done.stderr
    assert world.calls == PREFLIGHT[:2]
    assert "left running: nothing called r1" in done.stderr


def test_delete_takes_vm_and_request_and_says_so_when_it_cannot(world):
    world.set(vm="READY", request="ACTIVE")
    assert world.launch("delete", "--name=r1").returncode == 0
    assert world.vm is None

    world.set(vm="READY")
    world.script(delete=["INTERNAL"] * 9)
    done = world.launch("delete", "--name=r1")
    assert done.returncode != 0
    assert "could not be deleted" in done.stderr


def test_status_names_what_is_billed(world):
    world.set(vm="READY")
    done = world.launch("status", "--name=r1")
    assert done.returncode == 0, done.stderr
    assert world.calls[2:] == ["status on all"]
    assert "LEFT RUNNING AND BILLED: r1 in my-zone (VM READY" in done.stderr


@pytest.mark.parametrize("command", ["logs", "ssh", "stop"])
def test_a_command_without_a_vm_is_one_sentence(world, command):
    done = world.launch(command, "--name=r1")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "error: there is no VM r1 to talk to in my-zone (it is ABSENT)"
    ]


def test_arguments_reach_the_training_unharmed(world):
    wanted = ["--config.a=two  words", '--config.b=it\'s "quoted" $HOME `x` \\', "", "--c=*;&|"]
    done = world.launch(*RUN, "--data_dir=gs://bucket/data/", "--", *wanted)
    assert done.returncode == 0, done.stderr
    (command,) = world.commands("start on all")
    assert command == [
        *("bash", "cbam_flax/code/launch/remote.sh", "start", "r1", "--"),
        "--config=configs/rsna.py",
        "--workdir=gs://bucket/r1",
        "--config.data_dir=gs://bucket/data",
        *wanted,
    ]


@pytest.mark.parametrize(
    ("kind", "runtime", "chips", "distributed"),
    [
        ("v4-8", "tpu-ubuntu2204-base", 4, False),
        ("v4-32", "tpu-ubuntu2204-base", 16, True),
        ("v5litepod-8", "v2-alpha-tpuv5-lite", 8, False),
        ("v5e-16", "v2-alpha-tpuv5-lite", 16, True),
        ("v5p-8", "v2-alpha-tpuv5", 4, False),
        ("v6e-256", "v2-alpha-tpuv6e", 256, True),
    ],
)
def test_each_type_gets_its_runtime_and_pod_slices_are_distributed(
    world, kind, runtime, chips, distributed
):
    done = world.launch(*RUN, f"--type={kind}", "--dry-run")
    assert done.returncode == 0, done.stderr
    create = next(line for line in done.stdout.splitlines() if "tpu-vm create" in line)
    start = next(line for line in done.stdout.splitlines() if "remote.sh start" in line)
    assert f"--version={runtime} " in create
    assert f"--accelerator-type={kind.replace('v5e', 'v5litepod')} " in create
    assert ("--distributed" in start) == distributed
    assert f"on {chips} chips" in done.stderr


def test_dry_run_prints_what_a_run_does_and_does_nothing(world):
    done = world.launch(*RUN, "--dry-run", "--zone=z", "--project=p", "--", "--config.a=b c")
    assert done.returncode == 0, done.stderr
    assert world.all_calls() == []
    assert not (world.checkout / "runs").exists()
    printed = [shlex.split(line, comments=True) for line in done.stdout.splitlines()]

    world.launch(*RUN, "--zone=z", "--project=p", "--", "--config.a=b c")
    assert [words[1:] for words in printed if words] == [words for _, words in world.all_calls()][
        : len(printed) - 1
    ]


def test_the_working_tree_goes_along_and_the_commit_is_recorded(world):
    (world.checkout / "configs" / "gone.py").write_text("x = 1")
    world.commit()
    (world.checkout / "configs" / "gone.py").unlink()
    (world.checkout / "configs" / "rsna.py").write_text("changed = True")
    (world.checkout / "configs" / "new file.py").write_text("new = True")
    done = world.launch(*RUN)
    assert done.returncode == 0, done.stderr
    head = git(world.checkout, "rev-parse", "HEAD").strip()
    assert f"uncommitted changes go along; the run records {head}-dirty" in done.stderr

    launch = world.checkout / "runs/r1/launch"
    assert f"commit {head}-dirty" in (launch / "launch.txt").read_text()
    assert "+changed = True" in (launch / "launch.txt").read_text()
    code = world.cloud / "code"
    code.mkdir(exist_ok=True)
    subprocess.run(["tar", "-xzf", launch / "code.tar.gz", "-C", code], check=True)
    assert (code / "configs" / "rsna.py").read_text() == "changed = True"
    assert (code / "configs" / "new file.py").exists()
    assert not (code / "configs" / "gone.py").exists()
    assert not (code / "runs").exists()
    assert git(code, "describe", "--always", "--dirty", "--abbrev=40").strip() == f"{head}-dirty"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "there is no command 'fly'"),
        (["run", "--nam=r1"], "there is no option '--nam=r1'"),
        (["run", "--name=R1"], "--name must be"),
        ([*RUN, "--type=v3-8"], "--type must be like"),
        (["run", "--name=r1", "--workdir=r1"], "--workdir must be gs://"),
        ([*RUN, "--config=configs/no.py"], "there is no config configs/no.py"),
        ([*RUN, "--max-tries=0"], "--max-tries must be"),
        ([*RUN, "--max-hours=soon"], "--max-hours and --price must be numbers"),
    ],
)
def test_a_wrong_invocation_is_one_sentence(world, arguments, message):
    done = world.launch(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "create" not in " ".join(world.calls)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ({"auth": [1]}, "gcloud is not logged in"),
        ({"describe": [1]}, "no v5litepod-8 in my-zone"),
        ({"ls": [1]}, "cannot read the bucket of gs://bucket/r1"),
        ({"project": [1]}, "no project"),
        ({"compute/zone": [1]}, "no zone"),
    ],
)
def test_preflight_names_what_is_missing_before_anything_is_made(world, script, message):
    world.script(**script)
    done = world.launch(*RUN)
    assert done.returncode == 2
    assert message in done.stderr
    assert "tpu-vm create" not in world.calls


def test_help_shows_examples(world):
    done = world.launch("run", "--help")
    assert done.returncode == 0
    assert "./launch_tpu.sh run --name=" in done.stdout


def test_shellcheck_is_silent():
    shellcheck = shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("shellcheck is not on this machine")
    scripts = [ROOT / "launch_tpu.sh", ROOT / "launch" / "remote.sh"]
    done = subprocess.run([shellcheck, *scripts], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


# A model that compiles in seconds; steps that leave something to lose between checkpoints.
TINY = [
    "--config.model.width=0.0625",
    "--config.model.attention=none",
    "--config.model.context=none",
    "--config.model.pooling=max",
    "--config.model.head=gap",
    "--config.augment.rotation=0",
    "--config.augment.scale=0",
    "--config.augment.shift=0",
    "--config.augment.gamma=0",
    "--config.batch_size=8",
    "--config.duration.steps=12",
    "--config.evaluate.every.steps=6",
    "--config.checkpoint.every.steps=3",
    "--config.log_every_steps=1",
]


@pytest.fixture
def real_world(tmp_path):
    """A world with the whole project, whose ssh really runs two workers of one CPU device each."""
    world = World(tmp_path)
    for package in ("cbam_flax", "data_prep", "configs"):
        shutil.copytree(ROOT / package, world.checkout / package, dirs_exist_ok=True)
    for pins in ("requirements-tpu.txt", "requirements.txt", "constraints.txt"):
        (world.checkout / pins).write_text("# the packages come from PYTHONPATH\n")
    world.commit()
    python = tmp_path / "bin" / "python3.11"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    # So that jax.distributed finds a slice; which worker it is on, the fake ssh tells it.
    world.environment |= {
        "JAX_FORCE_TPU_INIT": "1",
        "JAX_COORDINATOR_PORT": str(port),
        "MEGASCALE_COORDINATOR_ADDRESS": "localhost",
        "MEGASCALE_NUM_SLICES": "1",
        "MEGASCALE_SLICE_ID": "0",
        "XLA_FLAGS": "",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "PYTHONPATH": str(pathlib.Path(pytest.__file__).parents[1]),
    }
    world.set(workers=2)
    yield world
    world.close()


def steps_in(log: str) -> dict[int, str]:
    """What was logged of each step, but for the speed."""
    lines = re.findall(r"^step +(\d+)/.* training +(loss .*), \S+ images/s$", log, re.MULTILINE)
    return {int(step): line for step, line in lines}


def test_a_real_run_on_two_workers_survives_losing_them(real_world, prepared, tmp_path):
    """Set-up, jax.distributed and training are real, and killed with their disks on the way."""
    real_world.script(follow=[{"kill_at": "step  8/"}])
    workdir = tmp_path / "shared" / "r1"
    done = real_world.launch(
        *("run", "--name=r1", "--type=v4-16", "--config=configs/pneumoniamnist.py"),
        *(f"--workdir={workdir}", f"--data_dir={prepared}", "--", *TINY),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    again = ["tpu-vm delete", "tpu-vm create", *SET_UP]
    end = ["tpu-vm scp", "tpu-vm delete"]
    no_bucket = [call for call in PREFLIGHT if not call.startswith("storage")]
    assert real_world.calls == [*no_bucket, "tpu-vm create", *SET_UP, *again, *end]
    assert real_world.vm is None
    assert done.stdout.count("installing with") == 4

    # What the second VM did again after the checkpoint is what the first had done, digit for digit.
    first, second = map(steps_in, done.stdout.split("continuing after step"))
    assert max(first) == 8
    assert max(second) == 12
    done_again = first.keys() & second.keys()
    assert done_again
    assert all(second[step] == first[step] for step in done_again)

    for worker in (0, 1):
        run = real_world.cloud / f"worker{worker}" / "cbam_flax" / "runs" / "r1"
        assert (run / "status").read_text() == "0\n"
        assert "devices: 2 x cpu" in (run / "log").read_text()
    assert (real_world.checkout / "runs/r1/evaluation/test/metrics.json").exists()
