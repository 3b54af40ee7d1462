"""What is saved, when it is kept, and how it comes back.

A checkpoint holds the state and a record: version, config, fingerprint of the data, validation
figures, a hash of the state and one of the record itself. Both are checked whenever it is read. The
position in the data is the state's step: the order of examples is a function of it.
"""

import contextlib
import dataclasses
import functools
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict
from orbax.checkpoint import checkpoint_managers

from cbam_flax import config as config_lib
from cbam_flax.checksum import state_hash
from cbam_flax.models import CBAMResNet, create_model
from cbam_flax.provenance import sha256_of_json, variables_sha256
from cbam_flax.step import TrainState
from cbam_flax.version import __version__
from data_prep.cli import UserError
from data_prep.files.text_files import read_json, replace_text
from data_prep.manifest import PNEUMONIA

BEST = "auroc"  # on validation


def make_manager(workdir: str, config: ConfigDict | None = None) -> ocp.CheckpointManager:
    """Asynchronous checkpoints in WORKDIR/checkpoints: the newest, and the best by AUROC.

    Without a config the manager only reads.

    Raises:
        UserError: the figures by which orbax chooses the best cannot be read.
    """
    from etils import epath

    folder = epath.Path(workdir).absolute() / "checkpoints"
    for path in sorted(folder.glob("*/metrics/metrics")):
        if path.parent.parent.name.isdigit():  # others are drafts that a kill left
            mend = f"move {path.parent.parent} away and run the same command again"
            if type(read_json(path, mend).get(BEST)) not in (int, float):
                raise UserError(f"{path} has no {BEST}; {mend}")
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
        folder,
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
    ancestors: Sequence[dict[str, Any]] = (),
    findings: Sequence[str] = (PNEUMONIA,),
) -> None:
    """Starts an asynchronous save of the state after `step` steps.

    Args:
        fingerprint: of the data, as `data_fingerprint` gives it.
        metrics: of this very state on validation, if it was evaluated.
        ancestors: the models that this one started from, the nearest first (`cbam_flax.lineage`).
        findings: the names of what the model's logits are of.
    """
    if metrics:
        metrics = metrics | {"step": step}  # for `_rank`
    record = {
        "step": step,
        "version": __version__,
        "config": json.loads(config.to_json()),
        "data": fingerprint,
        "metrics": metrics,
        "state": state_hash(state),
    }
    if ancestors:
        record["ancestors"] = list(ancestors)
    if tuple(findings) != (PNEUMONIA,):
        record["findings"] = list(findings)
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            run=ocp.args.JsonSave(record | {"sha256": sha256_of_json(record)}),
        ),
        metrics=metrics,
    )


def _rank(metrics: dict[str, float]) -> tuple[float, float]:
    """By AUROC, and of equal ones the earliest: a plateau is no improvement."""
    return metrics[BEST], -metrics.get("step", 0)


def restore(manager: ocp.CheckpointManager, step: int, abstract_state: TrainState) -> TrainState:
    """The state after `step` steps, laid out as `abstract_state` says, on any mesh.

    Raises:
        UserError: this checkpoint, or the record of any other, is damaged.
    """
    records = {each: _read_record(manager, each) for each in manager.all_steps()}
    return _read_state(manager, step, abstract_state, records[step])


def ancestors_of(manager: ocp.CheckpointManager, step: int) -> list[dict[str, Any]]:
    """The models that the run of this checkpoint started from, the nearest first.

    Raises:
        UserError: the record is damaged.
    """
    return _read_record(manager, step).get("ancestors", [])


