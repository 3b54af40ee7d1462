"""Worker processes for input that may hang a decoder, crash it or eat the memory.

`multiprocessing.Pool` waits forever for a worker that died and cannot end one that hangs, so this
is the little that is needed instead: every worker has its own pipe and a deadline per task.
"""

import collections
import dataclasses
import multiprocessing
import multiprocessing.connection
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("spawn")  # fork is unsafe beside TensorFlow's threads
_START_SECONDS = 120.0  # for starting Python and importing, before the first task
_AHEAD = 2  # tasks given to a worker, so that it never waits for its next one


@dataclasses.dataclass(frozen=True)
class Lost:
    """Given in the place of a result: the worker was lost over this task, by a refusal's code."""

    code: str  # "timeout" or "crashed"


class _Worker:
    def __init__(self, function: Callable[[Any], Any], seconds: float, memory_bytes: int) -> None:
        self.connection, child = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(
            target=_serve, args=(child, function, memory_bytes), daemon=True
        )
        self.process.start()
        child.close()
        self.tasks: collections.deque[Any] = collections.deque()
        self.seconds = seconds
        self.deadline = time.monotonic() + _START_SECONDS
        self.is_ready = False

    def give(self, task: Any) -> None:
        if self.is_ready and not self.tasks:
            self.deadline = time.monotonic() + self.seconds
        self.tasks.append(task)
        self.connection.send(task)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_tasks(
    function: Callable[[Any], Any],
    tasks: Iterable[Any],
    *,
    workers: int,
    seconds: float = 60.0,
    memory_bytes: int = 2 << 30,
) -> Iterator[tuple[Any, Any]]:
    """Yields (task, function(task)) as they get done, or (task, Lost) where a worker was lost.

    Args:
      function: at the top level of a module, and one that raises only where it is itself wrong.
      tasks: anything that pickles.
      workers: the number of processes; 0 calls the function here, without any of the protection.
      seconds: how long one task may take before its worker is killed.
      memory_bytes: what a worker may allocate beyond its size at the start (on Linux).

    Raises:
      RuntimeError: `function` raised, or workers die before their first task.
    """
    if workers == 0:
        yield from ((task, function(task)) for task in tasks)
        return
    source = iter(tasks)
    again: list[Any] = []  # given to a worker that was lost over an earlier one
    crew = [_Worker(function, seconds, memory_bytes) for _ in range(workers)]
    try:
        while True:
            for worker in crew:
                while len(worker.tasks) < _AHEAD:
                    task = again.pop() if again else next(source, None)
                    if task is None:
                        break
                    try:
                        worker.give(task)
                    except OSError:  # it has just died; its end of the pipe says so below
                        break
            busy = [worker for worker in crew if worker.tasks]
            if not busy:
                return
            first = min(worker.deadline for worker in busy)
            ready = multiprocessing.connection.wait(
                [worker.connection for worker in busy], max(0.0, first - time.monotonic())
            )
            for worker in busy:
                lost = None
                if worker.connection in ready:
                    try:
                        answer = worker.connection.recv()
                    except (EOFError, OSError):
                        lost = Lost("crashed")
                elif time.monotonic() >= worker.deadline:
                    lost = Lost("timeout")
                else:
                    continue
                if lost is None:
                    worker.deadline = time.monotonic() + worker.seconds
                    if not worker.is_ready:
                        worker.is_ready = True
                    elif isinstance(answer, _Raised):
                        raise RuntimeError(answer.text)
                    else:
                        yield worker.tasks.popleft(), answer
                else:
                    worker.kill()
                    if not worker.is_ready:
                        raise RuntimeError("a worker process ended before it had started")
                    yield worker.tasks.popleft(), lost
                    again.extend(worker.tasks)
                    crew[crew.index(worker)] = _Worker(function, seconds, memory_bytes)
    finally:
        for worker in crew:
            worker.kill()


@dataclasses.dataclass(frozen=True)
class _Raised:
    text: str


def _serve(
    connection: multiprocessing.connection.Connection,
    function: Callable[[Any], Any],
    memory_bytes: int,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the parent, and that ends this
    _limit_memory(memory_bytes)
    connection.send(None)
    while True:
        try:
            task = connection.recv()
        except EOFError:  # the parent has gone
            return
        try:
            answer = function(task)
        except Exception as error:
            import traceback

            answer = _Raised(f"{task}: {error}\n{traceback.format_exc()}")
        connection.send(answer)


def _limit_memory(memory_bytes: int) -> None:
    """Beyond what the imports took, which grows with the number of cores."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # only Linux enforces the limit on the address space
        return
    import resource

    now = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + memory_bytes, resource.RLIM_INFINITY))
