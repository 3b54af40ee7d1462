"""Becomes a command that ends with its parent: `python -m studies.child PARENT CORES COMMAND...`.

A run that outlived a killed runner would hold its folder against the next one. CORES are those that
the command may use, as in 0,1.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, cores, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.sched_setaffinity(0, map(int, cores.split(",")))
    if os.getppid() != int(parent):  # it was gone before the kernel was asked
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
