"""MODEL_CARD.md, generated entirely from the run.

The headings follow Mitchell et al. 2019, "Model Cards for Model Reporting".
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from cbam_flax import lineage
from cbam_flax.evaluate import ensemble, patients
from cbam_flax.export import findings_card
from cbam_flax.export.markdown import interval as _interval
from cbam_flax.export.markdown import table as _table
from cbam_flax.export.run_record import Run
from cbam_flax.folds import division
from cbam_flax.predict import saliency
from data_prep.manifest import findings, is_synthetic

FIGURES = {
    "auroc": "AUROC",
    "average_precision": "average precision",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "accuracy": "accuracy",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "expected calibration error",
}
INTENDED_USE = """\
Research on the classification of frontal chest radiographs, and teaching. The output is
{score}, and maps of
where the model looked.

**Not for clinical use.** It is not a medical device, has not been tested in practice, and must not
influence the care of a patient."""
LIMITS = """\
- Frontal (PA, AP) chest radiographs only. Lateral views, other modalities and other body parts are
  flagged by their DICOM header and get no decision; an image with an empty header is not flagged.
- {labels}
- Scores are valid for images like those of training. Other scanners, hospitals, age groups or
  prevalences need their own validation; PPV and NPV change with prevalence even when the model
  does not.
- A map shows what moved this model's score, not what is diseased. It does not explain a score."""
SHORTCUTS = """\
A model can score well by correlates of the disease instead of the disease.{known} \
The table compares such baselines, which never see the image, with the
model on the same images."""
# What is known of the challenge's data, and of no others.
RSNA_SCORE = "the probability that a radiologist would mark an opacity that may be pneumonia"
RSNA_LABELS = (
    "The labels are radiologists' readings of images, not diagnoses: no laboratory test, no "
    "follow-up."
)
RSNA_SHORTCUTS = """ In the RSNA data the
view alone is a partial shortcut (AP images are taken of patients too ill to stand); age, sex and
pixel spacing add a little."""
OTHER_LABELS = (
    "The scores are of what the training labels say. This card does not know who made these, nor "
    "from what."
)
ATTRIBUTION = """\
If these are the images of the RSNA Pneumonia Detection Challenge (2018), credit RSNA and the
Society of Thoracic Radiology for the annotations (Shih et al. 2019) and the NIH for the images
(Wang et al. 2017)."""
NO_METRICS = (
    "The run has no evaluation of this checkpoint on the test split, so this card states no "
    "metrics. Run `python -m cbam_flax.evaluate --workdir=... --split=test` and export again."
)


def model_card(run: Run, bundle: dict[str, Any]) -> str:
    """The card as Markdown.

    Args:
        run: the source of the bundle; without test metrics the card says so.
        bundle: what bundle.json says, with `verification`.
    """
    size = bundle["preprocessing"]["image_size"]
    names = findings(run.manifest)
    is_rsna = run.manifest["dataset"].partition("/")[0] == "rsna_pneumonia"
    shortcuts: Callable[[dict[str, Any] | None], str]
    if len(names) == 1:
        results, operating_point = _results, _operating_point
        subgroups, shortcuts = _subgroups, functools.partial(_shortcuts, is_rsna=is_rsna)
    else:
        results, operating_point = findings_card.results, findings_card.operating_points
        subgroups, shortcuts = findings_card.subgroups, findings_card.shortcuts
    sections = {
        "Intended use": _intended_use(names, is_rsna),
        "Limits": LIMITS.format(labels=RSNA_LABELS if is_rsna else OTHER_LABELS),
        "Model": _model(run, bundle),
        **_ensemble(bundle),
        "Data and split": _data(run),
        "Results": results(run.metrics) if run.metrics else NO_METRICS,
        "Calibration and operating point": operating_point(bundle),
        "Subgroups": subgroups(run.metrics) if run.metrics else NO_METRICS,
        "Known shortcuts": shortcuts(run.metrics),
        "Where the model looks": _maps(bundle),
        "Provenance": _provenance(bundle),
    }
    what = names[0] if len(names) == 1 else f"{len(names)} findings"
    title = f"# Model card: CBAM-ResNet for {what} on chest radiographs, {size} x {size}\n"
    warnings = "".join(f"> **{warning}**\n\n" for warning in bundle["warnings"])
    texts = (f"## {name}\n\n{text}\n" for name, text in sections.items())
    return "\n".join([title, warnings, *texts])


def _intended_use(names: Sequence[str], is_rsna: bool) -> str:
    score = f"the probability that an image is labelled {names[0]}"
    if len(names) > 1:
        score = f"for each of {', '.join(names)} the probability that an image is labelled with it"
    return INTENDED_USE.format(score=RSNA_SCORE if is_rsna else score)


def _model(run: Run, bundle: dict[str, Any]) -> str:
    import jax

    config = bundle["config"]["model"]
    parameters = sum(leaf.size for leaf in jax.tree.leaves(run.restored.variables["params"]))
    return (
        f"Preset `{config['preset']}`, attention `{config['attention']}`, pooling "
        f"`{config['pooling']}`, context `{config['context']}`, head `{config['head']}`, width "
        f"{config['width']:g}: {parameters:,} parameters. Exported in float32 from the checkpoint "
        f"after {run.restored.step:,} steps."
    )


