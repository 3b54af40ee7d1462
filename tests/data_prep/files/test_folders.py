import contextlib
import errno
import io
import itertools
import json
import os
import pathlib
import shutil
import tempfile

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.cli import UserError
from data_prep.files import folders, unmarked_folder

INDEX = "index.csv"


def write(out, files, *, command="tests", fail=None, **options):
    """A command that writes `files`, name -> text, and ends with the error `fail`."""
    with folders.writing(out, command, index=INDEX, **options) as draft:
        for name, text in files.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            (draft / name).write_text(text)
        if fail:
            raise fail


def tree(root):
    """path -> content of every file, target of every link, None of every folder."""
    found = {}
    for parent, names, files in os.walk(root):
        for path in (pathlib.Path(parent, name) for name in (*names, *files)):
            found[str(path.relative_to(root))] = (
                ("link", os.readlink(path))
                if path.is_symlink()
                else path.read_bytes()
                if path.is_file()
                else None
            )
    return found


def texts(out):
    """path -> text of the files that a user sees."""
    return {
        name: content.decode() for name, content in tree(out).items() if content is not None
    } | {folders.MARKER: ""}


OLD = {INDEX: "old", "maps/a.png": "a", "maps/b.png": "b"}
NEW = {INDEX: "new", "maps/b.png": "B", "notes.md": "n"}


def seen(files, **others):
    return files | others | {folders.MARKER: ""}


def test_a_folder_appears_whole_and_leaves_no_draft(tmp_path):
    out = tmp_path / "deep" / "out"
    with folders.writing(out, "tests", index=INDEX) as draft:
        (draft / INDEX).write_text("first")
        assert not (out / INDEX).exists()
    assert texts(tmp_path / "deep" / "out") == seen({INDEX: "first"})


def test_an_earlier_result_is_replaced_and_everything_else_stays(tmp_path):
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps" / "mine.png").write_text("mine")
    (tmp_path / "film.dcm").write_text("film")
    write(tmp_path, OLD)
    write(tmp_path, NEW)
    assert texts(tmp_path) == seen(NEW, **{"maps/mine.png": "mine", "film.dcm": "film"})
    write(tmp_path, {INDEX: "only"})
    assert texts(tmp_path) == seen({INDEX: "only"}, **{"maps/mine.png": "mine", "film.dcm": "film"})


def test_a_folder_that_the_last_file_leaves_goes_too(tmp_path):
    write(tmp_path, OLD)
    write(tmp_path, {INDEX: "only"})
    assert not (tmp_path / "maps").exists()


@pytest.mark.parametrize("earlier", [None, OLD])
def test_a_failure_changes_nothing(tmp_path, earlier):
    out = tmp_path / "deep" / "out"
    if earlier:
        write(out, earlier)
    before = tree(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        write(out, NEW, fail=KeyboardInterrupt())
    assert tree(tmp_path) == before


def test_a_file_that_was_changed_since_is_refused_before_anything_is_computed(tmp_path):
    write(tmp_path, OLD)
    (tmp_path / "maps" / "a.png").write_text("with my arrows")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"a\.png was changed since the last call"):
        write(tmp_path, NEW, fail=AssertionError("computed"))
    assert tree(tmp_path) == before


def test_a_file_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "notes.md").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"notes\.md was not written by"):
        write(tmp_path, NEW)  # found when the output is known
    with pytest.raises(UserError, match=r"notes\.md was not written by"):
        write(tmp_path, NEW, outputs=["notes.md"], fail=AssertionError("computed"))
    with pytest.raises(UserError, match=r"notes\.md was not written by"):
        folders.check(tmp_path, "tests", index=INDEX, outputs=["notes.md"])
    assert tree(tmp_path) == before


def test_a_file_of_somebody_else_that_comes_while_computing_is_kept(tmp_path):
    writing = folders.writing(tmp_path, "tests", index=INDEX)
    (writing.__enter__() / INDEX).write_text("new")
    (tmp_path / INDEX).write_text("mine")
    with pytest.raises(UserError, match="was not written by"):
        writing.__exit__(None, None, None)
    assert tree(tmp_path) == {INDEX: b"mine"}


