"""Which log lines a person sees: those of this project, and what goes wrong elsewhere."""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterator

from absl.logging import get_absl_logger

from data_prep import cli

_OWN = pathlib.Path(__file__).parent


def wanted(record: logging.LogRecord) -> bool:
    """INFO lines of this project, errors of orbax (it warns of what is meant), others' warnings.

    Not a failing disk, which every thread that writes reports with a traceback: the training loop
    raises the same error.
    """
    path = pathlib.Path(record.pathname)
    if path.is_relative_to(_OWN):
        return record.levelno >= logging.INFO
    error = record.exc_info[1] if record.exc_info else RuntimeError(record.getMessage())
    level = logging.ERROR if "orbax" in path.parts else logging.WARNING
    return record.levelno >= level and cli.disk_failure(error) is None


def quiet_tensorflow() -> None:
    """To be called before TensorFlow is imported, which prints notices at its start."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")


@contextlib.contextmanager
def own_lines() -> Iterator[None]:
    """In the block the wanted lines go to stderr, as a command's do, however logging is set up."""
    root, absl = logging.getLogger(), get_absl_logger()
    before = root.handlers[:], absl.level
    handler = logging.StreamHandler()
    handler.addFilter(wanted)
    root.handlers[:] = [handler]
    absl.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:], level = before
        absl.setLevel(level)
