"""A finished run -> its lines."""

import functools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from cbam_flax.config import stored_config
from cbam_flax.evaluate import bootstrap, folder, statistics
from cbam_flax.evaluate.patients import resampling_unit, with_known_patients
from cbam_flax.evaluate.predict_split import Predictions
from cbam_flax.models import create_model
from cbam_flax.models.table import stage_table
from cbam_flax.provenance import sha256_of_json
from data_prep.cli import UserError
from studies.lines import RESAMPLES, Line, encode
from studies.study import Judged, Run


def lines_of(
    run: Run, workdir: pathlib.Path, figures: Sequence[str], cpu_seconds: float
) -> list[Line]:
    """One line for each set of images that the run is judged on.

    Raises:
        UserError: an evaluation is missing or damaged, or a set is empty.
    """
    return [_line(run, workdir, judged, figures, cpu_seconds) for judged in run.judged]


def _line(
    run: Run, workdir: pathlib.Path, judged: Judged, figures: Sequence[str], cpu_seconds: float
) -> Line:
    metrics, read = folder.read(epath.Path(workdir) / "evaluation" / judged.folder)
    columns = with_known_patients(read, metrics["data"]["split_scheme"])
    made = metrics["provenance"]
    weight = weights(columns, judged)
    label, patient, inside = columns["label"], columns["patient_id"], weight > 0
    of = statistics.figures_statistic(
        label, columns["probability"], metrics["threshold"], score=columns["logit"]
    )
    observed = of(weight[None])
    # Every subset of one evaluation has the same resamples, so that they are paired too.
    seed = int(made["evaluated_on"][:8], 16)
    samples = bootstrap.resample(lambda drawn: of(drawn * weight), patient, RESAMPLES, seed)
    parameters, flops = _cost(json.dumps(made["config"], sort_keys=True))
    return {
        "variant": run.variant,
        "seed": run.seed,
        "fold": run.fold,
        "judged": judged.name,
        "config_sha256": run.config_sha256,
        "code_sha256": made["code"]["sha256"][:16],
        "trained_on": sha256_of_json(made["trained_on"])[:16],
        "evaluated_on": made["evaluated_on"][:16],
        "unit": resampling_unit(columns),
        "images": int(inside.sum()),
        "positive": int(label[inside].sum()),
        "patients": len(np.unique(patient[inside])),
        "patients_positive": len(np.unique(patient[inside & (label == 1)])),
        "patients_negative": len(np.unique(patient[inside & (label == 0)])),
        "parameters": parameters,
        "mflop": round(flops / 1e6, 2),
        "cpu_seconds": round(cpu_seconds),
        **{name: round(float(observed[name][0]), bootstrap.DECIMALS) for name in figures},
        **{f"{name}_resamples": encode(samples[name]) for name in figures},
    }


def weights(columns: Predictions, judged: Judged) -> np.ndarray:
    """Of each image (n,): 0 outside of the set, and balanced where the set is.

    Raises:
        UserError: no image is in the set.
    """
    inside = np.ones(len(columns["label"]), bool)
    for name, value in judged.where.items():
        inside &= columns[name] == value
    if not inside.any():
        raise UserError(f"no image of {judged.folder} has {dict(judged.where)}; correct the study")
    weight = inside.astype(np.float64)
    if judged.balance:
        groups = columns[judged.balance]
        for label in (0, 1):
            for value in np.unique(groups):
                group = inside & (columns["label"] == label) & (groups == value)
                weight[group] = 1 / max(1, group.sum())
    return weight


@functools.lru_cache(maxsize=256)
def _cost(config: str) -> tuple[int, int]:
    """Parameters, and forward FLOPs of an image, of the model of a config in JSON."""
    of: Any = stored_config(json.loads(config), "the evaluated config")
    stages = stage_table(create_model(of.model), of.image_size, of.image_size)
    return sum(stage.parameters for stage in stages), sum(stage.flops for stage in stages)
