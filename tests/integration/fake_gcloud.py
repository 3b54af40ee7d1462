"""Stands in for gcloud: a cloud of one VM in the folder $FAKE_CLOUD, which world.json scripts.

world.json: {"vm": state or null, "request": state or null, "script": {event: [outcome, ...]}}.
Events: `create`, `delete`, `vm` and `request` (polls), `scp`, `rsync`, ..., and for ssh the verb of
remote.sh. Outcomes are taken from the front; none left is success. A number is the exit status, a
text an error message (for polls: the state answered), and in a dict "print" is printed, "vm" and
"request" set states, "wait" names a pipe to write to before waiting for a signal, and "status" is
the exit status. Every call is a line of calls.jsonl.

With "workers" in world.json, scp and ssh are real: each worker is a home folder on this machine
with processes of its own. {"kill_at": text} for `follow` takes the VM away, processes, disks and
all, when a line of the log holds the text.
"""

import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

CLOUD = pathlib.Path(os.environ["FAKE_CLOUD"])
PRINTED = {"auth": "someone@example.com", "project": "my-project", "compute/zone": "my-zone"}


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    options = dict(word[2:].partition("=")[::2] for word in arguments if word.startswith("--"))
    words = [word for word in arguments if not word.startswith("--")]
    event, label = name_of(words, options)
    with (CLOUD / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        world = json.loads((CLOUD / "world.json").read_text())
        with (CLOUD / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps([label, arguments]) + "\n")
        queue = world["script"].get(event, [])
        outcome = queue.pop(0) if queue else {}
        if isinstance(outcome, dict):
            if event == "create":
                world["vm"] = "READY"
                world["request"] = "ACTIVE" if "queued" in label else None
            elif event == "delete":
                world["vm"] = world["request"] = None
            world |= {key: outcome[key] for key in ("vm", "request") if key in outcome}
        (CLOUD / "world.json").write_text(json.dumps(world))

    if isinstance(outcome, int):
        return outcome
    if event in ("vm", "request"):
        print(outcome or world[event] or "")
        return 0
    if isinstance(outcome, str):
        print(outcome, file=sys.stderr)
        return 1
    print(outcome.get("print", PRINTED.get(event, "")), flush=True)
    if "wait" in outcome:
        pathlib.Path(outcome["wait"]).write_text("here")
        signal.pause()
    if event == "rsync":
        (pathlib.Path(words[3]) / "metrics.jsonl").write_text("{}\n")
    if world.get("workers") and "scp" in words:
        return copy(world["workers"], words[4], words[5])
    if world.get("workers") and "ssh" in words:
        return ssh(world["workers"], options, outcome.get("kill_at"))
    return outcome.get("status", 0)


def name_of(words: list[str], options: dict[str, str]) -> tuple[str, str]:
    """The event in the script, and what the call is called in calls.jsonl."""
    if words[:2] == ["compute", "tpus"]:
        kind, verb = words[2:4]
        if verb == "list":
            return {"tpu-vm": "vm", "queued-resources": "request"}[kind], "list"
        if verb == "ssh" and "command" in options:
            _, found, rest = options["command"].partition("remote.sh ")
            event = rest.split()[0] if found else "unpack"
            return event, f"{event} on {options['worker']}"
        return verb, f"{kind} {verb}"
    event = words[2] if words[0] == "config" else words[1]
    return ("auth" if words[0] == "auth" else event), f"{words[0]} {event}"


def home(worker: int) -> pathlib.Path:
    folder = CLOUD / f"worker{worker}"
    folder.mkdir(exist_ok=True)
    return folder


def copy(workers: int, source: str, target: str) -> int:
    if ":" not in source:
        for worker in range(workers):
            shutil.copy(source, home(worker) / target.partition(":")[2])
        return 0
    return subprocess.run(["bash", "-c", f"cp -r {source.partition(':')[2]} {target}"]).returncode


def ssh(workers: int, options: dict[str, str], kill_at: str | None) -> int:
    chosen = range(workers) if options["worker"] == "all" else [int(options["worker"])]
    processes = []
    for worker in chosen:
        # What a TPU slice tells jax.distributed, without a TPU.
        slice_environment = {
            "HOME": str(home(worker)),
            "TPU_WORKER_ID": str(worker),
            "TPU_WORKER_HOSTNAMES": ",".join(["localhost"] * workers),
        }
        processes.append(
            subprocess.Popen(
                ["bash", "-c", options["command"]],
                cwd=home(worker),
                env={**os.environ, **slice_environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if kill_at else None,
                text=True,
            )
        )
    if kill_at:
        for line in processes[0].stdout:
            print(line, end="", flush=True)
            if kill_at in line:
                take_away(workers)
                processes[0].kill()
                return 255
    return max(process.wait() for process in processes)


def take_away(workers: int) -> None:
    for worker in range(workers):
        for pid in home(worker).glob("cbam_flax/runs/*/pid"):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        home(worker).rename(CLOUD / f"gone{worker}")
    world = json.loads((CLOUD / "world.json").read_text())
    (CLOUD / "world.json").write_text(json.dumps(world | {"vm": "PREEMPTED"}))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
