"""What every command of both packages shares: its parser, errors that can be mended, progress."""

import argparse
import contextlib
import errno
import io
import math
import operator
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from data_prep.interruption import Interruption, end_now

if TYPE_CHECKING:
    from tqdm import tqdm

# What to do about errors of the operating system that no command can prevent.
MENDS = {
    errno.ENOSPC: "; make room and run the same command again",
    errno.EDQUOT: "; make room in the quota and run the same command again",
    errno.EACCES: "; change its permissions or choose another place",
    errno.EPERM: "; change its permissions or choose another place",
    errno.EROFS: "; choose a place that can be written",
    errno.ENOTDIR: "; give a path whose parents are folders",
    errno.EEXIST: "; choose another path",
    errno.ENAMETOOLONG: "; choose a shorter path",
    errno.EIO: "; the disk or its connection fails: check it and run the same command again",
}
INTERRUPTED = 75  # exit status of what SIGTERM has stopped (EX_TEMPFAIL): run it again to continue
PROGRESS_SECONDS = 10.0  # between two lines of progress in a log file
PROGRESS_LINES = 20  # of one piece of work in a log file, at most
# What `pip install` calls `cbam-NAME`; `main` is `cbam-train`.
INSTALLED = r"python -m (?:cbam_flax|data_prep)\.(prepare|audit|main|evaluate|export|predict)\b"


class UserError(Exception):
    """Something the caller can mend; the message is one sentence that names it and the mend."""


def parser(
    module: str, description: str | None, examples: str, **kwargs: Any
) -> argparse.ArgumentParser:
    """The parser of `python -m MODULE`, whose texts keep their lines and name it as it was started.

    Args:
        examples: shown after the flags.
        **kwargs: of `argparse.ArgumentParser`.
    """
    return argparse.ArgumentParser(
        prog=as_started(f"python -m {module}"),
        description=description,
        epilog=as_started(examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **kwargs,
    )


def keep_compiled_programs() -> None:
    """Lets JAX, if it is imported after this, keep what it compiles in the user's cache folder.

    JAX knows the programs by their content, its version and the machine; one that it cannot read or
    write costs a warning and the time to compile. Small programs are kept too: those that compile
    in under a second are a second and a half together.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(cache, "cbam_flax", "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def as_started(text: str) -> str:
    """`cbam-predict` for `python -m cbam_flax.predict`, in an installed script and only there."""
    if not os.path.basename(sys.argv[0]).startswith("cbam-"):
        return text
    name = {"main": "train"}
    return re.sub(INSTALLED, lambda found: f"cbam-{name.get(found[1], found[1])}", text)


def run(main: Callable[[], int | None], *, sigterm: int | None = None) -> None:
    """Runs `main` and exits with its status (None is 0).

    A `UserError`, and a disk, folder or file that fails, become one line on stderr and status 2;
    Ctrl-C becomes one line and 130, SIGTERM one line and the status `sigterm`, if that is given.
    None of them shows a traceback. Anything else is a defect of this project and keeps its own.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path need not be UTF-8
    interruption = Interruption(
        {signal.SIGINT: 130} | ({} if sigterm is None else {signal.SIGTERM: sigterm})
    )
    try:
        try:
            status = main() or 0
        finally:
            interruption.end_if_arrived()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except Exception as error:
        if (sentence := disk_failure(error)) is None:
            raise
        print(f"error: {sentence}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        end_now(2)  # threads that write to the same disk would each report it once more
    sys.exit(status)


def disk_failure(error: BaseException | None) -> str | None:
    """The sentence for an error that the operating system caused, None for any other.

    TensorFlow and TensorStore raise classes of their own, with the system's words in the message;
    what comes from a thread may have it as its cause.
    """
    if error is None:
        return None
    if isinstance(error, OSError):
        return explain(error)
    text = str(error)
    for number, mend in MENDS.items():
        if (words := os.strerror(number)) in text:
            path = re.search(r"(?:^|[\s'\"])(/[^\s'\";]+)", text)
            return f"{path[1]}: {words}{mend}" if path else f"{words}{mend}"
    return disk_failure(error.__cause__)


def explain(error: OSError) -> str:
    """An error of the operating system as one sentence with the file and, where known, the mend."""
    what = error.strerror or str(error) or type(error).__name__
    mend = MENDS.get(error.errno or 0, "")
    return f"{error.filename}: {what}{mend}" if error.filename else f"{what}{mend}"


@contextlib.contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """An `OSError` of the block names this file, which that of a full disk does not by itself."""
    try:
        yield
    except OSError as error:
        if error.errno and not error.filename:
            error.filename = os.fspath(path)
        raise


def cores() -> int:
    """The cores that this process may use, which a container can limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def progress(
    iterable: Iterable[Any] | None,
    what: str,
    total: int | None = None,
    *,
    unit: str = "image",
    **kwargs: Any,
) -> "tqdm":
    """A tqdm bar on stderr; where that is no terminal but a log file, a plain line now and then.

    A log file gets at most `PROGRESS_LINES` lines, `PROGRESS_SECONDS` apart, each with the rate and
    the time left, and none of work that is done before the first is due.

    Args:
        iterable: what is passed on; None where the caller calls `update`.
        what: is done, such as "decoding".
        total: its length where `iterable` has none.
        unit: one of the things, in the singular.
        **kwargs: of `tqdm.tqdm`, for the terminal.
    """
    from tqdm import tqdm

    if not sys.stderr.isatty():
        length = operator.length_hint(iterable) if total is None else total
        kwargs |= {
            "file": _Lines(),
            "bar_format": "{desc}: {n_fmt} of {total_fmt}{unit}, {rate_noinv_fmt}, "
            "{remaining} left",
            "mininterval": PROGRESS_SECONDS,
            "maxinterval": math.inf,  # or tqdm's own clock would lower miniters to 1
            "miniters": max(1, length // PROGRESS_LINES),
            "delay": PROGRESS_SECONDS,
            "leave": False,
            "position": 0,  # of a bar inside another too: no line is left that it could move to
        }
        unit = f" {unit}s"
    return tqdm(iterable, what, total, unit=unit, **kwargs)


class _Lines(io.TextIOBase):
    """stderr for tqdm where nothing can be written over: every state is a line of its own."""

    def write(self, text: str) -> int:
        if line := " ".join(text.split()):
            print(line, file=sys.stderr, flush=True)
        return len(text)
