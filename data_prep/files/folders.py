"""The one way to write an output folder: whatever its command did not write is never touched.

A command writes into `FOLDER/.being_written`, on the same file system as the result, and the files
are renamed into place when all are whole. `FOLDER/.written_by.json` lists them with their SHA-256.
A later call replaces or deletes a file only if it still has a listed hash. So anything else in the
folder stays, and a listed file that somebody has changed since is refused before anything is
computed. The index, the file that readers open first, is removed first and put in place last: a
killed command leaves no old index over new files. The same command again finishes: while files are
being placed the list has the hashes of both, old and new.

An object store (gs://) renames by copying, has no links and no locks: there a killed copy may leave
half a file, which the next call refuses, and two calls at once on one folder are not noticed.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data_prep.cli import UserError, explain
from data_prep.files.placing import Files, holds, is_there, place, put_back, sha256
from data_prep.files.text_files import read_json, replace_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

MARKER = ".written_by.json"
DRAFT = ".being_written"
MAX_NAME = 100  # bytes of a folder's name; file systems allow 255


def check_name(name: str) -> str:
    """The name of one folder, as it is.

    Raises:
        UserError: it is a path, hidden, unprintable, empty or longer than `MAX_NAME` bytes.
    """
    printable = all(unicodedata.category(letter)[0] != "C" for letter in name)
    plain = printable and re.fullmatch(r"[^./\\\s]([^/\\]*[^/\\\s])?", name)
    if plain and len(name.encode()) <= MAX_NAME:
        return name
    raise UserError(
        f"{name[:MAX_NAME]!r} is no plain folder name; give --name at most {MAX_NAME} bytes "
        f"without slashes, control characters or a leading dot"
    )


def check_place(out: Any, inputs: Iterable[Any] = ()) -> None:
    """Refuses a path that cannot become an output folder, whatever it holds; changes nothing."""
    if not isinstance(out, pathlib.Path):
        return
    try:
        real = pathlib.Path(os.path.realpath(out))
        is_there = out.exists()
    except OSError as error:
        raise UserError(explain(error)) from error
    except ValueError as error:  # a null character
        raise UserError(f"{str(out)!r} is no path ({error}); give another folder") from error
    for path in inputs:
        other = pathlib.Path(os.path.realpath(path))
        if other == real:
            raise UserError(f"{out} is itself an input; give another output folder")
        if real in other.parents:
            raise UserError(f"{out} holds the input {path}; give another output folder")
        if other in real.parents:
            raise UserError(f"{out} lies in the input {path}; give another output folder")
    if out.is_symlink() and not is_there:
        raise UserError(f"{out} is a link to nothing; give another folder")
    there = next(path for path in (real, *real.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise UserError(f"{out if there == real else there} is a file; give another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there} cannot be written; change its permissions or give another folder")


def check(
    out: Any,
    command: str,
    *,
    index: str,
    outputs: Iterable[str] = (),
    inputs: Iterable[Any] = (),
    earlier: Callable[[Any], Files] | None = None,
) -> None:
    """Raises what `writing` would raise, as far as it is known beforehand; changes nothing."""
    out = _as_local(out)
    check_place(out, inputs)
    _check_content(out, command, {index, *outputs}, earlier)


@contextlib.contextmanager
def writing(
    out: Any,
    command: str,
    *,
    index: str,
    outputs: Iterable[str] = (),
    inputs: Iterable[Any] = (),
    earlier: Callable[[Any], Files] | None = None,
) -> Iterator[Any]:
    """Yields an empty folder whose files take their places in `out` when the block ends well.

    When it does not, `out` is as before; on gs:// only if the error came before the first file was
    put in its place.

    Args:
        out: pathlib.Path or epath.Path, made with its parents if it does not exist.
        command: that writes; the folder of another command is refused.
        index: the file that readers open first, relative to `out`.
        outputs: further files that are known to be written, relative to `out`.
        inputs: files and folders that are read.
        earlier: `out` -> the files that a version without a marker has provably written there.

    Raises:
        UserError: `out` is, holds or lies in an input; is no folder, or cannot be one; belongs to
            another command or is in use; or an output would replace a file of somebody else.
    """
    out = _as_local(out)
    check_place(out, inputs)
    with _made(out), _locked(out):
        own = _check_content(out, command, {index, *outputs}, earlier)
        had_marker, draft, listed = (out / MARKER).exists(), out / DRAFT, own
        try:
            _write_marker(out, command, own, has_draft=True)
            put_back(out, draft, index, own)
            _remove(draft)  # of a call that was killed
            draft.mkdir()
            yield draft
            new = {path.relative_to(draft).as_posix(): (sha256(path),) for path in _files(draft)}
            _refuse_others(out, {*own, *new}, own)
            both = {name: {*own.get(name, ()), *new.get(name, ())} for name in {*own, *new}}
            _write_marker(out, command, both, has_draft=True)
            try:
                place(out, draft, index, old=own, new=new)
                # From here on what was replaced does not come back.
                _write_marker(out, command, new, has_draft=True)
                listed = new
            except BaseException:
                listed = own if holds(out, own, absent=new.keys() - own.keys()) else both
                raise
        finally:
            _remove(draft)
            has_draft = is_there(draft)  # where it could not be removed
            if listed is own and not had_marker and not has_draft:
                (out / MARKER).unlink(missing_ok=True)
            else:
                _write_marker(out, command, listed, has_draft=has_draft)


def is_unfinished(out: Any) -> bool:
    """Whether a call was killed that was writing this folder."""
    return is_there(out / MARKER) and _read_marker(out)["has_draft"]


def was_changed(out: Any, name: str) -> bool:
    """Whether a file is not as its command left it; False where a version without marker wrote."""
    if not is_there(out / MARKER):
        return False
    return sha256(out / name) not in _read_marker(out)["files"].get(name, ())


def _as_local(path: Any) -> Any:
    """A pathlib.Path wherever the path is one of this machine, else the epath.Path."""
    if isinstance(path, pathlib.Path) and re.match("(gs|s3|https?):/", str(path)):
        raise UserError(f"{path} is not on this machine; give a local folder")
    return path if "://" in os.fspath(path) else pathlib.Path(path)


def _check_content(
    out: Any, command: str, names: set[str], earlier: Callable[[Any], Files] | None
) -> Files:
    """The files in `out` that the command has written, after a look for all that is in its way."""
    own, draft = {}, out / DRAFT
    if is_there(draft) and (_is_link(draft) or not draft.is_dir() or not is_unfinished(out)):
        raise UserError(f"{draft} is in the way; move it away or give a new folder")
    if is_there(out / MARKER):
        marker = _read_marker(out)
        if marker["command"] != command:
            raise UserError(f"{out} holds what {marker['command']} has written; give a new folder")
        own = marker["files"]
    elif earlier and out.is_dir():
        own = {name: hashes for name, hashes in earlier(out).items() if _is_inside(name)}
    _refuse_others(out, {*own, *names}, own)
    return own


def _refuse_others(out: Any, names: set[str], own: Files) -> None:
    for name in sorted(names):
        path = out / name
        for folder in list(path.parents)[: len(pathlib.PurePosixPath(name).parts) - 1]:
            if _is_link(folder) or (is_there(folder) and not folder.is_dir()):
                raise UserError(f"{folder} is in the way; move it away or give a new folder")
        is_own = path.is_file() and not _is_link(path) and sha256(path) in own.get(name, ())
        if is_there(path) and not is_own:
            was = "was changed since" if name in own else "was not written by"
            raise UserError(
                f"{path} {was} the last call of this command; move it away or give a new folder"
            )


def _read_marker(out: Any) -> dict[str, Any]:
    marker, mend = out / MARKER, "give a new folder"
    if _is_link(marker) or not marker.is_file():
        raise UserError(f"{marker} is in the way; {mend}")
    content = read_json(marker, mend)
    files, kinds = content.get("files"), {"command": str, "has_draft": bool, "files": dict}
    if not all(isinstance(content.get(key), kind) for key, kind in kinds.items()) or not all(
        isinstance(hashes, list) and _is_inside(name) for name, hashes in files.items()
    ):
        raise UserError(f"{marker} is damaged; {mend}")
    return content


def _write_marker(out: Any, command: str, files: Files, *, has_draft: bool) -> None:
    listed = {name: sorted(files[name]) for name in sorted(files)}
    content = {"command": command, "has_draft": has_draft, "files": listed}
    replace_text(out / MARKER, json.dumps(content, indent=1) + "\n")


def _is_inside(name: str) -> bool:
    """Whether the path leads to a file in the folder, and not to this module's own."""
    parts = pathlib.PurePosixPath(name).parts
    reserved = {"/", "//", MARKER, DRAFT}
    return bool(parts) and parts[0] not in reserved and ".." not in parts and "\0" not in name


