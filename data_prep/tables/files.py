"""Cells of a table -> files of the folder of images."""

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath

from etils import epath

from data_prep.cli import UserError
from data_prep.dicom import DicomRefusal

SUFFIXES = (".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff")


class ImageFolder:
    """The files under a folder, by their path relative to it, with `/` between the parts.

    Links to files and folders are followed, also out of the folder: whoever stores images once
    fills folders with links to them.

    Raises:
        UserError: there is no such folder, or it holds no files.
        OSError: a folder below cannot be listed.
    """

    def __init__(self, root: epath.Path) -> None:
        self.root = root
        if not root.is_dir():
            raise UserError(f"--raw={root} is not a folder; give the folder of the images")
        self.names = sorted(_names(root))
        if not self.names:
            raise UserError(f"--raw={root} holds no files; give the folder of the images")
        self._by_spelling: dict[str, set[str]] = defaultdict(set)
        for name in self.names:
            path = PurePosixPath(name)
            for spelling in (path, PurePosixPath(path.name)):
                self._by_spelling[str(spelling)].add(name)
                if path.suffix.lower() in SUFFIXES:
                    self._by_spelling[str(spelling.with_suffix(""))].add(name)
        self._exact = set(self.names)
        self._real_root = os.path.realpath(root)

    def find(self, cell: str) -> str:
        """The one file that a cell names, as in `names`.

        The cell is the file's path in the folder, or its name alone where only one folder below
        has such a file; with or without the suffix of an image file.

        Raises:
            DicomRefusal: outside_folder, no_file, or duplicate where it means several files.
        """
        spelled = os.path.normpath(cell.replace("\\", "/"))
        if not cell or "\0" in cell or spelled in (".", ".."):
            raise DicomRefusal("no_file", f"{cell!r} names no file")
        if spelled.startswith(("/", "../")) or re.match("[A-Za-z]:/", spelled):
            raise DicomRefusal("outside_folder", f"{cell!r} is not a path inside {self.root}")
        found = {spelled} if spelled in self._exact else self._by_spelling.get(spelled, set())
        if not found:
            raise DicomRefusal("no_file", f"no such file in {self.root}")
        if len(set(map(self.real_path, found))) > 1:
            first, second = sorted(found)[:2]
            raise DicomRefusal("duplicate", f"{cell!r} may be {first} or {second}")
        return min(found)

    def path(self, name: str) -> str:
        return os.fspath(self.root / name)

    def real_path(self, name: str) -> str:
        """The file that links lead to; the same for two names of one file."""
        return os.path.realpath(os.path.join(self._real_root, name))


def _names(root: epath.Path) -> Iterator[str]:
    if "://" not in os.fspath(root):
        yield from _local_names(os.fspath(root))
        return
    for folder, _, names in root.walk():
        for name in names:
            yield PurePosixPath(os.path.relpath(folder / name, root)).as_posix()


def _local_names(
    folder: str, prefix: str = "", above: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Of the files under a folder; a link back to one of the folders `above` is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            # Of a link in a circle, unlike of a folder, `is_dir` raises.
            if os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                yield from _local_names(entry.path, f"{prefix}{entry.name}/", above | {real})
            else:
                yield prefix + entry.name
