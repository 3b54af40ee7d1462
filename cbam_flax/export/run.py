"""Checkpoint -> inference bundle: StableHLO, ONNX and SavedModel with the same numbers inside."""

import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from cbam_flax.evaluate import ensemble
from cbam_flax.export import artefacts
from cbam_flax.export.model_card import model_card
from cbam_flax.export.run_record import describe, read_run
from cbam_flax.models import CBAMResNet, create_model, infer_with_maps
from cbam_flax.predict import bundle as bundle_lib
from cbam_flax.predict import runtimes, schema, signature
from cbam_flax.predict.scores import findings
from data_prep import cli
from data_prep.files import folders
from data_prep.files.text_files import read_json

TOLERANCE = 1e-4  # the largest difference from the training code that an artefact may show


def export_workdir(
    workdir: str,
    out: pathlib.Path,
    step: int | None = None,
    sign_with: pathlib.Path | None = None,
    evaluation: str | None = None,
    with_runs: Sequence[str] = (),
    combine: str = "logit",
    tta: str | None = None,
) -> dict[str, Any]:
    """Writes the best checkpoint of a run, or that of `step`, as the bundle `out`.

    Args:
        evaluation: of this checkpoint, whose calibration, operating point and figures the bundle
            takes, by default that of the test split; without it the bundle is not calibrated.
        with_runs: further runs, which score together with this one, whose evaluation it is.
        combine, tta: as of `evaluate.ensemble.Ensemble`.
        sign_with: file of an Ed25519 private key, with which bundle.json is signed.

    Returns:
        What bundle.json says.

    Raises:
        UserError: no such run, checkpoint, evaluation or key; records that do not belong together;
            a folder that holds something else; or an artefact that does not give the training
            code's numbers.
    """
    key = signature.private_key(sign_with) if sign_with else None  # before minutes of work
    read = [
        pathlib.Path(each) / name
        for each in (workdir, *with_runs)
        for name in ("checkpoints", "evaluation")
    ]
    with folders.writing(
        out,
        "cbam_flax.export",
        index="bundle.json",
        outputs=[
            *("MODEL_CARD.md", "model.stablehlo", "model.onnx", "saved_model/saved_model.pb"),
            *["bundle.json.sig"] * bool(key),
        ],
        inputs=read,
        earlier=earlier_bundle,
    ) as draft:
        judged = ensemble.load([workdir, *with_runs], step, combine, tta)
        run = read_run(workdir, judged, evaluation)
        description = describe(run)
        members = [
            (
                create_model(each.config.model.to_dict() | {"dtype": "float32"}, platform="any"),
                each.variables,
            )
            for each in judged.members
        ]
        card = functools.partial(model_card, run)
        description = write_bundle(draft, members, description, card)
        if key:
            signature.sign(draft, key)
        return description


def earlier_bundle(out: pathlib.Path) -> folders.Files:
    """The files of a whole bundle of the version before, whose bundle.json lists them."""
    path = out / "bundle.json"
    if not path.is_file():
        return {}
    listed = read_json(path, "give a new folder").get("files")
    files = {
        str(name): (str(entry.get("sha256")),)
        for name, entry in (listed.items() if isinstance(listed, dict) else ())
        if isinstance(entry, dict)
    }
    whole = bool(files) and all((out / name).is_file() for name in files)
    return files | {"bundle.json": (folders.sha256(path),)} if whole else {}


def check_images(image_size: int, count: int = 5) -> np.ndarray:
    """The fixed images on which artefacts are compared: float32 (count, S, S, 1) in [0, 1].

    Noise at halving wavelengths and amplitudes, so that every layer sees structure at its scale.
    """
    rng = np.random.default_rng(0)
    images = np.zeros((count, image_size, image_size), np.float32)
    for octave in range(1, 7):
        for image in images:
            cells = rng.uniform(-1, 1, (2**octave, 2**octave)).astype(np.float32)
            image += cv2.resize(cells, image.shape, interpolation=cv2.INTER_CUBIC) / 2**octave
    return np.clip(0.5 + images, 0, 1)[..., None]


