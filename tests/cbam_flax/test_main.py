import subprocess
import sys

# The processes that have nothing left to do wait for the report of process 0, which takes long.
PROGRAM = """
import sys
import jax
from absl import flags
from cbam_flax import main
def joined(*address, shutdown_timeout_seconds):
    print(address, shutdown_timeout_seconds)
    raise SystemExit
jax.distributed.initialize = joined
flags.FLAGS(["main", "--distributed", "--coordinator_address=host:1", "--num_processes=2",
             "--process_id=1"])
main.main()
"""


def test_the_other_processes_wait_for_days():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    address, seconds = done.stdout.rsplit(maxsplit=1)
    assert address == "('host:1', 2, 1)"
    assert int(seconds) > 3 * 24 * 3600
