"""benchmarks/faults.py on commands of three lines: it passes a careful one, and sees a careless."""

import shutil
import sys

import pytest

from benchmarks.fault_runs import Bench, Case
from benchmarks.faults import FAULTS, try_points

if not sys.platform.startswith("linux") or not shutil.which("cc"):
    pytest.skip("LD_PRELOAD and a C compiler are needed", allow_module_level=True)

CAREFUL = """
import pathlib
from data_prep import cli
from data_prep.files import text_files
cli.run(lambda: text_files.replace_text(pathlib.Path("result.txt"), "new" * 9))
"""
CARELESS = """
with open("result.txt", "w") as file:
    file.write("new" * 9)
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def start(tmp_path):
    (tmp_path / "input.txt").write_text("input")
    (tmp_path / "result.txt").write_text("old")
    return tmp_path


def points(bench, start, program):
    case = Case("small", start, (sys.executable, "-c", program), ("result.txt",))
    return try_points(bench, case, list(FAULTS), None, jobs=2)


def test_careful_command_passes_at_every_point(bench, start):
    found = points(bench, start, CAREFUL)
    met = {(point.fault, point.call) for point in found}
    assert {("EIO", "write /.result.txt"), ("EIO", "rename /result.txt")} <= met
    assert {point.ending for point in found} == {"sentences", "killed"}
    assert not any(point.wrong for point in found)


def test_careless_command_fails_where_it_loses_the_old_result(bench, start):
    by_place = {
        (point.fault, point.call): set(point.wrong) for point in points(bench, start, CARELESS)
    }
    assert by_place["EACCES", "open /result.txt"] == {"tracebacks"}
    assert by_place["ENOSPC", "write /result.txt"] == {"tracebacks", "lost"}
    assert by_place["KILL", "write /result.txt"] == {"lost"}


def test_lost_input_is_seen(bench, start):
    found = points(bench, start, 'import os; os.unlink("input.txt")\n' + CAREFUL)
    assert all("lost" in point.wrong for point in found)
