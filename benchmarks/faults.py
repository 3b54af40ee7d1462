"""Faults in the writes of every command: a full disk, failing disk, no permission, kill -9.

Each command runs on tiny data with benchmarks/faults.c preloaded, which counts what changes the
file system, in all processes and threads. Then one of these calls fails, or everything is killed
there; a full disk stays full. Every point starts from the same files and must end so:

- a fault is one sentence with status 2, or the command finishes with the right result all the same;
- inputs and the results of other commands are unchanged, and the command's own earlier result is
  whole, or whole and new;
- the same command again, without a fault, ends with status 0 and the bits of a run without one.

What differs between two runs without a fault (times, the id of a SavedModel) is left out of the
comparison and printed.

    python -m benchmarks.faults
    python -m benchmarks.faults --cases prepare predict --points=all

Exit status 1 if any point fails.
"""

import argparse
import collections
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.kill import state_hash
from data_prep import cli

ROOT = pathlib.Path(__file__).resolve().parents[1]
SECONDS = 900.0  # after which a command hangs
NAMED = ("create", "open", "mkdir", "rename", "link", "unlink", "rmdir")
NEEDS_ROOM = (
    *("create", "mkdir", "rename", "link", "write", "pwrite", "fwrite"),
    *("fflush", "fclose", "sendfile"),
)
FAULTS: dict[str, tuple[str, ...]] = {  # the calls that each can meet, as faults.c has them
    "ENOSPC": NEEDS_ROOM,
    "EIO": (*NAMED, *NEEDS_ROOM, "fsync", "truncate"),
    "EACCES": NAMED,
    "KILL": (*NAMED, *NEEDS_ROOM, "fsync", "truncate"),
}
REPLACING = ("rename", "unlink", "rmdir")
TURN = threading.Lock()  # of TensorFlow and Orbax in this process


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


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """A case without a fault: its calls, its result by output, and what differs by itself."""

    calls: list[tuple[str, str]]
    result: dict[str, dict[str, str]]
    varying: dict[str, set[str]]

    def of(self, output: str, folder: pathlib.Path) -> dict[str, str]:
        """The comparable content of an output that lies at this path."""
        found = content(folder)
        return {key: value for key, value in found.items() if key not in self.varying[output]}


@dataclasses.dataclass
class Point:
    """One fault: the call that met it, and what was wrong by column of the table."""

    case: str
    fault: str
    number: int
    call: str
    ending: str = ""  # sentence | finished | killed | wrong
    wrong: dict[str, str] = dataclasses.field(default_factory=dict)


class Bench:
    """Compiles the shim and runs cases in copies of their folders, below `scratch`."""

    def __init__(self, scratch: pathlib.Path):
        self.scratch = scratch.resolve()
        self._shim = self.scratch / "faults.so"
        self._ids = itertools.count()
        source = pathlib.Path(__file__).with_suffix(".c")
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

    def undisturbed(self, case: Case) -> Undisturbed:
        """Runs the case twice, and compares."""
        folders = [self.copy(case.start) for _ in range(2)]
        calls = [self.must(case.line, folder).calls for folder in folders]
        first, second = (
            {output: content(folder / output) for output in case.outputs} for folder in folders
        )
        for folder in folders:
            shutil.rmtree(folder)
        varying = {
            output: {
                key
                for key in first[output].keys() | second[output].keys()
                if first[output].get(key) != second[output].get(key)
            }
            for output in case.outputs
        }
        result = {
            output: {k: v for k, v in first[output].items() if k not in varying[output]}
            for output in case.outputs
        }
        return Undisturbed(calls[0], result, varying)

    def judge(self, case: Case, fault: str, number: int, expected: Undisturbed) -> Point:
        """Runs the case with a fault, looks at what is there, and runs it again without."""
        folder = self.copy(case.start)
        ended = self.run(case.line, folder, fault, number)
        call = " ".join(ended.calls[0]) if ended.calls else "not met"
        point = Point(case.name, fault, number, call)
        errors = [line for line in ended.log.splitlines() if line.startswith("error: ")]
        last = (ended.log.strip().splitlines() or ["no output"])[-1][:300]
        if "Traceback" in ended.log:
            point.wrong["tracebacks"] = last
        if ended.status == 2 and len(errors) == 1:
            point.ending = "sentences"
        elif ended.status == 0:
            point.ending = "finished"
            if changed := differences(case, folder, expected):
                point.wrong["wrong, status 0"] = changed
        elif fault == "KILL" and ended.status == -signal.SIGKILL:
            point.ending = "killed"
        else:
            point.ending = "other endings"
            point.wrong.setdefault("other endings", f"status {ended.status}: {last}")
        if gone := lost(case, folder, expected):
            point.wrong["lost"] = gone
        again = self.run(case.line, folder)
        if again.status:
            last = (again.log.strip().splitlines() or ["no output"])[-1][:300]
            point.wrong["different after the second try"] = f"status {again.status}: {last}"
        elif changed := differences(case, folder, expected):
            point.wrong["different after the second try"] = changed
        if "lost" not in point.wrong and (gone := lost(case, folder, expected)):
            point.wrong["lost"] = f"by the second try: {gone}"
        shutil.rmtree(folder)
        return point


