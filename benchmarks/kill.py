"""Training that is killed and killed again against training that is left alone, to the last bit.

A small run of `python -m cbam_flax.main` with augmentation, dropout, EMA and accumulation is made
five ways, and the SHA-256 of its whole final state compared:

- without a break;
- killed (SIGKILL) once the checkpoint of its half is there, and continued: N + restore + N;
- stopped by SIGTERM, and continued;
- killed `--kills` times, by a schedule that is a function of `--seed`: while it starts, at any
  moment of the training, and as soon as a save is seen under way.

    python -m benchmarks.kill --data_dir=demo/data

Exit status 1 if a hash differs, a finished checkpoint was lost or SIGTERM did not do what
docs/training.md says.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
DRAFT = "*.orbax-checkpoint-tmp"  # what a save is written under until it is whole
INTERRUPTED = 75


def command(data_dir: str, workdir: pathlib.Path, steps: int, every: int) -> list[str]:
    """A tiny run in which every kind of randomness and of state takes part."""
    return [
        sys.executable,
        "-m",
        "cbam_flax.main",
        "--config=configs/demo.py:pool=max,context=none,head=gap,dropout=0.3",
        f"--workdir={workdir}",
        f"--config.data_dir={data_dir}",
        "--config.model.width=0.0625",
        "--config.batch_size=8",
        "--config.optimizer.accumulate=2",
        f"--config.duration.steps={steps}",
        f"--config.evaluate.every.steps={steps // 4}",
        f"--config.checkpoint.every.steps={every}",
        "--config.evaluate.at_end=()",
        "--config.log_every_steps=1",
    ]


class Run:
    """One process of the training command, and what its log has said so far."""

    def __init__(self, line: list[str], workdir: pathlib.Path, environment: dict[str, str]):
        self.checkpoints = workdir / "checkpoints"
        self.launched = time.time()
        self.resumed_from, self.step = 0, 0
        self._process = subprocess.Popen(
            line, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )
        self._log: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            self._log.append(text)
            if found := re.match(r"continuing after step (\d+)", text):
                self.resumed_from = int(found[1])
            elif found := re.match(r"step +(\d+)/\d+ .* training ", text):
                self.step = int(found[1])

    def until(self, holds: Callable[[], bool]) -> bool:
        """Waits until that holds; False where the process ended before."""
        while self._process.poll() is None:
            if holds():
                return True
            time.sleep(0.0005)
        return False

    def saving(self) -> bool:
        """Whether a save is under way, or was when the process was killed."""
        return any(path.stat().st_mtime >= self.launched for path in self.checkpoints.glob(DRAFT))

    def finished(self) -> list[int]:
        """The steps whose checkpoints are whole."""
        return sorted(int(p.name) for p in self.checkpoints.glob("*") if p.name.isdigit())

    def end(self, what: signal.Signals | None = None) -> int:
        """Sends a signal, or none, and waits for the exit status."""
        if what:
            self._process.send_signal(what)
        status = self._process.wait()
        self._reader.join()
        if status > 0 and status != INTERRUPTED:
            sys.exit("".join(self._log[-20:]))
        return status


def state_hash(workdir: pathlib.Path, step: int) -> str:
    """SHA-256 over the names and bytes of every array of the state in that checkpoint."""
    import jax
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(workdir / "checkpoints" / str(step) / "state")
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Kill:
    """When to kill: `seconds` after the launch, after a step's line, or after a save has begun."""

    kind: str  # start | moment | save
    steps: int  # of this launch that are seen first
    seconds: float


