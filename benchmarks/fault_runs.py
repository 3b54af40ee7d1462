"""Commands with benchmarks/faults.c preloaded: their calls counted, one of them made to fail."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 900.0  # after which a command hangs


@dataclasses.dataclass(frozen=True)
class Case:
    """A command, run in a copy of the folder `start`; `outputs` in there are its own."""

    name: str
    start: pathlib.Path
    line: Sequence[str]
    outputs: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended; `calls` has kind and path of each, or only of the one with the fault."""

    status: int | None  # None: it hung
    log: str
    calls: list[tuple[str, str]]


class Bench:
    """Compiles the shim and runs cases in copies of their folders, below `scratch`."""

    def __init__(self, scratch: pathlib.Path):
        self.scratch = scratch.resolve()
        self._shim = self.scratch / "faults.so"
        self._ids = itertools.count()
        source = pathlib.Path(__file__).with_name("faults.c")
        subprocess.run(
            ["cc", "-O2", "-shared", "-fPIC", "-o", self._shim, source, "-ldl"], check=True
        )
        self._environment = {
            "JAX_COMPILATION_CACHE_DIR": str(self.scratch / "cache"),
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
            "PYTHONPATH": str(ROOT),
        }

    def copy(self, start: pathlib.Path) -> pathlib.Path:
        folder = self.scratch / f"point-{next(self._ids)}"
        shutil.copytree(start, folder, ignore=shutil.ignore_patterns("tmp"))
        (folder / "tmp").mkdir(exist_ok=True)
        return folder

    def run(
        self, line: Sequence[str], folder: pathlib.Path, fault: str = "", number: int = 0
    ) -> Ended:
        """Runs the command in the folder, with a fault at the first fitting call from `number`."""
        count, trace, log = (folder.with_suffix(f".{name}") for name in ("count", "trace", "log"))
        count.write_bytes(bytes(8))
        trace.write_bytes(b"")
        environment = self._environment | {
            "TMPDIR": str(folder / "tmp"),
            "LD_PRELOAD": str(self._shim),
            "FAULTS_ROOT": str(folder),
            "FAULTS_COUNT": str(count),
            "FAULTS_TRACE": str(trace),
        }
        if fault:
            environment |= {"FAULTS_KIND": fault, "FAULTS_AT": str(number)}
        with log.open("wb") as file:
            process = subprocess.Popen(
                line,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,  # a group of its own, which KILL kills
            )
            try:
                status = process.wait(SECONDS)
            except subprocess.TimeoutExpired:
                status = None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # also what it left running
            process.wait()
        calls = [line.split(" ", 2)[1:] for line in trace.read_text(errors="replace").splitlines()]
        text = log.read_text(errors="replace")
        for file in (count, trace, log):
            file.unlink()
        return Ended(status, text, [(kind, path) for kind, path in calls])

    def must(self, line: Sequence[str], folder: pathlib.Path) -> Ended:
        ended = self.run(line, folder)
        if ended.status:
            sys.exit(f"without a fault: {' '.join(line)}: status {ended.status}\n{ended.log}")
        return ended
