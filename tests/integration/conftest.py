"""Faults that only the operating system can make."""

import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def small_disk(tmp_path):
    """A function (size, script, **options of subprocess): runs a shell script with such a disk.

    The disk is at `$disk`, empty, and gone at the end. Skips where a user may not mount one.
    """
    folder = tmp_path / "disk"
    folder.mkdir()

    def run(size, script, **options):
        unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
        mount = f"mount -t tmpfs -o size={size} none {folder}"
        try:
            subprocess.run([*unshare, mount], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("needs unshare and the right to mount a tmpfs")
        return subprocess.run(
            [*unshare, f"{mount} && disk={folder} && {script}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            **options,
        )

    return run
