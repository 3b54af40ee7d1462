"""Faults in the writes of every command: a full disk, failing disk, no permission, kill -9.

Each command runs on tiny data with benchmarks/faults.c preloaded, which counts what changes the
file system, in all processes and threads. Then one of these calls fails, or everything is killed
there; a full disk stays full. Every point starts from the same files and must end so:

- a fault is one sentence with status 2, or the command finishes with the right result all the same;
- inputs and the results of other commands are unchanged, and the command's own earlier result is
  whole, or whole and new;
- the same command again, without a fault, ends with status 0 and the bits of a run without one.

What differs between two runs without a fault (times, the id of a SavedModel) is left out of the
comparison and printed. Change no code meanwhile: reports and bundles name the commit.

    python -m benchmarks.faults
    python -m benchmarks.faults --cases prepare predict --points=all

Exit status 1 if any point fails.
"""

import argparse
import collections
import dataclasses
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.fault_cases import make_cases
from benchmarks.fault_contents import content
from benchmarks.fault_runs import Bench, Case, Ended
from data_prep import cli
from data_prep.files import folders, placing

NAMED = ("create", "open", "mkdir", "rename", "link", "unlink", "rmdir")
NEEDS_ROOM = (
    *("create", "mkdir", "link", "write", "pwrite", "fwrite"),
    *("fflush", "fclose", "sendfile"),
)
FAULTS: dict[str, tuple[str, ...]] = {  # the calls that each can meet, as faults.c has them
    "ENOSPC": NEEDS_ROOM,
    "EIO": (*NAMED, *NEEDS_ROOM, "fsync", "truncate"),
    "EACCES": NAMED,
    "KILL": (*NAMED, *NEEDS_ROOM, "fsync", "truncate"),
}
REPLACING = ("rename", "unlink", "rmdir")
BAD_ENDINGS = ("tracebacks", "other endings")
ENDINGS = ("sentences", "finished", "killed", *BAD_ENDINGS)
WRONG = ("wrong, status 0", "lost", "different after the second try")  # beside bad endings


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
    ending: str  # of ENDINGS
    wrong: dict[str, str] = dataclasses.field(default_factory=dict)


def undisturbed(bench: Bench, case: Case) -> Undisturbed:
    """Runs the case twice, and compares."""
    folders = [bench.copy(case.start) for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        calls = [ended.calls for ended in pool.map(lambda f: bench.must(case.line, f), folders)]
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
    if empty := [output for output, values in result.items() if not values]:
        raise cli.UserError(f"{case.name}: nothing in {', '.join(empty)} can be compared")
    return Undisturbed(calls[0], result, varying)


def judge(bench: Bench, case: Case, fault: str, number: int, expected: Undisturbed) -> Point:
    """Runs the case with a fault, looks at what is there, and runs it again without."""
    folder = bench.copy(case.start)
    ended = bench.run(case.line, folder, fault, number)
    call = " ".join(ended.calls[0]) if ended.calls else "not met"
    point = Point(case.name, fault, number, call, ending_of(ended, fault))
    if point.ending in BAD_ENDINGS:
        point.wrong[point.ending] = f"status {ended.status}: {last_line(ended)}"
    if ended.status == 0 and (changed := differences(case, folder, expected)):
        point.wrong["wrong, status 0"] = changed
    if gone := lost(case, folder, expected):
        point.wrong["lost"] = gone
    again = bench.run(case.line, folder)
    if again.status:
        point.wrong["different after the second try"] = f"status {again.status}: {last_line(again)}"
    elif changed := differences(case, folder, expected):
        point.wrong["different after the second try"] = changed
    if "lost" not in point.wrong and (gone := lost(case, folder, expected)):
        point.wrong["lost"] = f"by the second try: {gone}"
    shutil.rmtree(folder)
    return point


def ending_of(ended: Ended, fault: str) -> str:
    """One of `ENDINGS`."""
    if "Traceback" in ended.log:
        return "tracebacks"
    if ended.status == 2 and len(re.findall(r"^error: ", ended.log, re.MULTILINE)) == 1:
        return "sentences"
    if ended.status == 0:
        return "finished"
    return "killed" if fault == "KILL" and ended.status == -signal.SIGKILL else "other endings"


def last_line(ended: Ended) -> str:
    """The last exception's line, else the last of all."""
    exceptions = re.findall(r"^[\w.]*(?:Error|Exception): .*", ended.log, re.MULTILINE)
    return (exceptions or ended.log.strip().splitlines() or ["no output"])[-1][:300]


def differences(case: Case, folder: pathlib.Path, expected: Undisturbed) -> str:
    """The first values in which the outputs differ from an undisturbed run's; else nothing."""
    for output in case.outputs:
        there, wanted = expected.of(output, folder / output), expected.result[output]
        keys = sorted(k for k in there.keys() | wanted.keys() if there.get(k) != wanted.get(k))
        if keys:
            shown = "; ".join(f"{k}: {wanted.get(k)} -> {there.get(k)}" for k in keys[:2])
            return f"{output}: {len(keys)} values, {shown}"
    return ""


def is_recoverable(folder: pathlib.Path, old: dict[str, str]) -> bool:
    """Whether a killed call has left the old files, some of them aside, and no index to new ones.

    The next call puts them back before anything else.
    """
    marker, aside = folder / folders.MARKER, folder / folders.DRAFT / placing.ASIDE
    if not marker.is_file() or not json.loads(marker.read_text())["has_draft"]:
        return False
    own = {
        key: value
        for place in (folder, aside)  # what is aside counts more than what took its place
        for key, value in content(place).items()
    }
    return own.items() >= old.items()


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
            old, new = expected.of(output, case.start / output), expected.result[output]
            beside = (folder / output).parent
            # An old result that is being replaced may stand beside the new one for a moment.
            places = [folder / output, *(beside.iterdir() if beside.is_dir() else ())]
            if (
                expected.of(output, places[0]) != new
                and not any(expected.of(output, place) == old for place in places)
                and not is_recoverable(folder / output, old)
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


def try_points(
    bench: Bench, case: Case, faults: Sequence[str], points: int | None, jobs: int
) -> list[Point]:
    """Tries that many points of each fault and prints those that fail."""
    expected = undisturbed(bench, case)
    kinds = collections.Counter(kind for kind, _ in expected.calls)
    print(f"\n{case.name}: {len(expected.calls)} calls, {dict(kinds.most_common())}")
    for output, keys in expected.varying.items():
        if keys:
            shown = ", ".join(sorted(keys)[:4])
            print(f"  not compared in {output}: {len(keys)} values ({shown}, ...)")
    tasks = [(fault, n) for fault in faults for n in choose(expected.calls, fault, points)]
    found = []
    with ThreadPoolExecutor(jobs) as pool:
        judged = pool.map(lambda task: judge(bench, case, *task, expected), tasks)
        for point in cli.progress(judged, case.name, len(tasks), unit="point"):
            found.append(point)
            for what, detail in point.wrong.items():
                where = f"{point.fault} at call {point.number} ({point.call})"
                print(f"  FAILED {what}: {case.name}, {where}: {detail}", flush=True)
    return found


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
        for name, make in make_cases(bench).items():
            if not args.cases or name in args.cases or re.split(r"\W", name)[0] in args.cases:
                found += try_points(bench, make(), args.faults, points, args.jobs)
    print("", *table_of(found), sep="\n")
    failed = sum(bool(point.wrong) for point in found)
    unmet = sum(point.call == "not met" for point in found)
    print(f"\n{len(found)} points tried, {unmet} of them after the last call; {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    cli.run(main)