def test_the_folder_of_another_command_is_refused(tmp_path):
    write(tmp_path, OLD, command="cbam_flax.evaluate")
    with pytest.raises(UserError, match=r"holds what cbam_flax\.evaluate has written"):
        write(tmp_path, OLD)


@pytest.mark.parametrize(
    ("name", "target"), [(INDEX, "mine.txt"), ("maps", "elsewhere"), (folders.DRAFT, "elsewhere")]
)
def test_nothing_is_written_through_a_link(tmp_path, name, target):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(tmp_path / target)
    before = tree(tmp_path)
    with pytest.raises(UserError):
        write(out, OLD)
    assert tree(tmp_path) == before


def test_a_folder_that_is_holds_or_lies_in_an_input_is_refused(tmp_path):
    films = tmp_path / "films"
    films.mkdir()
    (films / "1.dcm").write_text("film")
    (tmp_path / "link").symlink_to(films)
    for out, words in (
        (films, "is itself an input"),
        (tmp_path, "holds the input"),
        (tmp_path / "link", "is itself an input"),
        (films / "results", "lies in the input"),
        (tmp_path / "link" / "a" / "b", "lies in the input"),
    ):
        with pytest.raises(UserError, match=words):
            write(out, OLD, inputs=[films])
    with pytest.raises(UserError, match="holds the input"):
        write(films, OLD, inputs=[tmp_path / "link" / "1.dcm"])
    assert tree(films) == {"1.dcm": b"film"}
    write(tmp_path / "films2", OLD, inputs=[films])  # begins alike and is another


def test_the_current_folder_and_a_link_to_a_folder_are_written(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    write(pathlib.Path("link"), OLD)
    assert texts(tmp_path / "real") == seen(OLD)
    monkeypatch.chdir(tmp_path / "real")
    write(pathlib.Path(), NEW)
    assert texts(tmp_path / "real") == seen(NEW)


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("file", "file is a file"),
        ("file/out", "file is a file"),
        ("nothing", "is a link to nothing"),
        ("circle", "is a link to nothing"),
        ("x" * 300, "File name too long; choose a shorter path"),
        ("null\0", "is no path"),
    ],
)
def test_a_path_that_cannot_be_a_folder_is_one_sentence(tmp_path, out, words):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "nothing").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=words) as caught:
        write(tmp_path / out, OLD)
    assert "\n" not in str(caught.value)
    assert tree(tmp_path) == before


def test_a_bucket_is_no_local_folder():
    with pytest.raises(UserError, match="is not on this machine"):
        write(pathlib.Path("gs://bucket/out"), OLD)


def test_a_remote_path_goes_the_same_way(tmp_path, monkeypatch):
    """Where only what epath offers may be asked for; here of a local folder."""
    monkeypatch.setattr(folders, "_as_local", lambda path: path)
    out = epath.Path(tmp_path) / "deep" / "out"
    (tmp_path / "deep" / "out").mkdir(parents=True)
    (tmp_path / "deep" / "out" / "mine.txt").write_text("mine")
    write(out, OLD)
    write(out, NEW)
    assert texts(tmp_path / "deep" / "out") == seen(NEW, **{"mine.txt": "mine"})
    (out / INDEX).write_text("changed")
    with pytest.raises(UserError, match="was changed since"):
        write(out, OLD)
    with pytest.raises(ValueError, match="stop"):
        write(out.parent / "other", OLD, fail=ValueError("stop"))
    assert not list((out.parent / "other").iterdir())


def test_a_folder_in_use_is_refused(tmp_path):
    out = tmp_path / "out"
    with folders.writing(out, "tests", index=INDEX) as draft:
        (draft / INDEX).write_text("first")
        with pytest.raises(UserError, match="is being written by another process"):
            write(out, NEW)
    assert texts(out) == seen({INDEX: "first"})


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"command": "tests", "has_draft": false, "files": {"../mine": ["x"]}}'],
)
def test_a_damaged_list_is_refused(tmp_path, content):
    out = tmp_path / "out"
    out.mkdir()
    (out / folders.MARKER).write_text(content)
    with pytest.raises(UserError, match="give a new folder"):
        write(out, OLD)
    assert tree(out) == {folders.MARKER: content.encode()}


