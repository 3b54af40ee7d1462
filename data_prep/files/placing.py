"""Files from a draft to their places in an output folder, and back where an error comes between."""

import contextlib
import hashlib
import os
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

ASIDE = ".earlier"  # in the draft: what is being replaced

Files = Mapping[str, Collection[str]]  # path in the folder -> each SHA-256 that the file may have


def place(out: Any, draft: Any, index: str, *, old: Files, new: Files) -> None:
    """Renames the new files to their places; an error on the way is undone, but on gs://."""
    renamed: list[tuple[Any, Any]] = []

    def rename(source: Any, target: Any) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        renamed.append((source, target))

    is_local = isinstance(out, pathlib.Path)
    there = [name for name in old if is_there(out / name)]
    try:
        for name in sorted(there, key=lambda name: name != index):
            if is_local:
                rename(out / name, draft / ASIDE / name)
            elif name == index or name not in new:
                (out / name).unlink()
        for name in sorted(new, key=lambda name: (name == index, name)):
            rename(draft / name, out / name)
    except BaseException:
        with contextlib.suppress(OSError):
            for source, target in reversed(renamed if is_local else []):
                target.replace(source)
        raise
    finally:
        parents = {folder for name in {*old, *new} for folder in pathlib.PurePath(name).parents}
        for folder in sorted(parents - {pathlib.PurePath()}, reverse=True) if is_local else ():
            with contextlib.suppress(OSError):  # it holds something
                (out / folder).rmdir()


def put_back(out: Any, draft: Any, index: str, own: Files) -> None:
    """What a killed call was replacing returns, if it is still listed; the index last."""
    aside = draft / ASIDE
    if not isinstance(out, pathlib.Path) or not aside.is_dir():
        return
    listed = [name for name in own if holds(aside, {name: own[name]}, absent=())]
    for name in sorted(listed, key=lambda name: name == index):
        if not is_there(out / name) or holds(out, {name: own[name]}, absent=()):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).replace(out / name)


def holds(out: Any, files: Files, absent: Iterable[str]) -> bool:
    """Whether the folder has these files as they are listed, and has not those."""
    try:
        return not any(is_there(out / name) for name in absent) and all(
            sha256(out / name) in hashes for name, hashes in files.items()
        )
    except OSError:
        return False


def sha256(path: Any) -> str:
    """Of a file, a pathlib.Path or epath.Path."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_there(path: Any) -> bool:
    return os.path.lexists(path) if isinstance(path, pathlib.Path) else path.exists()
