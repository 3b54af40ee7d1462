"""Collects a finished run's records for its bundle and its model card."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cbam_flax import provenance
from cbam_flax.evaluate import folder as evaluation_folder
from cbam_flax.evaluate.calibration import NOT_FITTED
from cbam_flax.evaluate.saliency import NAMES
from cbam_flax.predict.bundle import SCHEMA
from data_prep.cli import UserError
from data_prep.files import folders
from data_prep.grey_range import distribution, grey_range
from data_prep.manifest import SYNTHETIC_WARNING, findings, is_synthetic, read_manifest

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from cbam_flax.checkpoint import Restored
    from cbam_flax.evaluate.ensemble import Ensemble

FORMULA = "probability = sigmoid(scale * logit + bias), inside every artefact"
# What the training images are; predict flags headers that differ.
SCOPE = {
    "modalities": ["CR", "DX"],
    "body_parts": ["CHEST", "THORAX", "LUNG"],
    "views": ["PA", "AP"],
}


SPREAD = {
    "dtype": "float32",
    "meaning": "standard deviation of the members' probabilities, each by this calibration",
}


@dataclasses.dataclass(frozen=True)
class Run:
    """What is exported, and the other records of its run, or of the first of its runs."""

    judged: "Ensemble"
    manifest: dict[str, Any]
    metrics: dict[str, Any] | None  # of the evaluation that is exported

    @property
    def restored(self) -> "Restored":
        """The first member."""
        return self.judged.members[0]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """How an image becomes what the model was trained on.

        The manifest's, and where the training images were shrunk from its `image_size`, that one
        as `prepared_size`.
        """
        prepared = self.manifest["preprocessing"]
        sizes = {
            "image_size": self.restored.config.image_size,
            "prepared_size": prepared["image_size"],
        }
        return prepared | (sizes if sizes["image_size"] != sizes["prepared_size"] else {})


def read_run(
    workdir: str,
    judged: "Ensemble",
    evaluation: str | None = None,
) -> Run:
    """Reads the data's manifest and the metrics of an evaluation; `workdir` may be gs://.

    Args:
        workdir: of the first member.
        judged: what is exported, one model or several.
        evaluation: name of its folder, by default that of the test split. Where the run has no
            evaluation of that name, none is taken.

    Raises:
        UserError: a record is missing or damaged, or the checkpoint, its data, the evaluation and
            its threshold do not belong together.
    """
    from etils import epath

    from cbam_flax.input_pipeline import record_dir

    config = judged.members[0].config
    records = record_dir(config.data_dir, config.dataset, config.image_size)
    manifest = read_manifest(records)
    if config.folds:
        manifest = _manifest_of_fold(config, manifest["preprocessing"]["image_size"])
    for split, content in judged.fingerprint.items():
        if manifest["splits"].get(split, {}).get("content_sha256") != content:
            raise UserError(
                f"{records} no longer holds the {split} split that the run was trained on; prepare "
                f"the data again with the same settings"
            )
    default = default_evaluation(judged)
    evaluation = folders.check_name(evaluation or default)
    folder = epath.Path(workdir) / "evaluation" / evaluation
    metrics = None
    if evaluation != default or (folder / "metrics.json").exists():
        metrics = evaluation_folder.read_metrics(folder)
        _check_together(metrics, judged, folder)
        if metrics.get("tta") != judged.tta:
            raise UserError(f"{folder} was made with another --tta; give the same to both commands")
    return Run(judged, manifest, metrics)


def default_evaluation(judged: "Ensemble") -> str:
    """The name of the evaluation on the test split."""
    return evaluation_folder.default_name("test", members=len(judged.members), tta=judged.tta)


def _manifest_of_fold(config: "ConfigDict", prepared_size: int) -> dict[str, Any]:
    """The manifest of the run's fold, with the grey range of its own training images.

    The range is that of the images as they were prepared, since predict looks at these.
    """
    from cbam_flax.input_pipeline import load_split

    where = (config.data_dir, config.dataset, prepared_size)
    train = load_split(*where, "train", config.folds, config.fold)
    greys = [grey_range(train.images[row]) for row in range(len(train))]
    train.manifest["splits"]["train"]["grey_range"] = distribution(greys)
    return train.manifest


def _check_together(metrics: dict[str, Any], judged: "Ensemble", folder: Any) -> None:
    made, weights = metrics["provenance"], judged.weights_sha256
    mend = "run cbam_flax.evaluate on that step, or give another --evaluation or --step"
    if made["checkpoint_step"] != judged.step:
        raise UserError(
            f"{folder} is of step {made['checkpoint_step']}, and step {judged.step} is exported; "
            f"{mend}"
        )
    # An evaluation by an older version does not say of which weights it is.
    if made.get("weights_sha256", weights) != weights:
        raise UserError(f"{folder} is of other weights than step {judged.step} has; {mend}")
    if made.get("trained_on") != judged.fingerprint:
        raise UserError(f"{folder} is of a model that was trained on other data; {mend}")
    for each in metrics.get("findings", {"": metrics}).values():
        threshold = each["calibration"]["threshold"]
        if abs(each.get("threshold", threshold) - threshold) > 1e-5:
            raise UserError(f"{folder} has two thresholds; {mend}")


def calibration_of(run: Run, finding: str | None = None) -> dict[str, Any]:
    """Scale, bias and threshold with their source; the identity and 0.5 without an evaluation.

    Args:
        finding: of several, else None.
    """
    if run.metrics is None:
        name = default_evaluation(run.judged)
        source = f"not calibrated: the run has no evaluation `{name}`, which cbam_flax.evaluate "
        source += "writes"
        identity = {"scale": 1.0, "bias": 0.0, "threshold": 0.5, "criterion": "fixed"}
        return identity | {"source": source}
    fitted = (run.metrics["findings"][finding] if finding else run.metrics)["calibration"]
    values = {name: fitted[name] for name in ("scale", "bias", "threshold", "criterion")}
    if fitted["criterion"] == NOT_FITTED:
        source = f"not calibrated: the {fitted['split']} split has one class only for {finding}"
        return values | {"source": source}
    return {
        **values,
        "source": f"fitted on {fitted['n']:,} images of the {fitted['split']} split",
    }


def describe(run: Run) -> dict[str, Any]:
    """bundle.json, except what is known only after the artefacts are written."""
    config = run.restored.portable_config
    ancestors = list(run.judged.ancestors)
    size = run.preprocessing["image_size"]
    made_of = run.judged.description
    names = findings(run.manifest)
    shape = ["batch", *([len(names)] if len(names) > 1 else [])]
    meaning = f"calibrated probability of {names[0]}"
    if len(names) > 1:
        meaning = f"calibrated probabilities of {', '.join(names)}"
    return {
        "schema": SCHEMA,
        "intended_use": "research only, not for clinical use",
        **_labels(names),
        "input": {
            "name": "images",
            "shape": ["batch", size, size, 1],
            "dtype": "float32",
            "range": [0, 1],
            "scaling": "uint8 grey levels / 255, black background",
        },
        "outputs": {
            "probability": {
                "shape": shape,
                "dtype": "float32",
                "meaning": meaning,
            },
            "attention": {
                "shape": ["batch", "height", "width"],
                "dtype": "float32",
                "meaning": "spatial gate of the last block in [0, 1]; 1 x 1 zeros without a gate",
            },
            "grad_cam": {
                "shape": ["batch", "height", "width"],
                "dtype": "float32",
                "meaning": "Grad-CAM of the last block, from 0"
                + "; of the finding with the highest probability" * (len(names) > 1),
            },
            **({"spread": {"shape": shape, **SPREAD}} if "ensemble" in made_of else {}),
        },
        "preprocessing": run.preprocessing,
        **_fitted(run, names),
        "scope": SCOPE,
        **made_of,
        "evaluation": run.metrics and run.metrics["name"],
        "saliency": saliency(run),
        "warnings": warnings(run),
        "grey_range": run.manifest["splits"]["train"].get("grey_range"),
        "fingerprints": {
            "checkpoint": {
                "step": run.restored.step,
                "sha256": run.judged.weights_sha256,
            },
            "config": {"sha256": provenance.sha256_of_json(config)},
            "data": {
                "dataset": run.manifest.get("dataset"),
                "content_sha256": run.restored.fingerprint,
            },
            "code": provenance.code_fingerprint(),
        },
        "config": config,
    } | ({"ancestors": ancestors} if ancestors else {})


def _labels(names: Sequence[str]) -> dict[str, list[str]]:
    """`labels`, the negative first; the names of several findings as `findings`."""
    return {"findings": list(names)} if len(names) > 1 else {"labels": [f"no {names[0]}", *names]}


def _fitted(run: Run, names: Sequence[str]) -> dict[str, Any]:
    """`calibration` and `operating_point`, by name where there are several findings."""

    def one(finding: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
        fitted = calibration_of(run, finding)
        formula = {"formula": FORMULA}
        return (
            formula | {key: fitted[key] for key in ("scale", "bias", "source")},
            {key: fitted[key] for key in ("threshold", "criterion", "source")},
        )

    keys = ("calibration", "operating_point")
    if len(names) == 1:
        return dict(zip(keys, one(None), strict=True))
    each = zip(*map(one, names), strict=True)
    return {
        key: dict(zip(names, values, strict=True)) for key, values in zip(keys, each, strict=True)
    }


def saliency(run: Run) -> dict[str, Any]:
    """The map that predict shows: the one that pointed at boxes best, else Grad-CAM.

    Returns:
        `method`, and of each method its pointing game with interval and over how many `images`;
        `pointing` is empty where the evaluation had no boxes or no maps.
    """
    found = (run.metrics or {}).get("localisation") or {"scores": {}, "n": 0}
    pointing = {
        name: {key: found["scores"][source]["pointing"][key] for key in ("value", "low", "high")}
        for source, name in NAMES.items()
        if source in found["scores"]
    }
    best = max(pointing, key=lambda name: pointing[name]["value"], default="grad_cam")
    return {"method": best, "pointing": pointing, "images": found["n"]}


def warnings(run: Run) -> list[str]:
    """What the user of a prediction must know: of the test evaluation, and that data were drawn."""
    uncalibrated = "UNCALIBRATED: the run was not evaluated; no figure is known, and the operating "
    uncalibrated += "point is 0.5."
    found = list(run.metrics["warnings"]) if run.metrics else [uncalibrated]
    if is_synthetic(run.manifest) and SYNTHETIC_WARNING not in found:
        found.insert(0, SYNTHETIC_WARNING)
    return found