def content(path: pathlib.Path) -> dict[str, str]:
    """What a file or folder says: JSON by value, records by content, checkpoints by their state."""
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    found: dict[str, str] = {}
    for file in files:
        name = file.relative_to(path).as_posix()
        parts = file.relative_to(path).parts
        if "tensorboard" in parts or any(part.startswith("decoded-v") for part in parts):
            continue
        if "checkpoints" in parts:
            step = parts[parts.index("checkpoints") + 1]
            if step.isdigit() and f"state of step {step}" not in found:
                found[f"state of step {step}"] = _state(path, int(step))
        elif ".tfrecord-" in name:
            found |= {f"{name} {key}": "" for key in _examples(file)}
        else:
            found |= {f"{name} {key}".strip(): value for key, value in _values(file)}
    return found


def _state(workdir: pathlib.Path, step: int) -> str:
    with TURN:
        try:
            return state_hash(workdir, step)
        except (OSError, ValueError, KeyError) as error:
            return f"cannot be read: {error!r}"


def _examples(file: pathlib.Path) -> Iterator[str]:
    """A hash of each record; their order and their bytes differ from run to run."""
    import tensorflow as tf

    with TURN:
        try:
            for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
                features = tf.train.Example.FromString(record).features.feature
                digest = hashlib.sha256()
                for name in sorted(features):
                    digest.update(name.encode() + features[name].SerializeToString())
                yield digest.hexdigest()
        except tf.errors.DataLossError:
            yield "broken"


def _values(file: pathlib.Path) -> Iterator[tuple[str, str]]:
    """The leaves of JSON, the rows of JSON lines by their step, or the hash of other bytes."""
    data = file.read_bytes()
    try:
        if file.suffix == ".jsonl":
            for row in map(json.loads, data.splitlines()):
                yield from ((f"{row['step']} {key}", str(value)) for key, value in row.items())
            return
        if file.suffix == ".json":
            yield from _leaves(json.loads(data))
            return
    except ValueError:
        pass
    yield "", hashlib.sha256(data).hexdigest()


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping | list):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, member in items:
            yield from _leaves(member, f"{name}.{key}")
    else:
        yield name, repr(value)


def differences(case: Case, folder: pathlib.Path, expected: Undisturbed) -> str:
    """The first values in which the outputs differ from an undisturbed run's; else nothing."""
    for output in case.outputs:
        there, wanted = expected.of(output, folder / output), expected.result[output]
        keys = sorted(k for k in there.keys() | wanted.keys() if there.get(k) != wanted.get(k))
        if keys:
            shown = "; ".join(f"{k}: {wanted.get(k)} -> {there.get(k)}" for k in keys[:2])
            return f"{output}: {len(keys)} values, {shown}"
    return ""


def lost(case: Case, folder: pathlib.Path, expected: Undisturbed) -> str:
    """What is no longer there of the files of others and of the command's earlier result."""
    for path in sorted(p for p in case.start.rglob("*") if p.is_file()):
        name = path.relative_to(case.start)
        if not any(name.is_relative_to(output) for output in case.outputs):
            copy = folder / name
            if not copy.is_file() or copy.read_bytes() != path.read_bytes():
                return f"{name} is changed or gone"
    for output in case.outputs:
        if (case.start / output / "checkpoints").is_dir():
            before, after = (_finished(place / output) for place in (case.start, folder))
            if after < before:
                return f"the newest checkpoint was of step {before}, now {after}"
        elif (case.start / output).exists():
            old = expected.of(output, case.start / output)
            beside = (folder / output).parent
            # An old result that is being replaced may stand beside the new one for a moment.
            places = [folder / output, *(beside.iterdir() if beside.is_dir() else ())]
            whole = (old, expected.result[output])
            if expected.of(output, places[0]) != whole[1] and not any(
                expected.of(output, place) == old for place in places
            ):
                return f"{output} is neither the old nor the new"
    return ""


