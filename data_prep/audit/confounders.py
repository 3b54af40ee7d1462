"""How well the label is predicted by what is no finding: view, sex, age and pixel spacing."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from data_prep.dicom import parse_age

FOLDS = 5


def confounder_auroc(
    label: np.ndarray, patient: np.ndarray, values: list[np.ndarray], draws: int
) -> dict[str, float]:
    """AUROC of a logistic regression on categories, never fitted on a patient it is tested on.

    Args:
      label, patient: (images,) 0 or 1, and a number per real patient.
      values: (images,) strings each, used as categories.
      draws: of the bootstrap.

    Returns:
      `value`, the mean over five folds by patient, each on its own: scores of different models
      are not to be ranked against each other; a fold of one class has none. `low` and `high`: 95 %
      of a bootstrap that draws patients, with Poisson weights (Hanley and MacGibbon, 2006).
    """
    features = np.stack(values, axis=1)
    model = make_pipeline(OneHotEncoder(handle_unknown="ignore"), LogisticRegression(max_iter=1000))
    folds = GroupKFold(FOLDS)
    score = cross_val_predict(
        model, features, label, groups=patient, cv=folds, method="predict_proba"
    )[:, 1]
    tests = [test for _, test in folds.split(features, label, patient)]

    def auroc(weight: np.ndarray) -> float:
        drawn = [test[weight[test] > 0] for test in tests]
        return float(
            np.mean(
                [
                    roc_auc_score(label[t], score[t], sample_weight=weight[t])
                    for t in drawn
                    if len(np.unique(label[t])) == 2
                ]
            )
        )

    rng = np.random.default_rng(0)
    weights = rng.poisson(1.0, (draws, patient.max() + 1))
    low, high = np.quantile([auroc(weight[patient]) for weight in weights], (0.025, 0.975))
    return {"value": auroc(np.ones(len(label))), "low": float(low), "high": float(high)}


def category(name: str, text: str) -> str:
    """A header value as a category: ages by decade, spacings to the micrometre; "" when missing."""
    text = text.strip()
    if name == "age":
        years = parse_age(text)
        return "" if years is None else f"{int(years) // 10 * 10}s"
    if name == "spacing":
        try:
            return f"{float(text):.3f}"
        except ValueError:
            return ""
    return text