@contextlib.contextmanager
def _made(out: Any) -> Iterator[None]:
    """The folder with its parents; those that were missing and stay empty are removed again."""
    missing = [path for path in (out, *out.parents) if not is_there(path)]
    try:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{out} cannot be made ({error.strerror}); give another folder"
            ) from error
        yield
    finally:
        for folder in missing if isinstance(out, pathlib.Path) else ():
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def _locked(out: Any) -> Iterator[None]:
    """Refuses a folder that another process is writing; the lock ends with its process."""
    if fcntl is None or not isinstance(out, pathlib.Path):
        yield
        return
    descriptor = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{out} is being written by another process; wait for it or give another folder"
            ) from error
        except OSError:  # NFS cannot lock a folder; there two calls at once are not noticed
            pass
        yield
    finally:
        os.close(descriptor)


def _remove(draft: Any) -> None:
    if isinstance(draft, pathlib.Path):
        shutil.rmtree(draft, ignore_errors=True)
    else:
        draft.rmtree(missing_ok=True)


def _files(folder: Any) -> Iterator[Any]:
    for path in folder.iterdir():  # epath has no recursive glob
        yield from _files(path) if path.is_dir() else (path,)


def _is_link(path: Any) -> bool:
    return isinstance(path, pathlib.Path) and path.is_symlink()