def _finished(workdir: pathlib.Path) -> int:
    return max(
        (int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit()), default=0
    )


def choose(calls: list[tuple[str, str]], fault: str, points: int | None) -> list[int]:
    """Numbers of calls that the fault can meet: spread evenly, half of them where files are
    replaced or removed; all where `points` is None."""
    fits = [n for n, (kind, _) in enumerate(calls, 1) if kind in FAULTS[fault]]
    if points is None or len(fits) <= points:
        return fits
    replacing = [n for n in fits if calls[n - 1][0] in REPLACING or calls[n - 2][0] in REPLACING]
    chosen = set(_spread(replacing, points // 2))
    rest = [n for n in fits if n not in chosen]
    return sorted(chosen | set(_spread(rest, points - len(chosen))))


def _spread(numbers: list[int], count: int) -> list[int]:
    count = min(count, len(numbers))
    return [numbers[(2 * i + 1) * len(numbers) // (2 * count)] for i in range(count)]


def make_cases(bench: Bench, wanted: Sequence[str]) -> Iterator[Case]:
    """The commands on tiny data, each in a new place and over an earlier result of its own."""
    python = (sys.executable, "-m")
    films = "raw/stage_2_train_images"
    prepare = (
        *(*python, "data_prep.prepare", "--dataset=rsna", "--raw=raw", "--data_dir=data"),
        "--mapping=raw/pneumonia-challenge-dataset-mappings_2018.json",
        *("--image_size=28", "--workers=1"),
    )
    main = (
        *(*python, "cbam_flax.main", "--workdir=run", "--config.data_dir=data"),
        f"--config={ROOT}/configs/demo.py:attention=none,pool=max,context=none,head=gap",
        *("--config.image_size=28", "--config.model.width=0.0625", "--config.batch_size=8"),
        *("--config.duration.steps=4", "--config.evaluate.every.steps=2"),
        *("--config.checkpoint.every.steps=1", "--config.log_every_steps=1"),
        "--config.evaluate.at_end=()",
    )
    evaluate = (*python, "cbam_flax.evaluate", "--workdir=run", "--resamples=50", "--explained=0")
    export = (*python, "cbam_flax.export", "--workdir=run", "--out=bundle")
    predict = (
        *(*python, "cbam_flax.predict", "--bundle=bundle", "--out=predictions", "--workers=1"),
    )

    def synthetic(seed: int) -> tuple[str, ...]:
        return (*python, "data_prep.synthetic", "--out=raw", "--images=60", f"--seed={seed}")

    def after(start: pathlib.Path, *lines: Sequence[str]) -> pathlib.Path:
        folder = bench.copy(start)
        for line in lines:
            bench.must(line, folder)
        shutil.rmtree(folder / "tmp")
        return folder

    @functools.cache
    def raw() -> pathlib.Path:
        empty = bench.scratch / "empty"
        empty.mkdir()
        return after(empty, synthetic(0))

    @functools.cache
    def data() -> pathlib.Path:
        return after(raw(), prepare)

    def changed() -> pathlib.Path:
        folder = bench.copy(data())
        shutil.rmtree(folder / "raw")
        return after(folder, synthetic(1))

    @functools.cache
    def run() -> pathlib.Path:
        return after(data(), main)

    def half() -> pathlib.Path:
        """Killed when the save of step 3 begins."""
        calls = bench.must(main, bench.copy(data())).calls
        third = next(n for n, (_, path) in enumerate(calls, 1) if "/checkpoints/3" in path)
        folder = bench.copy(data())
        bench.run(main, folder, "KILL", third)
        shutil.rmtree(folder / "tmp")
        return folder

    @functools.cache
    def evaluated() -> pathlib.Path:
        return after(run(), (*evaluate, "--criterion=sensitivity=0.9"))

    @functools.cache
    def exported() -> pathlib.Path:
        return after(evaluated(), (*export, "--step=3"))

    def predicted() -> pathlib.Path:
        one = min((exported() / films).iterdir())
        return after(exported(), (*predict, f"{films}/{one.name}"))

    records = ("data/rsna_pneumonia/28px/1.0.0",)
    evaluation = ("run/evaluation/test", "run/calibration.json")
    youden = (*evaluate, "--criterion=youden")
    all_films = (*predict, films)
    table: dict[str, tuple[Callable[[], pathlib.Path], Sequence[str], Sequence[str]]] = {
        "prepare": (raw, prepare, records),
        "prepare --overwrite": (changed, (*prepare, "--overwrite"), records),
        "main": (data, main, ("run",)),
        "main, continued": (half, main, ("run",)),
        "evaluate": (run, youden, evaluation),
        "evaluate, again": (evaluated, youden, evaluation),
        "export": (evaluated, export, ("bundle",)),
        "export, again": (exported, export, ("bundle",)),
        "predict": (exported, all_films, ("predictions",)),
        "predict, again": (predicted, all_films, ("predictions",)),
    }
    for name, (start, line, outputs) in table.items():
        if not wanted or any(name.split(",")[0].split()[0] == w or name == w for w in wanted):
            yield Case(name, start(), line, outputs)


def try_points(
    bench: Bench, case: Case, faults: Sequence[str], points: int | None, jobs: int
) -> list[Point]:
    """Tries that many points of each fault and prints those that fail."""
    expected = bench.undisturbed(case)
    kinds = collections.Counter(kind for kind, _ in expected.calls)
    print(f"\n{case.name}: {len(expected.calls)} calls, {dict(kinds.most_common())}")
    for output, keys in expected.varying.items():
        if keys:
            shown = ", ".join(sorted(keys)[:4])
            print(f"  not compared in {output}: {len(keys)} values ({shown}, ...)")
    tasks = [(fault, n) for fault in faults for n in choose(expected.calls, fault, points)]
    found = []
    with ThreadPoolExecutor(jobs) as pool:
        judged = pool.map(lambda task: bench.judge(case, *task, expected), tasks)
        for point in cli.progress(judged, case.name, len(tasks), unit="point"):
            found.append(point)
            for what, detail in point.wrong.items():
                where = f"{point.fault} at call {point.number} ({point.call})"
                print(f"  FAILED {what}: {case.name}, {where}: {detail}", flush=True)
    return found


ENDINGS = ("sentences", "finished", "killed", "other endings")
WRONG = ("tracebacks", "wrong, status 0", "lost", "different after the second try")


def table_of(points: Sequence[Point]) -> Iterator[str]:
    """Markdown: a line for each command and fault."""
    columns = ("command", "fault", "points", *ENDINGS, *WRONG)
    yield f"| {' | '.join(columns)} |"
    yield "|---|---|" + "--:|" * (len(columns) - 2)
    groups = itertools.groupby(points, key=lambda point: (point.case, point.fault))
    for (case, fault), group in groups:
        members = list(group)
        counts = [sum(p.ending == ending for p in members) for ending in ENDINGS]
        counts += [sum(what in p.wrong for p in members) for what in WRONG]
        yield f"| {case} | {fault} | {len(members)} | {' | '.join(map(str, counts))} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="*", default=[], help="commands (default: all)")
    parser.add_argument("--faults", nargs="*", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--points", default="5", help="of each case and fault, or 'all'")
    parser.add_argument("--jobs", type=int, default=2, help="points at a time")
    args = parser.parse_args()
    if not shutil.which("cc"):
        raise cli.UserError(
            "there is no C compiler cc, which benchmarks/faults.c needs; install one"
        )
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    points = None if args.points == "all" else int(args.points)
    found: list[Point] = []
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(pathlib.Path(scratch))
        for case in make_cases(bench, args.cases):
            found += try_points(bench, case, args.faults, points, args.jobs)
    print("", *table_of(found), sep="\n")
    failed = sum(bool(point.wrong) for point in found)
    unmet = sum(point.call == "not met" for point in found)
    print(f"\n{len(found)} points tried, {unmet} of them after the last call; {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main)