def schedule(kills: int, steps: int, seed: int) -> Iterator[Kill]:
    """Of five kills two at any moment of the training, two in a save and one while it starts.

    On average they leave a fifth of the steps to the process that is not killed.
    """
    rng = random.Random(seed)
    kinds = [("moment", "save", "moment", "save", "start")[i % 5] for i in range(kills)]
    rng.shuffle(kinds)
    mean = 0.8 * steps / max(1, kills - kinds.count("start"))
    for kind in kinds:
        if kind == "start":
            yield Kill(kind, 0, rng.uniform(0.5, 12))
        else:
            longest = 0.05 if kind == "save" else 0.5
            yield Kill(kind, rng.randint(1, round(2 * mean)), rng.uniform(0, longest))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir", required=True, help="of the demo: RSNA layout at 64 px")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--every", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data_dir = os.path.abspath(args.data_dir)
    wrong: list[str] = []

    with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        environment = os.environ | {
            "XLA_FLAGS": "",
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "cache"),
        }

        def start(name: str) -> Run:
            workdir = folder / name
            line = command(data_dir, workdir, args.steps, args.every)
            return Run(line, workdir, environment)

        def judge(name: str) -> str:
            """The hash of that run's final state, and whether its log of losses is the same."""
            found = state_hash(folder / name, args.steps)
            losses, expected = (
                {r["step"]: r["loss"] for r in rows(folder / run / "metrics.jsonl") if "loss" in r}
                for run in (name, "whole")
            )
            if found != whole:
                wrong.append(f"{name}: another state")
            same = sum(losses.get(step) == loss for step, loss in expected.items())
            return f"SHA-256 {found}; {same} of {len(expected)} logged losses equal"

        start("whole").end()
        whole = state_hash(folder / "whole", args.steps)
        print(f"{args.steps} steps without a break: SHA-256 {whole}", flush=True)

        half = args.steps // 2 // args.every * args.every
        run = start("half")
        run.until(lambda: half in run.finished())
        run.end(signal.SIGKILL)
        run = start("half")
        run.end()
        print(f"{run.resumed_from} + restore + {args.steps - run.resumed_from}: {judge('half')}")

        run = start("term")
        run.until(lambda: run.step >= args.steps // 3)
        status, seen = run.end(signal.SIGTERM), run.step
        saved = run.finished()[-1]
        if status != INTERRUPTED or saved < seen:
            wrong.append(f"SIGTERM: status {status}, step {seen}, newest checkpoint {saved}")
        run = start("term")
        run.end()
        print(
            f"SIGTERM: exit status {status}, last step {seen}, newest checkpoint {saved}, "
            f"continued after step {run.resumed_from}: {judge('term')}",
            flush=True,
        )

        print("\n| kill | seconds after launch | step | save under way | newest whole checkpoint |")
        print("|--:|--:|--:|---|--:|", flush=True)
        saves: list[bool] = []
        newest = 0
        for number, kill in enumerate(schedule(args.kills, args.steps, args.seed), 1):
            run = start("killed")
            if kill.kind != "start":
                run.until(lambda run=run, kill=kill: run.step - run.resumed_from >= kill.steps)
            if kill.kind == "save":
                run.until(run.saving)
            time.sleep(kill.seconds)
            after = time.time() - run.launched
            if run.end(signal.SIGKILL) != -signal.SIGKILL:
                wrong.append(f"kill {number}: the run had ended; take more --steps")
            if run.step and run.resumed_from != newest:
                wrong.append(f"kill {number}: continued after {run.resumed_from}, not {newest}")
            if max(run.finished(), default=0) < newest:
                wrong.append(f"kill {number}: the checkpoint of step {newest} is gone")
            newest = max(run.finished(), default=0)
            saves.append(run.saving())
            step, under_way = run.step or "starting", "yes" if saves[-1] else ""
            print(f"| {number} | {after:.2f} | {step} | {under_way} | {newest} |", flush=True)
        run = start("killed")
        run.end()
        if run.resumed_from != newest:
            wrong.append(f"the last process continued after {run.resumed_from}, not {newest}")
        print(
            f"\n{len(saves)} kills, {sum(saves)} of them inside a save; continued after step "
            f"{run.resumed_from}: {judge('killed')}"
        )
    print("\n".join(wrong) or "every final state is the same")
    return bool(wrong)


def rows(path: pathlib.Path) -> Iterator[dict[str, float]]:
    return map(json.loads, path.read_text().splitlines())


if __name__ == "__main__":
    sys.exit(main())
