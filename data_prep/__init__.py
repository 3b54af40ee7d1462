"""From raw radiographs to TFRecords. Nothing here imports `cbam_flax`."""

import os
import signal
import sys
from typing import Any

_OWN = ("cbam_flax", "configs", "data_prep")


def _tell_missing_package(kind: Any, error: Any, trace: Any) -> None:
    """An extra that is not installed, such as `train`, is one sentence; all else is as it was."""
    if isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] not in _OWN:
        print(
            f"error: this command needs {error.name}, which is not installed; install the extra "
            f"cbam_flax[train], or in a checkout run make install (docs/install.md)",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)
    sys.__excepthook__(kind, error, trace)


# A command that is still being imported, by `python -m` or as an installed script; `cli.run` knows
# more. Not a script's worker process, which has its sys.argv too.
_SCRIPT = os.path.basename(sys.argv[0] if sys.argv else "").startswith("cbam-")
if sys.argv[:1] == ["-m"] or (_SCRIPT and "multiprocessing.spawn" not in sys.modules):
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"interrupted\n"), os._exit(130)))
    sys.excepthook = _tell_missing_package
