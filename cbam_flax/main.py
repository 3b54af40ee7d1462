"""Trains what a config describes and evaluates the best checkpoint.

    python -m cbam_flax.main --config=configs/rsna.py --workdir=runs/rsna --config.data_dir=data

Any key of the config can be set: --config.batch_size=32 --config.duration.steps=100. The same
command again continues a run that was interrupted. Exit status: 0 finished, 2 something to mend
(one sentence says what), 75 stopped by SIGTERM, after a save where a step was done.
"""

import contextlib
import os
import pathlib
import sys
from logging import ERROR, INFO, WARNING, LogRecord

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from cbam_flax import accelerator, command_line
from data_prep import cli
from data_prep.files import locks

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


def main() -> int:
    _log_own_lines()

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
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", os.path.join(cache, "cbam_flax", "jax"))
    # Small programs too: those that compile in under a second are a second and a half together.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if sentence := accelerator.unused_gpu(jax.default_backend()):
        logging.warning("%s", sentence)

    return train_and_evaluate(CONFIG.value, str(WORKDIR.value))


def train_and_evaluate(config: ConfigDict, workdir: str) -> int:
    """Trains, or goes on training, and evaluates the best checkpoint on `config.evaluate.at_end`.

    Everything is left in `workdir`; called again with the same config it continues there.

    Returns:
        0 when finished, 75 when a signal stopped the training after a save.

    Raises:
        UserError: as `train.train` and `evaluate.evaluate_workdir`, or another process trains here.
    """
    import jax

    from cbam_flax.evaluate.run import conclusion, evaluate_workdir
    from cbam_flax.train import train

    # Process 0 stands for all processes of a run.
    lock = locks.hold(os.path.join(workdir, ".training.lock"), "trained")
    with lock if jax.process_index() == 0 else contextlib.nullcontext():
        status = train(config, workdir)
        if status == 0:
            for split in config.evaluate.at_end:
                logging.info("evaluating that checkpoint on the %s split", split)
                metrics = evaluate_workdir(workdir, split)
                for line in conclusion(workdir, metrics):
                    logging.info("%s", line)
        return status


def _log_own_lines() -> None:
    """Of what comes through absl: INFO lines of this project, errors of orbax (it warns of what is
    meant) and warnings of everybody else, without absl's prefix.

    Not a failing disk, which every thread that writes reports with a traceback: the training loop
    raises the same error.
    """
    logging.set_verbosity(logging.INFO)
    handler = logging.get_absl_handler()
    handler.setFormatter(None)
    own = pathlib.Path(__file__).parent

    def wanted(record: LogRecord) -> bool:
        path = pathlib.Path(record.pathname)
        if path.is_relative_to(own):
            return record.levelno >= INFO
        error = record.exc_info[1] if record.exc_info else RuntimeError(record.getMessage())
        level = ERROR if "orbax" in path.parts else WARNING
        return record.levelno >= level and cli.disk_failure(error) is None

    handler.addFilter(wanted)


def command() -> None:
    # Before the config is read, whose imports would choose another level.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    cli.run(
        lambda: app.run(lambda _: sys.exit(main()), flags_parser=PARSER),
        sigterm=cli.INTERRUPTED,
    )


if __name__ == "__main__":
    command()
