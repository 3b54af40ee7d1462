"""From raw radiographs to TFRecords. Nothing here imports `cbam_flax`."""

import os
import signal
import sys

# A command that is still being imported, by `python -m` or as an installed script; `cli.run` knows
# more. Not a script's worker process, which has its sys.argv too.
_SCRIPT = os.path.basename(sys.argv[0] if sys.argv else "").startswith("cbam-")
if sys.argv[:1] == ["-m"] or (_SCRIPT and "multiprocessing.spawn" not in sys.modules):
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"interrupted\n"), os._exit(130)))
