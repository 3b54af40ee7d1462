"""What the labels can be predicted from without looking at the lungs.

Each baseline is fitted to the training split's labels and predicts the evaluated images. A model
that is not clearly better than the best of them may have learnt nothing else.
"""

from collections.abc import Mapping

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from cbam_flax.evaluate import bootstrap, statistics

Columns = Mapping[str, np.ndarray]


def shortcut_scores(train: Columns, columns: Columns) -> dict[str, np.ndarray]:
    """Scores in [0, 1], (n,) for each baseline, of the images of `columns`.

    constant: the training prevalence. view: AP or PA alone. metadata: logistic regression on view,
    sex, age decade and pixel spacing. patient: the mean label of the same patient's training
    images; uninformative (AUROC 0.5) if no patient is in both splits.
    """
    label = np.asarray(train["label"])
    prevalence = float(label.mean())
    return {
        "constant": np.full(len(columns["label"]), prevalence),
        "view": _regression(train, columns, ("view",)),
        "metadata": _regression(train, columns, ("view", "sex", "age", "spacing")),
        "patient": _memorised(train["patient_id"], label, columns["patient_id"], prevalence),
    }


def gain_over_shortcuts(
    predictions: Columns,
    scores: Mapping[str, np.ndarray],
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> dict[str, dict]:
    """AUROC of each baseline and the model's gain over it, on the same resamples.

    Returns:
        For each baseline `auroc` and `gain` (model minus baseline), with intervals.
    """
    label = predictions["label"]
    every = {"model": predictions["logit"], **scores}
    samples = bootstrap.resample(
        statistics.auroc_statistic(label, every), predictions["patient_id"], resamples, seed
    )
    one = np.ones((1, label.size))
    value = {
        name: float(found[0])
        for name, found in statistics.auroc_statistic(label, every)(one).items()
    }
    patients = statistics.patients_behind(label, label == 1, predictions["patient_id"])["auroc"]
    return {
        name: {
            "auroc": bootstrap.share_interval(value[name], samples[name], patients),
            "gain": bootstrap.interval(
                value["model"] - value[name], samples["model"] - samples[name], patients
            ),
        }
        for name in scores
    }


def _regression(train: Columns, columns: Columns, names: tuple[str, ...]) -> np.ndarray:
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression())
    model.fit(_categories(train, names), train["label"])
    return model.predict_proba(_categories(columns, names))[:, 1]


def _categories(columns: Columns, names: tuple[str, ...]) -> np.ndarray:
    """Text (n, len(names)): ages by decade, spacings to the micrometre, missing as they are."""
    grouped = {
        "age": lambda years: np.floor(years / 10).astype(str),
        "spacing": lambda millimetres: np.round(millimetres, 3).astype(str),
    }
    cells = [grouped.get(name, lambda text: text)(columns[name]) for name in names]
    return np.stack(cells, axis=1)


def _memorised(
    known: np.ndarray, label: np.ndarray, patient: np.ndarray, otherwise: float
) -> np.ndarray:
    ids, of_image = np.unique(known, return_inverse=True)
    rate = np.bincount(of_image, weights=label) / np.bincount(of_image)
    at = np.minimum(np.searchsorted(ids, patient), len(ids) - 1)
    return np.where(ids[at] == patient, rate[at], otherwise)
