"""The processes of a study: which commands are left to do, started side by side and waited for."""

import functools
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cbam_flax.config import differences, stored_config
from data_prep import cli
from data_prep.files.text_files import read_json, read_json_lines
from studies import lines, measure, study
from studies.study import ROOT, Run

FROM_DATA = ("dataset:", "model.findings:")  # keys that a run completes from its data
Command = list[str]


class Job(NamedTuple):
    """A process of a run, in one of the workers' slots, and the commands that come after it."""

    run: Run
    process: subprocess.Popen[bytes]
    slot: int
    left: list[Command]


class Runner:
    """Carries out a study.

    Args:
        out: the folder of the runs, absolute, as is `data_dir`.
        results: the folder of the lines.
        workers: runs side by side.
        environment: of their processes.

    Raises:
        UserError: there is no such study, or a variant of it does not fit the config.
    """

    def __init__(
        self,
        name: str,
        out: pathlib.Path,
        data_dir: str,
        results: pathlib.Path,
        workers: int,
        environment: Mapping[str, str],
    ) -> None:
        self._name, self._out, self._data_dir = name, out, data_dir
        self._study, _ = study.load(name)
        self._table = lines.path_of(name, results)
        self._runs = list(study.runs_of(self._study, out, data_dir))
        self._workers, self._environment = workers, environment
        self._attempts = out / "attempts.jsonl"
        self._free = list(range(workers))
        self._running: dict[int, Job] = {}
        self._unfinished: set[str] = set()
        self._failed: list[str] = []

    def carry_out(self) -> tuple[int, list[str]]:
        """Does the runs that have no line yet: their number, and the names of those that failed."""
        todo = self._without_line()
        total = len(todo)
        self._unfinished = {run.name for run in todo}
        count = f"{total} of {len(self._runs)} runs to do, {self._workers} at a time"
        print(f"{self._name}: {count}", flush=True)
        with cli.progress(None, self._name, total, unit="run") as progress:
            try:
                while todo or self._running:
                    ready = next((run for run in todo if run.parent not in self._unfinished), None)
                    if ready and self._free:
                        todo.remove(ready)
                        self._go_on(ready, functools.partial(self._commands, ready))
                    else:
                        job, status = self._wait()
                        self._go_on(job.run, functools.partial(self._after, job, status))
                    progress.update(total - len(self._unfinished) - progress.n)
            finally:
                for job in self._running.values():
                    job.process.kill()
                    job.process.wait()
        return total, self._failed

    def _without_line(self) -> list[Run]:
        """The runs that lack a line of this config, and the helpers that they start from."""
        made = {(*lines.key_of(line), line["config_sha256"]) for line in lines.read(self._table)}
        lacking = {
            run.name
            for run in self._runs
            for judged in run.judged
            if (run.variant, str(run.seed), str(run.fold), judged.name, run.config_sha256)
            not in made
        }
        for run in reversed(self._runs):  # a helper may start from another one
            if run.name in lacking and run.parent:
                lacking.add(run.parent)
        return [run for run in self._runs if run.name in lacking]

    def _go_on(self, run: Run, what_is_left: Callable[[], list[Command]]) -> None:
        """Starts the run's next process; where none is left, or one failed, the run is over."""
        try:
            if commands := what_is_left():
                self._start(run, commands)
                return
            found = measure.lines_of(
                run, self._out / run.name, self._study.figures, self._cpu_seconds(run)
            )
            if found:  # a helper has none
                lines.add(self._table, found, list(self._study.variants))
            first = self._study.figures[0]
            told = [f"{line['judged']} {first} {line[first]}" for line in found]
            print(f"{run.name}: {', '.join(told) or 'done'}", flush=True)
        except cli.UserError as error:
            self._failed.append(run.name)
            print(f"{run.name} failed: {error}; the rest goes on", file=sys.stderr, flush=True)
        self._unfinished.discard(run.name)

    def _commands(self, run: Run) -> list[Command]:
        """What makes the evaluations that the run lacks.

        Raises:
            UserError: its parent failed, or its folder holds a run of another config.
        """
        workdir = self._out / run.name
        if run.parent in self._failed:
            raise cli.UserError(f"it starts from {run.parent}, which failed")
        self._check(run, workdir / "config.json")
        python = [sys.executable, "-m"]
        commands = {
            split: [*python, "cbam_flax.main", f"--workdir={workdir}", *run.flags]
            for split in run.config.evaluate.at_end
        }
        for one in run.judged:
            if one.dataset:
                commands[one.folder] = [
                    *(*python, "cbam_flax.evaluate", f"--workdir={workdir}"),
                    *(f"--data_dir={self._data_dir}", f"--dataset={one.dataset}"),
                    *(f"--split={one.split}", f"--name={one.folder}", "--explained=0"),
                ]
        left: list[Command] = []
        for name, command in commands.items():
            if (
                command not in left
                and not (workdir / "evaluation" / name / "metrics.json").exists()
            ):
                left.append(command)
        return left

    def _check(self, run: Run, path: pathlib.Path) -> None:
        if not path.exists():
            return
        mend = "give another --out or move the run away"
        changed = [
            one
            for one in differences(stored_config(read_json(path, mend), path), run.config)
            if not one.startswith(FROM_DATA)
        ]
        if changed:
            raise cli.UserError(f"{path.parent} has another config ({', '.join(changed)}); {mend}")

    def _start(self, run: Run, commands: list[Command]) -> None:
        slot = self._free.pop()
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        own = cores[slot :: self._workers] or [cores[slot % len(cores)]]
        launcher = [sys.executable, "-m", "studies.child", str(os.getpid())]
        log = self._log(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [*launcher, ",".join(map(str, own)), *commands[0]],
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )
        self._running[process.pid] = Job(run, process, slot, commands[1:])

    def _wait(self) -> tuple[Job, int]:
        """The next process that ends, with its status; what it used is noted."""
        pid, code, used = os.wait4(-1, 0)
        job = self._running.pop(pid)
        status = job.process.returncode = os.waitstatus_to_exitcode(code)
        self._free.append(job.slot)
        seconds = round(used.ru_utime + used.ru_stime, 1)
        with self._attempts.open("a") as stream:
            row = {"run": job.run.name, "status": status, "cpu_seconds": seconds}
            print(json.dumps(row), file=stream)
        return job, status

    def _after(self, job: Job, status: int) -> list[Command]:
        if status:
            log = self._log(job.run)
            last = (log.read_text(errors="replace").split("\n") or [""])[-2:][0]
            raise cli.UserError(f"status {status}, {last.removeprefix('error: ')!r}, see {log}")
        return job.left

    def _log(self, run: Run) -> pathlib.Path:
        return self._out / "logs" / f"{run.name}.log"

    def _cpu_seconds(self, run: Run) -> float:
        """Of the run's processes, but for those that were killed together with a runner."""
        if not self._attempts.exists():
            return 0.0
        rows = read_json_lines(self._attempts, "delete it")
        return sum(row["cpu_seconds"] for row in rows if row["run"] == run.name)
