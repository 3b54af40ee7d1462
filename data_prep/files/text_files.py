"""Small text files that the commands leave for each other: read with care, replaced whole."""

import json
from typing import Any

from data_prep.cli import UserError


def read_json(path: Any, mend: str, kind: type = dict) -> Any:
    """The value in a JSON file that somebody may have deleted, cut off or edited.

    Args:
      path: a pathlib.Path or epath.Path.
      mend: what the user can do, as the last clause of the error.
      kind: that the outermost value must have.

    Raises:
      UserError: the file is missing, unreadable, not JSON, or holds a value of another kind.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {mend}") from error
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{path} is not JSON ({error}); {mend}") from error
    if not isinstance(value, kind):
        raise UserError(f"{path} holds {type(value).__name__}, not {kind.__name__}; {mend}")
    return value


def read_json_lines(path: Any, mend: str) -> list[dict[str, Any]]:
    """The objects in a file with one JSON object per line, which somebody may have edited.

    What follows the last newline is left out: there a process was killed while it appended.

    Args:
      path, mend: as for `read_json`.

    Raises:
      UserError: the file is missing or unreadable, or a line is no JSON object; names the line.
    """
    rows: list[dict[str, Any]] = []
    try:
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"it holds {type(row).__name__}, not dict")
            rows.append(row)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {mend}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"line {len(rows) + 1} of {path} is no JSON object ({error}); {mend}"
        ) from error
    return rows


def replace_text(path: Any, text: str) -> None:
    """Writes a text file so that a reader, or kill -9, meets the old content or all of the new.

    Args:
      path: a pathlib.Path or epath.Path; its folder must exist.
    """
    draft = path.with_name(f".{path.name}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        # Python does not say which file a full disk has no room for.
        error.filename = error.filename or str(path)
        raise
