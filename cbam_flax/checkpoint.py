"""What is saved, when it is kept, and how it comes back.

A checkpoint holds the state, the config and the fingerprint of the data. The position in the data
is the state's step: the order of examples is a function of it.
"""

import dataclasses
import json
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from cbam_flax import config as config_lib
from cbam_flax.models import CBAMResNet, create_model
from cbam_flax.step import TrainState
from data_prep.cli import UserError

BEST = "auroc"  # on validation


def make_manager(workdir: str, config: ConfigDict | None = None) -> ocp.CheckpointManager:
    """Asynchronous checkpoints in WORKDIR/checkpoints: the newest, and the best by AUROC.

    Without a config the manager only reads.
    """
    from etils import epath

    options = ocp.CheckpointManagerOptions(best_fn=_rank, read_only=True, create=False)
    if config is not None:
        options = ocp.CheckpointManagerOptions(
            best_fn=_rank,
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [
                    checkpoint_managers.LatestN(config.checkpoint.keep_latest),
                    checkpoint_managers.BestN(
                        get_metric_fn=_rank,
                        n=config.checkpoint.keep_best,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
        )
    return ocp.CheckpointManager(
        epath.Path(workdir).absolute() / "checkpoints",
        options=options,
        item_handlers={
            "state": ocp.StandardCheckpointHandler(),
            "run": ocp.JsonCheckpointHandler(),
        },
    )


def save(
    manager: ocp.CheckpointManager,
    state: TrainState,
    *,
    step: int,
    config: ConfigDict,
    fingerprint: dict[str, str],
    metrics: dict[str, float] | None,
) -> None:
    """Starts an asynchronous save of the state after `step` steps.

    Args:
        fingerprint: of the data, as `data_fingerprint` gives it.
        metrics: of this very state on validation, if it was evaluated.
    """
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            run=ocp.args.JsonSave({"config": json.loads(config.to_json()), "data": fingerprint}),
        ),
        metrics=metrics and metrics | {"step": step},
    )


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """By AUROC, and of equal ones the earliest: a plateau is no improvement."""
    return metrics[BEST], -metrics.get("step", 0)


def restore(manager: ocp.CheckpointManager, step: int, abstract_state: TrainState) -> TrainState:
    """The state after `step` steps, laid out as `abstract_state` says, on any mesh."""
    args = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state))
    return manager.restore(step, args=args).state


def claim_workdir(workdir: str, config: ConfigDict, fingerprint: dict[str, str]) -> None:
    """Writes WORKDIR/config.json and data.json, or compares with those of the run that is there.

    Raises:
        UserError: the folder holds a run of another config or other data; names what differs.
    """
    from etils import epath

    folder = epath.Path(workdir)
    config_file, data_file = folder / "config.json", folder / "data.json"
    if config_file.exists() and data_file.exists():
        changes = config_lib.differences(
            config_lib.stored_config(json.loads(config_file.read_text()), config_file), config
        )
        old = json.loads(data_file.read_text())
        changes += [
            f"data of the {split} split: {old.get(split)} -> {value}"
            for split, value in fingerprint.items()
            if old.get(split) != value
        ]
        if changes:
            raise UserError(
                f"{workdir} holds a run of another config or other data ({'; '.join(changes)}); "
                f"choose another --workdir or change it back"
            )
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        texts = {
            config_file: config.to_json(indent=2),
            data_file: json.dumps(fingerprint, indent=2),
        }
        for file, text in texts.items():
            draft = file.with_name(f".{file.name}")
            draft.write_text(text + "\n")
            draft.replace(file)  # kill -9, or another process that reads, never meets half a file


@dataclasses.dataclass(frozen=True)
class Restored:
    """A trained model as evaluation and export need it."""

    config: ConfigDict
    model: CBAMResNet
    variables: dict[str, Any]  # params (averaged where kept) and batch_stats, on the default device
    step: int
    fingerprint: dict[str, str]  # of the data, by split


def load_for_inference(workdir: str, step: int | None = None) -> Restored:
    """The best checkpoint by validation AUROC (the newest where none was evaluated), or `step`.

    Raises:
        UserError: no such folder, no checkpoint in it, or not that step.
    """
    from etils import epath

    if not (epath.Path(workdir) / "checkpoints").is_dir():
        raise UserError(f"{workdir} is no run: it has no folder checkpoints; check --workdir")
    with make_manager(workdir) as manager:
        steps = manager.all_steps()
        if not steps:
            raise UserError(f"{workdir} holds no finished checkpoint; train longer")
        if step is not None and step not in steps:
            raise UserError(f"{workdir} has no checkpoint of step {step}; it has {sorted(steps)}")
        step = step if step is not None else manager.best_step() or manager.latest_step()
        run = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            manager.item_metadata(step).state.tree,
        )
        saved = manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target))
        ).state
    config = config_lib.stored_config(run["config"], f"checkpoint {step} of {workdir}")
    params = saved["params"] if saved["ema_params"] is None else saved["ema_params"]
    return Restored(
        config=config,
        model=create_model(config.model),
        variables={"params": params, "batch_stats": saved["batch_stats"]},
        step=step,
        fingerprint=run["data"],
    )
