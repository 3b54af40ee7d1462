"""Ctrl-C, and where a command wants it SIGTERM, end the process with one line on stderr.

Python alone is not enough for that: its handler waits for a library's C code, such as a compiler
that runs for minutes; a KeyboardInterrupt inside an import or a destructor is printed, gets lost or
becomes another exception; and threads and worker processes print tracebacks of their own.
"""

import _thread
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from types import FrameType
from typing import Any, NoReturn

PATIENCE_SECONDS = 3.0  # for the main thread to clean up; after it, as after kill -9


class Interruption:
    """Turns signals into KeyboardInterrupt in the main thread, and into the end of the process.

    Args:
      statuses: the exit status of each signal that is to be handled.
    """

    def __init__(self, statuses: dict[signal.Signals, int]) -> None:
        self._statuses = statuses
        self._arrived: signal.Signals | None = None
        for number in statuses:
            signal.signal(number, self._handle)
        # Written to at once, while the handler waits for C code to return to Python.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()
        sys.unraisablehook = self._deliver_again

    def end_if_arrived(self) -> None:
        """Ends the process if a signal has arrived, whatever has become of its exception."""
        if self._arrived is not None:
            sys.stdout.flush()
            self._end(self._arrived)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # At once if it is the second one, or inside an import: C code there prints what it meets.
        if self._arrived is not None or _is_importing(frame):
            self._end(signal.Signals(number))
        self._arrived = signal.Signals(number)
        raise KeyboardInterrupt

    def _watch(self) -> None:
        while True:
            number = signal.Signals(self._reader.recv(1)[0])
            if signal.getsignal(number) == self._handle:  # training has one of its own in its loop
                time.sleep(PATIENCE_SECONDS)
                self._end(number)

    def _deliver_again(self, lost: Any) -> None:
        if isinstance(lost.exc_value, KeyboardInterrupt):  # raised in a destructor
            _thread.interrupt_main(self._arrived or signal.SIGINT)
        else:
            sys.__unraisablehook__(lost)

    def _end(self, number: signal.Signals) -> NoReturn:
        if number == signal.SIGINT:
            line = "interrupted"
        else:
            line = f"{number.name}: run the same command to continue"
        os.write(2, f"{line}\n".encode())
        end_now(self._statuses[number])


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def end_now(status: int) -> NoReturn:
    """Ends the process and its workers without waiting for threads, which could fail loudly."""
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(status)