def training_code(
    members: Sequence[artefacts.Member],
    calibration: dict[str, Any],
    images: np.ndarray,
    combine: str = "logit",
    tta: str | None = None,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """What evaluation computes for float32 images (B, S, S, 1): the models, and the rest in numpy.

    Independent of `artefacts.inference_function`, so that a mistake there shows as a difference.

    Returns:
        The outputs, and what a difference of 1 means for those that have no range of their own:
        of `grad_cam` the largest value before its ReLU, on either side of zero.
    """
    views = [images, images[:, :, ::-1]] if tta else [images]
    logits = []
    for model, variables in members:
        apply = jax.jit(model.apply)
        of_views = [np.asarray(apply(variables, view), np.float64) for view in views]
        logits.append(np.mean(of_views, axis=0))

    def line(logit: np.ndarray) -> np.ndarray:
        return calibration["scale"] * logit + calibration["bias"]

    score = line(ensemble.combined(np.stack(logits), combine))
    explained = np.eye(score.shape[1])[score.argmax(axis=1)] if score.ndim > 1 else score**0
    gates, maps = zip(*(_maps(*member, images, explained) for member in members), strict=True)
    for_it, against_it = np.mean(maps, axis=0)
    without_gate = any(gate is None for gate in gates)
    outputs = {
        "probability": scipy.special.expit(score),
        "attention": np.zeros((len(images), 1, 1)) if without_gate else np.mean(gates, axis=0),
        "grad_cam": for_it,
    }
    if len(members) > 1:
        outputs["spread"] = np.std(scipy.special.expit(line(np.stack(logits))), axis=0)
    return outputs, {"grad_cam": float(max(for_it.max(), against_it.max()))}


@functools.partial(jax.jit, static_argnums=0)
def _maps(
    model: CBAMResNet, variables: dict[str, Any], images: jax.Array, explained: jax.Array
) -> tuple[jax.Array | None, jax.Array]:
    """The gate, and Grad-CAM of what raises and of what lowers the score, (2, B, h, w)."""
    found = infer_with_maps(model, variables, images)
    return found.gate, jnp.stack([found.grad_cam(explained), found.grad_cam(-explained)])


def verify(
    folder: pathlib.Path,
    images: np.ndarray,
    expected: dict[str, np.ndarray],
    units: dict[str, float],
) -> dict[str, float]:
    """Runs each artefact in a fresh process and returns its largest difference.

    Args:
        folder: holds the artefacts.
        images: float32 (B, S, S, 1).
        expected, units: what the training code gives for them, as `training_code` returns it.

    Raises:
        UserError: an artefact does not run, or differs by more than `TOLERANCE`.
    """
    differences = {}
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor() as pool:
        inputs = pathlib.Path(scratch) / "images.npy"
        np.save(inputs, images)
        run = functools.partial(_run_alone, folder, inputs)
        outputs_of_all = pool.map(run, bundle_lib.ARTEFACTS)
        results = cli.progress(outputs_of_all, "verifying", 3, unit="artefact")
        for name, outputs in zip(bundle_lib.ARTEFACTS.values(), results, strict=True):
            difference = max(
                float(np.abs(outputs[key] - value).max()) / (units.get(key) or 1)
                for key, value in expected.items()
            )
            # Written so that a NaN fails too.
            if not difference <= TOLERANCE:
                raise cli.UserError(
                    f"{name} differs from the training code by {difference:.2g}, more than "
                    f"{TOLERANCE:g}; nothing was exported"
                )
            differences[name] = difference
    return differences


def _run_alone(folder: pathlib.Path, inputs: pathlib.Path, runtime: str) -> dict[str, np.ndarray]:
    """The outputs of one artefact, from a process that can import nothing of this project."""
    name = bundle_lib.ARTEFACTS[runtime]
    outputs = inputs.with_name(f"{runtime}.npz")
    process = subprocess.run(
        [
            *(sys.executable, "-P", runtimes.__file__),
            *(runtime, str(folder / name), str(inputs), str(outputs)),
        ],
        # On the CPU, like the expected values: rounding differs more between platforms.
        env=os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["no message"])[-1]
        raise cli.UserError(f"{name} was written but does not run: {last}")
    with np.load(outputs) as arrays:
        return dict(arrays)


def lines(description: dict[str, Any]) -> dict[str, Any]:
    """`scale` and `bias` of a bundle's calibration, float32 (k,) where it has several findings."""
    calibration = description["calibration"]
    if not (names := findings(description)):
        return calibration
    return {
        key: np.array([calibration[name][key] for name in names], np.float32)
        for key in ("scale", "bias")
    }


def write_bundle(
    folder: pathlib.Path,
    members: Sequence[artefacts.Member],
    description: dict[str, Any],
    card: Callable[[dict[str, Any]], str],
) -> dict[str, Any]:
    """Fills an empty folder with a complete, verified bundle and returns what bundle.json says.

    Args:
        folder: an existing empty folder.
        members: models, which compute in float32 so that every runtime rounds alike, each with its
            `params` and `batch_stats`.
        description: bundle.json without `verification`, `files` and `sha256`, which are added. Its
            `ensemble` and `tta` say how the members score.
        card: makes the text of MODEL_CARD.md from the verified description.

    Raises:
        UserError: the description holds what no reader takes, or an artefact does not give the
            training code's numbers.
    """
    if fault := schema.fault(description | {"files": {}}):
        raise cli.UserError(
            f"the run cannot be exported: {fault}; evaluate the validation split again for another "
            f"calibration and threshold, prepare the data again for other preprocessing"
        )
    calibration = lines(description)
    image_size = description["preprocessing"]["image_size"]
    how = (description.get("ensemble", {}).get("combine", "logit"), description.get("tta"))
    infer = artefacts.inference_function(members, calibration, *how)
    artefacts.write(folder, infer, image_size)
    images = check_images(image_size)
    expected, units = training_code(members, calibration, images, *how)
    description |= {
        "verification": {
            "tolerance": TOLERANCE,
            "images": len(images),
            "jax": jax.__version__,
            "max_difference": verify(folder, images, expected, units),
        }
    }
    (folder / "MODEL_CARD.md").write_text(card(description), encoding="utf-8")
    description |= {"files": bundle_lib.describe_files(folder)}
    description |= {"sha256": bundle_lib.content_sha256(description)}
    text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / "bundle.json").write_text(text, encoding="utf-8")
    return description
