"""Worker processes for input that may hang a decoder, crash it or eat the memory.

`multiprocessing.Pool` waits forever for a worker that died and cannot end one that hangs, so this
is the little that is needed instead: every worker has its own pipe and a deadline per task.
"""

import collections
import contextlib
import dataclasses
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("spawn")  # fork is unsafe beside TensorFlow's threads
_START_SECONDS = 120.0  # for starting Python and importing, before the first task
_AHEAD = 2  # tasks given to a worker, so that it never waits for its next one


@dataclasses.dataclass(frozen=True)
class Lost:
    """Replaces a result where the worker was lost; `code` is a refusal's."""

    code: str  # "timeout" or "crashed"


class Worker:
    """One process that calls `function` on tasks, in the order in which they are given.

    Args:
      function: at the top level of a module; an exception from it is a bug and ends the run.
      seconds: how long one task may take before the process is killed and replaced.
      memory_bytes: what the process may allocate beyond its size at the start (on Linux).
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        seconds: float = 60.0,
        memory_bytes: int = 2 << 30,
    ) -> None:
        self._arguments = (function, memory_bytes)
        self._seconds = seconds
        self.tasks: collections.deque[Any] = collections.deque()
        self._start()

    def _start(self) -> None:
        self.connection, child = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_serve, args=(child, *self._arguments), daemon=True)
        with _without_sigint():
            self._process.start()
        child.close()
        self._has_started = False
        self._deadline = time.monotonic() + _START_SECONDS

    def give(self, task: Any) -> None:
        """Queues a task."""
        if self._has_started and not self.tasks:
            self._deadline = time.monotonic() + self._seconds
        self.tasks.append(task)
        with contextlib.suppress(OSError):  # it has just died, which `collect` will notice
            self.connection.send(task)

    def seconds_left(self) -> float:
        """Until the task being worked on has taken too long."""
        return max(0.0, self._deadline - time.monotonic())

    def collect(self) -> list[tuple[Any, Any]]:
        """(task, result or Lost) of the oldest task, if it has one; else nothing.

        Raises:
          RuntimeError: the function raised, or the process ends before its first task.
        """
        result: Any = None
        lost = None
        if self.connection.poll():
            try:
                result = self.connection.recv()
            except (EOFError, OSError):
                lost = Lost("crashed")
        elif not self.seconds_left():
            lost = Lost("timeout")
        else:
            return []
        self._deadline = time.monotonic() + self._seconds
        if lost:
            self.kill()
            if not self._has_started:
                raise RuntimeError("a worker process ended before its first task")
            done, *rest = self.tasks
            self.tasks.clear()
            self._start()
            for task in rest:
                self.give(task)
            return [(done, lost)]
        if not self._has_started:
            self._has_started = True
            return []
        if isinstance(result, _Raised):
            raise RuntimeError(result.text)
        return [(self.tasks.popleft(), result)]

    def call(self, task: Any) -> Any:
        """The result of one task, or Lost."""
        self.give(task)
        while not (done := self.collect()):
            wait([self.connection], self.seconds_left())
        return done[0][1]

    def kill(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def run_tasks(
    function: Callable[[Any], Any], tasks: Iterable[Any], *, workers: int, **limits: Any
) -> Iterator[tuple[Any, Any]]:
    """Yields (task, function(task)) as tasks finish, or (task, Lost) where a worker was lost.

    `workers` processes share the work; 0 calls the function in this one, without any protection.
    `limits` are those of `Worker`.
    """
    if workers == 0:
        yield from ((task, function(task)) for task in tasks)
        return
    source = iter(tasks)
    crew = [Worker(function, **limits) for _ in range(workers)]
    try:
        while True:
            for worker in crew:
                while len(worker.tasks) < _AHEAD and (task := next(source, None)) is not None:
                    worker.give(task)
            busy = [worker for worker in crew if worker.tasks]
            if not busy:
                return
            wait(
                [worker.connection for worker in busy],
                min(worker.seconds_left() for worker in busy),
            )
            for worker in busy:
                yield from worker.collect()
    finally:
        for worker in crew:
            worker.kill()


@dataclasses.dataclass(frozen=True)
class _Raised:
    text: str


@contextlib.contextmanager
def _without_sigint() -> Iterator[None]:
    """A process started here never sees Ctrl-C: that ends the parent, and the parent's end this."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, function: Callable[[Any], Any], memory_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where it could not be blocked
    _limit_memory(memory_bytes)
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has gone
        connection.send("started")
        while True:
            task = connection.recv()
            try:
                result = function(task)
            except Exception as error:
                result = _Raised(f"{error} on {task}\n{traceback.format_exc()}")
            connection.send(result)


def _limit_memory(memory_bytes: int) -> None:
    """Beyond what the imports took, which grows with the number of cores."""
    statm = Path("/proc/self/statm")
    if not statm.exists():  # only Linux enforces a limit on the address space
        return
    import resource

    now = int(statm.read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + memory_bytes, resource.RLIM_INFINITY))
