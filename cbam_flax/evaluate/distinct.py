"""Whether runs that are named together are different ones."""

import os
from collections.abc import Sequence
from typing import Any

from data_prep.cli import UserError


def resolved(workdir: str) -> str:
    """The path without links, so that one folder has one name."""
    return workdir.rstrip("/") if "://" in workdir else os.path.realpath(workdir)


def refuse_repeats(workdirs: Sequence[str], keys: Sequence[Any], why: str) -> None:
    """Raises UserError for two runs with the same key; None is unknown, and never the same."""
    seen: dict[Any, str] = {}
    for workdir, key in zip(workdirs, keys, strict=True):
        if key is not None and key in seen:
            raise UserError(
                f"{seen[key]} and {workdir} are the same run ({why}), which would count as two "
                f"seeds; name each run once"
            )
        seen[key] = workdir
