"""The training loop, top to bottom in the order it runs."""

import contextlib
import functools
import signal
import threading
from typing import Any

import jax
import numpy as np
from absl import logging
from clu import periodic_actions
from etils import epath
from ml_collections import ConfigDict

from cbam_flax import accelerator, checkpoint, input_pipeline, lineage, monitor, sharding, transfer
from cbam_flax import config as config_lib
from cbam_flax import optimizer as optimizer_lib
from cbam_flax import step as step_lib
from cbam_flax.augment import augment
from cbam_flax.evaluate.validation import validate
from cbam_flax.labels import check_labels
from cbam_flax.models import create_model
from data_prep.cli import INTERRUPTED, UserError


def train(config: ConfigDict, workdir: str) -> int:
    """Trains what `config` describes, or resumes.

    Everything is written to `workdir`; called again with the same config it resumes there.

    Returns:
        0 when finished, `INTERRUPTED` when a signal stopped it after a save.

    Raises:
        UserError: a config, data set or workdir that does not fit, or a non-finite step.
    """
    with contextlib.ExitStack() as at_end:
        return _train(config, workdir, at_end)


def _train(config: ConfigDict, workdir: str, at_end: contextlib.ExitStack) -> int:
    config_lib.check(config)
    config = config.copy_and_resolve_references()
    # The run keeps to the images that it began with, whatever is prepared later.
    config.dataset = input_pipeline.with_variant(config.data_dir, config.dataset, config.image_size)
    if sentence := accelerator.unused_gpu(jax.default_backend()):
        logging.warning("%s", sentence)
    mesh = sharding.make_mesh(config.mesh)
    sharding.check_divisible(
        mesh,
        image_size=config.image_size,
        batch_size=config.batch_size,
        accumulate=config.optimizer.accumulate,
    )

    # Data: two splits in memory maps, and the order of the training examples.
    load = input_pipeline.open_splits(
        config.data_dir, config.dataset, config.image_size, config.folds, config.fold
    )
    training, validation = load("train"), load("validation")
    for split in (training, validation):
        check_labels(split)
    config = config_lib.with_findings(config, training.findings)
    if config.shuffle_labels:  # both: a checkpoint selected by true labels beats chance
        rng = np.random.default_rng(config.seed)
        training, validation = (s.with_shuffled_labels(rng) for s in (training, validation))
    # What is wrong with the others is said now, not after the training.
    judged = [validation, *map(load, set(config.evaluate.at_end) - {"train", "validation"})]
    order = input_pipeline.Order(training.labels, config.batch_size, config.seed, config.sampling)
    if config.batch_size > order.epoch_size:
        raise UserError(
            f"config.batch_size {config.batch_size} is more than the {order.epoch_size} images of "
            f"an epoch; lower it"
        )
    to_steps = functools.partial(
        config_lib.to_steps, batch_size=config.batch_size, examples=order.epoch_size
    )
    total_steps = to_steps(config.duration, name="duration")
    evaluate_every = max(1, to_steps(config.evaluate.every, name="evaluate.every"))
    checkpoint_every = max(1, to_steps(config.checkpoint.every, name="checkpoint.every"))
    fingerprint = {split.name: split.fingerprint for split in (training, validation)}

    # The model, the optimizer, and the state as shapes with their shardings on the mesh.
    model = step_lib.model_for(config, mesh)
    schedule = optimizer_lib.make_schedule(
        config.optimizer,
        total_steps=total_steps,
        warmup_steps=to_steps(config.optimizer.warmup, name="optimizer.warmup"),
    )
    optimizer = optimizer_lib.make_optimizer(config.optimizer, schedule, config.init)
    train_step, abstract_state = step_lib.sharded_train_step(model, optimizer, config, mesh)

    # The model that a new run starts from, where it does: what of it fits.
    if parent := transfer.read_parent(config.init.from_run, workdir):
        arrays = transfer.fitting(parent, abstract_state, config.init.batch_stats)

    # Only now, since what is refused should leave no trace, does the folder become the run's.
    checkpoint.claim_workdir(workdir, config, fingerprint)
    if jax.process_index() == 0:
        own = lineage.trained_on([training, validation])
        lineage.write(workdir, own, parent.trained_on if parent else [])

    # The state: the newest checkpoint's, else a fresh one, created with its shardings.
    manager = checkpoint.make_manager(workdir, config)
    if alone := jax.process_count() == 1:  # else close() would wait for processes that go on
        at_end.callback(manager.close)
    start = manager.latest_step() or 0
    if start:
        state = checkpoint.restore(manager, start, abstract_state)
        ancestors = checkpoint.ancestors_of(manager, start)
        logging.info("continuing after step %d of %d", start, total_steps)
    else:
        init = functools.partial(step_lib.init_state, model, optimizer, config)
        shardings = jax.tree.map(lambda x: x.sharding, abstract_state)
        state = jax.jit(init, out_shardings=shardings)()
        ancestors = parent.ancestors if parent else []
        if parent:
            state = jax.jit(transfer.replace, out_shardings=shardings)(state, arrays)

    # The step, compiled before the loop so that its memory can be logged.
    batches = input_pipeline.train_batches(training, order, mesh, start=start, stop=total_steps)
    compiled = train_step.lower(
        abstract_state,
        input_pipeline.abstract_batch(config.batch_size, config.image_size, mesh, model.findings),
    ).compile()
    stages = monitor.stages_of(config)
    monitor.log_start(
        config, stages, compiled, mesh, [training, validation], order.epoch_size, total_steps
    )

    if parent:
        for line in transfer.differences(parent, arrays, abstract_state):
            logging.info("%s", line)
        for split in judged:
            found = lineage.judged(parent.ancestors, parent.trained_on, split)
            for warning in lineage.warnings(found, len(split)):
                logging.warning("%s split: %s", split.name, warning)

    writer = monitor.make_writer(workdir, start, total_steps)
    if start == 0:
        writer.write_hparams(config_lib.flatten(config))
        monitor.write_parameters(writer, state)
        _write_augmented(writer, config, training, order)
    profile = periodic_actions.Profile(
        logdir=str(epath.Path(workdir) / "tensorboard"), num_profile_steps=5, first_profile=10
    )
    reporter = monitor.Reporter(
        writer,
        every_steps=config.log_every_steps,
        batch_size=config.batch_size,
        epoch_size=order.epoch_size,
        schedule=schedule,
        flops=monitor.training_flops(stages),
        on_non_finite=(
            functools.partial(monitor.stop_at_non_finite, workdir, training, order)
            if config.non_finite == "stop"
            else None
        ),
    )
    interrupted = threading.Event()
    # Many processes stop at a common step, which orbax finds (`reached_preemption`). A thread other
    # than the main one cannot handle signals.
    if alone and threading.current_thread() is threading.main_thread():
        on_sigterm = signal.signal(signal.SIGTERM, lambda *_: interrupted.set())
        at_end.callback(signal.signal, signal.SIGTERM, on_sigterm)

    def out_of_patience(step: int) -> bool:
        waited = (step - (manager.best_step() or step)) // evaluate_every
        return 0 < config.early_stopping <= waited

    previous: tuple[int, Any] | None = None
    for step in range(start + 1, total_steps + 1):
        if out_of_patience(step - 1):  # here, so that a stopped run stays stopped
            logging.info("no better validation AUROC: stopping after step %d", step - 1)
            break
        batch = next(batches)
        with jax.transfer_guard("disallow"):
            state, metrics = compiled(state, batch)
        if previous:  # read while this step runs, so that the device never waits
            reporter.read(*previous)
        previous = (step, metrics)
        if config.profile:
            profile(step)

        stop = interrupted.is_set() or manager.reached_preemption(step)
        evaluating = step % evaluate_every == 0 or step == total_steps
        saving = evaluating or step % checkpoint_every == 0 or stop
        if saving:
            # The one wait: a step that is not finite must end the run before a checkpoint has it,
            # or a restart would go on after it.
            reporter.read(*previous)
            previous = None
        figures = None
        if evaluating:
            if step == total_steps:
                reporter.write()
            with reporter.paused():
                figures = validate(
                    create_model(config.model),  # with the ops for small batches
                    state.inference_variables,
                    validation,
                    config.evaluate.batch_size,
                    mesh,
                )
            writer.write_scalars(step, {f"validation/{k}": v for k, v in figures.items()})
            monitor.write_histograms(writer, step, state)
        if saving:
            checkpoint.save(
                manager,
                state,
                step=step,
                config=config,
                fingerprint=fingerprint,
                metrics=figures,
                ancestors=ancestors,
                findings=training.findings,
            )
        if stop and step < total_steps:
            reporter.write()
            manager.wait_until_finished()
            writer.flush()
            logging.warning("SIGTERM: saved step %d; run the same command to continue", step)
            return INTERRUPTED

    reporter.write()
    writer.flush()
    manager.wait_until_finished()
    best = manager.best_step()
    if best is not None and (found := manager.metrics(best)):
        auroc = found[checkpoint.BEST]
        logging.info("best checkpoint: step %d, validation AUROC %.4f", best, auroc)
    manager.close()
    at_end.close()  # and with it the handler of SIGTERM: nothing is left to save
    return INTERRUPTED if interrupted.is_set() else 0


def _write_augmented(
    writer: Any, config: ConfigDict, split: input_pipeline.Split, order: input_pipeline.Order
) -> None:
    """The first augmented training images with their labels, for TensorBoard."""
    first = order.batch(0)[:32]
    # Jitted: eager execution would compile a hundred small programs at every start.
    images, labels = jax.jit(functools.partial(augment, config=config.augment))(
        step_lib.scale_images(jax.numpy.asarray(split.images[first])),
        jax.numpy.asarray(order.labels[first], jax.numpy.float32),
        jax.random.key(config.seed),
    )
    writer.write_images(0, {"augmented": monitor.labelled_grid(np.array(images), np.array(labels))})