def _ensemble(bundle: dict[str, Any]) -> dict[str, str]:
    """The section about what is averaged, where anything is."""
    scored = ensemble.described(bundle)
    if "ensemble" not in bundle:
        return {"Test-time augmentation": scored} if scored else {}
    rows = [
        (member["seed"], member["step"], member["weights_sha256"])
        for member in bundle["ensemble"]["members"]
    ]
    text = (
        f"{scored} Every artefact holds all members. Gate and Grad-CAM are the means of theirs, "
        f"and `spread` is the standard deviation of their probabilities: how far they disagree.\n\n"
    )
    return {"Ensemble": text + _table(("seed", "step", "SHA-256 of the weights"), rows)}


def _data(run: Run) -> str:
    manifest = run.manifest
    is_rsna = manifest["dataset"].startswith("rsna")
    counts = manifest["counts"]
    rows = [
        (name, split["images"], split["patients"] or "unknown", split["positive"])
        for name, split in manifest["splits"].items()
    ]
    scheme = manifest["split_scheme"]
    splits = division(manifest).capitalize() if "fold" in manifest else f"Split by **{scheme}**"
    settings = ", ".join(f"{name} {value}" for name, value in run.preprocessing.items())
    return (
        f"`{manifest['dataset']}`: {counts['inputs']:,} inputs, {counts['accepted']:,} accepted, "
        f"{counts['rejected']:,} refused. {splits}. "
        f"Preprocessing: {settings}.\n\n"
        + _table(("split", "images", "patients", "positive"), rows)
        + ("" if is_synthetic(manifest) or not is_rsna else f"\n\n{ATTRIBUTION}")
    )


def _results(metrics: dict[str, Any]) -> str:
    rows = [(title, _interval(metrics[name])) for name, title in FIGURES.items() if name in metrics]
    confusion = ", ".join(f"{name} {count}" for name, count in metrics["confusion"].items())
    prevalence = [
        (f"{row['prevalence']:.0%}", _interval(row["ppv"]), _interval(row["npv"]))
        for row in metrics["at_prevalence"]
    ]
    return (
        f"Evaluation `{metrics['name']}`: the {metrics['split']} split of `{metrics['dataset']}`, "
        f"{metrics['n']:,} images of {patients.described(metrics)}, "
        f"{metrics['n_positive']:,} positive. 95 % intervals from a bootstrap over "
        f"{metrics['bootstrap']['unit']}; "
        f"exact limits where a rate is 0 or 1, and for the PPV and NPV that follow from it.\n\n"
        + _table(("metric", "value (95 % interval)"), rows)
        + f"\n\nAt the operating point: {confusion}.\n\n"
        + _table(("prevalence", "PPV", "NPV"), prevalence)
    )


def _operating_point(bundle: dict[str, Any]) -> str:
    calibration, point = bundle["calibration"], bundle["operating_point"]
    return (
        f"Probability = sigmoid({calibration['scale']:g} x logit + {calibration['bias']:g}), "
        f"inside every artefact. Positive at {point['threshold']:.4g} or above (criterion: "
        f"{point['criterion']}). Source: {calibration['source']}."
    )


def _subgroups(metrics: dict[str, Any]) -> str:
    rows = [
        (
            f"{row['group']}: {row['member']}" + (" (small)" if row["small"] else ""),
            row["n"],
            row["n_positive"],
            *(_interval(row[name]) for name in ("auroc", "sensitivity", "specificity")),
        )
        for row in metrics["subgroups"]
    ]
    return _table(("group", "images", "positive", "AUROC", "sensitivity", "specificity"), rows)


def _shortcuts(metrics: dict[str, Any] | None, *, is_rsna: bool) -> str:
    intro = SHORTCUTS.format(known=RSNA_SHORTCUTS if is_rsna else "")
    if not metrics or not metrics["baselines"]:
        return f"{intro}\n\nThey were not evaluated for this run."
    rows = [
        (name, _interval(baseline["auroc"]), _interval(baseline["gain"]))
        for name, baseline in metrics["baselines"].items()
    ]
    return f"{intro}\n\n" + _table(("baseline", "its AUROC", "gain of the model"), rows)


def _maps(bundle: dict[str, Any]) -> str:
    found = bundle["saliency"]
    shown = f"`predict` shows {saliency.TITLES[found['method']]} unless `--saliency` says otherwise"
    if not found["pointing"]:
        return f"{shown}. Where the model looks was not evaluated."
    rows = [
        (saliency.TITLES[name], _interval(figure)) for name, figure in found["pointing"].items()
    ]
    return (
        f"{shown}: in the evaluation its maximum lay most often in a radiologist's box. Of "
        f"{found['images']:,} positive images with boxes, which training never uses:\n\n"
        + _table(("map", "share with the maximum in a box"), rows)
    )


def _provenance(bundle: dict[str, Any]) -> str:
    prints = bundle["fingerprints"]
    packages = ", ".join(f"{name} {v}" for name, v in prints["code"]["packages"].items())
    differences = ", ".join(
        f"{name} {value:.1e}" for name, value in bundle["verification"]["max_difference"].items()
    )
    rows = [
        ("checkpoint", f"step {prints['checkpoint']['step']}, {prints['checkpoint']['sha256']}"),
        ("config", prints["config"]["sha256"]),
        *((f"data, {split}", value) for split, value in prints["data"]["content_sha256"].items()),
        *(
            (f"started from {lineage.described(each)}", each["weights_sha256"])
            for each in bundle.get("ancestors", ())
        ),
        ("version", prints["code"]["version"]),
        ("code", prints["code"]["sha256"]),
        ("git commit", prints["code"]["commit"] or "not from a git checkout"),
        ("packages", packages),
        ("largest difference from the training code", differences),
    ]
    return _table(("what", "SHA-256 or value"), rows)
