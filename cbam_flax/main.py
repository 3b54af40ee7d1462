"""Trains what a config describes and evaluates the best checkpoint.

    python -m cbam_flax.main --config=configs/rsna.py --workdir=runs/rsna --config.data_dir=data

Any key of the config can be set: --config.batch_size=32 --config.duration.steps=100. The same
command again continues a run that was interrupted. Exit status: 0 finished, 2 something to mend
(one sentence says what), 75 stopped by SIGTERM, after a save where a step was done.
"""

from absl import app, flags, logging
from ml_collections import config_flags

import cbam_flax
from cbam_flax import command_line, logs
from data_prep import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "a file of configs/, or one like them")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run, local or gs://")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed",
    False,
    "join the other processes of the run; on a TPU slice nothing else is needed",
)
COORDINATOR = flags.DEFINE_string("coordinator_address", None, "HOST:PORT of process 0")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "with --coordinator_address")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "with --coordinator_address")
REPORT_SECONDS = 7 * 24 * 3600
PARSER = command_line.parser(__name__, needed=("config", "workdir"))


def main() -> None:
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().setFormatter(None)  # no prefix
    logging.get_absl_handler().addFilter(logs.wanted)

    import jax

    if DISTRIBUTED.value:
        jax.distributed.initialize(
            COORDINATOR.value,
            NUM_PROCESSES.value,
            PROCESS_ID.value,
            # The others wait at their end while process 0 makes the report. A process that dies is
            # noticed by its missing heartbeat, not by this.
            shutdown_timeout_seconds=REPORT_SECONDS,
        )
    cbam_flax.train(CONFIG.value, str(WORKDIR.value))


def command() -> None:
    logs.quiet_tensorflow()  # before the config is read, whose imports would choose another level
    cli.keep_compiled_programs()
    cli.run(
        lambda: app.run(lambda _: main(), flags_parser=PARSER),
        sigterm=cli.INTERRUPTED,
    )


if __name__ == "__main__":
    command()
