"""Cells of a table -> files of the folder of images."""

import os
import re
from collections import defaultdict
from pathlib import PurePosixPath

from etils import epath

from data_prep.cli import UserError
from data_prep.dicom import DicomRefusal

SUFFIXES = (".dcm", ".dicom", ".png", ".jpg", ".jpeg", ".tif", ".tiff")


class ImageFolder:
    """The files under a folder, by their path relative to it, with `/` between the parts.

    Raises:
        UserError: there is no such folder, or it holds no files.
    """

    def __init__(self, root: epath.Path) -> None:
        self.root = root
        if not root.is_dir():
            raise UserError(f"--raw={root} is not a folder; give the folder of the images")
        self.names = sorted(
            _joined(folder, name, root) for folder, _, names in root.walk() for name in names
        )
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
        if len(found) > 1:
            first, second = sorted(found)[:2]
            raise DicomRefusal("duplicate", f"{cell!r} may be {first} or {second}")
        (name,) = found
        # A link may lead to another file of the folder, and not to what the user did not give.
        if not self.real_path(name).startswith(os.path.join(self._real_root, "")):
            raise DicomRefusal("outside_folder", f"{name} is a link to {self.real_path(name)}")
        return name

    def path(self, name: str) -> str:
        return os.fspath(self.root / name)

    def real_path(self, name: str) -> str:
        """The file that links lead to; the same for two names of one file."""
        return os.path.realpath(os.path.join(self._real_root, name))


def _joined(folder: epath.Path, name: str, root: epath.Path) -> str:
    return PurePosixPath(os.path.relpath(os.fspath(folder / name), os.fspath(root))).as_posix()
