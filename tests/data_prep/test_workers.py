"""The tasks are Python expressions for `eval`: a worker imports its function by name."""

import pytest

from data_prep.workers import Lost, Worker, run_tasks

HANG = "__import__('time').sleep(600)"
CRASH = "__import__('os')._exit(3)"
ABORT = "__import__('os').abort()"
PLENTY = "len(bytearray(8 << 30))"


def test_results_come_with_their_tasks():
    tasks = [f"{number} + 1" for number in range(20)]
    assert sorted(run_tasks(eval, tasks, workers=2)) == sorted((task, eval(task)) for task in tasks)


def test_without_workers_the_function_is_called_here():
    assert list(run_tasks(len, ["ab", "c"], workers=0)) == [("ab", 2), ("c", 1)]


def test_tasks_that_hang_or_crash_are_lost_and_the_others_are_not():
    good = [f"{number} * 2" for number in range(12)]
    tasks = [*good[:3], HANG, *good[3:6], CRASH, ABORT, *good[6:]]
    results = dict(run_tasks(eval, tasks, workers=2, seconds=0.3))
    assert {task: result for task, result in results.items() if isinstance(result, Lost)} == {
        HANG: Lost("timeout"),
        CRASH: Lost("crashed"),
        ABORT: Lost("crashed"),
    }
    assert [results[task] for task in good] == [eval(task) for task in good]


def test_memory_is_bounded():
    with pytest.raises(RuntimeError, match="MemoryError"):
        list(run_tasks(eval, [PLENTY], workers=1, memory_bytes=1 << 30))


def test_a_function_that_raises_is_a_defect():
    with pytest.raises(RuntimeError, match="division by zero on 1 / 0"):
        list(run_tasks(eval, ["1 / 0"], workers=1))


def test_one_worker_called_again_and_again():
    worker = Worker(eval, seconds=0.3)
    try:
        assert [worker.call(task) for task in ("1 + 1", HANG, "2 + 2")] == [2, Lost("timeout"), 4]
    finally:
        worker.kill()
