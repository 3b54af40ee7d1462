"""Checkpoint -> inference bundle: StableHLO, ONNX and SavedModel with the same numbers inside."""

import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from cbam_flax.evaluate import ensemble
from cbam_flax.export import artefacts, verification
from cbam_flax.export.model_card import model_card
from cbam_flax.export.run_record import describe, read_run
from cbam_flax.models import create_model
from cbam_flax.predict import bundle as bundle_lib
from cbam_flax.predict import schema, signature
from cbam_flax.predict.scores import findings
from data_prep import cli
from data_prep.files import folders
from data_prep.files.text_files import read_json


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
    by_platform = artefacts.function_by_platform(members, calibration, *how)
    artefacts.write(folder, infer, by_platform, image_size)
    images = verification.check_images(image_size)
    expected, units = verification.training_code(members, calibration, images, *how)
    description |= {
        "verification": {
            "tolerance": verification.TOLERANCE,
            "images": len(images),
            "jax": jax.__version__,
            **verification.verify(folder, images, expected, units),
        }
    }
    (folder / "MODEL_CARD.md").write_text(card(description), encoding="utf-8")
    description |= {"files": bundle_lib.describe_files(folder)}
    description |= {"sha256": bundle_lib.content_sha256(description)}
    text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / "bundle.json").write_text(text, encoding="utf-8")
    return description
