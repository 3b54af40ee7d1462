"""Starts a run from the parameters of a trained model, by name and shape."""

import dataclasses
import os
import zipfile
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from cbam_flax import checkpoint, lineage
from cbam_flax.models.keras_import import load_imported
from cbam_flax.provenance import sha256_of_json, variables_sha256
from cbam_flax.step import TrainState
from data_prep.cli import UserError

NONE = "none"  # the value of config.init.from_run for a run that starts from its seed
Arrays = dict[str, dict[str, np.ndarray]]  # by collection, then by path, as in block1/conv1/kernel


@dataclasses.dataclass(frozen=True)
class Parent:
    """The model that a run starts from.

    Attributes:
        where: what config.init.from_run says.
        arrays: its parameters (averaged where kept) as `params`, and its `batch_stats`.
        ancestors: for the checkpoint record: the parent, then its own ancestors.
        trained_on: of each of these, None where it is not known.
    """

    where: str
    arrays: Arrays
    ancestors: list[lineage.Ancestor]
    trained_on: list[lineage.TrainedOn | None]


def read_parent(where: str, workdir: str) -> Parent | None:
    """The model that the run in `workdir` starts from.

    Args:
        where: `config.init.from_run`: a run, whose best checkpoint is taken, a folder
            RUN/checkpoints/STEP, or an .npz of `cbam_flax.models.keras_import`.

    Returns:
        None if that is `NONE`, or the run has a checkpoint already, from which it goes on.

    Raises:
        UserError: there is no such model, it is damaged, or it is the run's own.
    """
    begun = any(path.name.isdigit() for path in (epath.Path(workdir) / "checkpoints").glob("*"))
    if where == NONE or begun:
        return None
    if where.endswith(".npz"):
        return _read_imported(where)
    folder, step = epath.Path(where), None
    if folder.parent.name == "checkpoints" and folder.name.isdigit():
        folder, step = folder.parent.parent, int(folder.name)
    if _resolved(folder) == _resolved(epath.Path(workdir)):
        raise UserError(
            f"config.init.from_run {where} is the run that is to be trained; give another --workdir"
        )
    return _read_run(where, folder, step)


def _resolved(folder: epath.Path) -> str:
    path = os.fspath(folder)
    return path if "://" in path else os.path.realpath(path)


def _read_run(where: str, folder: epath.Path, step: int | None) -> Parent:
    if not (folder / "checkpoints").is_dir():
        raise UserError(
            f"config.init.from_run {where} is no run: it has no folder checkpoints; give RUN, "
            f"RUN/checkpoints/STEP or an .npz of cbam_flax.models.keras_import"
        )
    restored = checkpoint.load_for_inference(os.fspath(folder), step)
    own = lineage.read_own(folder, restored.fingerprint)
    ancestor = {
        "weights_sha256": restored.weights_sha256,
        "step": restored.step,
        "dataset": own["dataset"] if own else restored.config.dataset,
        "data": restored.fingerprint,
        "image_size": restored.config.image_size,
        "trained_on_sha256": own and sha256_of_json(own),
    }
    before = lineage.read_before([folder], restored.ancestors)
    arrays = _flat(restored.variables)
    return Parent(where, arrays, [ancestor, *restored.ancestors], [own, *before])


def _read_imported(where: str) -> Parent:
    if not os.path.isfile(where):
        raise UserError(f"config.init.from_run {where} is not a file; check the path")
    try:
        _, variables = load_imported(where)
        arrays = _flat(variables)
    except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{where} is no model that cbam_flax.models.keras_import wrote ({error}); import it "
            f"again"
        ) from error
    unknown = dict.fromkeys(("step", "dataset", "data", "image_size", "trained_on_sha256"))
    ancestor = {"weights_sha256": variables_sha256(variables)} | unknown
    return Parent(where, arrays, [ancestor], [None])


def _flat(variables: dict[str, Any]) -> Arrays:
    return {
        collection: {
            path: np.asarray(leaf)
            for path, leaf in flatten_dict(variables[collection], sep="/").items()
        }
        for collection in ("params", "batch_stats")
    }


def fitting(parent: Parent, state: TrainState, batch_stats: str) -> Arrays:
    """The parent's arrays of which `state` has one with the same name and shape.

    Args:
        state: of the new run, or its shapes.
        batch_stats: `config.init.batch_stats`; with "fresh" the parent's are left out.

    Raises:
        UserError: not one parameter fits.
    """
    kept = ("params", "batch_stats") if batch_stats == "kept" else ("params",)
    found: Arrays = {}
    for collection in kept:
        wanted = flatten_dict(getattr(state, collection), sep="/")
        found[collection] = {
            path: array
            for path, array in parent.arrays[collection].items()
            if path in wanted and wanted[path].shape == array.shape
        }
    if not found["params"]:
        raise UserError(
            f"no parameter of config.init.from_run {parent.where} has the name and the shape of "
            f"one of this model; choose another parent or the config.model that it has"
        )
    return found


def differences(parent: Parent, arrays: Arrays, state: TrainState) -> Iterator[str]:
    """Lines on what starts from the parent, what starts fresh, and what is not used.

    Args:
        arrays: what `fitting` found for this state.
    """
    there, taken = parent.arrays["params"], arrays["params"]
    wanted = flatten_dict(state.params, sep="/")
    statistics = "kept" if "batch_stats" in arrays else "fresh"
    yield (
        f"{len(taken)} of {len(wanted)} parameter arrays start from {parent.where}, BatchNorm "
        f"statistics {statistics}"
    )
    for path, leaf in wanted.items():
        if path not in taken:
            other = f"{there[path].shape} there" if path in there else "not there"
            yield f"  starts fresh: {path} {leaf.shape}, {other}"
    for path in there.keys() - wanted.keys():
        yield f"  not used: {path} {there[path].shape}, not in this model"


def replace(state: TrainState, arrays: Arrays) -> TrainState:
    """The state with these arrays, of which the averaged parameters start too."""
    params, batch_stats = (
        unflatten_dict(
            flatten_dict(getattr(state, collection), sep="/") | arrays.get(collection, {}), sep="/"
        )
        for collection in ("params", "batch_stats")
    )
    averaged = None if state.ema_params is None else jax.tree.map(jnp.copy, params)
    return state.replace(params=params, batch_stats=batch_stats, ema_params=averaged)
