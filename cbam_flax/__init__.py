"""Train, evaluate and export a CBAM-ResNet chest-radiograph classifier in JAX / Flax.

The Python interface is `train`, `evaluate` and `load_bundle`, which do what the commands do and
raise where a command would print an error. Importing it imports neither JAX nor TensorFlow.
"""

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import data_prep  # noqa: F401 - from here on Ctrl-C ends a command with one line
from cbam_flax import evaluate
from cbam_flax.version import __version__ as __version__

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from cbam_flax.predict import Predictor

__all__ = ["evaluate", "load_bundle", "train"]


def train(config: "ConfigDict", workdir: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Trains what a config describes and evaluates the best checkpoint.

    As `python -m cbam_flax.main`: all files go to `workdir`, progress goes to stderr, and the same
    call again continues a run that was interrupted. It runs on whatever devices JAX has.

    Args:
        config: of a file in configs/, as in `from configs import rsna; rsna.get_config()`, with
            keys set as attributes, as in `config.batch_size = 32` (docs/config.md lists them).
        workdir: folder of the run, local or gs://.

    Returns:
        For each split of `config.evaluate.at_end`, by its name, what `evaluate` returns.

    Raises:
        data_prep.cli.UserError: a config, data set or workdir that does not fit, a step whose loss
            is not finite, or another process that trains in `workdir`. The message says what to do.
        OSError: a disk or file that fails.
        SystemExit: with status 75, after SIGTERM and a save.
    """
    from cbam_flax import logs

    logs.quiet_tensorflow()
    import jax
    from absl import logging

    from cbam_flax import loop
    from data_prep.files import locks

    workdir = os.fspath(workdir)
    with logs.own_lines():
        # Process 0 stands for all processes of a run.
        lock = locks.hold(os.path.join(workdir, ".training.lock"), "trained")
        with lock if jax.process_index() == 0 else contextlib.nullcontext():
            if status := loop.train(config, workdir):
                sys.exit(status)
            metrics = {}
            for split in config.evaluate.at_end:
                logging.info("evaluating that checkpoint on the %s split", split)
                metrics[split] = evaluate.evaluate(workdir, split)
            return metrics


def load_bundle(
    bundle: str | os.PathLike[str],
    runtime: str = "auto",
    batch_size: int = 8,
    verify_with: str | os.PathLike[str] | None = None,
) -> "Predictor":
    """Loads what `python -m cbam_flax.export` wrote; needs no training code.

    Args:
        bundle: its folder.
        runtime: "jax", "onnx" for ONNX Runtime, or "auto": what is installed and faster on many
            images.
        batch_size: the most images that go through the model at once.
        verify_with: file of an Ed25519 public key; the bundle must be signed with its private
            half.

    Returns:
        A `Predictor`: `predict` scores images, and the dict `bundle` is what bundle.json says.

    Raises:
        data_prep.cli.UserError: no bundle, one of another schema version or a damaged one, one
            without the signature, or the runtime is unknown, not installed or cannot load it.
    """
    from cbam_flax.predict import Predictor

    return Predictor.load(bundle, runtime, batch_size, verify_with)
