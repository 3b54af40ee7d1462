"""Which labels can be trained on and evaluated: both classes of a finding must be there."""

import numpy as np

from cbam_flax.input_pipeline import Split
from data_prep.cli import UserError
from data_prep.manifest import NOT_LABELLED


def has_both_classes(labels: np.ndarray) -> np.ndarray:
    """Of labels (N, k): for which findings there are positive and negative images, bool (k,)."""
    return (labels == 1).any(axis=0) & (labels == 0).any(axis=0)


def check_labels(split: Split) -> None:
    """Refuses labels with which nothing can be trained or evaluated.

    Raises:
        UserError: labels other than 0 and 1, or one class only. Of several findings each must have
            both in the training split, and one at least in another.
    """
    if split.labels.ndim == 2:
        _check_labels_of_several(split)
        return
    values, counts = np.unique(split.labels, return_counts=True)
    if not set(values) <= {0, 1}:
        raise UserError(f"labels of the {split.name} split are {values.tolist()}, not 0 and 1")
    if len(values) < 2:
        raise UserError(
            f"all {counts[0]} images of the {split.name} split have label {values[0]}; "
            f"both classes are needed"
        )


def _check_labels_of_several(split: Split) -> None:
    values = np.unique(split.labels)
    if not set(values) <= {0, 1, NOT_LABELLED}:
        raise UserError(
            f"labels of the {split.name} split are {values.tolist()}, not 0, 1 and {NOT_LABELLED}"
        )
    both = has_both_classes(split.labels)
    one_class = [name for name, fine in zip(split.findings, both, strict=True) if not fine]
    if one_class and (split.name == "train" or not both.any()):
        raise UserError(
            f"the labelled images of the {split.name} split are all of one class for "
            f"{', '.join(one_class)}; prepare the data without that, or with more images"
        )


def finding_lines(split: Split) -> list[str]:
    """Of several findings a line each: positive and labelled images, and whether it is judged."""
    if len(split.findings) == 1:
        return []
    lines = []
    judged = has_both_classes(split.labels)
    for name, labels, fine in zip(split.findings, split.labels.T, judged, strict=True):
        counts = f"{(labels == 1).sum():,} of {(labels >= 0).sum():,} labelled images positive"
        lines.append(f"{name}: {counts}" + ("" if fine else "; one class only, so not judged"))
    return lines
