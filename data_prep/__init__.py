"""From raw radiographs to TFRecords. Nothing here imports `cbam_flax`."""

import os
import signal
import sys

if sys.argv[:1] == ["-m"]:  # a command that is still being imported; `cli.run` knows more
    signal.signal(signal.SIGINT, lambda *_: (os.write(2, b"interrupted\n"), os._exit(130)))