def _read_record(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """The config, `data` and, but for older versions, the hash of the state.

    Raises:
        UserError: it is damaged, or orbax has other figures by which it chooses the best.
    """
    with _damage_told(manager, step):
        record = manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
        if record.keys() == {"config", "data"}:  # as written before there were hashes
            return record
        if record.pop("sha256") != sha256_of_json(record) or record["step"] != step:
            raise ValueError("its record has changed since it was written")
        if manager.metrics(step) != record["metrics"]:
            raise ValueError("its validation figures have changed since they were written")
    return record


def _read_state(
    manager: ocp.CheckpointManager, step: int, target: Any, record: dict[str, Any]
) -> Any:
    """The arrays as `target` says, which have the hash that the record has of them."""
    with _damage_told(manager, step):
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        state = manager.restore(step, args=args).state
        if "state" in record and state_hash(state) != record["state"]:
            raise ValueError("its arrays have changed since they were written")
    if "state" not in record and jax.process_index() == 0:
        print(
            f"warning: {manager.directory / str(step)} is of an older version, which kept no "
            f"hash, so it cannot be checked for damage",
            file=sys.stderr,
        )
    return state


@contextlib.contextmanager
def _damage_told(manager: ocp.CheckpointManager, step: int) -> Iterator[None]:
    """Turns whatever comes of a damaged checkpoint into one sentence.

    Orbax and tensorstore raise all kinds of exceptions over damaged files, down to a bare
    `Exception`. What has other causes passes: the device's memory, and the operating system.
    """
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        why = " ".join(str(error).split())[:200]
        others = sorted(set(manager.all_steps()) - {step})
        raise UserError(
            f"the checkpoint {manager.directory / str(step)} is damaged ({why}); move this folder "
            f"away and run the same command again; "
            + (f"the steps {others} are left" if others else "no other step is left")
        ) from error


def claim_workdir(workdir: str, config: ConfigDict, fingerprint: dict[str, str]) -> None:
    """Writes WORKDIR/config.json and data.json, or compares with those of the run that is there.

    Raises:
        UserError: the folder holds a run of another config or other data, and what differs; or one
            of the files cannot be read.
    """
    from etils import epath

    folder = epath.Path(workdir)
    config_file, data_file = folder / "config.json", folder / "data.json"
    mend = "delete it if the config and the data are those that the run began with"
    changes = []
    if config_file.exists():
        old_config = config_lib.stored_config(read_json(config_file, mend), config_file)
        changes += config_lib.differences(old_config, config)
    if data_file.exists():
        old = read_json(data_file, mend)
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
        replace_text(config_file, config.to_json(indent=2) + "\n")
        replace_text(data_file, json.dumps(fingerprint, indent=2) + "\n")


@dataclasses.dataclass(frozen=True)
class Restored:
    """A trained model as evaluation and export need it."""

    config: ConfigDict
    model: CBAMResNet
    variables: dict[str, Any]  # params (averaged where kept) and batch_stats, on the default device
    step: int
    fingerprint: dict[str, str]  # of the data, by split
    ancestors: Sequence[dict[str, Any]] = ()  # the models before, nearest first: `lineage`
    findings: tuple[str, ...] = (PNEUMONIA,)  # that the model's logits are of

    @functools.cached_property
    def weights_sha256(self) -> str:
        """The hash of `variables`, computed once."""
        return variables_sha256(self.variables)

    @property
    def portable_config(self) -> dict[str, Any]:
        """The config without paths of one machine; the parent is named by its weights."""
        config = self.config.to_dict()
        del config["data_dir"]
        if self.ancestors:
            config["init"]["from_run"] = self.ancestors[0]["weights_sha256"]
        return config


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
        # Which is the best rests on the figures of all.
        records = {
            each: _read_record(manager, each) for each in (steps if step is None else [step])
        }
        step = step if step is not None else manager.best_step() or manager.latest_step()
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with _damage_told(manager, step):
            target = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
                manager.item_metadata(step).state.tree,
            )
        saved = _read_state(manager, step, target, records[step])
    run = records[step]
    config = config_lib.stored_config(run["config"], f"checkpoint {step} of {workdir}")
    params = saved["params"] if saved["ema_params"] is None else saved["ema_params"]
    return Restored(
        config=config,
        model=create_model(config.model),
        variables={"params": params, "batch_stats": saved["batch_stats"]},
        step=step,
        fingerprint=run["data"],
        ancestors=run.get("ancestors", ()),
        findings=tuple(run.get("findings", (PNEUMONIA,))),
    )
