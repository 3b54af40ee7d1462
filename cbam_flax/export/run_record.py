"""Collects a finished run's records for its bundle and its model card."""

import dataclasses
from typing import TYPE_CHECKING, Any

from cbam_flax import provenance
from cbam_flax.evaluate import calibration
from cbam_flax.evaluate import folder as evaluation_folder
from cbam_flax.predict.bundle import SCHEMA
from data_prep.manifest import SYNTHETIC_WARNING, is_synthetic, read_manifest
from data_prep.text_files import read_json

if TYPE_CHECKING:
    from cbam_flax.checkpoint import Restored

LABELS = ("no pneumonia", "pneumonia")
# What the training images are; predict flags headers that differ.
SCOPE = {
    "modalities": ["CR", "DX"],
    "body_parts": ["CHEST", "THORAX", "LUNG"],
    "views": ["PA", "AP"],
}


@dataclasses.dataclass(frozen=True)
class Run:
    """A restored checkpoint and the run's other records; None where missing."""

    restored: "Restored"
    calibration: dict[str, Any]
    manifest: dict[str, Any]
    metrics: dict[str, Any] | None  # of this checkpoint on the test split


def read_run(workdir: str, restored: "Restored") -> Run:
    """Reads calibration, the data's manifest and the test metrics; `workdir` may be gs://.

    Raises:
        UserError: the prepared data, with the preprocessing, are not where the config says, or a
            record is damaged.
    """
    from etils import epath

    from cbam_flax.input_pipeline import record_dir

    folder = epath.Path(workdir)
    config = restored.config
    records = record_dir(config.data_dir, config.dataset, config.image_size)
    path = folder / "evaluation" / "test" / "metrics.json"
    metrics = read_json(path, evaluation_folder.EVALUATE_AGAIN) if path.is_file() else None
    if metrics is not None:
        evaluation_folder.check_metrics(metrics, path)
    if metrics and metrics["provenance"]["checkpoint_step"] != restored.step:
        metrics = None
    return Run(
        restored=restored,
        calibration=read_calibration(folder / "calibration.json", restored.step),
        manifest=read_manifest(records),
        metrics=metrics,
    )


def read_calibration(path: Any, step: int) -> dict[str, Any]:
    """Scale, bias and threshold with their source.

    Without a file, or with one for another checkpoint: the identity and 0.5.
    """
    fitted = calibration.read(path)
    if fitted and fitted.step == step:
        return {
            "scale": fitted.scale,
            "bias": fitted.bias,
            "threshold": fitted.threshold,
            "criterion": fitted.criterion,
            "source": f"fitted on {fitted.n:,} images of the {fitted.split} split",
        }
    why = (
        f"calibration.json is of step {fitted.step}, not of step {step}"
        if fitted
        else "the run has no calibration.json, which cbam_flax.evaluate writes"
    )
    identity = {"scale": 1.0, "bias": 0.0, "threshold": 0.5, "criterion": "fixed"}
    return identity | {"source": f"not calibrated: {why}"}


def describe(run: Run) -> dict[str, Any]:
    """bundle.json, except what is known only after the artefacts are written."""
    config = run.restored.config.to_dict()
    config.pop("data_dir")  # a path on the training machine
    preprocessing = run.manifest["preprocessing"]
    size = preprocessing.get("image_size")  # checked with the rest before it is written
    fitted = run.calibration
    return {
        "schema": SCHEMA,
        "intended_use": "research only, not for clinical use",
        "labels": list(LABELS),
        "input": {
            "name": "images",
            "shape": ["batch", size, size, 1],
            "dtype": "float32",
            "range": [0, 1],
            "scaling": "uint8 grey levels / 255, black background",
        },
        "outputs": {
            "probability": {
                "shape": ["batch"],
                "dtype": "float32",
                "meaning": f"calibrated probability of {LABELS[1]}",
            },
            "attention": {
                "shape": ["batch", "height", "width"],
                "dtype": "float32",
                "meaning": "spatial gate of the last block in [0, 1]; 1 x 1 zeros without a gate",
            },
        },
        "preprocessing": preprocessing,
        "calibration": {
            "formula": "probability = sigmoid(scale * logit + bias), inside every artefact",
            **{key: fitted[key] for key in ("scale", "bias", "source")},
        },
        "operating_point": {key: fitted[key] for key in ("threshold", "criterion", "source")},
        "scope": SCOPE,
        "warnings": warnings(run),
        "grey_range": run.manifest["splits"]["train"].get("grey_range"),
        "fingerprints": {
            "checkpoint": {
                "step": run.restored.step,
                "sha256": provenance.variables_sha256(run.restored.variables),
            },
            "config": {"sha256": provenance.sha256_of_json(config)},
            "data": {
                "dataset": run.manifest.get("dataset"),
                "content_sha256": run.restored.fingerprint,
            },
            "code": provenance.code_fingerprint(),
        },
        "config": config,
    }


def warnings(run: Run) -> list[str]:
    """What the user of a prediction must know: of the test evaluation, and that data were drawn."""
    found = list(run.metrics["warnings"]) if run.metrics else []
    if is_synthetic(run.manifest) and SYNTHETIC_WARNING not in found:
        found.insert(0, SYNTHETIC_WARNING)
    return found
