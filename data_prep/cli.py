"""What every command of both packages shares: how an error that the caller can mend is shown."""

import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """Something the caller can mend; the message is one sentence that names it and the mend."""


def run(main: Callable[[], int | None]) -> None:
    """Runs `main` and exits with its status (None is 0).

    A `UserError` becomes one line on stderr and status 2, Ctrl-C becomes 130; neither shows a
    traceback. Anything else is a defect of this project and keeps its traceback.
    """
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def cores() -> int:
    """The cores that this process may use, which a container can limit."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
