"""One process at a time in a folder: a lock file, which no dead process can hold for long."""

import contextlib
import datetime
import enum
import json
import os
import pathlib
import platform
import threading
import uuid
from collections.abc import Iterator
from typing import Any

from data_prep.cli import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BEAT_SECONDS = 20.0
STALE_SECONDS = 180.0  # without a beat, a process of another host counts as dead


class _Kernel(enum.Enum):
    """What the operating system knows of the processes on this host."""

    NONE_HAS_IT = enum.auto()
    ONE_HAS_IT = enum.auto()
    UNKNOWN = enum.auto()


@contextlib.contextmanager
def hold(path: Any, task: str) -> Iterator[None]:
    """Holds a lock file during the block. Folders that had to be made for it go if they stay empty.

    The file names its process and is touched every `BEAT_SECONDS`. On a local disk the operating
    system locks it too (flock): exactly one process gets it, and when that one ends, in whatever
    way, the next gets it at once. A process of another host counts as dead when the file was not
    touched for `STALE_SECONDS`, by the clock of the file system.

    Not promised: on gs://, on Windows, and on a network disk without locks, two processes that
    start within the same second may both get it; so may two hosts where a network disk's locks end
    at the host. A host that stands still for longer than `STALE_SECONDS` loses it.

    Args:
        path: of the lock file, local or gs://.
        task: what the holder does with the folder, as a participle for the refusal.

    Raises:
        UserError: a living process holds it; the message names that process.
        OSError: the file cannot be written.
    """
    from etils import epath

    path = epath.Path(path)
    with _folder(path.parent), _locked_by_kernel(path) as kernel:
        if holder := _living_holder(path, kernel):
            mend = "stop it" if kernel is _Kernel.ONE_HAS_IT else f"if it is gone, delete {path}"
            raise UserError(
                f"{path.parent} is being {task} by {holder}; wait for its end, or {mend}"
            )
        own, ended = _describe_this_process(), threading.Event()
        beat = threading.Thread(target=_beat, args=(path, own, ended), daemon=True)
        try:
            path.write_text(own)  # in place: the kernel's lock is on this file and not on its name
            if _read(path) != own:  # another process was as fast, where no kernel decides
                raise UserError(f"{path.parent} is being {task} by another process")
            beat.start()
            yield
        finally:
            ended.set()
            if _read(path) in (own, ""):  # it is empty when the disk is full
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _folder(folder: Any) -> Iterator[None]:
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for one in made:
            with contextlib.suppress(OSError):  # not empty, which is the usual end
                os.rmdir(one)


@contextlib.contextmanager
def _locked_by_kernel(path: Any) -> Iterator[_Kernel]:
    """Creates the file and locks it for as long as this process lives in the block."""
    if fcntl is None or "://" in os.fspath(path):
        yield _Kernel.UNKNOWN
        return
    kernel = None
    while kernel is None:  # until it is the file that has this name now
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except FileNotFoundError:  # its last holder has just removed the folder
            continue
        try:
            kernel = _flock(descriptor)
            if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
                kernel = None
        except FileNotFoundError:  # its last holder has just removed the file
            kernel = None
        try:
            if kernel is not None:
                yield kernel
        finally:
            os.close(descriptor)


def _flock(descriptor: int) -> _Kernel:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _Kernel.ONE_HAS_IT
    except OSError:  # a network disk without locks
        return _Kernel.UNKNOWN
    return _Kernel.NONE_HAS_IT


def _living_holder(path: Any, kernel: _Kernel) -> str | None:
    """The process that holds the lock, in words; None if none alive does."""
    text = _read(path)
    try:
        holder = json.loads(text)
        words = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        is_here = holder["kernel"] == _kernel_id()
    except (ValueError, KeyError, TypeError):  # a new file, or one that is just being written
        words, is_here, holder = "another process", not text, {}
    if kernel is _Kernel.ONE_HAS_IT:
        return words
    if is_here and kernel is _Kernel.NONE_HAS_IT:
        return None
    if is_here and holder and holder["host"] == platform.node() and holder["started"]:
        return words if _start_of(holder["pid"]) == holder["started"] else None
    return words if path.exists() and _age(path) < STALE_SECONDS else None


def _describe_this_process() -> str:
    return json.dumps(
        {
            "host": platform.node(),
            "pid": os.getpid(),
            "started": _start_of(os.getpid()),
            "kernel": _kernel_id(),
            "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
        }
    )


def _kernel_id() -> str:
    """Of this start of this machine, where that can be known; else the host's name."""
    try:
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return platform.node()


def _start_of(pid: int) -> str:
    """When a process of this host started, in ticks since the boot; "" if it is gone or unknown."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


def _age(path: Any) -> float:
    """Seconds since the last beat. The clock is the file system's: it dates a new file."""
    probe = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        probe.write_text("")
        return probe.stat().mtime - path.stat().mtime
    finally:
        probe.unlink(missing_ok=True)


def _beat(path: Any, own: str, ended: threading.Event) -> None:
    """Touches the file until `ended` is set, or until another process has taken it over."""
    while not ended.wait(BEAT_SECONDS):
        with contextlib.suppress(OSError):  # the next beat tries again
            if _read(path) != own:
                return
            if "://" in os.fspath(path):  # an object has no time but that of its writing
                path.write_text(own)
            else:
                os.utime(path)


def _read(path: Any) -> str:
    """The text of the lock file, "" where there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
