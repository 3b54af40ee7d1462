"""Output folders of the version that left no list of its files, as `folders` now does."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from data_prep.files.placing import Files, sha256

_SECONDS = 60.0  # within which a command wrote the files that it wrote at its end


def own_files(out: Any, patterns: Sequence[str], heads: Mapping[str, bytes]) -> Files:
    """The files of a local folder that the version before wrote, which left no marker.

    Args:
        patterns: the names that it may have, as for `PurePath.match`.
        heads: how the files begin that it always wrote, all of them at its end.

    Returns:
        Nothing unless the folder holds nothing else, begins so, and no file in it was modified
        more than a minute after those that were written at the end.
    """
    if not isinstance(out, pathlib.Path):
        return {}
    paths = [path for path in out.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = {path.relative_to(out).as_posix(): path for path in paths}
    known = all(
        path.is_file()
        and not path.is_symlink()
        and any(pathlib.PurePosixPath("/", name).match(f"/{pattern}") for pattern in patterns)
        for name, path in names.items()
    )
    if not known or not heads.keys() <= names.keys():
        return {}
    for name, head in heads.items():
        with names[name].open("rb") as file:
            if file.read(len(head)) != head:
                return {}
    end = min(names[name].stat().st_mtime for name in heads)
    if max(path.stat().st_mtime for path in paths) > end + _SECONDS:
        return {}
    return {name: (sha256(path),) for name, path in names.items()}