def test_a_folder_named_as_the_draft_is_kept(tmp_path):
    mine = tmp_path / folders.DRAFT
    for earlier in (False, True):
        if earlier:
            shutil.rmtree(mine)
            write(tmp_path, OLD)
        mine.mkdir()
        (mine / "mine").write_text("mine")
        with pytest.raises(UserError, match="is in the way"):
            write(tmp_path, NEW)
        assert (mine / "mine").read_text() == "mine"


def test_after_a_kill_at_any_moment_the_same_command_finishes(tmp_path, monkeypatch):
    """kill -9 leaves what is on the disk between two system calls, so each such state is tried."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "mine.txt").write_text("mine")
    write(root, OLD)
    states, busy = [], False

    def watch(module, name, changes):
        original = getattr(module, name)

        def call(*arguments, **options):
            nonlocal busy
            if changes(*arguments, **options) and not busy:
                busy = True
                states.append(tmp_path / f"killed {len(states)}")
                shutil.copytree(root, states[-1])
                busy = False
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    for name in ("mkdir", "unlink", "rmdir", "replace"):
        watch(os, name, lambda *_, **__: True)
    watch(io, "open", lambda _, mode="r", *__, **___: "w" in mode)
    write(root, NEW)
    monkeypatch.undo()
    undisturbed = tree(root)
    assert len(states) > 12
    assert len({json.dumps(sorted(tree(state)), default=str) for state in states}) > 6
    for state in states:
        index = state / INDEX
        if index.exists() and index.read_text() == "old":
            assert (state / "maps/b.png").read_text() == "b"  # no old index over new files
        if index.exists() and index.read_text() == "new":
            assert (state / "notes.md").read_text() == "n"
        with pytest.raises(ValueError, match="bad input"):
            write(state, NEW, fail=ValueError("bad input"))
        whole = OLD if (state / INDEX).read_text() == "old" else NEW
        assert texts(state).items() >= whole.items(), state
        write(state, NEW)
        assert tree(state) == undisturbed, state


def test_after_a_full_disk_at_any_moment_the_same_command_finishes(tmp_path, monkeypatch):
    twin = tmp_path / "twin"
    for files in (OLD, NEW):
        write(twin, files)
    undisturbed, left = tree(twin), 0

    def fail(module, name, changes):
        original = getattr(module, name)

        def call(path, *arguments, **options):
            nonlocal left
            left -= changes(*arguments)
            if left == 0:
                raise OSError(errno.ENOSPC, "No space left on device", os.fspath(path))
            return original(path, *arguments, **options)

        monkeypatch.setattr(module, name, call)

    for tried in itertools.count(1):
        root = tmp_path / str(tried)
        write(root, OLD)
        left = tried
        fail(os, "mkdir", lambda *_: True)
        fail(os, "replace", lambda *_: True)
        fail(os, "unlink", lambda *_: True)
        fail(io, "open", lambda mode="r", *_: "w" in mode)
        with contextlib.suppress(OSError, UserError):
            write(root, NEW)
        monkeypatch.undo()
        drafts = (folders.DRAFT, f"{folders.DRAFT}/")
        after = {name: text for name, text in texts(root).items() if not name.startswith(drafts)}
        after.pop(f".{folders.MARKER}", None)
        assert after in (seen(OLD), seen(NEW)), tried
        write(root, NEW)
        assert tree(root) == undisturbed, tried
        if left > 0:  # more than the command does
            break
    assert tried > 12


HEADS = {INDEX: b"id,", "rejected.csv": b"file,"}
PATTERNS = (*HEADS, "maps/*.png")


def unmarked(folder, **changes):
    files = {INDEX: "id,1", "rejected.csv": "file,", "maps/a.png": "a"} | changes
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def own(folder):
    return unmarked_folder.own_files(folder, PATTERNS, HEADS)


def test_a_folder_of_the_version_before_is_replaced(tmp_path):
    unmarked(tmp_path)
    assert own(tmp_path).keys() == {INDEX, "rejected.csv", "maps/a.png"}
    write(tmp_path, NEW, earlier=own)
    assert texts(tmp_path) == seen(NEW)


def test_a_folder_that_may_be_somebody_elses_is_not(tmp_path):
    assert not own(unmarked(tmp_path / "a", **{"film.dcm": "film"}))
    assert not own(unmarked(tmp_path / "b", **{INDEX: "my,columns"}))
    assert not own(unmarked(tmp_path / "c", **{"maps/deep/a.png": "a"}))
    edited = unmarked(tmp_path / "d")
    os.utime(edited / "maps/a.png", (2e9, 4e9))
    assert not own(edited)
    (unmarked(tmp_path / "e") / "rejected.csv").unlink()
    assert not own(tmp_path / "e")
    with pytest.raises(UserError, match="was not written by"):
        write(tmp_path / "b", NEW, earlier=own)


OUTPUTS = (INDEX, "maps/x.png", "maps/y.png", "b", "b/c")
PATHS = ("a", *(f"a/{name}" for name in ("mine", "maps", *OUTPUTS)), "d", "d/maps", "e")
OUTS = [*["a"] * 12, *PATHS, ".", "..", "a/..", "d/../a", "n" * 300, "\udcff", "\0"]
actions = st.one_of(
    st.tuples(
        st.just("file"), st.sampled_from([*PATHS, *[f"a/{INDEX}"] * 9]), st.sampled_from("uv")
    ),
    st.tuples(st.just("link"), st.sampled_from(PATHS), st.sampled_from([*PATHS, "nowhere"])),
    *[
        st.tuples(
            st.just("call"),
            outs,
            st.dictionaries(st.sampled_from(OUTPUTS), st.sampled_from("xy"), max_size=4),
            st.sampled_from([None] * 12 + [*PATHS]),
            st.sampled_from([False] * 4 + [True]),
        )
        for outs in (st.just("a"), st.sampled_from(OUTS) | st.text(max_size=12))
    ],
)


class Stopped(Exception):
    """What ends a call early."""


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(actions, min_size=3, max_size=9))
def test_whatever_lies_there_nothing_of_the_user_is_touched(steps):
    """`mine` is what the user put there: it is there, unchanged, after every call."""
    with tempfile.TemporaryDirectory() as scratch:
        root = pathlib.Path(scratch, "root")
        root.mkdir()
        written = {}  # real path of each folder -> what the last call wrote there
        for kind, name, *rest in steps:
            path = root / name
            if kind != "call":
                with contextlib.suppress(OSError):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(*rest) if kind == "file" else path.symlink_to(root / rest[0])
                continue
            files, read, is_stopped = rest
            if name.startswith("/"):
                continue  # outside the scratch folder
            before = tree(scratch)
            try:
                write(
                    path,
                    {name: text for name, text in files.items() if name + "/c" not in files},
                    inputs=[root / read] if read else [],
                    fail=Stopped() if is_stopped else None,
                )
            except (UserError, Stopped):
                assert tree(scratch) == before
                continue
            real = pathlib.Path(os.path.realpath(path))
            here = {
                str((real / name).relative_to(os.path.realpath(scratch))): text.encode()
                for name, text in files.items()
                if name + "/c" not in files
            }
            mine = {
                name: content
                for name, content in before.items()
                if content is not None
                and pathlib.Path(name).name != folders.MARKER
                and not (name in (last := written.get(real, {})) and content == last[name])
            }
            after = {
                name: content
                for name, content in tree(scratch).items()
                if content is not None and pathlib.Path(name).name != folders.MARKER
            }
            assert not mine.keys() & here.keys()
            assert after == mine | here
            written[real] = here


@settings(deadline=None, derandomize=True)
@given(st.text() | st.sampled_from(["..", ".", "../checkpoints", "a/b", "a\\b", ".hidden", ""]))
def test_a_name_is_one_folder_or_a_sentence(name):
    try:
        accepted = folders.check_name(name)
    except UserError:
        return
    path = pathlib.Path("run/evaluation") / accepted
    assert path.parent == pathlib.Path("run/evaluation")
    assert os.path.normpath(path) == str(path)


@pytest.mark.parametrize("name", ["test", "rsna_pneumonia-256px-1.0.0-test", "seed 0", "ü", "a..b"])
def test_plain_names_are_taken(name):
    assert folders.check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "a/b", "../a", "/a", "a\\b", "a\n", "a\0", "a\u202eb", "x" * 101]
)
def test_other_names_are_refused(name):
    with pytest.raises(UserError, match="is no plain folder name"):
        folders.check_name(name)
