"""Reading a file that somebody else chose: nothing but a regular file, and never without end."""

import os
import stat

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class NotAFileError(OSError):
    """A folder, pipe, socket or device where a file was expected."""


class TooLargeError(OSError):
    """A file of more bytes than allowed."""


def read_bytes(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    """The whole content of a regular file, or of one that links lead to.

    Args:
      max_bytes: a larger file is not read.

    Raises:
      NotAFileError: the path leads to something else; it is not waited for.
      TooLargeError: the file is larger than `max_bytes`.
      OSError: it is missing, cannot be read, or became longer or shorter meanwhile.
    """
    _check(os.stat(path), path)  # first, because merely opening a device can set something off
    with open(path, "rb", opener=_open) as file:
        now = os.fstat(file.fileno())
        _check(now, path)  # again, because another thing may have taken the name since
        if now.st_size > max_bytes:
            raise TooLargeError(None, f"a file of {now.st_size:,} bytes", os.fspath(path))
        data = file.read(now.st_size + 1)
    if len(data) != now.st_size:
        raise OSError(None, "the file changed while it was read", os.fspath(path))
    return data


def _open(path: str, flags: int) -> int:
    """Does not wait for the other end of a pipe, where the system knows such an open."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _check(found: os.stat_result, path: str | os.PathLike[str]) -> None:
    if stat.S_ISDIR(found.st_mode):
        os.scandir(path).close()  # a folder that cannot be listed says why
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise NotAFileError(None, f"{kind}, not a file", os.fspath(path))
