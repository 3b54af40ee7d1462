"""The features of a record, the same for every data set, so that training reads them alike."""

from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from data_prep.manifest import PNEUMONIA


def record_features(
    size: int, detailed_classes: Sequence[str], findings: Sequence[str] = (PNEUMONIA,)
) -> tfds.features.FeaturesDict:
    """Features of a record with a grey image of `size` x `size` pixels.

    One finding is a class, 0 or 1. Several are an int8 vector of 0, 1 and `NOT_LABELLED`, in the
    order of `findings`.
    """
    several = tfds.features.Tensor(
        shape=(len(findings),), dtype=np.int8, doc=f"Of {', '.join(findings)}; -1 is not labelled."
    )
    one = tfds.features.ClassLabel(names=[f"no {findings[0]}", findings[0]])
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(
                shape=(size, size, 1), dtype=np.uint8, encoding_format="png"
            ),
            "label": one if len(findings) == 1 else several,
            "detailed_class": tfds.features.ClassLabel(names=list(detailed_classes)),
            "boxes": tfds.features.Sequence(tfds.features.BBoxFeature()),
            "image_id": tfds.features.Text(),
            "patient_id": tfds.features.Text(doc="The real patient; empty when not known."),
            "view": tfds.features.Text(doc="PA or AP; empty when missing."),
            "sex": tfds.features.Text(doc="M or F; empty when missing."),
            "age": tfds.features.Scalar(np.float32, doc="Years; nan when missing."),
            "spacing": tfds.features.Scalar(
                np.float32, doc="Millimetres per pixel of the original image; nan when missing."
            ),
        }
    )
