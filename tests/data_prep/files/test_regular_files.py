import os
import pathlib
import socket
import threading

import pytest

from data_prep.files import regular_files
from data_prep.files.regular_files import NotAFileError, TooLargeError, read_bytes


def test_a_file_and_a_link_to_it_are_read_up_to_the_bound(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_bytes(tmp_path / "link", 5) == b"12345"
    with pytest.raises(TooLargeError, match="a file of 5 bytes"):
        read_bytes(tmp_path / "file", 4)


@pytest.fixture
def odd(tmp_path) -> dict[str, pathlib.Path]:
    """What is no file, by what it is called."""
    (tmp_path / "folder.dcm").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    return {
        "a folder": tmp_path / "folder.dcm",
        "a named pipe": tmp_path / "link",
        "a device": pathlib.Path("/dev/zero"),
    }


def test_nothing_else_is_waited_for(odd):
    for kind, path in odd.items():
        with pytest.raises(NotAFileError, match=f"{kind}, not a file"):
            read_bytes(path, 9)


def test_a_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket")
        with pytest.raises(NotAFileError, match="a socket"):
            read_bytes("socket", 9)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(odd, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"12345")
    file = os.stat(tmp_path / "file")
    waited = threading.Event()

    def end_the_wait() -> None:  # so that a fault fails and does not hang
        waited.set()
        os.close(os.open(odd["a named pipe"], os.O_WRONLY))

    guard = threading.Timer(20, end_the_wait)
    guard.start()
    try:
        with monkeypatch.context() as patch:
            patch.setattr(regular_files.os, "stat", lambda path: file)
            with pytest.raises(NotAFileError, match="a named pipe"):
                read_bytes(odd["a named pipe"], 9)
        assert not waited.is_set()
    finally:
        guard.cancel()


@pytest.mark.parametrize("after", [b"123", b"1234567"])
def test_a_file_that_changes_meanwhile(tmp_path, monkeypatch, after):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    true_fstat = os.fstat

    def fstat(descriptor):
        found = true_fstat(descriptor)
        path.write_bytes(after)
        return found

    monkeypatch.setattr(regular_files.os, "fstat", fstat)
    with pytest.raises(OSError, match="changed while it was read"):
        read_bytes(path, 99)


def test_missing_and_looping_links_are_errors_of_the_system(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        read_bytes(tmp_path / "loop", 9)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "none", 9)
