"""Files and folders -> decoded films in order, several decoded ahead of whoever consumes them."""

import collections
import dataclasses
import hashlib
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from data_prep.cli import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Source:
    """One file to read, with a name that is unique in the call: its stem where that is enough."""

    image_id: str
    path: pathlib.Path


def find_files(paths: Iterable[pathlib.Path], skip: pathlib.Path) -> list[Source]:
    """Files as given and, below folders, every file whose name does not start with a dot; sorted.

    DICOM files often have no extension, so the content decides later. A file that is named twice
    is taken once.

    Args:
        paths: files and folders.
        skip: a folder that is left out, because results are written there.

    Raises:
        UserError: a path does not exist, or there is no file at all.
    """
    found: dict[pathlib.Path, pathlib.Path] = {}
    paths = list(paths)
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} does not exist; give DICOM files or folders of them")
        for file in sorted(_walk(path, skip)) if path.is_dir() else [path]:
            found.setdefault(file.resolve(), file)
    if not found:
        raise UserError(f"there is no file in {', '.join(map(str, paths))}")
    stems = collections.Counter(file.stem for file in found.values())
    return [
        Source(file.stem if stems[file.stem] == 1 else f"{file.stem}-{_short_hash(file)}", file)
        for file in found.values()
    ]


def _walk(folder: pathlib.Path, skip: pathlib.Path) -> Iterator[pathlib.Path]:
    for parent, folders, files in os.walk(folder):
        here = pathlib.Path(parent)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and (here / name).resolve() != skip.resolve()
        ]
        yield from (here / name for name in files if not name.startswith("."))


def _short_hash(path: pathlib.Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:8]


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Iterator[Result]:
    """`map(function, items)` in order, in threads, never more than `ahead` results in advance.

    Threads, because decoding and resizing happen in C code that lets go of the interpreter lock.
    """
    queue: collections.deque = collections.deque()
    remaining = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        try:
            queue.extend(pool.submit(function, item) for item in itertools.islice(remaining, ahead))
            while queue:
                result = queue.popleft().result()
                queue.extend(pool.submit(function, item) for item in itertools.islice(remaining, 1))
                yield result
        finally:
            pool.shutdown(cancel_futures=True)


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items; the last may be shorter."""
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
